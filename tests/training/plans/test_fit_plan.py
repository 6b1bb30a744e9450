"""A fitted plan: the guard by what is gained on prompts left out, what is told of it, and what a log lets it do."""

import re
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest

from howhard.router.objective import Objective
from howhard.router.plan import Leg, Menu
from howhard.router.policy import UtilityPolicy
from howhard.strategies import ArmSpec, TreeSearchSpec
from howhard.strategies.errors import ConfigError, TableError
from howhard.training.plans.fit_plan import fit_plan, fixed_plans
from howhard.training.plans.judge_plan import _trusted
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.menus import PlanOptions, menu_of, wave_seconds
from howhard.training.plans.replay import ByPlan, replay
from howhard.training.plans.trajectories import read_samples

N = 240
KIND = np.arange(N) % 2 == 0
FOLD = np.arange(N) // 2 % 3
QUICK = PlanSettings(rounds=15, learning_rate=0.2, deals=6, min_rows=60)


def fitted(log, estimates, families=None, **changes):
    return fit_plan(
        log, estimates, FOLD, families=families or ["f"] * N, seconds=(None,) * len(log.legs), settings=QUICK, **changes
    )


@pytest.fixture(scope="module")
def two_kinds(log_of, told):
    """Half the prompts are hopeless, and the prompt tells which: much can be saved."""
    chance = np.where(KIND, 0.6, 0.0)
    return fitted(log_of(chance, stages=(1, 2, 4), give_up=True), told(chance), needs=("logprobs",))


@pytest.fixture(scope="module")
def two_kinds_told(told):
    return told(np.where(KIND, 0.6, 0.0))


@pytest.fixture(scope="module")
def alike(log_of, told):
    """All prompts are alike, and every sample is right: nothing can be gained over one sample."""
    return fitted(log_of(np.ones(N), stages=(1, 2, 4), sound=False), told(np.ones(N)))


def test_a_gain_on_prompts_left_out_gives_the_guard_its_strength(two_kinds):
    assert two_kinds.plan.facts.guard == two_kinds.report.strength == two_kinds.policy.guard
    gain = two_kinds.report.gain
    assert gain.mean - 1.96 * gain.error > 0.02
    assert min(one.gain.mean for one in two_kinds.report.worth) >= -0.002


def test_at_values_where_the_plan_lost_on_prompts_left_out_it_is_not_followed(two_kinds, two_kinds_told):
    facts = two_kinds.plan.facts
    assert (facts.trusted, facts.trusted_waiting) == (two_kinds.report.trusted, two_kinds.report.trusted_waiting)
    narrow = replace(two_kinds.plan, facts=msgspec.structs.replace(facts, trusted=(5.0, 50.0), trusted_waiting=False))
    state = narrow.start(two_kinds_told)
    for value, followed in ((2.0, False), (20.0, True), (200.0, False)):
        steps = narrow.step(state, Objective(value=value * facts.unit), UtilityPolicy())
        assert (steps.index != steps.fixed).any() == followed


@pytest.mark.parametrize(
    ("gains", "stretch"),
    [
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.1), (0, 1, 2, 3, 4, 5)),
        ((0.1, 0.1, 0.1, 0.0, -0.001, -0.1), (0, 1, 2, 3, 4)),
        ((0.1, -0.1, 0.1, 0.1, -0.1, 0.15), (2, 3)),
        ((-0.1, -0.1, -0.1, -0.1, -0.1, -0.1), ()),
    ],
)
def test_trust_is_the_stretch_of_values_with_most_to_gain_and_nothing_to_lose(gains, stretch):
    assert _trusted(1.0, np.array(gains), 0.002).stretch == stretch


def test_trust_ends_halfway_to_the_value_that_lost():
    found = _trusted(1.0, np.array((-0.1, 0.1, 0.1, -0.1, 0.0, 0.0)), 0.002).values
    assert found == (pytest.approx(30**0.5), pytest.approx(3000**0.5))
    assert _trusted(1.0, np.full(6, 0.1), 0.002).values == (0.0, None)


def test_a_gain_without_waiting_is_no_gain_where_time_is_priced():
    assert not _trusted(1.0, np.array((0.1,) * 6 + (0.1, -0.1)), 0.002).waiting
    assert _trusted(1.0, np.array((0.1,) * 6 + (0.1, 0.0)), 0.002).waiting


def test_where_nothing_is_surely_gained_the_best_fixed_plan_serves_everything(alike):
    assert alike.policy is None
    assert alike.plan.facts.guard is None
    assert alike.plan.policy() is None
    runs = alike.runs
    found = replay(runs, ByPlan(alike.plan, Objective(value=100.0), alike.policy, runs.prompt))
    assert (found.cost == 1).all()
    assert "no gain over the best fixed plan is sure" in alike.report.text()


def test_the_report_says_what_was_gained_where_prompts_end_and_what_was_read(two_kinds):
    text = two_kinds.report.text()
    assert "Plan over small 1-4, verifier check, reading logprobs: learned from 240 prompts" in text
    assert re.search(r"gain over the best fixed plan \+0\.\d+ ± 0\.\d+", text)
    assert re.search(r"Where prompts end at a value of \d+: ", text)
    assert sum(share for _, share in two_kinds.report.stopped) == pytest.approx(1)
    assert [one.value for one in two_kinds.report.worth] == [3, 10, 30, 100, 300, 1000]


def test_prompts_that_the_log_has_too_little_of_are_told(log_of, told):
    log = log_of(np.where(KIND, 0.6, 0.0), stages=(1, 2))
    object.__setattr__(log, "left_out", 7)
    assert "7 more have too few samples" in fitted(log, told(np.full(N, 0.3))).report.text()


def test_with_many_families_the_error_is_that_of_families(log_of, told):
    """A plan that gains on some families and not on others is less sure than its prompts alone would say."""
    family = [f"family {i % 10}" for i in range(N)]
    chance = np.where(np.arange(N) % 10 < 3, 0.0, 0.7)
    log, estimates = log_of(chance, stages=(1, 2, 4)), told(chance)
    by_family = fitted(log, estimates, families=family).report
    by_prompt = fitted(log, estimates, families=[f"family {i % 5}" for i in range(N)]).report
    assert by_family.families == 10
    assert by_family.gain.error > 1.2 * by_prompt.gain.error


def test_unit_is_the_mean_cost_of_one_sample_with_its_prompt(log_of, told):
    log = log_of(np.full(N, 0.5), stages=(1, 2))
    log.legs[0].prompt_cost[:] = 0.5
    assert fitted(log, told(np.full(N, 0.5))).plan.facts.unit == 1.5


def test_errors_are_known_for_every_pair_of_actions(two_kinds):
    for model in two_kinds.plan.nodes.values():
        assert np.isfinite(model.error).all()
        assert (np.diag(model.error) == 0).all()
        assert (model.error >= 0).all()
        assert np.isfinite(model.tails).all()
        assert (np.diff(model.tails, axis=1) >= 0).all()


def test_fixed_plans_are_each_named_once_and_draw_what_the_menu_has():
    menu = Menu(legs=(Leg(backend="small", stages=(1, 2, 4)), Leg(backend="large", stages=(1,))), searches=("s",))
    plans = fixed_plans(menu)
    assert len(set(plans)) == len(plans)
    assert {stage for plan in plans for leg, stages in plan.legs if leg == 0 for stage in stages} == {1, 2, 4}
    assert any(plan.search == 0 for plan in plans)
    assert all(plan.settled is not None for plan in plans if plan.search < 0)  # without a verifier nothing is proven


# ── what a log lets a plan do ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def collected(written):
    from howhard.training.commands import load_source

    source = load_source(written)
    assert source.log is not None
    return source.log.samples(), source.outcomes, list(source.specs.values()), dict(source.verifiers)


def test_by_default_it_draws_from_every_backend_the_cheapest_first_as_far_as_the_samples_go(collected):
    menu = menu_of(*collected)
    assert [(leg.backend, leg.stages) for leg in menu.legs] == [("small", (1, 2, 4, 8)), ("large", (1, 2, 4, 8))]
    assert menu.legs[0].max_tokens == 64
    assert menu.verifier == "check"  # that of the best-of-N arms
    assert menu.searches == ()


def test_stages_end_where_nine_tenths_of_the_prompts_have_samples(collected):
    samples, *rest = collected
    ids = sorted(set(samples["prompt_id"]))
    few, many = set(ids[: len(ids) // 20]), set(ids[: len(ids) // 5])

    def stages(short: set[str]) -> tuple[int, ...]:
        return (
            menu_of(samples[~(samples["prompt_id"].isin(short) & (samples["sample_index"] >= 5))], *rest).legs[0].stages
        )

    assert stages(few) == (1, 2, 4, 8)
    assert stages(many) == (1, 2, 4, 5)


def test_options_choose_backends_stages_and_verifier(collected):
    options = PlanOptions(stages={"large": (1, 3)}, verifier="none", give_up=True, ahead=1)
    menu = menu_of(*collected, options=options)
    assert [(leg.backend, leg.stages) for leg in menu.legs] == [("large", (1, 3))]
    assert (menu.verifier, menu.give_up, menu.ahead) == (None, True, 1)
    assert menu_of(*collected, options=PlanOptions(verifier="prm")).verifier == "prm"
    assert menu_of(*collected, options=PlanOptions(verifier="vote")).verifier is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": {"smal": (1, 2)}}, "plan.stages: the log has no samples of 'smal'; did you mean 'small'"),
        ({"verifier": "chek"}, "plan.verifier: the log knows no 'chek'; did you mean 'check'"),
        ({"searches": ("small/beam",)}, "plan.searches: the log has no runs of 'small/beam'"),
    ],
)
def test_options_that_the_log_does_not_allow_are_refused_by_name(collected, options, message):
    with pytest.raises(ConfigError, match=message):
        menu_of(*collected, options=PlanOptions(**options))
    with pytest.raises(TableError, match="no row of origin 'collect'"):
        menu_of(collected[0].assign(origin="live"), *collected[1:])


def test_searches_are_those_of_the_first_backend_that_no_arm_of_it_beats(collected):
    samples, outcomes, arms, verifiers = collected
    beams = [
        ArmSpec(backend="small", strategy=TreeSearchSpec(width=w, branches=2, verifier="prm", max_tokens=64))
        for w in (1, 2, 4)
    ]
    best = outcomes.loc[outcomes["arm"] == "small/single"]
    runs = [
        best.assign(arm=beam.name, quality=quality, cost=cost, source="run")
        for beam, quality, cost in zip(beams, (0.9, 0.1, 1.0), (50.0, 60.0, 90.0), strict=True)
    ]
    table = pd.concat([outcomes, *runs], ignore_index=True)
    assert menu_of(samples, table, [*arms, *beams], verifiers).searches == (beams[0].name, beams[2].name)


def test_seconds_of_a_wave_are_learned_from_timed_runs(collected, logged):
    """The log's runs took .5 s + .02 s for each token of the longest sample + .001 s for each of all tokens."""
    samples, _, arms, verifiers = collected
    menu = msgspec.structs.replace(menu_of(samples, *collected[1:]), verifier=None)
    log = read_samples(samples, logged[1], menu, verifiers)
    for shape in wave_seconds(log, logged[1], arms):
        assert shape is not None
        a, b, c = shape
        assert min(shape) >= 0
        for n in (1, 4):
            assert a + b * 10 + c * 10 * n == pytest.approx(0.5 + 0.02 * 10 + 0.001 * 10 * n)
    assert wave_seconds(log, logged[1].assign(latency_s=np.nan), arms) == (None, None)
