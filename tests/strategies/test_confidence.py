"""What a vote weighs."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Generation, SamplingParams
from howhard.strategies.confidence import (
    MEASURES,
    ByConfidence,
    ByLogprob,
    BySelfCertainty,
    Plain,
    RunningLowest,
    get_weighting,
    groups,
    most_confident,
)
from howhard.strategies.errors import ConfigError


def sample(*, confidences=None, logprobs=None):
    return Generation(
        text="t",
        finish_reason="stop",
        completion_tokens=3,
        prompt_tokens=1,
        confidences=confidences,
        logprobs=logprobs,
    )


def sure(*confidences):
    return [sample(confidences=(c,)) for c in confidences]


# DeepConf's measures


CONFIDENCES = (4.0, 1.0, 3.0, 8.0, 2.0)


@pytest.mark.parametrize(
    "measure, window, expected",
    [
        ("mean", 2, 18 / 5),
        ("tail", 2, 5.0),
        ("tail", 99, 18 / 5),
        ("lowest", 2, 2.0),  # groups of two: 2.5, 2, 5.5, 5
        ("lowest", 5, 18 / 5),
        ("lowest", 6, 18 / 5),  # fewer tokens than a group holds: all of them
        ("bottom", 2, 2.0),
    ],
)
def test_a_sample_is_as_sure_as_its_groups(measure, window, expected):
    assert MEASURES[measure](CONFIDENCES, window) == pytest.approx(expected)


def test_the_bottom_is_the_lowest_tenth_of_the_groups():
    assert MEASURES["bottom"]([float(i) for i in range(40)], 1) == pytest.approx((0 + 1 + 2 + 3) / 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.integers(1, 12))
def test_groups_told_token_by_token_are_the_groups_of_the_whole(confidences, window):
    plain = [math.fsum(confidences[i : i + window]) / window for i in range(len(confidences) - window + 1)] or [
        math.fsum(confidences) / len(confidences)
    ]
    assert groups(confidences, window) == pytest.approx(plain, abs=1e-9)
    running = RunningLowest(window)
    for c in confidences:
        running.add(c)
    assert running.lowest == (pytest.approx(min(plain), abs=1e-9) if len(confidences) >= window else math.inf)


# weights


def test_a_plain_vote_weighs_one_and_asks_for_nothing():
    params = SamplingParams(logprobs=False)
    assert Plain().weights(sure(1.0, 2.0)) == (1.0, 1.0)
    assert get_weighting(None).asking(params) is params


def test_a_vote_by_log_probability_weighs_the_mean_probability_of_a_token():
    samples = [sample(logprobs=(-1.0, -3.0)), sample(logprobs=(0.0,))]
    assert ByLogprob().weights(samples) == pytest.approx((math.exp(-2), 1.0))
    assert ByLogprob().asking(SamplingParams(logprobs=False)).logprobs


def test_borda_votes_go_by_rank_and_equals_by_launch_order():
    assert BySelfCertainty(1).weights(sure(1.0, 5.0, 3.0, 3.0)) == pytest.approx((1 / 4, 1, 3 / 4, 2 / 4))
    assert BySelfCertainty(2).weights(sure(1.0, 5.0)) == pytest.approx((1 / 4, 1))
    assert BySelfCertainty(0).weights(sure(1.0, 5.0)) == (1.0, 1.0)
    assert BySelfCertainty(1000).weights(sure(1.0, 5.0)) == pytest.approx((0.0, 1.0))
    assert BySelfCertainty(vocabulary=32_000).asking(SamplingParams()).confidence_of == 32_000


def test_only_the_most_confident_samples_vote():
    ten = sure(*range(1, 11))
    assert ByConfidence(keep=0.1).weights(ten) == (0.0,) * 9 + (10.0,)
    assert ByConfidence(keep=0.9).weights(ten) == (0.0, *map(float, range(2, 11)))
    assert ByConfidence().weights(ten) == tuple(map(float, range(1, 11)))
    assert ByConfidence(keep=0.1).weights(sure(2.0, 2.0)) == (2.0, 0.0)  # never none; of equals the first
    assert ByConfidence(keep=0.1).weights([]) == ()
    assert ByConfidence(top=5).asking(SamplingParams()).confidence_of == 5


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 10))
def test_the_kept_are_at_least_as_sure_as_those_left_out(values, tenths):
    kept = most_confident(values, tenths / 10)
    assert len(kept) == -(-tenths * len(values) // 10)
    left = [v for i, v in enumerate(values) if i not in kept]
    assert not kept or not left or min(values[i] for i in kept) >= max(left)


@pytest.mark.parametrize(
    "what, words", [("logprob", "log-probability"), ("confidence", "confidence"), ("self_certainty", "confidence")]
)
def test_a_sample_without_what_is_needed_is_an_error_that_names_the_remedy(what, words):
    weighting = get_weighting(what)
    with pytest.raises(ConfigError, match=f"needs the {words} of each token, and sample 1 came without.*weights=None"):
        weighting.weights([sample(confidences=(1.0,), logprobs=(-1.0,)), sample(confidences=(), logprobs=())])


# names


@pytest.mark.parametrize(
    "text, name",
    [
        ("logprob", "logprob"),
        ("self_certainty", "top20_certainty"),
        ("self_certainty:2,top=5", "top5_certainty_2"),
        ("self_certainty,vocabulary=64", "self_certainty"),
        ("confidence", "confidence"),
        ("confidence:tail,keep=0.9", "confidence_tail_keep_0.9"),
        ("confidence,keep=0.1,window=512,top=5", "confidence_keep_0.1_window_512_top_5"),
    ],
)
def test_weightings_are_made_by_name(text, name):
    weighting = get_weighting(text)
    assert weighting.name == name
    assert get_weighting(weighting) is weighting


@pytest.mark.parametrize(
    "text, words",
    [
        ("logprobs", "'logprobs' is not known; did you mean 'logprob'"),
        ("confidence:low", "measure='low': no such confidence of a sample"),
        ("confidence,keep=0", r"keep=0\.0: the share of samples that vote"),
        ("confidence,keep=much", "'much' is not a number"),
        ("confidence,keep", "'keep' must be a setting and its value"),
        ("confidence,kep=1", "setting 'kep' is not known; did you mean 'keep'"),
        ("confidence,window=0", "window=0: a group holds at least 1 token"),
        ("self_certainty:-1", r"power=-1\.0: Borda's power"),
        ("self_certainty,top=0", "top=0: a confidence is taken over 1 or more"),
        ("self_certainty,vocabulary=1", "vocabulary=1: it must be the model's number of tokens"),
        (3, "weights=3: give None, or one of"),
    ],
)
def test_weightings_check_their_settings(text, words):
    with pytest.raises(ConfigError, match=words):
        get_weighting(text)
