"""The analysis of plans: it finds what there is to be won, claims nothing where nothing is, and counts as it says."""

from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest

from howhard.router.plan import FixedPlan
from howhard.strategies.errors import ConfigError
from howhard.training.curves import PairedMeans, resampling_weights
from howhard.training.fit import FitSettings
from howhard.training.plans.analysis import Curve, _Judge, analyse, play
from howhard.training.plans.analysis_plots import plot_curves
from howhard.training.plans.analysis_report import PlansReport
from howhard.training.plans.contest import PlanData, folds_of, proves_all
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.rivals import Learned, standard_rivals
from howhard.training.plans.trajectories import Searched

QUICK = PlanSettings(rounds=25, deals=4, objectives=3)
N = 240


def data_of(log_of, chances, **options):
    """Prompts whose text says which kind they are, in two groups."""
    log = log_of(chances, **options)
    kinds = ["hopeless" if p < 0.1 else "open" for p in chances]
    prompts = pd.DataFrame(
        {
            "prompt_id": log.prompt_ids,
            "text": [f"{kind} question number {i * 37 % 1009}" for i, kind in enumerate(kinds)],
            "group": kinds,
        }
    )
    return PlanData.of_log(log, prompts, name="world")


def analysed(data, values, **options):
    settings = FitSettings(components=("text",))
    made = folds_of(data, folds=2, deals=3, plan_settings=QUICK, fit_settings=settings)
    return analyse(data, None, values, ready=made, draws=300, **options)


@pytest.fixture(scope="module")
def won(log_of):
    """Half of the prompts are hopeless, and the text says which."""
    return analysed(data_of(log_of, np.where(np.arange(N) % 2, 0.0, 0.5)), (3.0, 12.0))


def test_a_plan_that_knows_hopeless_prompts_beats_every_rule_that_does_not(won):
    for rival in ("fixed samples", "tuned early-stop cap", "posterior of counts"):
        assert won.standing(rival, 12.0).ahead.low > 0, rival
        assert won.savings(rival, "tokens")[1].share.low > 0.1, rival


def test_where_prompts_are_alike_nothing_is_claimed(log_of):
    data = data_of(log_of, np.full(N, 0.4), seed=3)
    found = analysed(data, (3.0, 12.0))
    for rival in ("tuned early-stop cap", "posterior of counts"):
        for value in found.values:
            ahead = found.standing(rival, value).ahead
            assert ahead is not None
            assert ahead.low <= 0, (rival, value)


def test_everything_is_judged_on_prompts_that_did_not_teach_it(log_of):
    data = data_of(log_of, np.full(40, 0.5))
    folds = folds_of(data, folds=2, plan_settings=QUICK, fit_settings=FitSettings(components=("text",)))
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(40))
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert fold.runs.log.prompt_ids == tuple(data.log.prompt_ids[i] for i in fold.test)
        assert len(fold.fitted.validation) == len(fold.train)


def test_a_report_says_what_was_compared_and_can_be_drawn(won, tmp_path):
    report = PlansReport(won, (plot_curves(won, tmp_path / "curves.png"),))
    text = report.text()
    assert "Plans on world: small 1-6" in text
    assert "240 prompts of 2 families, 2 folds, prompts left out; verifier check, which proves answers" in text
    assert "Tokens saved at equal quality" in text
    assert "tuned early-stop cap" in text
    assert max(map(len, text.splitlines())) <= 112
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    told = report.to_dict()
    assert set(told["curves"]) == set(won.curves)
    assert told["saved"][0]["share"]["low"] <= told["saved"][0]["share"]["high"]


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────


def curve(name, kind, cost, quality):
    """A curve of prompts that are all alike."""
    cost, quality = (np.repeat(np.array(x, float)[:, None], 5, axis=1) for x in (cost, quality))
    at = np.arange(len(cost))
    return Curve(name, kind, at + 1.0, at, quality, cost, 10 * cost, np.full((len(cost), 5, 1), np.nan))


def judge(*curves, give_up=False):
    means = PairedMeans(resampling_weights(np.arange(5), draws=20, seed=0))
    return _Judge({c.name: c for c in curves}, means, give_up=give_up)


def test_what_is_saved_is_told_against_the_rivals_mix_at_the_plans_quality():
    plan, rival = curve("plan", "plan", [5.0, 9.0], [0.8, 1.0]), curve("r", "rule", [2.0, 10.0], [0.6, 0.9])
    first, second, *_ = (s for s in judge(plan, rival).saved() if s.by == "cost")
    assert first.needs == pytest.approx(2 + 8 * 2 / 3)
    assert first.share.mean == pytest.approx(1 - 5 / first.needs, abs=1e-6)
    assert first.reached
    assert not second.reached
    assert (second.needs, second.share.mean) == (pytest.approx(10.0), pytest.approx(0.1))


def test_who_may_give_up_may_mix_it_in():
    plan, rival = curve("plan", "plan", [1.0], [0.3]), curve("r", "rule", [4.0], [0.6])
    strict, free = (next(iter(judge(plan, rival, give_up=g).saved())).needs for g in (False, True))
    assert (strict, free) == (pytest.approx(4.0), pytest.approx(2.0))


def test_a_fixed_arm_is_held_against_the_plans_own_curve():
    plan, arm = curve("plan", "plan", [2.0, 6.0], [0.5, 0.9]), curve("a", "arm", [8.0], [0.7])
    (found,) = judge(plan, arm).as_good()
    assert found.cost_share.mean == pytest.approx(4 / 8)
    (never,) = judge(plan, curve("a", "arm", [8.0], [0.95])).as_good()
    assert np.isnan(never.cost_share.mean)


def test_draws_in_which_the_plan_is_never_as_good_as_an_arm_count_against_it():
    quality = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    plan = replace(
        curve("plan", "plan", [2.0], [0.6]), quality=quality[None], cost=np.array([[1.0, 1.0, 2.0, 3.0, 3.0]])
    )
    arm = replace(curve("a", "arm", [8.0], [0.6]), quality=quality[None, ::-1])
    found = judge(plan, arm).as_good()[0].cost_share
    assert found.high >= found.mean
    means = PairedMeans(resampling_weights(np.arange(5), draws=20, seed=0))
    missed = means.of(quality)[1] < means.of(quality[::-1])[1]
    assert missed.any()
    reached = means.of(plan.cost[0])[1][~missed] / 8
    assert found.high == pytest.approx(
        np.percentile(np.where(missed, reached.max(), means.of(plan.cost[0])[1] / 8), 97.5)
    )


def test_the_gap_is_told_from_the_cap_where_there_is_one():
    curves = (
        curve("plan", "plan", [1.0], [0.6]),
        curve("cap", "cap", [1.0], [0.5]),
        curve("top", "ceiling", [1.0], [0.9]),
    )
    name, gap = judge(*curves).gap()
    assert (name, gap[1.0].mean) == ("cap", pytest.approx(0.25))
    closed = replace(curves[2], quality=curves[1].quality)
    assert judge(*curves[:2], closed).gap() == ("cap", {})


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────


def test_two_entrants_of_one_name_and_values_out_of_range_are_refused(log_of):
    data = data_of(log_of, np.full(20, 0.5))
    with pytest.raises(ConfigError, match="two are called 'plan'"):
        play(data, (), [Learned(), Learned()])
    with pytest.raises(ConfigError, match="values"):
        play(data, (), [Learned()], values=[0.0, 3.0])
    with pytest.raises(ConfigError, match="none of kind 'plan'"):
        analyse(data, standard_rivals(data)[1:])


def test_where_a_menu_allows_to_give_up_all_may(log_of):
    data = data_of(log_of, np.full(30, 0.2), give_up=True)
    folds = folds_of(data, folds=2, plan_settings=QUICK, fit_settings=FitSettings(components=("text",)))
    families = [r for r in standard_rivals(data) if r.kind in ("fixed", "cap", "posterior", "prompt")]
    for name, found in play(data, folds, families, (0.5, 50.0)).items():
        assert (found.cost[found.at[0]] == 0).all(), name  # half a sample's worth is worth no sample
        assert found.quality[found.at[1]].mean() > 0.3, name


def test_a_verifier_that_proves_the_answers_of_some_prompts_alone_does_not_prove_all(log_of):
    sound = log_of(np.full(20, 0.5))
    leg = sound.legs[0]
    other = np.arange(20) % 2 == 0  # judged by a verifier that may err
    score = np.where(other[:, None], 0.3 + 0.5 * leg.quality, leg.draws.score)
    mixed = replace(leg, draws=replace(leg.draws, score=score, proven=leg.draws.proven & ~other[:, None]))
    unjudged = replace(leg, draws=replace(leg.draws, score=np.where(other[:, None], np.nan, leg.draws.score),
                                          proven=mixed.draws.proven))  # fmt: skip
    assert proves_all(sound)
    for doubtful in (mixed, unjudged):
        assert not proves_all(replace(sound, legs=(doubtful,)))
    assert not proves_all(log_of(np.full(20, 0.5), sound=False))


def test_where_not_all_is_proven_rivals_may_accept_lower_scores_and_count_votes(log_of):
    data = data_of(log_of, np.full(20, 0.5))
    names = {r.name for r in standard_rivals(replace(data, sound=False))}
    assert {"tuned early-stop cap", "Beta .95, waves of 4", "votes, every setting tuned"} <= names
    assert "Beta .95, waves of 4" not in {r.name for r in standard_rivals(data)}


def test_time_is_priced_only_where_searches_are_timed_too(log_of):
    log = log_of(np.full(20, 0.5))
    once = np.ones(20)
    menu = msgspec.structs.replace(log.menu, searches=("small/beam",))
    for seconds, priced in ((once, True), (np.full(20, np.nan), False)):
        search = Searched(once, once, once, seconds, np.zeros(20, dtype=int))
        data = replace(data_of(log_of, np.full(20, 0.5)), seconds=((0.1, 0.0, 0.0),))
        data = replace(data, log=replace(log, menu=menu, searches=(search,)))
        assert any(r.kind == "waiting" for r in standard_rivals(data)) == priced


def test_arms_are_fixed_plans_that_look_at_nothing(log_of):
    data = data_of(log_of, np.full(20, 0.5))
    assert data.arms["small/single"] == FixedPlan(legs=((0, (1,)),), settled=2.0)
    assert set(data.matrix.arms) == set(data.arms)
    single = data.matrix.quality[:, data.matrix.arms.index("small/single")]
    assert np.allclose(single, data.log.legs[0].quality.mean(axis=1))
