import dataclasses

import numpy as np
import pytest

from howhard.strategies.errors import TableError
from howhard.training.against import check_picks, compare_picks, read_picks


@pytest.fixture
def picks(tmp_path, world):
    def write(lines, head="prompt_id,arm"):
        path = tmp_path / "rival.csv"
        path.write_text("\n".join([head, *lines]) + "\n")
        return read_picks(path)

    return write


def compare(matrix, rival, ours, by_family=False):
    scale = 1 / matrix.arm_cost.max()
    return compare_picks(matrix, rival, {0.3: ours}, scale=scale, by_family=by_family, draws=100, seed=0)


def test_the_difference_is_that_of_what_the_table_says_of_both_picks(picks, world):
    m = world.matrix
    rival = picks([f"{p},large/single" for p in m.prompt_ids])
    check_picks(rival, m)
    small = m.arms.index("small/single")
    found = compare(m, rival, np.full(len(m), small))
    (d,) = found.prices
    assert (found.name, found.n, found.missing, d.agree) == ("rival", len(m), 0, 0.0)
    gap = m.quality[:, small] - m.quality[:, 0]
    saved = m.cost[:, small] - m.cost[:, 0]
    assert d.quality.mean == pytest.approx(gap.mean())
    assert d.cost.mean == pytest.approx(saved.mean())
    assert d.utility.mean == pytest.approx((gap - 0.3 / m.arm_cost.max() * saved).mean())
    assert d.quality.low < d.quality.mean < d.quality.high


def test_the_same_picks_differ_in_nothing(picks, world):
    m = world.matrix
    found = compare(m, picks([f"{p},large/single" for p in m.prompt_ids]), np.zeros(len(m), int))
    d = found.prices[0]
    assert (d.agree, d.quality.low, d.quality.high, d.utility.mean) == (1.0, 0, 0, 0)


def test_prompts_that_the_rival_lacks_are_counted_and_left_out(picks, world):
    m = world.matrix
    found = compare(m, picks([f"{p},large/single" for p in m.prompt_ids[:50]]), np.zeros(len(m), int), by_family=True)
    assert (found.n, found.missing) == (50, len(m) - 50)


def test_a_rivals_own_cost_is_what_it_pays(picks, world):
    m = world.matrix
    rival = picks([f"{p},large/single,{100 + i}" for i, p in enumerate(m.prompt_ids[:10])], "prompt_id,arm,cost")
    found = compare(m, rival, np.zeros(len(m), int))
    assert found.prices[0].cost.mean == pytest.approx(m.cost[:10, 0].mean() - 104.5)


@pytest.mark.parametrize(
    ("lines", "head", "said"),
    [
        (["p00001,small/sinlge"], "prompt_id,arm", "small/sinlge.*did you mean 'small/single'"),
        (["q1,small/single"], "prompt_id,arm", "no outcome of prompt 'q1'"),
        (["p00001,small/single"], "prompt,arm", "has no column 'prompt_id'"),
        (["p00001,"], "prompt_id,arm", "line 2: .*both are needed"),
        (["p00001,small/single", "p00001,large/single"], "prompt_id,arm", "line 3: prompt 'p00001' stands there twice"),
        (["p00001,small/single,-1"], "prompt_id,arm,cost", "cost='-1'"),
        (["p00001,small/single,dear"], "prompt_id,arm,cost", "cost='dear'"),
    ],
)
def test_what_is_wrong_with_a_file_of_picks_is_named(lines, head, said, picks, world):
    with pytest.raises(TableError, match=said):
        check_picks(picks(lines, head), world.matrix)


def test_picks_for_none_of_the_prompts_are_an_error(picks, world):
    m = world.matrix
    rival = dataclasses.replace(picks(["p00001,small/single"]), arms={"other": "small/single"})
    with pytest.raises(TableError, match="for none of the 400 prompts"):
        compare(m, rival, np.zeros(len(m), int))


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"absent.*not readable"):
        read_picks(tmp_path / "absent.csv")
