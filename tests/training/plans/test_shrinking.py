"""Plans that were learned from less, replayed on everything."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from howhard.router.plan import Leg, Menu
from howhard.strategies import VerifierSpec
from howhard.strategies.errors import ConfigError
from howhard.training.log import Log
from howhard.training.plans.contest import PlanData, folds_of
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.rivals import Learned
from howhard.training.plans.shrinking import FewerPrompts, FewerSamples, cut

HOW = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64}
MENU = Menu(
    legs=(Leg(backend="small", stages=(1, 2, 4, 8), **HOW), Leg(backend="large", stages=(1, 4), **HOW)),
    verifier="check",
)
SMALL = PlanSettings(rounds=3, deals=2, objectives=1, min_rows=20)


def test_a_log_that_is_cut_has_the_stages_that_it_still_reaches():
    shorter = cut(MENU, 3)

    assert [leg.stages for leg in shorter.legs] == [(1, 2), (1,)]
    assert cut(MENU, 8) == MENU


def test_a_log_that_is_cut_below_the_first_stage_is_refused():
    menu = Menu(legs=(Leg(backend="small", stages=(4, 8)),))

    with pytest.raises(ConfigError, match="no stage of 'small' is within 2; the first is 4"):
        cut(menu, 2)


@pytest.fixture(scope="module")
def read(written):
    """menu -> the log of 160 prompts, ready."""
    with Log.open(written) as log:
        tables = log.samples(), log.outcomes(), log.prompts()
        verifiers = msgspec.convert(log.notes()["verifiers"], dict[str, VerifierSpec])
    return lambda menu: PlanData.of(*tables, menu, verifiers=verifiers)


@pytest.fixture(scope="module")
def fold(read):
    return folds_of(read(MENU), folds=2, deals=2, plan_settings=SMALL)[0]


def test_a_plan_from_fewer_samples_draws_no_more_than_it_has_seen(read, fold):
    (outcome,) = FewerSamples(read(cut(MENU, 2))).play(fold, [1e6])

    assert outcome.tokens.max() <= 10 * (2 + 1)
    (whole,) = Learned().play(fold, [1e6])
    assert whole.tokens.max() > 10 * (2 + 1)


def test_a_plan_from_fewer_prompts_is_judged_on_all_of_the_fold(fold):
    (outcome,) = FewerPrompts(60).play(fold, [50.0])

    assert len(outcome.quality) == len(fold.test)


def test_prompts_that_a_fold_has_not_are_refused():
    fold = SimpleNamespace(train=np.arange(10))

    with pytest.raises(ConfigError, match="from 20 prompts: a fold has 10 training prompts"):
        FewerPrompts(20).play(fold, [10.0])  # type: ignore[arg-type]


def test_samples_of_other_prompts_are_refused():
    here, there = (SimpleNamespace(log=SimpleNamespace(prompt_ids=(i,), legs=_legs(4))) for i in ("a", "b"))

    with pytest.raises(ConfigError, match="from 4 samples: its prompts are not those"):
        FewerSamples(here).play(SimpleNamespace(data=there), [10.0])  # type: ignore[arg-type]


def _legs(k: int):
    return (SimpleNamespace(draws=SimpleNamespace(k=k)),)
