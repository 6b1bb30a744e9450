"""The picture of a plan tells what the replay did: its shares, qualities and costs, and nothing else."""

import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.objective import Objective
from howhard.router.plan import (
    START,
    Action,
    Draw,
    FixedPlan,
    GiveUp,
    Leg,
    Menu,
    Node,
    Place,
    PlanFacts,
    Search,
    Stop,
    actions_at,
    after,
    is_open,
    start_of,
)
from howhard.training.plans.picture import draw_plan, flows_of
from howhard.training.plans.replay import Replayed

MENU = Menu(
    legs=(Leg(backend="small", stages=(1, 2, 4)), Leg(backend="large", stages=(1, 2))),
    searches=("small/beam_4x4",),
    give_up=True,
)
UNIT = 20.0

Way = tuple[tuple[Action, ...], float, float]
"""The actions of a run to its end, its quality and its cost."""


def replayed(menu: Menu, ways: list[Way]) -> Replayed:
    """One run per prompt."""
    moved: dict[tuple[Place, Action], list[int]] = {}
    visited: dict[Place, list[int]] = {}
    for row, (actions, _, _) in enumerate(ways):
        place = start_of(menu)
        for action in actions:
            visited.setdefault(place, []).append(row)
            moved.setdefault((place, action), []).append(row)
            place = after(place, action)
    quality, cost = np.array([w[1] for w in ways]), np.array([w[2] for w in ways])
    return Replayed(
        quality=quality,
        cost=cost,
        tokens=cost,
        seconds=cost,
        prompt=np.arange(len(ways)),
        moved={at: np.array(rows) for at, rows in moved.items()},
        visited={at: np.array(rows) for at, rows in visited.items()},
    )


def facts_of(menu: Menu) -> PlanFacts:
    return PlanFacts(
        menu=menu,
        fixed=(FixedPlan(legs=((0, menu.legs[0].stages),)),),
        unit=UNIT,
        seconds=(None,) * len(menu.legs),
        search_seconds=(None,) * len(menu.searches),
        extractor="x",
        n_prompts=10,
        n_samples=4,
    )


@st.composite
def some_ways(draw: st.DrawFn) -> list[Way]:
    ways: list[Way] = []
    for _ in range(draw(st.integers(1, 30))):
        place, actions = start_of(MENU), []
        while not actions or not isinstance(actions[-1], (Stop, GiveUp)):
            actions.append(draw(st.sampled_from([a for a in actions_at(MENU, place.node) if is_open(place, a)])))
            place = after(place, actions[-1])
        quality = 0.0 if isinstance(actions[-1], GiveUp) else draw(st.floats(0, 1))
        ways.append((tuple(actions), quality, draw(st.floats(0, 100))))
    return ways


@settings(max_examples=50, deadline=None)
@given(some_ways())
def test_what_comes_to_a_stage_stops_there_gives_up_or_goes_on(ways):
    flows = flows_of(replayed(MENU, ways), MENU)
    assert flows.stages[0].node == START
    for i, stage in enumerate(flows.stages):
        comes = sum(share for (_, to), share in flows.moves.items() if to == i) if i else 1.0
        goes = sum(share for (start, _), share in flows.moves.items() if start == i)
        assert stage.here == pytest.approx(comes)
        assert stage.here == pytest.approx(stage.stops + stage.gave_up + goes)
    assert all(start < to for start, to in flows.moves)


@settings(max_examples=50, deadline=None)
@given(some_ways())
def test_the_stages_add_up_to_what_the_plan_came_to(ways):
    r = replayed(MENU, ways)
    flows = flows_of(r, MENU)
    assert sum(s.stops + s.gave_up for s in flows.stages) == pytest.approx(1)
    gave_up = sum(isinstance(actions[-1], GiveUp) for actions, _, _ in ways)
    assert sum(s.gave_up for s in flows.stages) == pytest.approx(gave_up / len(ways))
    answered = [s for s in flows.stages if s.stops]
    assert sum(s.stops * s.quality for s in answered) == pytest.approx(r.quality.mean())


def test_a_stage_is_one_column_whatever_was_drawn_before():
    go = (Draw(0, 1), Draw(0, 4), Draw(1, 1), Stop(leg=1))
    jump = (Draw(0, 2), Draw(1, 1), Stop(leg=0))
    flows = flows_of(replayed(MENU, [(go, 1.0, 9.0), (jump, 0.0, 3.0)]), MENU)
    assert [s.node for s in flows.stages] == [START, Node(0, 1), Node(0, 2), Node(0, 4), Node(1, 1)]
    last = flows.stages[-1]
    assert (last.here, last.stops, last.quality, last.cost) == (1.0, 1.0, 0.5, 6.0)


def test_searches_stand_between_the_first_backend_and_the_next():
    searched = (Draw(0, 1), Search(0), Draw(1, 2), Stop(search=0))
    flows = flows_of(replayed(MENU, [(searched, 1.0, 9.0)]), MENU)
    assert [s.node for s in flows.stages] == [START, Node(0, 1), Node(search=0), Node(1, 2)]


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────


def words_in(path) -> list[str]:
    """What an SVG says: matplotlib keeps each text as a comment beside its glyphs."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8").replace("&gt;", ">").replace("&lt;", "<"))


MIXED: list[Way] = [
    *[((Draw(0, 1), Stop(leg=0)), 1.0, 20.0)] * 5,
    ((Draw(0, 1), Stop(leg=0)), 0.0, 20.0),
    *[((Draw(0, 1), Draw(1, 2), Stop(leg=1)), 0.5, 260.0)] * 3,
    ((GiveUp(),), 0.0, 0.0),
]


def test_the_picture_says_the_shares_the_qualities_and_the_costs_of_the_replay(tmp_path):
    path = draw_plan(replayed(MENU, MIXED), facts_of(MENU), Objective(value=2000.0), tmp_path / "plan.svg")
    words = words_in(path)
    assert "What the plan does where a right answer is worth 100 samples of small" in words
    assert "This plan: 65.0 % right at a mean cost of 4.5" in words
    for figures in (["60 % stop", "83 % right", "cost 1.0"], ["30 % stop", "50 % right", "cost 13"]):
        at = words.index(figures[0])
        assert words[at : at + 3] == figures
    assert "10 % given up" in words
    assert "90 %" in words  # come to the first sample
    assert {"small", "large"} <= set(words)


def test_the_best_fixed_plan_stands_beside_it_in_words(tmp_path):
    fixed = replayed(MENU, [((Draw(0, 4), Stop(leg=0)), 0.25, 80.0)])
    path = draw_plan(
        replayed(MENU, MIXED),
        facts_of(MENU),
        Objective(value=40.0, price_of_second=10.0),
        tmp_path / "p.svg",
        rival=(facts_of(MENU).fixed[0], fixed),
    )
    words = words_in(path)
    assert "What the plan does where a right answer is worth 2 samples of small, and a second costs 0.5" in words
    assert "The best fixed plan (small 1, 2, 4 until proven): 25.0 % right at a mean cost of 4" in words


def test_a_share_that_is_small_is_not_told_as_none(tmp_path):
    ways = [*[((Draw(0, 1), Stop(leg=0)), 1.0, 20.0)] * 299, ((Draw(0, 1), Draw(0, 2), Stop(leg=0)), 0.0, 40.0)]
    words = words_in(draw_plan(replayed(MENU, ways), facts_of(MENU), Objective(value=1.0), tmp_path / "p.svg"))
    assert ">99 % stop" in words
    assert "<1 % stop" in words


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param([((Draw(0, 4), Stop(leg=0)), 1.0, 80.0)] * 3, id="one stage, and nobody goes on"),
        pytest.param([((GiveUp(),), 0.0, 0.0)] * 3, id="all are given up"),
        pytest.param([((Draw(1, 1), Stop(leg=1)), 1.0, 126.0)], id="the large model at once"),
        pytest.param([((Search(0), Stop(search=0)), 1.0, 90.0)], id="a search at once"),
    ],
)
def test_odd_plans_are_drawn_too_at_the_width_of_the_readme(tmp_path, ways):
    path = draw_plan(replayed(MENU, ways), facts_of(MENU), Objective(value=100.0), tmp_path / "deep" / "plan.png")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", head[16:20]) == (900,)


def test_a_plan_of_one_backend_has_no_second_group(tmp_path):
    menu = Menu(legs=(Leg(backend="only", stages=(1, 2)),))
    ways: list[Way] = [((Draw(0, 1), Stop(leg=0)), 1.0, 20.0), ((Draw(0, 1), Draw(0, 2), Stop(leg=0)), 0.0, 40.0)]
    words = words_in(draw_plan(replayed(menu, ways), facts_of(menu), Objective(value=100.0), tmp_path / "p.svg"))
    assert "only" in words
    assert "given up: no answer, no cost" not in words
