"""Rivals of plans: the rules in arrays say what the stop rules say, and nothing is tuned on the prompts that judge."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.flight import Draws
from howhard.strategies import Candidate, Request, get_stop_rule
from howhard.strategies.base import Generation
from howhard.strategies.equivalence import numbered
from howhard.strategies.stopping import Seen
from howhard.training.plans.contest import repriced
from howhard.training.plans.ladders import Ladder, totals_of
from howhard.training.plans.outcome import Outcome
from howhard.training.plans.posterior import best_schedule, beta_of, left_over
from howhard.training.plans.rivals import AcceptedBy, BetaVotes, Confident, Decided, Family, InWaves, Unanimous
from howhard.training.plans.runs import Runs

REQUEST = Request.of("?")

RULES = [
    ("beta", BetaVotes(), 4, False),
    ("beta,doubling", BetaVotes(), 4, True),
    ("beta:0.8,wave=1", BetaVotes(0.8), 1, False),
    ("esc", Unanimous(5), 5, False),
    ("esc:3,wave=2", Unanimous(3), 2, False),
    ("exact", Decided(), 4, False),
    ("exact,wave=1", Decided(), 1, False),
    ("accept:0.9,wave=1", AcceptedBy(0.9), 1, False),
    ("accept:0.5,doubling", AcceptedBy(0.5), 4, True),
]


def ladder_of(labels, scores):
    """A ladder over draws alone: all that rules look at."""
    labels, scores = np.atleast_2d(labels), np.atleast_2d(scores)
    draws = Draws(
        complete=labels > -2,
        label=np.maximum(labels, -1),
        score=scores,
        proven=scores == 1.0,
        logprob=np.full(labels.shape, np.nan),
        confidence=np.full(labels.shape, np.nan),
        tokens=np.ones(labels.shape),
    )
    runs = SimpleNamespace(leg=lambda _: SimpleNamespace(draws=draws), __len__=lambda: len(labels))
    return Ladder(runs, 0)  # type: ignore[arg-type]


def drawn_by(rule, labels, scores):
    """How many samples the stop rule itself draws, asked as a strategy asks it."""

    def candidate(label, score):
        reason = "stop" if label > -2 else "length"
        generation = Generation(text="x", finish_reason=reason, completion_tokens=1, prompt_tokens=1)
        return Candidate(text="x", generation=generation, answer=None, score=score)

    drawn = 0
    while True:
        groups = numbered([None if label < 0 else label for label in labels[:drawn]])
        seen = Seen(
            request=REQUEST,
            candidates=tuple(candidate(*pair) for pair in zip(labels[:drawn], scores[:drawn], strict=True)),
            groups=groups,
            weights=tuple(float(g is not None) for g in groups),
            planned=len(labels),
        )
        more = rule.more(seen)
        if not more:
            return drawn
        drawn += more


@pytest.mark.parametrize(("name", "rule", "wave", "doubling"), RULES, ids=[r[0] for r in RULES])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_rule_over_arrays_stops_where_the_stop_rule_does(name, rule, wave, doubling, data):
    n = data.draw(st.integers(1, 14))
    labels = data.draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n))
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.9, 1.0]), min_size=n, max_size=n))
    own = InWaves(0, n, rule, min(wave, n), doubling)
    ladder = ladder_of(labels, scores)
    assert ladder.drawn(own.totals, own.settled(ladder))[0] == drawn_by(get_stop_rule(name), labels, scores)


@given(wave=st.integers(1, 9), most=st.integers(1, 40), doubling=st.booleans())
def test_waves_ascend_to_the_most(wave, most, doubling):
    totals = totals_of(wave, most, doubling=doubling)
    assert totals[-1] == most
    assert all(a < b for a, b in itertools.pairwise(totals))


# ── what drawing comes to ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def runs(log_of):
    log = log_of(np.full(30, 0.4), large=np.full(30, 0.7))
    return Runs(log, np.zeros((30, 0)), np.ones(30, dtype=bool), deals=3, seed=0, seconds=((1.0, 0.1, 0.0), None))


def test_a_cap_pays_for_what_it_draws_and_ends_with_a_proven_answer_if_there_is_one(runs):
    ladder = Ladder(runs, 0)
    cap = InWaves(0, 6, AcceptedBy(), wave=1)
    came = ladder.until(cap.totals, cap.settled(ladder))
    right = runs.leg(0).draws.proven
    first = np.where(right.any(axis=1), right.argmax(axis=1) + 1, 6).reshape(30, 3)
    assert np.allclose(came.cost, first.mean(axis=1))
    assert np.allclose(came.tokens, 10 * first.mean(axis=1))
    assert np.allclose(came.quality, right.any(axis=1).reshape(30, 3).mean(axis=1))
    assert np.allclose(came.seconds, 2.0 * first)  # each wave: 1 s and .1 s for each of 10 tokens


def test_confident_votes_listen_to_the_confident_alone(runs):
    samples = runs.leg(0)
    samples.draws.confidence[:] = np.where(samples.draws.proven, 9.0, 1.0)
    fold = SimpleNamespace(ladder=lambda leg, *, trained: Ladder(runs, leg))
    kept = Confident(0, 6, keep=0.1, warm=6).on(fold, trained=False)  # type: ignore[arg-type]
    assert np.allclose(kept.quality, samples.draws.proven.any(axis=1).reshape(30, 3).mean(axis=1))
    assert np.allclose(kept.cost, 6.0)
    early = Confident(0, 6, keep=0.1, warm=2).on(fold, trained=False)  # type: ignore[arg-type]
    assert (early.cost <= kept.cost).all()
    assert early.cost.mean() < 6.0


# ── the posterior of counts ─────────────────────────────────────────────────────────────────────────────────


def test_the_prior_of_counts_is_found_again():
    rng = np.random.default_rng(0)
    p = rng.beta(0.8, 2.4, 4000)
    a, b = beta_of(rng.binomial(16, p), 16)
    assert a == pytest.approx(0.8, rel=0.12)
    assert b == pytest.approx(2.4, rel=0.12)


def test_chances_left_over_are_means_over_the_prompts_posteriors():
    won = [np.array([0, 3]), np.array([1, 2])]
    left = left_over([(1.0, 1.0), (2.0, 1.0)], won, [3, 2])
    assert left.shape == (4, 3)
    assert left[0, 0] == 1.0

    def fail(a, b, k, s, m):
        return math.prod((b + k - s + j) / (a + b + k + j) for j in range(m))

    each = [fail(1, 1, 3, s, 2) * fail(2, 1, 2, t, 1) for s, t in zip(*won, strict=True)]
    assert left[2, 1] == pytest.approx(sum(each) / 2)


@settings(max_examples=60, deadline=None)
@given(
    chances=st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=1, max_size=4),
    cost=st.tuples(st.floats(0.2, 2.0), st.floats(0.5, 9.0)),
    prompt=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    value=st.floats(0.5, 60.0),
    give_up=st.booleans(),
)
def test_the_best_schedule_is_the_best_of_all_schedules(chances, cost, prompt, value, give_up):
    p, q = np.array(chances).T
    most = (4, 2)
    left = np.array([[((1 - p) ** i * (1 - q) ** j).mean() for j in range(most[1] + 1)] for i in range(most[0] + 1)])

    def worth(waves):
        total, here = 0.0, [0, 0]
        for leg, to in waves:
            before = left[tuple(here)]
            total -= before * (cost[leg] * (to - here[leg]) + prompt[leg])
            here[leg] = to
            total += value * (before - left[tuple(here)])
        return total

    def ladders(k):
        """Every way up to at most k by steps of 1, 2, 4, ... or all that is left."""
        found: list[tuple[int, ...]] = [()]
        waiting: list[tuple[int, ...]] = [()]
        while waiting:
            so_far = waiting.pop()
            at = so_far[-1] if so_far else 0
            steps = {s for s in (1, 2, 4) if at + s <= k} | ({k - at} if k > at else set())
            for s in steps:
                found.append((*so_far, at + s))
                waiting.append(found[-1])
        return found

    every = [
        (*((0, t) for t in a), *((1, t) for t in b)) for a in ladders(most[0]) for b in ladders(most[1])
        if a or b or give_up
    ]  # fmt: skip
    best = best_schedule(left, cost, prompt, value, give_up=give_up)
    assert worth(best) == pytest.approx(max(map(worth, every)), abs=1e-9)


# ── tuning ──────────────────────────────────────────────────────────────────────────────────────────────────


class Told:
    """A candidate that is one thing on the training prompts and another on the test prompts."""

    def __init__(self, trained, test):
        self.sides = {True: trained, False: test}

    def on(self, fold, *, trained):
        quality, cost = self.sides[trained]
        return Outcome(np.full(4, quality), np.full(4, cost), np.full(4, cost), np.full((4, 1), np.nan))


def test_a_family_is_tuned_on_the_training_prompts_alone():
    flatters_itself = Told(trained=(0.9, 2.0), test=(0.1, 2.0))
    better_than_it_knew = Told(trained=(0.5, 1.0), test=(0.95, 1.0))
    family = Family("two", "cap", (flatters_itself, better_than_it_knew))
    cheap, dear = family.play(None, [1.0, 100.0])  # type: ignore[arg-type]
    assert (cheap.quality[0], dear.quality[0]) == (0.95, 0.1)


# ── prices ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_prices_keep_the_first_backend_and_move_the_later_one(logged, log_of):
    menu = log_of(np.full(4, 0.5), large=np.full(4, 0.5)).menu
    samples = logged[0]
    changed = repriced(samples, menu, 30.0)
    price = {
        backend: rows["cost"].sum() / rows["completion_tokens"].sum() for backend, rows in changed.groupby("backend")
    }
    assert float(price["large"] / price["small"]) == pytest.approx(30.0)  # type: ignore[arg-type]
    small = samples["backend"].eq("small")
    assert changed.loc[small, "cost"].equals(samples.loc[small, "cost"])
    large = changed.loc[~small]
    assert (large["prompt_cost"] / samples.loc[~small, "prompt_cost"]).to_numpy() == pytest.approx(5.0)  # 6 -> 30
