"""Backward induction on logs whose best plan is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.objective import Objective
from howhard.router.plan import Draw, FixedPlan, Node
from howhard.router.policy import UtilityPolicy
from howhard.strategies.errors import ConfigError
from howhard.training.plans.fit_plan import fit_plan
from howhard.training.plans.learn import PlanSettings, Tasks, induce
from howhard.training.plans.replay import ByFixedPlan, ByPlan, replay
from howhard.training.plans.runs import Runs

N = 320
QUICK = PlanSettings(rounds=20, learning_rate=0.2, deals=6, min_rows=15, values=(2.0, 50.0))
KIND = np.arange(N) % 2 == 0
FOLD = np.arange(N) // 2 % 4  # of either kind as many
CHANCE = np.where(KIND, 0.5, 0.0)


def fitted(log, estimates, settings=QUICK, seconds=None):
    return fit_plan(
        log, estimates, FOLD, families=["f"] * N, seconds=seconds or (None,) * len(log.legs),
        settings=settings,
    )  # fmt: skip


def replayed(made, log, estimates, value):
    """Runs of prompts that the plan has not seen, at a value in costs of a sample of the small backend."""
    runs = made_runs(made, log, estimates)
    objective = Objective(value=value * made.plan.facts.unit)
    return replay(runs, ByPlan(made.plan, objective, UtilityPolicy(), runs.prompt))


def made_runs(made, log, estimates):
    seen = made.plan.start(estimates)
    return Runs(log, seen.prompt, seen.familiar, deals=2, seed=9, seconds=made.plan.facts.seconds)


def worth(found, value):
    return float((found.quality - found.cost / value).mean())


def best_cap(value: float, prior: float, chance: float, most: int) -> tuple[int, float]:
    """How many to draw at most, one at a time until proven, and what a prompt is worth then; by dynamic programming.

    prior : share of the prompts whose samples are right with `chance`; the others' never are. One is drawn anyhow.
    """
    to_go, cap = 0.0, most
    for failures in reversed(range(most)):
        posterior = prior * (1 - chance) ** failures / (prior * (1 - chance) ** failures + 1 - prior)
        draw = posterior * chance - 1 / value + (1 - posterior * chance) * to_go
        if draw <= 0 and failures:
            to_go, cap = 0.0, failures
        else:
            to_go = draw
    return cap, to_go


def test_where_the_prompt_tells_the_hopeless_it_gives_them_up_and_draws_the_others_until_proven(log_of, told):
    log = log_of(CHANCE, give_up=True)
    made = fitted(log, told(CHANCE))
    found = replayed(made, log_of(CHANCE, give_up=True, seed=1), told(CHANCE), 20.0)
    open_ = KIND[found.prompt]
    assert found.cost[~open_].mean() < 0.1
    assert found.quality[open_].mean() > 0.9
    assert worth(found, 20.0) == pytest.approx(0.5 * best_cap(20.0, 1.0, 0.5, 6)[1], abs=0.03)


@pytest.fixture(scope="module")
def unseen_kinds(log_of, told):
    """A plan for prompts of which half are hopeless, where nothing but failures tells which, and fresh samples."""
    blind = told(np.full(N, 0.25))
    return fitted(log_of(CHANCE), blind), log_of(CHANCE, seed=1), blind


@pytest.mark.parametrize("value", [8.0, 20.0])
def test_where_only_failures_tell_it_stops_near_the_best_moment(unseen_kinds, value):
    made, fresh, blind = unseen_kinds
    cap, best = best_cap(value, 0.5, 0.5, 6)
    assert 1 < cap < 6
    found = replayed(made, fresh, blind, value)
    optimum = replay(made_runs(made, fresh, blind), ByFixedPlan(FixedPlan(legs=((0, tuple(range(1, cap + 1))),))))
    assert worth(optimum, value) == pytest.approx(best, abs=0.06)
    assert worth(found, value) > worth(optimum, value) - 0.02


def test_votes_that_disagree_are_escalated_and_those_that_agree_are_not(log_of, told):
    sure = np.where(KIND, 1.0, 0.0)
    blind = told(np.full(N, 0.5))
    world = {"stages": (1, 2, 4), "large": np.ones(N), "sound": False}
    made = fitted(log_of(sure, **world), blind)
    found = replayed(made, log_of(sure, seed=1, **world), blind, 40.0)
    asked_large = np.zeros(len(found.quality), dtype=bool)
    for (_, action), rows in found.moved.items():
        if isinstance(action, Draw) and action.leg == 1:
            asked_large[rows] = True
    easy = KIND[found.prompt]
    assert asked_large[~easy].mean() > 0.95
    assert asked_large[easy].mean() < 0.05
    assert found.quality.mean() > 0.95


def test_a_dearer_answer_is_worth_more_samples(unseen_kinds):
    made, fresh, blind = unseen_kinds
    spent = [replayed(made, fresh, blind, value).cost.mean() for value in (2.5, 10.0, 40.0)]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1] - 1


def test_time_that_costs_is_saved_by_drawing_more_at_once(log_of, told):
    world = {"stages": (1, 8)}
    estimates = told(np.full(N, 0.5))
    log = log_of(np.full(N, 0.5), **world)
    made = fitted(
        log, estimates, PlanSettings(rounds=20, deals=6, min_rows=60, values=(5.0, 200.0)), seconds=((1.0, 0.0, 0.0),)
    )
    unit = made.plan.facts.unit
    runs = made.runs
    cheap, dear = (
        replay(
            runs,
            ByPlan(made.plan, Objective(value=50 * unit, price_of_second=price * unit), UtilityPolicy(), runs.prompt),
        )
        for price in (0.0, 30.0)
    )
    assert dear.seconds.mean() < cheap.seconds.mean()
    assert dear.cost.mean() > cheap.cost.mean()


def test_a_member_learns_nothing_of_its_own_fold(log_of, told):
    fold = FOLD
    chances = np.random.default_rng(3).random(N)
    last = Node(leg=0, drawn=2)

    def forest(flip: bool):
        log = log_of(chances, stages=(1, 2), sound=False)
        if flip:
            log.legs[0].quality[fold == 0] = 1 - log.legs[0].quality[fold == 0]
        seen = np.stack([chances], axis=1)
        runs = Runs(log, seen, np.ones(N, dtype=bool), deals=2, seed=0, seconds=(None,))
        fits, _ = induce(runs, fold, 1.0, PlanSettings(rounds=5, deals=2, min_rows=40))
        return fits[last]

    honest, flipped = forest(False), forest(True)
    assert np.array_equal(honest.bases[0], flipped.bases[0])
    assert not np.array_equal(honest.bases[1], flipped.bases[1])
    x = np.random.default_rng(0).normal(size=(50, honest.boosters[0].num_feature()))
    own = np.zeros(50, dtype=int)
    assert np.array_equal(honest.predict(x, own), flipped.predict(x, own))


def test_equal_seeds_learn_equal_plans_to_the_last_bit(log_of, told):
    settings_ = PlanSettings(rounds=4, deals=2)
    made = [fitted(log_of(CHANCE, stages=(1, 2)), told(CHANCE), settings_) for _ in range(2)]
    assert made[0].plan.pack("plan_1") == made[1].plan.pack("plan_1")


def test_what_induction_predicts_is_what_the_stored_forest_says(log_of, told):
    log = log_of(CHANCE, stages=(1, 2, 4))
    runs = Runs(log, CHANCE[:, None], np.ones(N, dtype=bool), deals=2, seed=0, seconds=(None,))
    fits, _ = induce(runs, FOLD, 1.0, PlanSettings(rounds=6, deals=2, min_rows=40))
    rng = np.random.default_rng(1)
    for fit in fits.values():
        x = rng.normal(size=(40, fit.boosters[0].num_feature()))
        member = rng.integers(4, size=40)
        stored = fit.forest("a node")
        assert np.allclose((stored.summed(x) + fit.bases)[np.arange(40), member], fit.predict(x, member), atol=1e-9)


def test_a_node_where_everything_is_proven_has_nothing_to_learn_and_still_answers(log_of, told):
    log = log_of(np.ones(N), stages=(1, 2))
    made = fitted(log, told(np.ones(N)), PlanSettings(rounds=3, deals=1))
    assert replayed(made, log, told(np.ones(N)), 10.0).quality.mean() == 1.0


def test_a_backend_that_costs_nothing_is_learned_of_too(log_of, told):
    log = log_of(CHANCE, stages=(1, 2))
    log.legs[0].cost[:] = 0.0
    made = fitted(log, told(CHANCE), PlanSettings(rounds=3, deals=1))
    assert made.plan.facts.unit == 1.0
    first = made.plan.step(made.plan.start(told(CHANCE)), Objective(value=5.0), UtilityPolicy())
    assert (first.cost == 0).all()


@given(low=st.floats(0.1, 10), span=st.floats(1, 1000), waiting=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_objectives_are_drawn_from_the_ranges_that_were_asked_for(log_of, low, span, waiting, seed):
    log = log_of(np.full(20, 0.5), stages=(1, 2))
    runs = Runs(log, np.zeros((20, 1)), np.ones(20, dtype=bool), deals=2, seed=0, seconds=(None,))
    settings_ = PlanSettings(values=(low, low * span), waiting=waiting)
    tasks = Tasks.of(runs, settings_, np.random.default_rng(seed), timed=True)
    assert len(tasks.run) == len(runs) * settings_.objectives
    assert (tasks.value >= low * (1 - 1e-9)).all()
    assert (tasks.value <= low * span * (1 + 1e-9)).all()
    priced = tasks.second[tasks.second > 0]
    assert ((priced >= settings_.seconds[0] - 1e-9) & (priced <= settings_.seconds[1] + 1e-9)).all()
    assert not Tasks.of(runs, settings_, np.random.default_rng(seed), timed=False).second.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"deals": 0}, "deals=0: it must be at least 1"),
        ({"objectives": 0}, "objectives=0: it must be at least 1"),
        ({"rounds": 0}, "rounds=0: it must be at least 1"),
        ({"values": (10.0, 1.0)}, "values=.*lowest and a highest"),
        ({"values": (0.0, 1.0)}, "values=.*> 0"),
        ({"seconds": (1.0, float("inf"))}, "seconds=.*finite"),
        ({"waiting": 1.5}, r"waiting=1.5: it must lie in \[0, 1\]"),
        ({"column_share": 0.0}, r"column_share=0.0: it must lie in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        PlanSettings(**wrong)
