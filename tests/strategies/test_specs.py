"""Specs: what a configuration says, what it may not say, and what is opened from it."""

import asyncio
import subprocess
import sys

import msgspec
import pytest

from howhard.strategies import (
    ArmSpec,
    BackendSpec,
    BestOfNSpec,
    ExactCheck,
    ExactCheckSpec,
    FirstOfSpec,
    LocalSpec,
    Prices,
    PricesSpec,
    RewardModelSpec,
    SamplingParams,
    SingleSpec,
    StrategySpec,
    TreeSearchSpec,
    VerifierSpec,
    VLLMSpec,
    Vote,
    VoteSpec,
    build_arms,
    build_strategy,
    open_backend,
    open_backends,
    open_verifiers,
)
from howhard.strategies.errors import ConfigError
from howhard.strategies.testing import ScriptedBackend

BEST = {"kind": "best_of_n", "n": 8, "verifier": "best"}


def scripted(name):
    return ScriptedBackend(lambda prompt: ["a"], name=name)


# reading


@pytest.mark.parametrize(
    "data, name",
    [
        ({"kind": "single"}, "small/single"),
        (BEST, "small/best_of_8"),
        ({"kind": "best_of_n", "n": 8}, "small/best_of_8"),
        ({**BEST, "verifier": "vote"}, "small/vote_of_8"),
        ({"kind": "tree_search", "width": 4, "branches": 2, "verifier": "prm"}, "small/beam_4x2"),
    ],
)
def test_an_arm_is_read_named_as_it_will_run_and_written_back(data, name):
    spec = msgspec.convert({"backend": "small", "strategy": data}, ArmSpec)
    assert spec.name == name
    verifiers = {v: ExactCheck(name=v) for v in ("best", "vote", "prm")}
    assert list(build_arms([spec], {"small": scripted("small")}, verifiers)) == [name]
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ArmSpec) == spec


def test_settings_reach_the_strategy():
    how = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 33}
    params = SamplingParams(**how)
    check = {"check": ExactCheck()}
    assert build_strategy(SingleSpec(**how), {}).params == params
    assert build_strategy(BestOfNSpec(n=3, verifier="check", **how), check).params == params
    spec = TreeSearchSpec(
        width=3, branches=2, verifier="check", step_end=".", step_tokens=7, max_steps=5, token_budget=99, **how
    )
    tree = build_strategy(spec, check)
    assert tree.params == params
    assert (tree.width, tree.branches, tree.step_end, tree.step_tokens) == (3, 2, ".", 7)
    assert build_strategy(spec, check, seed=9).params.seed == 9
    [arm] = build_arms([ArmSpec(backend="small", strategy=spec)], {"small": scripted("small")}, check, seed=9).values()
    assert arm.strategy.params == params.but(seed=9)
    assert (tree.max_steps, tree.token_budget, tree.verifier) == (5, 99, check["check"])


@pytest.mark.parametrize(
    "data, kind, words",
    [
        ({"kind": "best_of_n", "n": 0}, StrategySpec, "n=0: best-of-N draws at least 1"),
        ({"kind": "best_of_n", "n": 8, "nn": 1}, StrategySpec, "unknown field `nn`"),
        ({"kind": "best_of_n", "n": "8"}, StrategySpec, "Expected `int`, got `str`"),
        ({"kind": "best_of_m", "n": 8}, StrategySpec, "Invalid value 'best_of_m'"),
        ({**BEST, "temperature": 0.0}, StrategySpec, "temperature=0 would draw"),
        ({"kind": "single", "temperature": -1.0}, StrategySpec, "temperature=-1.0"),
        ({"kind": "single", "top_p": 0.0}, StrategySpec, "top_p=0.0"),
        ({"kind": "single", "max_tokens": 0}, StrategySpec, "max_tokens=0"),
        ({"kind": "tree_search", "width": 0, "branches": 1}, StrategySpec, "width=0"),
        ({"kind": "tree_search", "width": 1, "branches": 1, "token_budget": 0}, StrategySpec, "budget.tokens=0"),
        ({"kind": "tree_search", "width": 1, "branches": 1, "step_end": ""}, StrategySpec, "step_end is empty"),
        ({"kind": "tree_search", "width": 2, "branches": 1, "temperature": 0.0}, StrategySpec, "same step again"),
        ({"kind": "local", "model": ""}, BackendSpec, "model is empty"),
        ({"kind": "local", "model": "m", "max_batch": 0}, BackendSpec, "max_batch=0"),
        ({"kind": "local", "model": "m", "prices": {"prompt": -1, "completion": 1}}, BackendSpec, "prices.prompt=-1"),
        ({"kind": "local", "model": "m", "prices": {"prompt": 1}}, BackendSpec, "required field `completion`"),
        (
            {"kind": "local", "model": "m", "prices": {"prompt": 1, "completion": 1, "cachd": 1}},
            BackendSpec,
            "unknown field `cachd`",
        ),
        ({"kind": "vllm", "url": "127.0.0.1:8000", "model": "m"}, BackendSpec, "url='127.0.0.1:8000'"),
        ({"kind": "vllm", "url": "http://x", "model": ""}, BackendSpec, "model is empty"),
        ({"kind": "vllm", "url": "http://x", "model": "m", "timeout_s": 0}, BackendSpec, "timeout_s=0"),
        ({"kind": "vllm", "url": "http://x", "model": "m", "connect_timeout_s": -1}, BackendSpec, "connect_timeout_s"),
        ({"kind": "vllm", "url": "http://x", "model": "m", "retries": -1}, BackendSpec, "retries=-1"),
        ({"kind": "vllm", "url": "http://x", "model": "m", "max_concurrency": 0}, BackendSpec, "max_concurrency=0"),
        ({"kind": "vllm", "url": "http://x", "model": "m", "api_key": "k"}, BackendSpec, "unknown field `api_key`"),
        ({"kind": "first_of", "verifiers": []}, VerifierSpec, "verifiers is empty"),
        ({"kind": "reward_model", "model": ""}, VerifierSpec, "model is empty"),
        ({"kind": "reward_model", "aggregate": "sum"}, VerifierSpec, "Invalid enum value 'sum'"),
        ({"kind": "votes"}, VerifierSpec, "Invalid value 'votes'"),
    ],
)
def test_a_spec_that_says_something_impossible_is_refused_with_its_place(data, kind, words):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"x": [data]}, dict[str, list[kind]])
    assert words in str(caught.value)
    assert "$[...][0]" in str(caught.value)


def test_a_spec_built_in_python_is_checked_as_well():
    with pytest.raises(ConfigError, match="n=0"):
        BestOfNSpec(n=0)
    with pytest.raises(ConfigError, match=r"prices.completion=nan"):
        PricesSpec(prompt=0.0, completion=float("nan"))
    with pytest.raises(ConfigError, match="aggregate='lst'; did you mean 'last'"):
        RewardModelSpec(aggregate="lst")


# backends


def test_a_local_backend_is_opened(tiny_model):
    spec = LocalSpec(model=str(tiny_model), prices=PricesSpec(prompt=1.0, completion=3.0), max_batch=7)
    backend = open_backend("small", spec)
    assert (backend.name, backend.context) == ("small", 160)
    assert backend.prices == Prices(prompt=1.0, completion=3.0)
    assert backend.fingerprint.startswith("sha256:")
    asyncio.run(backend.close())


def test_without_prices_cost_counts_completion_tokens(tiny_model):
    backend = open_backend("small", LocalSpec(model=str(tiny_model)))
    assert backend.prices.cost(prompt=100, completion=7) == 7
    asyncio.run(backend.close())


def test_a_vllm_backend_is_opened_without_contacting_the_server():
    spec = VLLMSpec(url="http://127.0.0.1:9", model="m", prices=PricesSpec(prompt=1, completion=2, cached=0.5))
    backend = open_backend("big", spec)
    assert backend.name == "big"
    assert backend.prices == Prices(prompt=1, completion=2, cached=0.5)
    asyncio.run(backend.close())


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_backend_s_name_can_t_be_mistaken_for_an_arm(name):
    with pytest.raises(ConfigError, match="without a slash"):
        open_backend(name, LocalSpec(model="tiny-small"))


def test_prices_for_some_backends_and_not_for_others_are_an_error():
    priced = LocalSpec(model="m", prices=PricesSpec(prompt=0, completion=1))
    with pytest.raises(ConfigError, match="backends small have no prices, but others have"):
        open_backends({"small": LocalSpec(model="m"), "large": priced})


def test_several_backends_are_opened_by_name(tiny_model):
    backends = open_backends({name: LocalSpec(model=str(tiny_model)) for name in ("a", "b")})
    assert {name: backend.name for name, backend in backends.items()} == {"a": "a", "b": "b"}
    for backend in backends.values():
        asyncio.run(backend.close())


@pytest.mark.parametrize(
    "opening", ["open_backend('x', LocalSpec(model='m'))", "open_verifiers({'x': RewardModelSpec()})"]
)
def test_a_missing_extra_is_told_with_the_command_that_installs_it(opening):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from howhard.strategies import *\n"
        f"try: {opening}\n"
        "except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ConfigError" in said
    assert "'x' needs torch, which is not installed: pip install 'howhard[local]'" in said


# verifiers


def test_verifiers_are_opened_under_their_names_and_shared(tiny_reward_model):
    opened = open_verifiers(
        {
            "best": FirstOfSpec(verifiers=("check", "prm")),
            "check": ExactCheckSpec(),
            "prm": RewardModelSpec(model=str(tiny_reward_model), aggregate="min"),
            "vote": VoteSpec(),
        }
    )
    assert {name: verifier.name for name, verifier in opened.items()} == {
        n: n for n in ("best", "check", "prm", "vote")
    }
    assert opened["best"].verifiers == (opened["check"], opened["prm"])
    assert opened["prm"].aggregate == "min"
    assert opened["prm"].prices == Prices(prompt=1.0, completion=0.0)


def test_a_verifier_that_is_not_there_or_made_of_itself_is_named():
    with pytest.raises(ConfigError, match="verifier 'best' wants verifier 'chek'; did you mean 'check'"):
        open_verifiers({"best": FirstOfSpec(verifiers=("chek",)), "check": ExactCheckSpec()})
    with pytest.raises(ConfigError, match="'a' is made of itself: a -> b -> a"):
        open_verifiers({"a": FirstOfSpec(verifiers=("b",)), "b": FirstOfSpec(verifiers=("a",))})


# arms


def test_arms_name_what_they_lack():
    spec = ArmSpec(backend="smal", strategy=SingleSpec())
    with pytest.raises(ConfigError, match="arm 'smal/single' wants backend 'smal'; did you mean 'small'"):
        build_arms([spec], {"small": scripted("small")}, {})
    with pytest.raises(ConfigError, match="best-of-N wants verifier 'best'"):
        build_strategy(BestOfNSpec(n=8), {})


def test_two_arms_of_one_name_are_refused():
    specs = [ArmSpec(backend="small", strategy=SingleSpec(temperature=t)) for t in (0.5, 1.0)]
    with pytest.raises(ConfigError, match="two arms are called 'small/single'"):
        build_arms(specs, {"small": scripted("small")}, {})


def test_an_arm_built_from_data_answers():
    spec = msgspec.convert({"backend": "small", "strategy": {**BEST, "verifier": "vote"}}, ArmSpec)
    [arm] = build_arms([spec], {"small": scripted("small")}, {"vote": Vote()}).values()
    assert asyncio.run(arm.run("why?")).answer == "a"
