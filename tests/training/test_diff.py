import json
from dataclasses import replace

import numpy as np
import pytest

from howhard.router.estimates import Estimates
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.training.diff import diff
from howhard.training.promote import Contender
from howhard.training.provenance import PROMPTS_FILE, pack_prompts


class Picker:
    """A router that picks by a rule of the prompt's text."""

    policy = UtilityPolicy(guard=0.0)
    objective = Objective(value=30.0)

    def __init__(self, arms, rule):
        self._arms, self._rule = arms, rule

    def estimate(self, prompts, /):
        quality = np.array([[float(arm == self._rule(p)) for arm in self._arms] for p in prompts])
        zero = np.zeros_like(quality)
        arms = {"arms": self._arms, "fallback": self._arms[0], "reference": self._arms[0]}
        return Estimates(quality=quality, benefit_se=zero, cost=zero, **arms)


def contender(rule, *, trained_on=(), arms=("large/single", "small/best_of_8", "small/single")):
    return Contender(router=Picker(arms, rule), files={PROMPTS_FILE: pack_prompts(trained_on)}, source="some/router")


def always(arm):
    return lambda text: arm


@pytest.fixture(scope="module")
def table(make_world):
    return make_world(200, seed=5).matrix


def searching(text):
    return "small/best_of_8" if "Combine" in text else "large/single"


def test_what_changes_is_paid_as_logged_and_all_else_differs_by_nothing(table):
    found = diff(contender(always("large/single")), contender(searching), table)
    moved = np.array(["Combine" in t for t in table.texts])
    assert (found.whole.prompts, found.whole.changed, found.whole.logged) == (200, moved.sum(), moved.sum())
    quality = np.where(moved, table.quality[:, 1] - table.quality[:, 0], 0.0)
    cost = np.where(moved, table.cost[:, 1] - table.cost[:, 0], 0.0)
    assert found.whole.quality.mean == pytest.approx(quality.mean())
    assert found.whole.cost.mean == pytest.approx(cost.mean())
    assert found.whole.utility.mean == pytest.approx((30 * quality - cost).mean())
    assert found.whole.utility.low < found.whole.utility.mean < found.whole.utility.high
    [move] = found.moves
    assert (move.name, move.prompts) == ("large/single -> small/best_of_8", moved.sum())
    assert move.quality.mean == pytest.approx(quality[moved].mean())
    assert [(g.name, g.prompts, g.changed) for g in found.groups] == [("search", moved.sum(), moved.sum())]


def test_the_examples_are_those_that_gain_and_lose_most(table):
    found = diff(contender(always("large/single")), contender(searching), table)
    moved = np.array(["Combine" in t for t in table.texts])
    gain = 30 * (table.quality[:, 1] - table.quality[:, 0]) - (table.cost[:, 1] - table.cost[:, 0])
    ranked = np.sort(gain[moved])
    assert [e.utility for e in found.gains] == pytest.approx(ranked[::-1][:3].tolist())
    assert [e.utility for e in found.losses] == pytest.approx(ranked[ranked < 0][:3].tolist())
    best = found.gains[0]
    assert (best.from_arm, best.to_arm, best.group) == ("large/single", "small/best_of_8", "search")
    assert best.prompt == table.texts[table.prompt_ids.index(best.prompt_id)]


def test_turning_the_two_around_turns_the_signs_around(table):
    one, other = contender(always("small/single")), contender(searching)
    there, back = diff(one, other, table), diff(other, one, table)
    for name in ("quality", "cost", "utility"):
        a, b = getattr(there.whole, name), getattr(back.whole, name)
        assert (a.mean, a.low, a.high) == pytest.approx((-b.mean, -b.high, -b.low))


def test_equal_routers_change_nothing_and_say_so(table):
    found = diff(contender(searching), contender(searching), table)
    assert (found.whole.changed, found.moves, found.groups, found.gains, found.losses) == (0, (), (), (), ())
    assert "0 of 200 prompts change arm" in found.text()
    assert "Nothing changes" in found.text()


def test_prompts_without_an_outcome_of_both_arms_are_counted_and_left_out(table):
    quality = table.quality.copy()
    combined = np.flatnonzero(["Combine" in t for t in table.texts])
    quality[combined[:7], 1] = np.nan
    found = diff(contender(always("large/single")), contender(searching), replace(table, quality=quality))
    assert found.whole.changed - found.whole.logged == 7
    assert "7 prompts that change arm lack an outcome" in found.text()
    without = diff(contender(always("large/single")), contender(searching), table.columns(("large/single",)))
    assert (without.whole.logged, without.moves[0].utility) == (0, None)
    assert "not logged" in without.text()


def test_training_prompts_are_named_and_the_others_shown_apart(table):
    learned = contender(searching, trained_on=table.texts[:150])
    found = diff(contender(always("large/single")), learned, table)
    assert found.unseen.prompts == 50
    assert "B was trained on 150 of these prompts" in found.text()
    assert "not trained on by either" in found.text()
    silent = replace(learned, files={})
    assert "B does not tell which prompts it was trained on" in diff(silent, silent, table).notes[0].replace("A ", "B ")
    everything = contender(searching, trained_on=table.texts)
    assert "no prompt is new to both" in diff(everything, learned, table).text()


def test_time_counts_where_the_objective_prices_it(make_world):
    timed = make_world(60, seed=6, seconds=True).matrix
    objective = Objective(value=30.0, price_of_second=4.0)

    class Timed(Picker):
        def estimate(self, prompts, /):
            e = super().estimate(prompts)
            return replace(e, latency=np.ones((*e.quality.shape, 1)), quantiles=(0.5,))

    arms = timed.arms
    a, b = (Contender(router=Timed(arms, always(arm)), files={}) for arm in ("large/single", "small/single"))
    found = diff(a, b, timed, objective=objective)
    q, c, s = (figures[:, 2] - figures[:, 0] for figures in (timed.quality, timed.cost, timed.latency))
    assert found.whole.utility.mean == pytest.approx((30 * q - c - 4 * s).mean())


def test_a_diff_is_plain_json_and_readable_text(table):
    found = diff(contender(always("large/single")), contender(searching), table, objective=Objective(value=12.0))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["value"] == 12.0
    assert plain["whole"]["utility"].keys() == {"mean", "low", "high"}
    assert plain["moves"][0]["name"] == "large/single -> small/best_of_8"
    text = found.text()
    assert text.startswith("A: some/router\nB: some/router\n")
    assert "at 12 for a correct answer" in text
    assert max(map(len, text.splitlines())) <= 120
