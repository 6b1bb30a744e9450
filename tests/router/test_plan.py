import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.decision import Reason
from howhard.router.flight import Draws
from howhard.router.objective import Objective
from howhard.router.plan import (
    START,
    Draw,
    FixedPlan,
    GiveUp,
    Hand,
    Leg,
    Menu,
    Node,
    Place,
    Plan,
    Search,
    State,
    Stop,
    actions_at,
    after,
    is_open,
    nodes_of,
    places_of,
    start_of,
    words_of,
)
from howhard.router.plan_told import told
from howhard.router.policy import UtilityPolicy
from howhard.strategies.errors import ConfigError, NoFeasibleArm
from howhard.strategies.spec import SpecError

from .made_plans import FIXED, MENU, every_action, goes_on, made_plan

VERIFIED = Menu(legs=MENU.legs, verifier="check", give_up=True)
FREE = UtilityPolicy()
RICH = Objective(value=1000.0)


def hand(n: int, k: int, *, agree: bool = True, proven: bool = False, score: float = math.nan) -> Hand:
    """What k samples of each of n runs show: all of one answer, or each of its own."""
    label = np.zeros((n, k), int) if agree else np.tile(np.arange(k), (n, 1))
    return Hand.of(
        Draws(
            complete=np.ones((n, k), bool),
            label=label,
            score=np.full((n, k), score),
            proven=np.full((n, k), proven),
            logprob=np.full((n, k), -0.5),
            confidence=np.full((n, k), np.nan),
            tokens=np.full((n, k), 20.0),
        )
    )


def state(
    drawn: tuple[int, ...] = (0, 0), n: int = 1, *, search: int = -1, spent: float = 0.0, **shown: object
) -> State:
    return State(
        place=Place(drawn, search),
        prompt=np.full((n, 6), 0.5),
        familiar=np.ones(n, bool),
        hands=tuple(hand(n, k, **shown) if k else None for k in drawn),  # type: ignore[arg-type]
        found=None if search < 0 else np.zeros(n, int),
        spent=np.full(n, spent),
        elapsed=np.full(n, 0.5 * bool(sum(drawn))),
    )


def taken(plan: Plan, at: State, objective: Objective = RICH, policy: UtilityPolicy | None = FREE, **how: object):
    """What a plan does with the first run, and why."""
    steps = plan.step(at, objective, policy, **how)  # type: ignore[arg-type]
    return steps.actions[int(steps.index[0])], steps.reason[0]


# ── menus, places, actions ──────────────────────────────────────────────────────────────────────────────────


def test_at_the_start_anything_may_be_drawn_or_searched_and_it_may_be_given_up_where_that_is_on_the_menu():
    words = [words_of(MENU, a) for a in actions_at(MENU, START)]
    assert words == ["small x1", "small x2", "small x4", "small x8", "large x1", "large x2", "small/vote_of_4"]
    assert actions_at(VERIFIED, START)[0] == GiveUp()
    assert words_of(VERIFIED, GiveUp()) == "give up"


def test_after_samples_one_stops_goes_on_by_the_next_stages_searches_or_escalates():
    words = [words_of(MENU, a) for a in actions_at(MENU, Node(leg=0, drawn=1))]
    assert words == ["stop with small", "small x2", "small x4", "small/vote_of_4", "large x1", "large x2"]
    later = [words_of(MENU, a) for a in actions_at(MENU, Node(leg=1, drawn=1))]
    assert later == ["stop with small", "stop with large", "stop with small/vote_of_4", "large x2"]


def test_one_can_only_stop_with_an_answer_that_is_there():
    assert not is_open(Place((0, 1)), Stop(leg=0))
    assert is_open(Place((1, 1)), Stop(leg=0))
    assert is_open(Place((0, 1), search=0), Stop(search=0))
    assert not is_open(Place((0, 1)), Stop(search=0))


def test_every_place_comes_after_those_that_lead_to_it_and_has_a_node_with_a_forest():
    for menu in (MENU, VERIFIED):
        places = places_of(menu)
        order = {place: i for i, place in enumerate(places)}
        for place in places:
            for action in actions_at(menu, place.node):
                assert after(place, action) == place or order[after(place, action)] > order[place]
        assert {p.node for p in places} == set(nodes_of(menu))
        assert len(nodes_of(menu)) == len(set(nodes_of(menu)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Leg(backend="small", stages=()), "must ascend from 1"),
        (lambda: Leg(backend="small", stages=(4, 2)), "must ascend from 1"),
        (lambda: Menu(legs=()), "at least one backend"),
        (lambda: Menu(legs=(MENU.legs[0], MENU.legs[0])), "names each once"),
        (lambda: Menu(legs=MENU.legs, ahead=0), "ahead=0"),
        (lambda: Menu(legs=MENU.legs, searches=("beam", "beam")), "names each once"),
        (lambda: Leg(backend="small", stages=(1, 2000)), "2000 samples, at most 1024"),
        (lambda: Leg(backend="small", stages=(1,), max_tokens=0), "max_tokens=0"),
        (lambda: Leg(backend="small", stages=(1,), temperature=math.inf), "temperature=inf"),
        (lambda: Menu(legs=(Leg(backend="small", stages=tuple(range(1, 300))),)), "299 stages in all"),
    ],
)
def test_a_menu_that_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(SpecError, match=says):
        wrong()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"needs": ("logprob",)}, "did you mean 'logprobs'"),
        ({"guard": -1.0}, "guard=-1.0"),
        ({"guard": math.inf}, "guard=inf"),
        ({"unit": 0.0}, "unit=0.0"),
        ({"trusted": (20.0, 5.0)}, "a least and a greatest value"),
        ({"seconds": (None,)}, "seconds has 1 entries, the menu 2"),
        ({"seconds": ((0.1, -0.1, 0.0), None)}, "must be >= 0"),
        ({"search_seconds": (math.inf,)}, "must be >= 0"),
        ({"search_seconds": ()}, "search_seconds has 0 entries, the menu 1"),
        ({"fixed": ()}, "fixed is empty"),
        ({"fixed": (FixedPlan(search=1),)}, "runs a search that the menu has not"),
        ({"fixed": (FixedPlan(),)}, "does nothing"),
        ({"fixed": (FixedPlan(legs=((1, (1,)), (0, (1,)))),)}, "its legs must ascend"),
        ({"fixed": (FixedPlan(legs=((0, (1, 3)),)),)}, "be stages of the menu's leg"),
    ],
)
def test_facts_that_do_not_fit_the_menu_are_refused(facts, says):
    with pytest.raises(SpecError, match=says):
        made_plan(**{"fixed": FIXED, **facts})


# ── fixed plans ─────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def fixed_plans(draw) -> FixedPlan:
    """Any fixed plan of the menu."""
    if draw(st.booleans()) and draw(st.booleans()):
        return FixedPlan(search=0)
    legs = []
    for i in sorted(draw(st.sets(st.sampled_from([0, 1]), min_size=1))):
        stages = draw(st.sets(st.sampled_from(MENU.legs[i].stages), min_size=1))
        legs.append((i, tuple(sorted(stages))))
    return FixedPlan(legs=tuple(legs), settled=draw(st.sampled_from([None, 0.8, 0.99, 2.0])))


@settings(deadline=None)
@given(plan=fixed_plans(), seed=st.integers(0, 2**32))
def test_a_fixed_plan_says_at_every_place_what_comes_next_and_comes_to_an_end(plan, seed):
    rng = np.random.default_rng(seed)
    for place in places_of(MENU):
        ahead, proven, answered = rng.random(5), rng.random(5) < 0.3, rng.random(5) < 0.7
        moves = plan.next(place, ahead, proven, answered)
        assert (np.sum([mask for mask, _ in moves], axis=0) == 1).all()
        for mask, action in moves:
            if isinstance(action, Draw):
                assert action.total in MENU.legs[action.leg].stages
                assert action.leg >= place.leg
                assert action.total > place.drawn[action.leg]
                assert not (proven & mask).any() or place.leg < 0
            elif isinstance(action, Stop):
                assert is_open(place, action)
            else:
                assert place == start_of(MENU)
            # An action that is not an end leads on, and places are finite: so it comes to an end.
            assert isinstance(action, Stop) or after(place, action) != place


def test_a_fixed_plan_stops_once_its_answer_is_settled_and_else_goes_on_to_the_next_backend():
    plan = FixedPlan(legs=((0, (2, 4)), (1, (1,))), settled=0.9)
    ahead, yes = np.array([0.95, 0.5]), np.ones(2, bool)
    moves = plan.next(Place((4, 0)), ahead, ~yes, yes)
    assert [(m.tolist(), a) for m, a in moves] == [([True, False], Stop(leg=0)), ([False, True], Draw(1, 1))]
    [(every, last)] = plan.next(Place((4, 1)), ahead, ~yes, yes)
    assert every.all()
    assert last == Stop(leg=1)
    assert plan.words(MENU) == "small 2, 4, then large 1 until settled at 0.9"
    assert FIXED[0].words(MENU) == "small 4"
    assert FIXED[3].words(MENU) == "small/vote_of_4"
    assert FixedPlan(legs=((0, (1, 2)),)).words(MENU) == "small 1, 2 until proven"


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_takes_what_is_worth_most_at_the_objective():
    plan = made_plan(
        {
            (START, Draw(0, 1)): (0.4, 10.0, 1.0),
            (START, Draw(0, 8)): (0.7, 80.0, 1.0),
            (START, Draw(1, 2)): (0.9, 200.0, 3.0),
        }
    )
    assert taken(plan, state(), Objective(value=100)) == (Draw(0, 2), Reason.BEST_UTILITY)
    assert taken(plan, state(), Objective(value=1000))[0] == Draw(1, 2)
    assert taken(plan, state(), Objective(value=1000, price_of_second=100.0))[0] == Draw(0, 8)


def test_what_is_spent_and_gone_by_counts_in_cost_and_latency():
    plan = made_plan({(Node(0, 1), Draw(0, 2)): (0.6, 10.0, 2.0)})
    steps = plan.step(state((1, 0), spent=7.0), RICH, FREE)
    at = steps.actions.index(Draw(0, 2))
    assert steps.cost[0, at] == 17.0
    assert steps.cost[0, steps.actions.index(Stop(leg=0))] == 7.0
    assert steps.latency is not None
    assert steps.latency[0, at].tolist() == [2.5, 3.5, 4.5, 6.5]
    for quantile, seconds in ((0.925, 4.0), (0.999, 6.5), (0.1, 2.5)):  # between two that are known; beyond them
        found = steps.latency_at(quantile, row=0)
        assert found is not None
        assert found[at] == pytest.approx(seconds)


def test_a_proven_answer_ends_it_at_once_whatever_the_forests_say():
    plan = made_plan(every_action(VERIFIED, goes_on, (1.0, 0.0, 0.0)), menu=VERIFIED, fixed=FIXED[:3])
    assert taken(plan, state((2, 0), proven=True, score=1.0)) == (Stop(leg=0), Reason.PROVEN)
    assert taken(plan, state((2, 0), proven=True, score=1.0), policy=None) == (Stop(leg=0), Reason.PROVEN)
    strange = replace(state((2, 0), proven=True, score=1.0), familiar=np.zeros(1, bool))
    assert taken(plan, strange) == (Stop(leg=0), Reason.PROVEN)


def test_giving_up_is_worth_nothing_and_costs_nothing():
    plan = made_plan(every_action(VERIFIED, goes_on, (0.1, 50.0, 0.0)), menu=VERIFIED, fixed=FIXED[:3])
    assert taken(plan, state(), Objective(value=100))[0] == GiveUp()
    assert isinstance(taken(plan, state(), Objective(value=1000))[0], Draw)


def test_where_nothing_more_keeps_the_limits_the_answer_in_hand_is_the_answer():
    plan = made_plan(
        {
            **every_action(MENU, goes_on, (1.0, 20.0, 1.0)),
            (Node(1, 1), Stop(leg=0)): (0.3, 0.0, 0.0),
            (Node(1, 1), Stop(leg=1)): (0.6, 0.0, 0.0),
        }
    )
    assert isinstance(taken(plan, state((1, 1), spent=5.0), Objective(value=1e4, max_cost=30.0))[0], Draw)
    assert taken(plan, state((1, 1), spent=15.0), Objective(value=1e4, max_cost=30.0))[0] == Stop(leg=1)
    over = taken(plan, state((1, 1), spent=35.0), Objective(value=1e4, max_cost=30.0))
    assert over == (Stop(leg=1), Reason.LIMITS_REACHED)


def test_a_deadline_excludes_waves_that_would_pass_it():
    plan = made_plan({**every_action(MENU, goes_on, (0.9, 1.0, 1.0)), (Node(0, 1), Draw(0, 4)): (1.0, 1.0, 3.0)})
    at = state((1, 0))  # half a second has gone by; the 0.95 quantile is twice the mean
    assert taken(plan, at)[0] == Draw(0, 4)
    assert taken(plan, at, Objective(value=1000, deadline=6.0))[0] != Draw(0, 4)
    assert taken(plan, at, Objective(value=1000, deadline=6.0, deadline_quantile=0.5))[0] == Draw(0, 4)
    assert taken(plan, at, Objective(value=1000, deadline=2.0))[0] == Stop(leg=0)
    assert taken(plan, at, Objective(value=1000, deadline=0.1)) == (Stop(leg=0), Reason.LIMITS_REACHED)


def test_limits_that_nothing_keeps_at_the_start_are_an_error_or_the_fixed_plan():
    plan = made_plan()
    with pytest.raises(NoFeasibleArm, match="max_cost=1: the cheapest, 'small x1'"):
        plan.step(state(), Objective(value=100, max_cost=1.0), FREE)
    fallback = Objective(value=100, max_cost=1.0, on_infeasible="fallback")
    assert taken(plan, state(), fallback) == (Draw(0, 4), Reason.INFEASIBLE)


def test_a_plan_that_was_never_timed_knows_no_deadline():
    plan = made_plan(seconds=(None, (0.1, 0.01, 0.0)))
    assert plan.step(state(), RICH, FREE).latency is None
    for objective in (Objective(value=100, deadline=5.0), Objective(value=100, price_of_second=1.0)):
        with pytest.raises(ConfigError, match="did not time every backend"):
            plan.step(state(), objective, FREE)


def test_the_guard_keeps_to_the_fixed_plan_where_the_gain_is_not_sure():
    better = {(START, Draw(0, 8)): (0.6, 10.0, 1.0)}
    assert taken(made_plan(better, error=0.05), state(), policy=UtilityPolicy(guard=1.0))[0] == Draw(0, 8)
    unsure = made_plan(better, error=0.2)
    assert taken(unsure, state(), policy=UtilityPolicy(guard=1.0)) == (Draw(0, 4), Reason.GUARDED)
    assert taken(unsure, state())[0] == Draw(0, 8)
    # Where the fixed plan breaks a limit there is nothing to guard for.
    dear = made_plan({**better, (START, Draw(0, 4)): (0.5, 90.0, 1.0)}, error=0.2)
    limited = Objective(value=1000, max_cost=50.0)
    assert taken(dear, state(), limited, UtilityPolicy(guard=1.0))[0] == Draw(0, 8)


def test_a_plan_without_a_guard_never_leaves_the_fixed_plan():
    plan = made_plan({(START, Draw(0, 8)): (1.0, 0.0, 0.0)}, guard=None)
    assert plan.policy() is None
    assert taken(plan, state(), policy=plan.policy()) == (Draw(0, 4), Reason.GUARDED)
    assert taken(plan, state((4, 0)), policy=plan.policy())[0] == Stop(leg=0)
    guarded = made_plan(guard=1.5).policy(epsilon=0.1)
    assert guarded == UtilityPolicy(guard=1.5, epsilon=0.1)


def test_a_plan_keeps_to_the_fixed_plan_at_objectives_that_it_is_not_trusted_at():
    plan = made_plan({(START, Draw(0, 8)): (1.0, 0.0, 0.0)}, trusted=(5.0, 20.0), trusted_waiting=False)
    found = [taken(plan, state(), Objective(value=v))[0] for v in (40, 50, 200, 210)]  # a unit is 10
    assert found == [Draw(0, 4), Draw(0, 8), Draw(0, 8), Draw(0, 4)]
    assert taken(plan, state(), Objective(value=100, price_of_second=0.1))[0] == Draw(0, 4)
    open_end = made_plan({(START, Draw(0, 8)): (1.0, 0.0, 0.0)}, trusted=(5.0, None))
    assert taken(open_end, state(), Objective(value=1e6, price_of_second=0.1))[0] == Draw(0, 8)


def test_unfamiliar_prompts_go_the_fixed_plans_way_as_far_as_the_limits_allow():
    plan = made_plan({(START, Draw(0, 8)): (1.0, 0.0, 0.0), (START, Draw(0, 4)): (0.5, 90.0, 1.0)}, best=1)
    strange = replace(state(), familiar=np.zeros(1, bool))
    assert taken(plan, strange) == (Draw(0, 1), Reason.UNFAMILIAR)
    dear = replace(made_plan({(START, Draw(0, 8)): (1.0, 0.0, 0.0), (START, Draw(0, 4)): (0.5, 90.0, 1.0)}))
    assert taken(dear, strange, Objective(value=100, max_cost=50.0))[0] == Draw(0, 8)
    under_way = replace(state((1, 0), agree=False, spent=45.0), familiar=np.zeros(1, bool))
    assert taken(plan, under_way)[0] == Draw(0, 2)
    stuck = replace(under_way, spent=np.array([60.0]))
    assert taken(plan, stuck, Objective(value=100, max_cost=50.0)) == (Stop(leg=0), Reason.LIMITS_REACHED)


def test_what_is_not_left_to_chance_has_a_propensity_of_one():
    plan, explores = made_plan(), UtilityPolicy(epsilon=1.0)
    rng = np.random.default_rng(0)
    strange = replace(state(n=2), familiar=np.array([True, False]))
    steps = plan.step(strange, RICH, explores, rng=rng)
    assert steps.propensity.tolist() == [1 / len(steps.actions), 1.0]
    assert steps.reason.tolist() == [Reason.EXPLORED, Reason.UNFAMILIAR]
    proven = plan.step(state((1, 0), proven=True), RICH, explores, rng=rng)
    assert (proven.reason[0], proven.propensity[0]) == (Reason.PROVEN, 1.0)


def test_what_is_closed_is_not_done_and_the_fixed_plan_is_one_that_needs_nothing_closed():
    plan = made_plan(every_action(MENU, lambda a: isinstance(a, Draw) and a.leg == 0, (0.9, 1.0, 1.0)))
    assert plan.best_fixed(RICH) == FIXED[0]
    assert plan.best_fixed(RICH, (True, False)) in (FIXED[2], FIXED[3])
    action, _ = taken(plan, state(), closed=(True, False))
    assert action in (Draw(1, 1), Draw(1, 2), Search(0))
    steps = plan.step(state(), RICH, FREE, closed=(True, False, True))
    assert set(steps.actions) == {Draw(1, 1), Draw(1, 2)}
    under_way = plan.step(state((1, 0)), RICH, FREE, closed=(True, True, True))
    assert under_way.actions == (Stop(leg=0),)
    with pytest.raises(NoFeasibleArm, match="every backend"):
        plan.step(state(), RICH, FREE, closed=(True, True, True))


def test_the_best_fixed_plan_is_the_one_of_the_objective():
    plan = made_plan()
    means = replace(plan.fixed_means, quality=np.array([0.5, 0.6, 0.9, 0.1]), cost=np.array([4.0, 8.0, 100.0, 5.0]))
    plan = replace(plan, fixed_means=means)
    assert [plan.best_fixed(Objective(value=v)) for v in (10, 50, 1000)] == [FIXED[0], FIXED[1], FIXED[2]]


def test_members_that_have_seen_a_prompt_are_not_asked():
    plan = made_plan(random=3)
    at = state((2, 0), n=4)
    both = plan.step(at, RICH, FREE).quality
    first, second = (plan.step(at, RICH, FREE, blind=np.full(4, k)).quality for k in (0, 1))
    mixed = plan.step(at, RICH, FREE, blind=np.array([0, 1, 0, 1])).quality
    assert mixed[0] == pytest.approx(first[0])
    assert mixed[1] == pytest.approx(second[1])
    assert (first + second) / 2 == pytest.approx(both)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), drawn=st.sampled_from([(0, 0), (1, 0), (4, 0), (8, 1), (0, 2)]))
def test_a_step_of_a_run_is_the_same_in_a_batch_and_alone(seed, drawn):
    rng = np.random.default_rng(seed)
    n, plan, policy = 7, made_plan(random=seed, error=0.1), UtilityPolicy(guard=0.5)
    shown = tuple(
        Hand.of(
            Draws(
                complete=np.ones((n, k), bool),
                label=rng.integers(-1, 3, (n, k)),
                score=rng.random((n, k)),
                proven=rng.random((n, k)) < 0.05,
                logprob=-rng.random((n, k)),
                confidence=rng.random((n, k)),
                tokens=rng.integers(1, 90, (n, k)).astype(float),
            )
        )
        if k
        else None
        for k in drawn
    )
    many = State(
        place=Place(drawn),
        prompt=rng.normal(size=(n, 6)),
        familiar=rng.random(n) < 0.8,
        hands=shown,
        found=None,
        spent=rng.random(n) * 50,
        elapsed=rng.random(n),
    )
    objective = Objective(value=float(rng.integers(1, 500)), price_of_second=float(rng.integers(0, 3)))
    together = plan.step(many, objective, policy)
    for i in range(n):
        alone = plan.step(many[i : i + 1], objective, policy)
        for name in ("index", "reason", "fallback", "fixed"):
            assert getattr(alone, name)[0] == getattr(together, name)[i]
        for name in ("quality", "cost", "latency", "utilities", "feasible", "se"):
            assert getattr(alone, name)[0].tobytes() == getattr(together, name)[i].tobytes()


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("drawn", "shown", "words"),
    [
        ((0, 0), {}, ""),
        ((1, 0), {}, "1 sample of small"),
        ((2, 0), {"score": 0.97}, "2 of 2 samples of small agree, verifier 0.97"),
        ((4, 0), {"agree": False, "score": 0.0}, "4 samples of small, 4 different answers, none accepted"),
        ((4, 0), {"agree": False}, "4 samples of small, 4 different answers, not judged"),
        ((2, 0), {"proven": True, "score": 1.0}, "2 of 2 samples of small agree, proven"),
        ((2, 1), {"score": 0.5}, "2 of 2 samples of small agree, verifier 0.50; 1 sample of large, verifier 0.50"),
    ],
)
def test_a_step_says_what_was_seen(drawn, shown, words):
    menu = VERIFIED
    plan = made_plan(menu=menu, fixed=FIXED[:3])
    at = state(drawn, **shown)
    if drawn == (1, 0):
        plan, menu = made_plan(), MENU
    assert told(menu, at, plan.step(at, RICH, FREE), RICH).observation == words


def test_a_step_is_told_to_people_and_as_plain_data():
    plan = made_plan({(Node(0, 4), Draw(1, 1)): (0.9, 60.0, 2.0)})
    at = state((4, 0), agree=False, spent=40.0)
    step = told(MENU, at, plan.step(at, RICH, FREE), RICH)
    assert str(step) == "4 samples of small, 4 different answers: large x1"
    text = step.explain()
    assert text.startswith("4 samples of small, 4 different answers: large x1\n  Of what may be done next within")
    assert "Spent so far: 40, 0.5 s" in text
    assert sum(line.startswith("> large x1") for line in text.splitlines()) == 1
    plain = step.to_dict()
    assert (plain["action"], plain["reason"], plain["spent"], plain["elapsed"]) == (
        "large x1",
        "best_utility",
        40.0,
        0.5,
    )
    taken_ = next(a for a in step.actions if a.name == "large x1")
    assert (taken_.cost, taken_.latency, taken_.quality) == (100.0, 4.5, 0.9)
    assert taken_.benefit == pytest.approx(0.4)
    untimed = made_plan(seconds=(None, None))
    step = told(MENU, at, untimed.step(at, RICH, FREE), RICH)
    assert step.elapsed is None
    assert all(a.latency is None for a in step.actions)


def test_a_search_is_told_too():
    at = state((0, 0), search=0)
    step = told(MENU, at, made_plan().step(at, RICH, FREE), RICH)
    assert step.observation == "small/vote_of_4 found an answer"
    assert step.action in {a.name for a in step.actions}
