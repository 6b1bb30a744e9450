"""The contracts' own arithmetic: requests, prices, usage, budgets, handles."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.strategies import (
    Batch,
    Budget,
    Delta,
    Generation,
    Message,
    Meter,
    Prefix,
    Prices,
    Request,
    Sample,
    SamplingParams,
    Usage,
    as_messages,
)
from howhard.strategies.errors import ConfigError, InputError, nearest
from howhard.strategies.running import gives_confidence, gives_logprobs

counts = st.integers(min_value=0, max_value=10**9)


def test_a_prompt_is_text_or_messages():
    assert as_messages("hi") == (Message("user", "hi"),)
    mixed = [{"role": "system", "content": "be brief"}, Message("user", "hi")]
    request = Request.of(mixed, id="7")
    assert request.text == "be brief\nhi"
    assert Request.of(request) is request


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        ([], "the prompt is empty"),
        ([{"role": "user"}], r"messages\[0\] is {'role': 'user'}"),
        ([Message("user", "x"), {"role": "user", "content": 3}], r"messages\[1\]"),
        ([7], r"messages\[0\] is 7"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt, words):
    with pytest.raises(InputError, match=words):
        as_messages(prompt)


def test_a_prefix_goes_on_by_token_ids_where_the_backend_gave_them():
    prefix = Prefix(as_messages("hi"), "a")
    drawn = {"text": "b", "finish_reason": "stop", "completion_tokens": 1, "prompt_tokens": 2}
    assert prefix.extended(Generation(**drawn)) == Prefix(prefix.messages, "ab")
    by_ids = prefix.extended(Generation(**drawn, token_ids=(3,), prompt_token_ids=(1, 2)))
    assert by_ids == Prefix(prefix.messages, "ab", (1, 2, 3))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"stop": ("",)}, "stop holds an empty string"),
    ],
)
def test_sampling_settings_are_checked(settings, words):
    with pytest.raises(ConfigError, match=words):
        SamplingParams(**settings)
    with pytest.raises(ConfigError, match=words):
        SamplingParams().but(**settings)


@given(counts, counts, counts)
def test_cached_tokens_are_priced_apart(fresh, cached, completion):
    prompt = fresh + cached
    prices = Prices(prompt=3.0, completion=5.0, cached=1.0)
    assert prices.cost(prompt=prompt, completion=completion, cached=cached) == 3 * fresh + cached + 5 * completion
    assert Prices(prompt=3.0, completion=5.0).cost(prompt=prompt, completion=completion, cached=cached) == (
        3 * prompt + 5 * completion
    )


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["prompt", "completion", "cached"])
def test_a_price_that_is_none_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"prices.{field}="):
        Prices(**{"prompt": 0.0, "completion": 0.0, field: value})


@given(st.lists(st.tuples(counts, counts, counts, counts, counts), max_size=5))
def test_usages_add_up_field_by_field(rows):
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "verifier_tokens", "calls")
    total = sum((Usage(**dict(zip(names, row, strict=True))) for row in rows), Usage())
    for i, name in enumerate(names):
        assert getattr(total, name) == sum(row[i] for row in rows)
    assert total.total_tokens == total.prompt_tokens + total.completion_tokens + total.verifier_tokens


def test_a_meter_allows_what_keeps_every_limit():
    now = [0.0]
    meter = Meter(Budget(tokens=10, cost=5.0, seconds=2.0), clock=lambda: now[0])
    meter.book(Usage(prompt_tokens=4, completion_tokens=2, verifier_tokens=1, cost=3.0))
    assert meter.allows(tokens=3, cost=2.0)
    assert not meter.allows(tokens=4)
    assert not meter.allows(cost=2.1)
    now[0] = 2.0
    assert not meter.allows()
    assert Meter(None).allows(tokens=10**12, cost=1e12)


def test_what_is_left_of_a_budget_is_a_budget_until_one_limit_is_reached_or_the_run_is_stopped():
    now = [0.0]
    meter = Meter(Budget(tokens=10, cost=5.0, seconds=2.0), clock=lambda: now[0])
    assert meter.left() == meter.budget
    meter.book(Usage(prompt_tokens=4, completion_tokens=2, verifier_tokens=1, cost=3.0))
    now[0] = 0.5
    assert meter.left() == Budget(tokens=3, cost=2.0, seconds=1.5)
    meter.stopped = True
    assert meter.left() is None
    for spent in (Usage(completion_tokens=10), Usage(cost=5.0)):
        meter = Meter(Budget(tokens=10, cost=5.0, seconds=2.0), clock=lambda: 0.0)
        meter.book(spent)
        assert meter.left() is None
    meter = Meter(Budget(seconds=2.0), clock=lambda: now[0])
    now[0] = 2.5
    assert meter.left() is None
    assert Meter(None).left() == Budget()


def test_a_backend_that_does_not_say_what_it_gives_is_taken_to_give_neither():
    silent = type("Silent", (), {})()
    assert not gives_logprobs(silent)
    assert not gives_confidence(silent)


@pytest.mark.parametrize("limit", ["tokens", "seconds", "cost"])
def test_a_budget_of_nothing_is_refused(limit):
    with pytest.raises(ConfigError, match=f"budget.{limit}=0"):
        Budget(**{limit: 0})


def test_a_sample_is_streamed_awaited_and_ends_once():
    first = Generation(text="ab", finish_reason="stop", completion_tokens=2, prompt_tokens=1, logprobs=(-1.0, -3.0))

    async def run():
        cancelled = []
        sample = Sample(lambda: cancelled.append(1))
        sample.feed(Delta("a"))
        sample.cancel()
        sample.feed(Delta("b"))
        sample.finish(first)
        sample.finish(Generation(text="x", finish_reason="error", completion_tokens=0, prompt_tokens=0))
        sample.cancel()
        return cancelled, [delta.text async for delta in sample], await sample.result(), sample.done

    assert asyncio.run(run()) == ([1], ["a", "b"], first, True)
    assert first.mean_logprob == -2.0


def test_cancelling_who_waits_for_a_batch_cancels_its_samples():
    async def run():
        cancelled = []
        batch = Batch([[Sample(lambda i=i: cancelled.append(i)) for i in range(3)]], Usage)
        batch.samples[0][1].finish(Generation(text="", finish_reason="stop", completion_tokens=0, prompt_tokens=0))
        task = asyncio.ensure_future(batch.all())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cancelled

    assert asyncio.run(run()) == [0, 2]


def test_the_nearest_right_name_is_offered():
    assert nearest("tempreture", ["temperature", "top_p"]) == "; did you mean 'temperature'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("x", []) == ""
