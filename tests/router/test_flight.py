import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.flight import OF_SAMPLES, Draws, features_of_samples, lead_of, seconds_of_wave
from howhard.router.plan import Hand
from howhard.strategies.base import Candidate, Generation
from howhard.strategies.selection import elect, voted, weighted_best
from howhard.strategies.stopping import stays_ahead

EIGHTHS = st.integers(0, 8).map(lambda i: i / 8)  # their sums are exact, in any order


@st.composite
def candidates(draw, *, judged: bool):
    """Samples with or without an answer, as (candidates, group numbers in order of their first sample)."""
    answers = draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=12))
    known: dict[str, int] = {}
    groups = [None if a is None else known.setdefault(a, len(known)) for a in answers]
    made = []
    for answer in answers:
        complete = answer is not None or draw(st.booleans())
        generation = Generation(
            text="text",
            finish_reason="stop" if complete else "length",
            completion_tokens=draw(st.integers(1, 50)),
            prompt_tokens=5,
            logprobs=draw(st.none() | EIGHTHS.map(lambda x: (-x,))),
        )
        score = draw(st.none() | EIGHTHS) if judged else None
        made.append(Candidate(text="text", answer=answer, generation=generation, score=score))
    return made, groups


def draws_of(made, groups) -> Draws:
    return Draws.of(made, groups, [None] * len(made))


@settings(deadline=None)
@given(candidates(judged=False))
def test_without_scores_the_answer_in_hand_is_the_one_that_is_elected(drawn):
    made, groups = drawn
    lead = lead_of(draws_of(made, groups))
    winner = elect(groups, [1.0] * len(made), [c.generation.mean_logprob for c in made])
    assert lead.label[0] == (-1 if winner is None else winner)
    if winner is not None:
        assert made[lead.index[0]] is voted(made, groups, [1.0] * len(made))


@settings(deadline=None)
@given(candidates(judged=True))
def test_with_scores_it_is_the_weighted_best(drawn):
    made, groups = drawn
    lead = lead_of(draws_of(made, groups))
    if any(c.score and g is not None for c, g in zip(made, groups, strict=True)):
        assert made[lead.index[0]] is weighted_best(made, groups)


def test_a_proven_answer_goes_before_all_others():
    draws = Draws(
        complete=np.ones((1, 4), bool),
        label=np.array([[0, 0, 0, 1]]),
        score=np.array([[0.9, 0.9, 0.9, 1.0]]),
        proven=np.array([[False, False, False, True]]),
        logprob=np.zeros((1, 4)),
        confidence=np.zeros((1, 4)),
        tokens=np.ones((1, 4)),
    )
    lead = lead_of(draws)
    assert (lead.index[0], lead.label[0]) == (3, 1)


def test_without_any_answer_it_is_the_first_complete_sample():
    nan = np.full((1, 3), np.nan)
    draws = Draws(
        complete=np.array([[False, True, True]]),
        label=np.full((1, 3), -1),
        score=nan,
        proven=np.zeros((1, 3), bool),
        logprob=nan,
        confidence=nan,
        tokens=np.ones((1, 3)),
    )
    lead = lead_of(draws)
    assert (lead.index[0], lead.label[0]) == (1, -1)
    seen = dict(zip(OF_SAMPLES, features_of_samples(draws, lead)[0], strict=True))
    assert (seen["answered"], seen["cut"], seen["distinct"], seen["votes"], seen["share"]) == (0, 1, 0, 0, 0)
    assert all(math.isnan(seen[n]) for n in ("score_best", "score_lead", "score_mean", "score_spread"))
    assert all(math.isnan(seen[n]) for n in ("logprob_lead", "logprob_mean", "confidence_lead", "confidence_mean"))
    assert math.isnan(seen["tokens_lead"])


def test_features_say_what_the_samples_show():
    draws = Draws(
        complete=np.array([[True, True, True, False]]),
        label=np.array([[0, 1, 0, -1]]),
        score=np.array([[0.5, 0.25, 0.75, np.nan]]),
        proven=np.zeros((1, 4), bool),
        logprob=np.array([[-1.0, -2.0, -3.0, np.nan]]),
        confidence=np.full((1, 4), np.nan),
        tokens=np.array([[10.0, 20.0, 30.0, 160.0]]),
    )
    lead = lead_of(draws)
    seen = dict(zip(OF_SAMPLES, features_of_samples(draws, lead)[0].tolist(), strict=True))
    assert (seen["drawn"], seen["answered"], seen["cut"]) == (4, 3, 1)
    assert seen["distinct"] == pytest.approx(2)
    assert (seen["votes"], seen["runner_up"], seen["share"]) == (2, 1, pytest.approx(2 / 3))
    assert seen["entropy"] == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert seen["stays_ahead"] == 11 / 16  # P(Bin(4, 1/2) <= 2)
    assert (seen["score_best"], seen["score_lead"], seen["score_mean"]) == (0.75, 0.75, 0.5)
    assert seen["score_spread"] == pytest.approx(np.std([0.5, 0.25, 0.75]))
    assert (seen["logprob_lead"], seen["logprob_mean"]) == (-2.0, -2.0)
    assert math.isnan(seen["confidence_mean"])
    assert (seen["tokens_mean"], seen["tokens_longest"], seen["tokens_lead"]) == (55, 160, 20)


@given(first=st.integers(1, 24), second=st.integers(0, 24), silent=st.integers(0, 24))
def test_the_chance_to_stay_ahead_is_that_of_the_beta_rule_however_many_abstain(first, second, silent):
    most, least = max(first, second), min(first, second)
    label = np.array([[0] * first + [1] * second + [-1] * silent])
    nothing = np.full(label.shape, np.nan)
    draws = Draws(label >= 0, label, nothing, np.zeros(label.shape, bool), nothing, nothing, np.ones(label.shape))
    chance = features_of_samples(draws, lead_of(draws))[0, OF_SAMPLES.index("stays_ahead")]
    assert stays_ahead(most, least, chance)
    assert not stays_ahead(most, least, math.nextafter(chance, 1))


def random_draws(seed: int, n: int, k: int) -> Draws:
    """Runs of all kinds: some without scores or answers, some with ties, some that know nothing of their tokens."""
    rng = np.random.default_rng(seed)
    shape = (n, k)
    score, logprob = rng.random(shape), -rng.random(shape)
    score[rng.random(n) < 0.5] = np.nan
    score[rng.random(shape) < 0.2] = np.nan
    logprob[rng.random(n) < 0.3] = np.nan
    label = rng.integers(-1, 4, shape)
    label[rng.random(n) < 0.1] = -1
    return Draws(
        complete=rng.random(shape) < 0.8,
        label=label,
        score=score,
        proven=(rng.random(shape) < 0.05) & (label >= 0),
        logprob=logprob,
        confidence=np.where(rng.random((n, 1)) < 0.5, rng.random(shape), np.nan),
        tokens=rng.integers(1, 200, shape).astype(float),
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), k=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 32]))
def test_a_run_shows_the_same_in_a_batch_and_alone(seed, n, k):
    draws = random_draws(seed, n, k)
    together = Hand.of(draws)
    for i in range(n):
        alone = Hand.of(draws[i : i + 1])
        assert alone.features.tobytes() == together[i : i + 1].features.tobytes()
        assert (alone.lead.index[0], alone.lead.label[0]) == (together.lead.index[i], together.lead.label[i])
        assert alone.proven[0] == together.proven[i]


def test_the_first_samples_are_those_that_were_launched_first():
    draws = random_draws(0, 3, 8)
    assert draws.first(2).k == 2
    assert (draws.first(2).label == draws.label[:, :2]).all()


def test_a_wave_takes_as_long_as_its_longest_sample_and_all_its_tokens_say():
    tokens = np.array([[10.0, 30.0], [20.0, 20.0]])
    assert seconds_of_wave((1.0, 0.1, 0.01), tokens) == pytest.approx([1 + 3 + 0.4, 1 + 2 + 0.4])
    assert np.isnan(seconds_of_wave(None, tokens)).all()
