import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.router import Estimates, Objective, Reason, ThresholdPolicy, UtilityPolicy
from howhard.router.policy import PolicySpec, guarded_gain, utilities, within_limits
from howhard.strategies.errors import ConfigError, InputError, NoFeasibleArm

ARMS = ("small/single", "small/best_of_4", "small/beam_4x4", "large/single")


def made(
    quality: Any,
    cost: Any,
    *,
    se: Any = 0.0,
    latency: Any = None,
    fallback=ARMS[0],
    reference=ARMS[0],
    quantiles=(0.5, 0.95),
) -> Estimates:
    quality = np.atleast_2d(np.asarray(quality, dtype=float))
    cost = np.broadcast_to(np.asarray(cost, dtype=float), quality.shape)
    se = np.broadcast_to(np.asarray(se, dtype=float), quality.shape)
    arms = ARMS[: quality.shape[1]]
    if latency is not None:
        latency = np.broadcast_to(np.asarray(latency, dtype=float), (*quality.shape, len(quantiles)))
    return Estimates(
        arms=arms,
        quality=quality,
        benefit_se=se,
        cost=cost,
        latency=latency,
        quantiles=quantiles if latency is not None else (),
        fallback=fallback,
        reference=reference,
    )


@st.composite
def estimates(draw) -> Estimates:
    """Coarse values, so that ties happen; some arms never timed."""
    n, a = draw(st.integers(1, 4)), len(ARMS)

    def grid(top: int, scale: int) -> np.ndarray:
        values = draw(st.lists(st.integers(0, top), min_size=n * a, max_size=n * a))
        return np.array(values).reshape(n, a) / scale

    median = grid(4, 2)
    latency = np.stack([median, median + grid(4, 2)], axis=2)
    latency[:, draw(st.lists(st.integers(0, a - 1), max_size=1))] = np.nan
    return Estimates(
        arms=ARMS,
        quality=grid(10, 10),
        benefit_se=grid(3, 20),
        cost=grid(6, 2),
        latency=latency,
        quantiles=(0.5, 0.95),
        fallback=draw(st.sampled_from(ARMS)),
        reference=ARMS[0],
    )


objectives = st.builds(
    Objective,
    value=st.integers(0, 12).map(float),
    price_of_second=st.sampled_from([0.0, 0.5, 2.0]),
    max_cost=st.none() | st.integers(0, 3).map(float),
    deadline=st.none() | st.integers(0, 4).map(float),
    min_quality=st.none() | st.sampled_from([0.0, 0.3, 0.8]),
    on_infeasible=st.just("fallback"),
)


def brute_force(e: Estimates, o: Objective, row: int, guard: float) -> tuple[str, bool]:
    """The rule, arm by arm: (arm, whether any arm keeps the limits)."""
    latency = e.latency
    assert latency is not None
    best, at = None, e.arms.index(e.fallback)

    def u(j: int) -> float:
        time = o.price_of_second * latency[row, j, 0] if o.price_of_second else 0.0
        return o.value * e.quality[row, j] - e.cost[row, j] - time

    def fits(j: int) -> bool:
        return (
            (o.max_cost is None or e.cost[row, j] <= o.max_cost)
            and (o.min_quality is None or e.quality[row, j] >= o.min_quality)
            and (o.deadline is None or latency[row, j, 1] <= o.deadline)
            and not math.isnan(u(j))
        )

    guarding = guard > 0 and fits(at)
    for j in range(len(e.arms)):
        if not fits(j):
            continue
        if guarding and j != at:
            time = latency[row, j, 0] - latency[row, at, 0] if o.price_of_second else 0.0
            benefit = e.quality[row, j] - e.quality[row, at]
            gain = o.value * (benefit - guard * e.benefit_se[row, j]) - (e.cost[row, j] - e.cost[row, at])
            if gain - o.price_of_second * time <= 0:
                continue
        if best is None or (u(j), -e.cost[row, j]) > (u(best), -e.cost[row, best]):
            best = j
    return (e.fallback, False) if best is None else (e.arms[best], True)


@given(estimates(), objectives, st.sampled_from([0.0, 1.0, 2.0]))
def test_the_choice_is_the_brute_force_argmax(e, objective, guard):
    choices = UtilityPolicy(guard=guard).choose(e, objective)
    for row in range(len(e)):
        arm, fits = brute_force(e, objective, row, guard)
        assert e.arms[choices.index[row]] == arm
        assert (choices.reason[row] == Reason.INFEASIBLE) == (not fits)
        assert choices.propensity[row] == 1.0


@given(estimates(), objectives, st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 99))
def test_hard_limits_hold_and_propensities_are_exact_whatever_is_explored(e, objective, guard, epsilon, seed):
    policy = UtilityPolicy(guard=guard, epsilon=epsilon)
    choices = policy.choose(e, objective, rng=np.random.default_rng(seed))
    chances = policy.propensities(e, objective)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    rows = np.arange(len(e))
    assert np.array_equal(choices.propensity, chances[rows, choices.index])
    assert (choices.propensity > 0).all()
    stuck = choices.reason == Reason.INFEASIBLE
    assert choices.feasible[rows, choices.index][~stuck].all()
    assert (chances[~stuck][~choices.feasible[~stuck]] == 0).all()
    ok = within_limits(e, objective)
    assert ok[rows, choices.index][~stuck].all()


@given(estimates(), objectives, st.data())
def test_an_arm_that_is_not_allowed_is_never_chosen(e, objective, data):
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=4, max_size=4)))
    for policy in (UtilityPolicy(guard=1.0), UtilityPolicy(epsilon=0.5), ThresholdPolicy(arms=ARMS[:3])):
        try:
            choices = policy.choose(e, objective, allowed=allowed, rng=np.random.default_rng(0))
        except NoFeasibleArm:
            assert not allowed[e.arms.index(e.fallback)]
        else:
            assert allowed[choices.index].all()


@given(estimates(), st.integers(0, 10), st.integers(0, 10))
def test_a_higher_value_never_buys_less_quality(e, value, more):
    few, many = (UtilityPolicy().choose(e, Objective(value=float(v))) for v in (value, value + more))
    rows = np.arange(len(e))
    assert (e.quality[rows, many.index] >= e.quality[rows, few.index]).all()


@given(estimates(), objectives, st.sampled_from([0.0, 1.5]))
def test_many_prompts_at_once_are_chosen_as_each_alone(e, objective, guard):
    policy = UtilityPolicy(guard=guard)
    together = policy.choose(e, objective)
    for i in range(len(e)):
        alone = policy.choose(e[i : i + 1], objective)
        assert alone.index[0] == together.index[i]
        assert alone.reason[0] == together.reason[i]


def test_a_tie_goes_to_the_cheaper_arm():
    e = made([[0.5, 0.75, 0.9]], [3.0, 1.0, 4.0])
    u = utilities(made([[0.5, 0.5]], [2.0, 1.0]), Objective(value=1))
    assert u.tolist() == [[-1.5, -0.5]]
    tie = made([[0.5, 0.25]], [2.0, 1.0])  # 4 * .5 - 2 = 4 * .25 - 1
    assert UtilityPolicy().choose(tie, Objective(value=4)).index.tolist() == [1]
    assert UtilityPolicy().choose(e, Objective(value=0)).index.tolist() == [1]


def test_the_guard_leaves_the_fallback_only_for_a_sure_gain():
    e = made([[0.5, 0.6], [0.5, 0.9]], [1.0, 1.5], se=[[0.0, 0.1], [0.0, 0.1]])
    choices = UtilityPolicy(guard=1.0).choose(e, Objective(value=10))
    assert choices.index.tolist() == [0, 1]
    assert choices.reason.tolist() == [Reason.GUARDED, Reason.BEST_UTILITY]
    assert choices.fallback.tolist() == [True, False]
    assert UtilityPolicy().choose(e, Objective(value=10)).index.tolist() == [1, 1]


def test_the_guarded_gain_counts_cost_and_time():
    objective = Objective(value=10, price_of_second=2)
    gain = guarded_gain(benefit=0.3, benefit_se=0.1, extra_cost=0.5, extra_seconds=0.25, objective=objective, guard=2)
    assert gain == pytest.approx(10 * (0.3 - 0.2) - 0.5 - 0.5)


def test_exploring_draws_every_open_arm_evenly_and_never_another():
    e = made(np.tile([[0.5, 0.6, 0.7, 0.8]], (4000, 1)), [1.0, 2.0, 9.0, 3.0])
    choices = UtilityPolicy(epsilon=0.3).choose(e, Objective(value=100, max_cost=5), rng=np.random.default_rng(0))
    share = np.bincount(choices.index, minlength=4) / 4000
    np.testing.assert_allclose(share, [0.1, 0.1, 0.0, 0.8], atol=0.02)
    assert {r.value for r in choices.reason} == {"explored", "best_utility"}


def test_exploring_without_a_source_of_chance_is_refused():
    with pytest.raises(ConfigError, match="rng"):
        UtilityPolicy(epsilon=0.1).choose(made([[0.5]], [1.0]), Objective(value=1))


@pytest.mark.parametrize(
    "objective, words",
    [
        (Objective(value=1, max_cost=0.0005), "no arm fits max_cost=0.0005: the cheapest, 'small/single', is.* 1"),
        (Objective(value=1, deadline=0.01), "deadline=0.01 s.*the fastest, 'small/single'.* 0.2 s.*Move the deadline"),
        (Objective(value=1, min_quality=0.95), "the best, 'small/best_of_4', has .* 0.600.*ower min_quality"),
    ],
)
def test_no_feasible_arm_says_what_came_nearest_and_what_to_try(objective, words):
    e = made([[0.5, 0.6]], [1.0, 2.0], latency=[[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(NoFeasibleArm, match=words):
        UtilityPolicy().choose(e, objective)
    choices = UtilityPolicy(guard=1.0).choose(e, objective.but(on_infeasible="fallback"))
    assert choices.index.tolist() == [0]
    assert choices.fallback.tolist() == [True]


def test_with_nothing_allowed_the_error_says_so():
    with pytest.raises(NoFeasibleArm, match="no arm is open to choice"):
        UtilityPolicy().choose(made([[0.5, 0.6]], 1.0), Objective(value=1), allowed=np.array([False, False]))


def test_time_has_a_price_only_where_latency_was_measured():
    with pytest.raises(ConfigError, match="latency_s"):
        UtilityPolicy().choose(made([[0.5, 0.6]], 1.0), Objective(value=1, price_of_second=1))
    e = made([[0.5, 0.9]], 1.0, latency=[[0.1, 0.2], [np.nan, np.nan]])
    choices = UtilityPolicy().choose(e, Objective(value=100, price_of_second=1))
    assert choices.index.tolist() == [0]
    assert choices.feasible.tolist() == [[True, False]]
    nowhere = made([[0.5, 0.9]], 1.0, latency=np.full((2, 2), np.nan))
    with pytest.raises(NoFeasibleArm, match="never measured"):
        UtilityPolicy().choose(nowhere, Objective(value=1, price_of_second=1))
    with pytest.raises(NoFeasibleArm, match="no arm's latency was measured"):
        UtilityPolicy().choose(nowhere, Objective(value=1, deadline=1))


def test_latency_between_stored_quantiles_is_interpolated_and_beyond_them_refused():
    e = made([[0.5]], 1.0, latency=[[1.0, 3.0]], quantiles=(0.5, 0.9))
    assert e.latency_at(0.7).item() == pytest.approx(2.0)
    assert e.latency_at(0.9).item() == 3.0
    with pytest.raises(ConfigError, match=r"0\.99 quantile"):
        e.latency_at(0.99)


def test_estimates_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="cost has shape"):
        Estimates(
            arms=ARMS[:2],
            quality=np.zeros((1, 2)),
            benefit_se=np.zeros((1, 2)),
            cost=np.zeros((1, 3)),
            fallback=ARMS[0],
            reference=ARMS[0],
        )
    with pytest.raises(InputError, match="not finite"):
        made([[np.nan, 0.5]], 1.0)
    with pytest.raises(InputError, match="did you mean 'small/single'"):
        made([[0.5, 0.5]], 1.0, fallback="small/singel")


def test_thresholds_pick_by_difficulty():
    e = made([[0.9, 0.9, 0.9], [0.7, 0.9, 0.9], [0.5, 0.9, 0.9], [0.3, 0.9, 0.9], [0.1, 0.9, 0.9]], [1, 4, 16])
    choices = ThresholdPolicy(arms=ARMS[:3]).choose(e, Objective(value=1))
    assert choices.index.tolist() == [0, 1, 1, 2, 2]
    assert choices.reason.tolist() == [Reason.EASY, Reason.MIDDLING, Reason.MIDDLING, Reason.HARD, Reason.HARD]


def test_thresholds_step_to_the_nearest_arm_within_the_limits():
    e = made([[0.1, 0.9, 0.9, 0.9], [0.95, 0.9, 0.9, 0.9]], [1, 4, 16, 2])
    policy = ThresholdPolicy(arms=ARMS[:3])
    choices = policy.choose(e, Objective(value=1, max_cost=10))
    assert choices.index.tolist() == [1, 0]
    assert choices.reason.tolist() == [Reason.LIMITED, Reason.EASY]
    assert choices.fallback.tolist() == [True, False]
    dear = policy.choose(e, Objective(value=1), allowed=np.array([False, True, True, True]))
    assert dear.index.tolist() == [2, 1]
    with pytest.raises(NoFeasibleArm):
        policy.choose(e, Objective(value=1), allowed=np.array([False, False, False, True]))
    with pytest.raises(ConfigError, match="did you mean 'small/single'"):
        ThresholdPolicy(arms=("small/singe", ARMS[1], ARMS[2])).choose(e, Objective(value=1))


@pytest.mark.parametrize("policy", [UtilityPolicy(guard=1.5, epsilon=0.1), ThresholdPolicy(arms=ARMS[:3], easy=0.2)])
def test_a_policy_is_data(policy):
    assert msgspec.json.decode(msgspec.json.encode(policy), type=PolicySpec) == policy
    assert policy.label.startswith(("utility/1 guard=1.5", "threshold/1 easy=0.2"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: UtilityPolicy(guard=-1.0),
        lambda: UtilityPolicy(guard=math.nan),
        lambda: UtilityPolicy(epsilon=1.1),
        lambda: UtilityPolicy(epsilon=math.nan),
        lambda: ThresholdPolicy(arms=ARMS[:3], easy=0.8),
        lambda: ThresholdPolicy(arms=ARMS[:3], hard=math.nan),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()
