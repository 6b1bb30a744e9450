"""Plans that lack something: what is hidden has no influence, and a leg that is gone is never drawn from."""

from dataclasses import replace

import numpy as np
import pytest

from howhard.router.flight import OF_SAMPLES
from howhard.router.objective import Objective
from howhard.router.plan import Place, feature_names, prompt_features
from howhard.strategies.spec import SpecError
from howhard.training.plans.ablation import ABLATIONS, Ablation
from howhard.training.plans.contest import Fold, PlanData
from howhard.training.plans.fit_plan import FittedPlan, fit_plan
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.replay import ByPlan, replay
from howhard.training.plans.rivals import Learned
from howhard.training.plans.runs import Runs

SMALL = PlanSettings(rounds=4, deals=2, objectives=2, min_rows=20)
VALUE = 20.0


@pytest.fixture(scope="module")
def world(log_of, told):
    """160 prompts, half open and half hopeless, which the predictor knows; a large model that is good at all."""
    rng = np.random.default_rng(0)
    chances = np.where(np.arange(160) % 2, 0.05, 0.7)
    log = log_of(chances, stages=(1, 2, 4), large=np.full(160, 0.8))
    return log, told(np.clip(chances + rng.normal(0, 0.02, 160), 0, 1))


def learned(world, **settings) -> FittedPlan:
    log, estimates = world
    fold = np.arange(len(log)) // 2 % 4
    families = ["all"] * len(log)
    return fit_plan(log, estimates, fold, families=families, seconds=(None, None), settings=replace(SMALL, **settings))


def read(fitted: FittedPlan, width: int) -> set[str]:
    """Kinds of features that any tree of a plan splits on."""
    names = [*["prompt"] * width, *feature_names(fitted.plan.facts.menu, ())]
    found: set[str] = set()
    for node in fitted.plan.nodes.values():
        for text in node.forest.texts:
            for line in text.splitlines():
                if line.startswith("split_feature=") and line != "split_feature=":
                    found |= {names[int(j)].rpartition(".")[2] for j in line.partition("=")[2].split()}
    return found


def test_the_whole_plan_reads_prompt_and_samples(world):
    kinds = read(learned(world), prompt_features(world[1]).shape[1])

    assert "prompt" in kinds
    assert kinds & set(OF_SAMPLES)


@pytest.mark.parametrize("ablation", [a for a in ABLATIONS if a.hidden], ids=lambda a: a.name)
def test_nothing_that_is_hidden_is_split_on(world, ablation):
    kinds = read(learned(world, hidden=ablation.hidden), prompt_features(world[1]).shape[1])

    assert kinds
    assert not kinds & set(ablation.hidden)


def test_without_the_prompt_a_plan_does_the_same_whatever_is_said_of_it(world):
    log, estimates = world
    fitted = learned(world, hidden=("prompt",))
    features, rng = prompt_features(estimates), np.random.default_rng(1)

    def played(features: np.ndarray) -> np.ndarray:
        runs = Runs(log, features, np.ones(len(log), dtype=bool), deals=1, seed=3, seconds=(None, None))
        return replay(runs, ByPlan(fitted.plan, Objective(value=VALUE), fitted.policy, runs.prompt)).cost

    assert played(features) == pytest.approx(played(rng.normal(size=features.shape)))


def test_a_kind_of_feature_that_is_unknown_is_refused(world):
    with pytest.raises(SpecError, match=r"hidden='entropie'.*did you mean 'entropy'"):
        learned(world, hidden=("entropie",))


def test_every_ablation_hides_what_its_name_says():
    hidden = {a.name: set(a.hidden) for a in ABLATIONS}

    assert hidden["without the prompt"] == {"prompt"}
    assert {"share", "entropy", "agrees"} <= hidden["without agreement"]
    assert hidden["without the verifier's scores"] == {"score_best", "score_lead", "score_mean", "score_spread"}
    assert hidden["without escalation"] == set()
    assert set(OF_SAMPLES) - hidden["counts alone"] == {
        "drawn", "answered", "distinct", "votes", "runner_up", "share", "entropy", "stays_ahead"
    }  # fmt: skip


class ShortFold(Fold):
    """A fold whose plans are learned from these prompts' own estimates, without a router."""

    def fit_plan(self, settings, progress=None) -> FittedPlan:
        log = self.data.log
        families, fold = ["all"] * len(log), np.arange(len(log)) // 2 % 4
        return fit_plan(log, self.estimates, fold, families=families, seconds=self.data.seconds, settings=settings)


@pytest.fixture(scope="module")
def fold(world) -> Fold:
    log, estimates = world
    every = np.arange(len(log))
    data = PlanData.__new__(PlanData)
    for name, value in {"log": log, "seconds": (None, None), "name": "made up", "unit": 1.0}.items():
        object.__setattr__(data, name, value)
    for name in ("matrix", "arms", "specs", "verifiers", "features", "sound"):
        object.__setattr__(data, name, None)
    seen = np.ones(len(log), dtype=bool)
    runs = Runs(log, prompt_features(estimates), seen, deals=2, seed=5, seconds=(None, None))
    return ShortFold(data, every, every, every % 4, None, estimates, runs, SMALL)  # type: ignore[arg-type]


def test_without_escalation_the_first_backend_alone_is_drawn_from(fold):
    alone = next(a for a in ABLATIONS if a.alone)

    (outcome,) = alone.play(fold, [1000.0])

    assert outcome.cost.max() <= fold.data.log.menu.legs[0].stages[-1]
    (whole,) = Learned().play(fold, [1000.0])
    assert outcome.quality.mean() < whole.quality.mean()


def test_runs_of_the_first_leg_have_the_same_samples_in_the_same_order(fold):
    first = fold.runs.first_leg()

    assert (first.leg(0).draws.proven == fold.runs.leg(0).draws.proven).all()
    assert first.state(Place((1,)), np.arange(3), np.zeros(3), np.zeros(3)).hands[0] is not None


def test_without_anything_missing_it_is_the_plan_itself(fold):
    (same,), (whole,) = Ablation("nothing").play(fold, [VALUE]), Learned().play(fold, [VALUE])

    assert same.cost == pytest.approx(whole.cost)
