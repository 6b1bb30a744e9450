import dataclasses

import numpy as np
import pytest

from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.strategies.errors import TableError
from howhard.training.promote import promote


class Always:
    """A router that is sure of one arm."""

    policy = UtilityPolicy()

    def __init__(self, fitted, arm, objective=None):
        self._fitted, self._arm = fitted, arm
        self.objective = objective or Objective(value=fitted.value)

    def estimate(self, prompts, /):
        e = self._fitted.predictor.predict_texts(prompts)
        quality = np.zeros(e.quality.shape)
        quality[:, e.index(self._arm)] = 1.0
        nothing = np.zeros(e.cost.shape)
        return dataclasses.replace(e, quality=quality, cost=nothing, benefit_se=nothing, fixed=None, familiar=None)


class Learned:
    def __init__(self, fitted, objective=None):
        self._fitted, self.policy = fitted, fitted.policy
        self.objective = objective or Objective(value=fitted.value)

    def estimate(self, prompts, /):
        return self._fitted.predictor.predict_texts(prompts)


@pytest.fixture(scope="module")
def held(make_world):
    return make_world(300, seed=11, seconds=True).matrix


def test_the_first_router_becomes_champion_without_a_contest(fitted, held):
    verdict = promote(Learned(fitted), None, held)
    assert (verdict.promote, verdict.reason, verdict.difference) == (True, "there is no champion yet", None)


def test_a_surely_better_router_takes_the_champions_place(fitted, held):
    champion = Always(fitted, "large/single")
    verdict = promote(Learned(fitted), champion, held)
    assert verdict.promote
    assert verdict.difference.low > 0
    assert verdict.n_prompts == 300
    assert "surely above the champion's" in verdict.reason
    rows = np.arange(300)
    estimates = fitted.predictor.predict_texts(held.texts).at(champion.objective)
    picks = fitted.policy.choose(estimates, champion.objective).index
    gain = fitted.value * (held.quality[rows, picks] - held.quality[:, 0]) - (held.cost[rows, picks] - held.cost[:, 0])
    assert verdict.difference.mean == pytest.approx(gain.mean())
    assert verdict.candidate == pytest.approx((held.quality[rows, picks].mean(), held.cost[rows, picks].mean()))


def test_a_worse_router_does_not(fitted, held):
    verdict = promote(Always(fitted, "large/single"), Learned(fitted), held)
    assert not verdict.promote
    assert verdict.difference.high < 0


def test_the_very_same_router_does_not(fitted, held):
    verdict = promote(Learned(fitted), Learned(fitted), held)
    assert not verdict.promote
    assert (verdict.difference.low, verdict.difference.mean, verdict.difference.high) == (0, 0, 0)
    assert "not surely" in verdict.reason


def test_a_gain_within_the_noise_does_not_promote(fitted, held):
    few = held.rows(np.arange(8))
    verdict = promote(Always(fitted, "small/best_of_8"), Always(fitted, "large/single"), few)
    assert not verdict.promote
    assert verdict.difference.low < 0 < verdict.difference.high


def test_it_is_the_champions_objective_that_counts(fitted, held):
    cheap, good = Always(fitted, "small/single"), Always(fitted, "small/best_of_8")
    worthless, precious = Objective(value=0.1), Objective(value=1000.0)
    assert promote(cheap, Always(fitted, "small/best_of_8", worthless), held).promote
    assert not promote(cheap, Always(fitted, "small/best_of_8", precious), held).promote
    assert promote(good, Always(fitted, "small/single", precious), held).promote
    assert not promote(good, Always(fitted, "small/single", worthless), held).promote


def test_time_counts_where_the_objective_prices_it(fitted, make_world, held):
    timed = dataclasses.replace(held, cost=np.ones(held.cost.shape), quality=np.ones(held.quality.shape))

    class Timed(Always):
        def estimate(self, prompts, /):
            e = super().estimate(prompts)
            return dataclasses.replace(e, latency=np.ones((*e.quality.shape, 1)), quantiles=(0.5,))

    hasty = Objective(value=1.0, price_of_second=1.0)
    quick, slow = Timed(fitted, "small/single", hasty), Timed(fitted, "large/single", hasty)
    verdict = promote(quick, slow, timed)
    assert verdict.promote
    assert verdict.difference.mean == pytest.approx((held.latency[:, 0] - held.latency[:, 2]).mean())
    partly = held.latency.copy()
    partly[5:] = np.nan
    mean = np.nanmean(partly, axis=0)
    found = promote(quick, slow, dataclasses.replace(timed, latency=partly)).difference.mean
    assert found == pytest.approx(mean[0] - mean[2])
    partly[:, 0] = np.nan
    with pytest.raises(TableError, match="arm 'large/single' was never timed in the held-out table"):
        promote(quick, slow, dataclasses.replace(timed, latency=partly))


def test_a_candidate_that_cannot_decide_at_the_champions_objective_is_not_promoted(fitted, held):
    verdict = promote(Learned(fitted), Learned(fitted, Objective(value=1.0, price_of_second=1.0)), held)
    assert not verdict.promote
    assert "it cannot decide" in verdict.reason
    assert "knows nothing of time" in verdict.reason


def test_routers_with_other_arms_are_compared_where_all_arms_were_run(fitted, held):
    class Fewer(Always):
        def estimate(self, prompts, /):
            e = super().estimate(prompts)
            return dataclasses.replace(
                e,
                arms=e.arms[1:],
                quality=e.quality[:, 1:],
                benefit_se=e.benefit_se[:, 1:],
                cost=e.cost[:, 1:],
                fallback="small/single",
                reference="small/single",
            )

    gaps = held.quality.copy()
    gaps[:50, 0] = np.nan
    table = dataclasses.replace(held, quality=gaps)
    verdict = promote(Fewer(fitted, "small/best_of_8"), Always(fitted, "large/single"), table)
    assert verdict.n_prompts == 250
    assert verdict.candidate[0] == pytest.approx(held.quality[50:, 1].mean())
    with pytest.raises(TableError, match="no outcome of arm 'large/single'"):
        promote(Learned(fitted), Fewer(fitted, "small/single"), held.columns(held.arms[1:]))


def test_a_verdict_is_plain_json(fitted, held):
    found = promote(Learned(fitted), Always(fitted, "large/single"), held).to_dict()
    assert found["promote"] is True
    assert found["difference"].keys() == {"mean", "low", "high"}
