import dataclasses
import json

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.strategies.errors import TableError
from howhard.training.against import RivalPicks
from howhard.training.baselines import CellForecaster
from howhard.training.curves import hull_quality
from howhard.training.evaluate import (
    Evaluation,
    Skipped,
    cross_fit,
    evaluate,
    evaluate_router,
    evaluate_split,
    restrict,
)
from howhard.training.fit import FitSettings

SPEC = FeatureSpec(n_text=1024)
FAST = FitSettings(components=("neighbours",), folds=3, features=SPEC)
TINY = FitSettings(components=("neighbours",), folds=2, features=SPEC)


class FixedRouter:
    """A router from a Fitted: its estimates, policy and objective, as Router offers them."""

    def __init__(self, fitted, objective=None):
        self._fitted = fitted
        self.policy = fitted.policy
        self.objective = objective or Objective(value=fitted.value)

    def estimate(self, prompts, /):
        return self._fitted.predictor.predict_texts(prompts)


@pytest.fixture(scope="module")
def by_prompt(world):
    return evaluate(world.matrix, settings=FAST, draws=300)


@pytest.fixture(scope="module")
def of_nothing(make_world):
    return evaluate(make_world(shuffle=True, seed=5).matrix, settings=FAST, draws=300, baselines=[])


def test_where_a_feature_decides_which_arm_wins_the_router_comes_near_the_oracle(by_prompt, world):
    truth, cost = world.truth, world.matrix.cost
    e = by_prompt
    ideal = (e.value * truth - cost).max(axis=1).mean()
    best_fixed = (e.value * truth - cost).mean(axis=0).max()
    assert e.router.utility.mean > best_fixed + 0.7 * (ideal - best_fixed)
    assert e.router.over_hull.low > 0.1
    assert e.router.over_best.low > -0.05
    assert e.router_aiq_over_hull.low > 0.05
    assert e.oracle_gap.low > 0.1
    assert e.forecasting.brier_skill.mean > 0.5
    assert e.router.cost_ratio.high < 0.8


def test_the_router_beats_the_control_of_its_own_picks_shuffled(by_prompt):
    control = by_prompt.row("router, picks shuffled")
    assert by_prompt.router.quality.low > control.quality.high
    assert control.over_hull.mean <= 1e-9
    assert control.shares == pytest.approx(by_prompt.router.shares)


def test_length_alone_does_not_explain_what_the_router_does(by_prompt):
    assert by_prompt.router.over_hull.low > by_prompt.row("length").over_hull.high


def test_shuffled_outcomes_give_the_router_nothing_over_the_mix_or_the_best_fixed_arm(of_nothing):
    e = of_nothing
    assert e.router.over_hull.low < 0.02
    assert abs(e.router.over_hull.mean) < 0.03
    best = max(r.utility.mean for r in e.rows if r.kind == "arm")
    assert e.router.utility.mean > best - 0.06 * e.value
    assert e.forecasting.brier_skill.mean < 0.01
    assert abs(e.forecasting.benefit_skill.mean) < 0.03


def test_figures_of_the_rows_are_the_plain_means_of_the_picks(by_prompt, world):
    matrix = world.matrix
    for j, arm in enumerate(matrix.arms):
        row = by_prompt.row(arm)
        assert row.quality.mean == pytest.approx(matrix.quality[:, j].mean())
        assert row.cost.mean == pytest.approx(matrix.cost[:, j].mean())
        assert row.tokens.mean == pytest.approx(matrix.tokens[:, j].mean())
        assert row.latency is None
        assert row.shares == {arm: 1.0}
        assert row.quality.low < row.quality.mean < row.quality.high
    router = by_prompt.router
    hull = hull_quality(matrix.arm_cost, matrix.arm_quality, router.cost.mean)
    assert router.over_hull.mean == pytest.approx(router.quality.mean - hull)
    best = by_prompt.row(by_prompt.best_arm)
    assert router.over_best.mean == pytest.approx(router.quality.mean - best.quality.mean)
    assert router.cost_ratio.mean == pytest.approx(router.cost.mean / best.cost.mean)
    assert (best.over_best.low, best.over_best.high) == (0, 0)


def test_paired_intervals_are_narrower_than_the_difference_of_the_parts(by_prompt):
    paired = by_prompt.router.over_best
    apart = by_prompt.router.quality.high - by_prompt.row(by_prompt.best_arm).quality.low
    assert paired.high - paired.mean < apart - paired.mean


def test_the_peeking_oracle_is_above_everything(by_prompt):
    oracle = by_prompt.row("oracle (peeks)")
    assert oracle.utility.mean >= max(r.utility.mean for r in by_prompt.rows)


def test_a_prompts_own_outcome_changes_neither_its_estimate_nor_the_value_it_is_judged_at(world):
    matrix, settings = world.matrix.rows(np.arange(100)), TINY
    before = cross_fit(matrix, settings=settings, folds=2)
    flipped = matrix.quality.copy()
    flipped[before.fold == 0] = 1 - flipped[before.fold == 0]
    after = cross_fit(dataclasses.replace(matrix, quality=flipped), settings=settings, folds=2)
    inside = before.fold == 0
    assert before.estimates.quality[inside].tolist() == after.estimates.quality[inside].tolist()
    assert before.value[inside].tolist() == after.value[inside].tolist()
    assert before.estimates.quality[~inside].tolist() != after.estimates.quality[~inside].tolist()


def test_equal_seeds_give_equal_evaluations(world):
    matrix, settings = world.matrix.rows(np.arange(80)), TINY

    def once(seed):
        found = evaluate(matrix, settings=settings, seed=seed, folds=2, draws=50, baselines=[]).to_dict()
        return found | {"seconds": 0}

    assert once(0) == once(0)
    assert once(0) != once(1)


def test_leaving_whole_families_out_resamples_families_and_says_when_they_are_few(world):
    options = {"settings": TINY, "draws": 100, "baselines": []}
    by_prompt, by_group = [evaluate_split(world.matrix, split, **options) for split in ("prompt", "group")]
    assert isinstance(by_group, Evaluation)
    assert (by_prompt.split, by_group.split) == ("prompt", "group")
    assert (by_group.folds, by_group.n_families) == (4, 4)
    assert by_group.notes == (
        "only 4 families: 4 folds instead of 5",
        "intervals resample 4 families: with so few they are rough, and often too narrow",
    )
    arm = by_group.rows[0]
    assert arm.quality.high - arm.quality.low > 2 * (by_prompt.rows[0].quality.high - by_prompt.rows[0].quality.low)


def test_on_families_never_seen_the_router_stays_near_the_best_fixed_arm(world):
    # Another family tells nothing here: kinds differ in which arm wins, and share no words.
    e = evaluate(world.matrix, split="group", settings=FAST, draws=100, baselines=[])
    best = e.row(e.best_arm)
    assert e.router.quality.mean > best.quality.mean - 0.25
    assert e.fallback_share > 0


def test_a_table_of_one_family_has_no_group_split_and_says_so(world):
    one = dataclasses.replace(world.matrix, families=("all",) * len(world.matrix))
    skipped = evaluate_split(one, "group", settings=TINY, draws=20, baselines=[], folds=2)
    assert isinstance(skipped, Skipped)
    assert "the table has 1 ('all')" in skipped.reason


def test_prompts_without_all_arms_are_left_out_and_counted(world):
    quality = world.matrix.quality.copy()
    quality[:30, 0] = np.nan
    e = evaluate(dataclasses.replace(world.matrix, quality=quality), settings=TINY, draws=20, baselines=[], folds=2)
    assert e.n_prompts == 370
    assert e.notes[0].startswith("30 of 400 prompts lack the outcome of some arm")


def test_a_value_that_is_given_is_the_one_that_is_used(world):
    cheap = evaluate(world.matrix, value=1e-6, settings=TINY, draws=20, baselines=[], folds=2)
    assert cheap.value == 1e-6
    assert cheap.router.cost.mean <= cheap.row("small/single").cost.mean + 1e-9


def test_latency_of_prompts_that_were_timed_is_weighted_by_the_shares(make_world):
    matrix = make_world(120, seconds=True).matrix
    settings = TINY
    full = evaluate(matrix, settings=settings, draws=50, baselines=[], folds=2)
    assert full.row("large/single").latency.mean == pytest.approx(matrix.latency[:, 0].mean())
    some = matrix.latency.copy()
    some[12:] = np.nan
    partly = evaluate(dataclasses.replace(matrix, latency=some), settings=settings, draws=50, baselines=[], folds=2)
    expected = sum(share * np.nanmean(some[:, matrix.arms.index(arm)]) for arm, share in partly.router.shares.items())
    assert partly.router.latency.mean == pytest.approx(expected)
    some[:, 0] = np.nan
    none = evaluate(dataclasses.replace(matrix, latency=some), settings=settings, draws=50, baselines=[], folds=2)
    assert none.row("large/single").latency is None
    assert none.row("small/single").latency is not None


def test_a_ready_router_is_judged_with_its_own_policy_on_prompts_it_has_not_seen(make_world, fitted, world):
    router = FixedRouter(fitted)
    held = make_world(200, seed=9).matrix
    held = dataclasses.replace(held, prompt_ids=tuple(f"held{i}" for i in range(200)))
    e = evaluate_router(router, held, train=world.matrix, draws=100)
    flagged = 1 - router.estimate(held.texts).familiar.mean()
    assert (e.split, e.n_prompts, e.value) == ("holdout", 200, fitted.value)
    assert e.notes == (f"{100 * flagged:.1f} % of these prompts are flagged as unlike the training prompts",)
    assert {"router", "length", "cluster", "nearest", "group"} <= {r.name for r in e.rows}
    picks = router.policy.choose(router.estimate(held.texts), router.objective).index
    assert e.router.quality.mean == pytest.approx(held.quality[np.arange(200), picks].mean())
    assert e.router.over_hull.low > 0.05


def test_held_out_prompts_that_were_trained_on_are_told(fitted, world):
    e = evaluate_router(FixedRouter(fitted), world.matrix, train=world.matrix, draws=20)
    assert e.notes[0] == "400 of 400 held-out prompts were in the training table: the figures flatter the router"


def test_a_table_without_one_of_the_routers_arms_is_an_error(fitted, world):
    with pytest.raises(TableError, match="no outcome of arm 'large/single'"):
        restrict(FixedRouter(fitted), world.matrix.columns(["small/single", "small/best_of_8"]))


def test_hard_limits_send_the_prompts_that_cannot_keep_them_to_the_fallback(fitted, make_world, world):
    router = FixedRouter(fitted, Objective(value=10.0, max_cost=0.01))
    e = evaluate_router(router, make_world(60, seed=8).matrix, draws=20)
    assert e.fallback_share == 1.0
    fallback = router.estimate(world.matrix.texts[:1]).at(router.objective).fallback
    assert e.router.shares == {fallback: 1.0}


def test_the_oracle_of_true_probabilities_is_paid_by_samples_it_did_not_choose_on(make_world, fitted):
    whole = make_world(300, seed=4)
    rng = np.random.default_rng(0)

    def half():
        quality = rng.binomial(8, whole.truth) / 8
        return dataclasses.replace(whole.matrix, quality=quality)

    first, second = half(), half()
    both = dataclasses.replace(whole.matrix, quality=(first.quality + second.quality) / 2)
    e = evaluate_router(FixedRouter(fitted), both, halves=(first, second), draws=50)
    truly = (e.value * whole.truth - whole.matrix.cost).max(axis=1).mean()
    assert e.row("oracle (true probabilities)").utility.mean == pytest.approx(truly, rel=0.05)
    assert e.row("oracle (true probabilities)").utility.mean < e.row("oracle (peeks)").utility.mean
    assert e.true_oracle_gap.mean > e.oracle_gap.mean


# ── at a price of compute ────────────────────────────────────────────────────────────────────────────────────────


def test_gains_are_utilities_over_the_fixed_arm_that_is_best_at_that_price(by_prompt, world):
    m = world.matrix
    for p in by_prompt.prices:
        u = m.quality - p.price * m.cost / m.arm_cost.max()
        best = u.mean(axis=0).argmax()
        assert p.best_arm == m.arms[best]
        assert p.value == pytest.approx(m.arm_cost.max() / p.price)
        for j, arm in enumerate(m.arms):
            s = p.standing(arm)
            assert s.gain.mean == pytest.approx((u[:, j] - u[:, best]).mean(), abs=1e-9)
            assert s.ahead.mean == pytest.approx(p.router.gain.mean - s.gain.mean, abs=1e-9)
        assert p.standing(p.best_arm).gain.high == 0
        assert p.standing("oracle (peeks)").gain.mean == pytest.approx((u.max(axis=1) - u[:, best]).mean())
        assert p.router.gain.low > 0.1
        assert p.standing("no features").gain.mean <= 1e-9
        assert p.standing("difficulty probe").ahead.low > 0
        assert p.over_hull.low > 0.1


def test_the_gain_over_the_fallback_is_that_over_what_each_fold_could_know(world):
    m = world.matrix.rows(np.arange(150))
    p = evaluate(m, settings=TINY, draws=20, baselines=[], folds=3, lambdas=(0.5,)).prices[0]
    u = m.quality - 0.5 * m.cost / m.arm_cost.max()
    known = np.empty(150)
    for part in cross_fit(m, settings=TINY, folds=3).parts:
        estimates = part.estimates.at(Objective(value=p.value))
        known[part.rows] = u[part.rows, estimates.index(estimates.fallback)]
    best = u[:, m.arms.index(p.best_arm)].mean()
    assert p.over_fallback.mean == pytest.approx(p.router.gain.mean + best - known.mean())


def test_the_best_fixed_arm_of_a_high_price_is_a_cheap_one(world):
    e = evaluate(world.matrix, settings=TINY, draws=50, baselines=[], folds=2, lambdas=(0.01, 3.0))
    assert [p.best_arm for p in e.prices] == ["large/single", "small/single"]
    with pytest.raises(KeyError):
        e.at(0.1)


def test_costs_that_turn_out_otherwise_change_the_gain_by_what_they_cost(by_prompt, world):
    m = world.matrix
    p = by_prompt.at(0.3)
    less, more = p.cost_errors[0.7].mean, p.cost_errors[1.5].mean
    # The router's picks stay; the rival is the arm that is best fixed at the costs that turn out.
    for factor, gain in ((0.7, less), (1.5, more)):
        fixed = (m.quality - factor * 0.3 * m.cost / m.arm_cost.max()).mean(axis=0).max()
        mine = p.router.quality - factor * 0.3 * p.router.cost
        assert gain == pytest.approx(mine - fixed, abs=1e-9)


def test_each_fold_falls_back_on_the_arm_that_was_best_on_its_own_training_prompts(world):
    found = cross_fit(world.matrix, CellForecaster("no features", n_cells=0), settings=TINY, folds=4)
    for part in found.parts:
        inside = np.ones(len(world.matrix), bool)
        inside[part.rows] = False
        assert part.estimates.fixed.means.quality == pytest.approx(world.matrix.quality[inside].mean(axis=0))


def test_prompts_that_ask_the_same_thing_are_on_one_side_and_are_drawn_together(world):
    m = world.matrix
    doubled = dataclasses.replace(m, clusters=tuple(f"c{i // 2}" for i in range(len(m))))
    found = cross_fit(doubled, CellForecaster("no features", n_cells=0), settings=TINY, folds=4)
    assert (found.fold[::2] == found.fold[1::2]).all()


def test_by_time_later_prompts_are_judged_by_what_was_learned_from_earlier_ones(world):
    m = world.matrix
    times = np.datetime64("2026-01-01", "us") + np.arange(len(m)).astype("timedelta64[h]")
    e = evaluate(dataclasses.replace(m, times=times), split="time", settings=TINY, draws=50, baselines=[], folds=3)
    assert (e.split, e.n_prompts, e.folds) == ("time", 300, 3)
    assert e.row("small/single").quality.mean == pytest.approx(m.quality[100:, 2].mean())


def test_a_split_by_time_without_times_is_skipped_with_the_reason(world):
    assert "time of every prompt" in evaluate_split(world.matrix, "time", settings=TINY, baselines=[]).reason


def test_flags_are_judged_by_what_the_router_gets_with_them_and_without(world):
    by_group = evaluate(world.matrix, split="group", settings=TINY, draws=100, baselines=[])
    f = by_group.at(0.3).flagging
    assert f.share.mean > 0.9  # another kind of prompt shares no word with those seen
    assert f.net.mean == pytest.approx(f.with_flag.mean - f.without.mean)
    assert f.with_flag.mean == pytest.approx(by_group.at(0.3).router.gain.mean)
    assert {x.family for x in f.families} == set(world.matrix.families)
    assert sum(x.n * x.with_flag for x in f.families) / 400 == pytest.approx(f.with_flag.mean)


def test_a_rivals_picks_are_compared_at_every_price(world):
    m = world.matrix
    rival = RivalPicks(name="theirs", arms=dict.fromkeys(m.prompt_ids[:300], "large/single"), cost={})
    e = evaluate(m, settings=TINY, draws=100, baselines=[], folds=2, rival=rival)
    assert (e.against.name, e.against.n, e.against.missing) == ("theirs", 300, 100)
    assert [d.price for d in e.against.prices] == [0.1, 0.3]
    assert e.against.prices[1].utility.low > 0


# ── tried again ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thorough_evaluation_finds_nothing_in_shuffled_outcomes_and_tells_the_spread(make_world):
    matrix = make_world(400, seed=2).matrix
    seen = []
    e = evaluate(
        matrix, settings=TINY, draws=100, baselines=[CellForecaster("group")], folds=2, fold_seeds=3, thorough=True,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    s = e.sanity
    assert [p for p, _ in s.shuffled] == [0.1, 0.3]
    assert all(i.low <= 0.01 for _, i in s.shuffled)
    for refits, folds, p in zip(s.refits, s.folds, e.prices, strict=True):
        assert refits.means[0] == folds.means[0] == pytest.approx(p.router.gain.mean)
        assert (len(refits.means), len(folds.means)) == (3, 3)
        assert folds.gain.mean == pytest.approx(np.mean(folds.means))
        assert folds.sd == pytest.approx(np.std(folds.means, ddof=1))
        assert list(folds.ahead) == ["group"]
        assert folds.gain.low > 0
    assert seen[-1] == (18, 18)  # two folds of 2 contenders x 3 fold seeds, shuffled once, refitted twice
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_an_interrupt_while_fits_are_repeated_keeps_what_is_done(make_world):
    def impatient(done, total):
        if done > 2:
            raise KeyboardInterrupt

    matrix = make_world(100, seed=2).matrix
    e = evaluate(matrix, settings=TINY, draws=20, baselines=[], folds=2, fold_seeds=3, progress=impatient)
    assert e.router.quality.mean > 0
    assert e.sanity.folds is None
    assert e.notes[-1].startswith("interrupted")


def test_an_evaluation_is_plain_json(by_prompt):
    text = json.dumps(by_prompt.to_dict(), allow_nan=False)
    assert json.loads(text)["rows"][0]["quality"].keys() == {"mean", "low", "high"}


def test_an_exploring_policy_is_evaluated_from_a_fixed_seed(world):
    settings = dataclasses.replace(TINY, policy=UtilityPolicy(epsilon=0.5))
    first, second = (evaluate(world.matrix, settings=settings, draws=10, baselines=[], folds=2) for _ in range(2))
    assert first.router == second.router
    assert min(first.router.shares.values()) > 0.1
