"""A plan run live: its legs are ordinary strategies, and whatever goes wrong it ends with the best answer in hand.

What the plan decides is written down by hand here, so that each test says what it wants done; that a learned plan
decides the same live and in a replay is tests/training/plans/test_live_equals_replay.py.
"""

import asyncio

import numpy as np
import pytest

from howhard.router.decision import Context, Reason
from howhard.router.estimates import ArmMeans
from howhard.router.objective import Objective
from howhard.router.plan import (
    Draw,
    FixedPlan,
    GiveUp,
    Leg,
    Menu,
    Plan,
    PlanFacts,
    Search,
    State,
    Steps,
    Stop,
    actions_at,
    is_open,
    start_of,
)
from howhard.router.plan_run import Planned, PlanRule
from howhard.router.policy import UtilityPolicy
from howhard.router.predictor import Predictor
from howhard.router.router import Router
from howhard.strategies import BestOfN, SelfConsistency, TreeSearch
from howhard.strategies.answers import EXTRACTOR
from howhard.strategies.base import Budget, Prices, Request, SamplingParams, Verdicts
from howhard.strategies.errors import BackendError, ConfigError, InputError, NoFeasibleArm, PromptTooLong
from howhard.strategies.testing import CONTRACT, ScriptedBackend, Subject
from howhard.training.log import Log
from howhard.training.recording import Recorder

OBJECTIVE = Objective(value=1000.0)
CHEAP, DEAR = Prices(prompt=0.1, completion=1.0), Prices(prompt=0.1, completion=10.0)
SMALL, LARGE, BEAM = 0, 1, 0


class ByHand(Plan):
    """Does what a function of the state says, as far as that is open; else it takes the first end, else the first."""

    def step(self, state, objective, policy, *, closed=(), blind=None, rng=None):
        menu = self.facts.menu
        shut = (*closed, *(False,) * 4)
        every = [a for a in actions_at(menu, state.place.node) if is_open(state.place, a)]
        every = [a for a in every if not (isinstance(a, Draw) and shut[a.leg])]
        every = [a for a in every if not (isinstance(a, Search) and shut[len(menu.legs) + a.search])]
        wanted = self.arms[0](state)
        index = every.index(wanted) if wanted in every else 0
        if policy is not None and policy.random:
            index = int(rng.integers(len(every)))
        shape = (1, len(every))
        return Steps(
            actions=tuple(every), index=np.array([index]), reason=np.array([Reason.BEST_UTILITY], dtype=object),
            fallback=np.array([False]), quality=np.full(shape, 0.5), cost=np.full(shape, 9.0), latency=None,
            utilities=np.ones(shape), feasible=np.ones(shape, dtype=bool), se=np.zeros(shape),
            fixed=np.array([0]), propensity=np.ones(1),
        )  # fmt: skip

    def best_fixed(self, objective, closed=()):
        return self.facts.fixed[0]


def plan_of(choose, *, legs=("small",), searches=(), verifier=None, needs=(), give_up=False, stages=(1, 2, 4, 8)):
    menu = Menu(
        legs=tuple(Leg(backend=name, stages=stages, max_tokens=40) for name in legs), searches=searches,
        verifier=verifier, give_up=give_up,
    )  # fmt: skip
    facts = PlanFacts(
        menu=menu, fixed=(FixedPlan(legs=((0, (1,)),), settled=2.0),), needs=needs, unit=1.0,
        seconds=((0.1, 0.01, 0.001),) * len(legs), search_seconds=(1.0,) * len(searches), extractor=EXTRACTOR,
        n_prompts=1, n_samples=8,
    )  # fmt: skip
    one = np.zeros(1)
    return ByHand(facts, (choose,), {}, ArmMeans(quality=one, cost=one, seconds=one, quality_se=np.zeros((1, 1))))


def start(plan):
    nothing, legs = np.zeros(1), len(plan.facts.menu.legs)
    state = State(
        place=start_of(plan.facts.menu), prompt=np.zeros((1, 2)), familiar=np.ones(1, dtype=bool),
        hands=(None,) * legs, found=None, spent=nothing, elapsed=nothing,
    )  # fmt: skip
    return lambda request: state


def in_turn(*actions):
    """Do this, then that."""

    def done(action, place):
        if isinstance(action, Draw):
            return place.drawn[action.leg] >= action.total
        return isinstance(action, Search) and place.search == action.search

    return lambda state: next(action for action in actions if not done(action, state.place))


def answering(*answers):
    return lambda prompt: [f"so\nAnswer: {answer}" for answer in answers]


def small(*answers, **settings):
    return ScriptedBackend(answering(*answers), name="small", prices=CHEAP, **settings)


def large(*answers, **settings):
    return ScriptedBackend(answering(*answers), name="large", prices=DEAR, **settings)


class Judge:
    """Likes some answers."""

    name, prices = "judge", None

    def __init__(self, sound=False, **scores):
        self.sound, self.scores = sound, {int(k[1:]): v for k, v in scores.items()}

    async def score(self, request, candidates, *, partial=False):
        return Verdicts(tuple(self.scores.get(int(c.answer or 0), 0.1) for c in candidates))


def planned(plan, *backends, objective=OBJECTIVE, **settings):
    named = {backend.name: backend for backend in backends}
    return Planned(plan, objective=objective, start=start(plan), policy=None, backends=named, **settings)


def run(plan, *backends, budget=None, trace=None, prompt="how many?", **settings):
    work = planned(plan, *backends, **settings).run(Request.of(prompt), backends[0], budget=budget, trace=trace)
    return asyncio.run(work)


# ── going from place to place ───────────────────────────────────────────────────────────────────────────────


def test_a_leg_is_drawn_wave_by_wave_until_the_plan_stops_it():
    backend = small(7, 3, 7, 7)
    result = run(plan_of(in_turn(Draw(0, 2), Draw(0, 4), Stop(leg=0))), backend, seed=0)

    assert result.answer == "7"
    assert [n for _, n, _ in backend.calls] == [2, 2]
    assert [step.action for step in result.steps] == ["small x2", "small x4", "stop with small"]
    assert "plan stopped it after 4 of 8 samples" in result.stopped_because
    assert result.usage == backend.served


def test_the_answer_is_the_plans_lead_and_not_the_last_legs():
    plan = plan_of(in_turn(Draw(0, 4), Draw(1, 1), Stop(leg=0)), legs=("small", "large"))
    result = run(plan, small(7, 3, 7, 7), large(5), seed=0)

    assert result.answer == "7"
    assert len(result.candidates) == 5
    assert result.candidates[4].answer == "5"


def test_a_request_goes_on_to_the_next_backend_and_ends_with_its_answer():
    plan = plan_of(in_turn(Draw(0, 2), Draw(1, 2), Stop(leg=1)), legs=("small", "large"))
    first, second = small(7, 3), large(5)
    result = run(plan, first, second)

    assert result.answer == "5"
    assert result.usage.cost == pytest.approx(first.served.cost + second.served.cost)
    assert [step.observation for step in result.steps] == [
        "",
        "2 samples of small, 2 different answers",
        "2 samples of small, 2 different answers; 2 of 2 samples of large agree",
    ]


def test_agreement_is_seen_across_legs_and_with_the_search():
    seen = []

    def choose(state):
        seen.append(state)
        return in_turn(Draw(0, 2), Search(BEAM), Draw(1, 1), Stop(leg=1))(state)

    plan = plan_of(choose, legs=("small", "large"), searches=("small/beam",))
    beam = SelfConsistency(1, params=SamplingParams(max_tokens=40)).on(ScriptedBackend(answering("1,000"), name="deep"))
    run(plan, small(1000, 3), large("1000.0"), searches={"small/beam": beam}, seed=0)

    end = seen[-1]
    assert end.found[0] == end.hands[0].lead.label[0] == end.hands[1].lead.label[0]


def test_a_search_is_run_whole_and_its_answer_taken():
    plan = plan_of(in_turn(Draw(0, 1), Search(BEAM), Stop(search=BEAM)), searches=("small/beam",))
    backend = small(7)
    beam = TreeSearch(verifier=Judge(), width=2, branches=2, step_tokens=8, params=SamplingParams(max_tokens=40))
    result = run(plan, backend, searches={"small/beam": beam.on(backend)})

    assert result.tree is not None
    assert result.steps[-1].action == "stop with small/beam"
    assert result.usage.cost == pytest.approx(backend.served.cost)
    assert result.text in [c.text for c in result.candidates]


def test_with_a_verifier_the_best_judged_answer_leads_and_what_is_proven_is_seen():
    plan = plan_of(in_turn(Draw(0, 4), Stop(leg=0)), verifier="judge")
    result = run(plan, small(7, 7, 7, 3), verifier=Judge(sound=True, _3=1.0), seed=0)

    assert result.answer == "3"
    assert "proven" in result.steps[-1].observation


def test_giving_up_draws_nothing_and_says_so():
    backend = small(7)
    result = run(plan_of(in_turn(GiveUp()), give_up=True), backend)

    assert result.answer is None
    assert result.text == ""
    assert result.candidates == ()
    assert backend.calls == []
    assert result.stopped_because.startswith("given up: ")


def test_steps_explain_themselves():
    [first, last] = run(plan_of(in_turn(Draw(0, 2), Stop(leg=0))), small(7)).steps

    assert str(last) == "2 of 2 samples of small agree: stop with small"
    assert "small x2" in first.explain()
    assert last.spent > first.spent == 0.0


def test_of_what_is_seen_only_the_signals_that_the_plan_needs_are_asked_for():
    def asked(needs):
        backend = small(7, logprob=lambda text: -1.0, confidences=lambda text: [1.0])
        run(plan_of(in_turn(Draw(0, 2), Stop(leg=0)), needs=needs), backend)
        [(_, _, params)] = backend.calls
        return params.logprobs, params.confidence_of

    assert asked(()) == (False, 0)
    assert asked(("logprobs",)) == (True, 0)
    assert asked(("logprobs", "confidence")) == (True, 20)


def test_a_backend_without_a_signal_that_the_plan_needs_is_refused():
    with pytest.raises(ConfigError, match="'small' gives no logprobs"):
        planned(plan_of(in_turn(Draw(0, 1)), needs=("logprobs",)), small(7))


def test_samples_that_come_without_their_signals_are_told():
    backend = small(7)
    backend.gives_logprobs = True

    result = run(plan_of(in_turn(Draw(0, 2), Stop(leg=0)), needs=("logprobs",)), backend)

    assert "came without logprobs" in result.stopped_because


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"verifier": Judge()}, "verifier='judge': the plan decides by votes alone"),
        ({}, "searches: 'small/beam' of the plan's menu is missing"),
    ],
)
def test_what_the_menu_does_not_hold_or_lacks_is_refused(settings, words):
    searches = () if settings else ("small/beam",)
    with pytest.raises(ConfigError, match=words):
        planned(plan_of(in_turn(Draw(0, 1)), searches=searches), small(7), **settings)


def test_a_missing_backend_and_a_missing_verifier_are_named():
    with pytest.raises(ConfigError, match="backends: 'large' of the plan's menu is missing"):
        planned(plan_of(in_turn(Draw(0, 1)), legs=("small", "large")), small(7))
    with pytest.raises(ConfigError, match="the plan decides by 'judge': hand it over"):
        planned(plan_of(in_turn(Draw(0, 1)), verifier="judge"), small(7))


# ── budgets, deadlines, cancelling ──────────────────────────────────────────────────────────────────────────


def held(backend):
    backend.held = asyncio.Event()
    return backend


@pytest.mark.parametrize("how", ["budget", "deadline"])
def test_a_deadline_within_a_stage_cancels_what_is_in_flight_and_keeps_the_best_in_hand(how):
    plan = plan_of(in_turn(Draw(0, 4), Draw(1, 4), Stop(leg=1)), legs=("small", "large"))
    slow = large(5)
    budget = Budget(seconds=0.2) if how == "budget" else None
    objective = OBJECTIVE if how == "budget" else OBJECTIVE.but(deadline=0.2)

    async def go():
        held(slow)
        work = planned(plan, small(7, 3, 7, 7), slow, objective=objective, seed=0)
        result = await work.run(Request.of("how many?"), work.backends[0], budget=budget)
        while slow.running:  # noqa: ASYNC110  # until the backend has seen that they are cancelled
            await asyncio.sleep(0)
        return result

    result = asyncio.run(go())

    assert result.answer == "7"
    assert "the budget of 0.2 s was over" in result.stopped_because
    assert sum(c.generation.finish_reason == "cancelled" for c in result.candidates) == 4
    assert result.steps[-1].reason is Reason.LIMITS_REACHED


def test_cancelling_the_caller_cancels_what_is_in_flight_and_books_it():
    backend, runs = small(7), []

    async def go():
        held(backend)
        work = planned(plan_of(in_turn(Draw(0, 8), Stop(leg=0))), backend)
        told = lambda event, fields: runs.append(fields["run"]) if event == "begin" else None  # noqa: E731
        task = asyncio.ensure_future(work.run(Request.of("how many?"), backend, trace=told))
        while backend.running < 8:  # noqa: ASYNC110  # until all are drawing
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(go())

    assert runs[0].meter.usage.completion_tokens > 0


def test_a_budget_that_does_not_hold_the_next_stage_ends_with_the_best_in_hand():
    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 8), Stop(leg=0)))
    result = run(plan, small(7), budget=Budget(tokens=120))

    assert result.answer == "7"
    assert result.usage.total_tokens <= 120
    assert "the budget of 120 tokens does not hold more of small" in result.stopped_because


def test_a_budget_that_holds_nothing_of_the_next_backend_ends_with_the_best_in_hand():
    plan = plan_of(in_turn(Draw(0, 2), Draw(1, 1), Stop(leg=1)), legs=("small", "large"))
    result = run(plan, small(7), large(5), budget=Budget(tokens=46))

    assert result.answer == "7"
    assert result.usage.total_tokens <= 46


def test_a_budget_of_less_than_a_token_is_refused():
    with pytest.raises(InputError, match="budget of 3 tokens"):
        run(plan_of(in_turn(Draw(0, 2), Stop(leg=0))), small(7), budget=Budget(tokens=3))


def test_a_deadline_of_no_time_is_refused_by_its_name():
    with pytest.raises(NoFeasibleArm, match="deadline=0"):
        run(plan_of(in_turn(Draw(0, 2), Stop(leg=0))), small(7), objective=Objective(value=1.0, deadline=0.0))


def test_a_run_that_is_cut_short_explores_no_more():
    asked = []

    class Asked(ByHand):
        def step(self, state, objective, policy, *, closed=(), blind=None, rng=None):
            asked.append(policy)
            return super().step(state, objective, None, closed=closed)

    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 8), Stop(leg=0)))
    plan = Asked(plan.facts, plan.arms, plan.nodes, plan.fixed_means)
    work = planned(plan, small(7))
    work.policy, work.rng = UtilityPolicy(epsilon=1.0), np.random.default_rng(0)
    result = asyncio.run(work.run(Request.of("how many?"), work.backends[0], budget=Budget(tokens=120)))

    assert result.answer == "7"
    assert [policy.random for policy in asked] == [True, True, False]


def test_an_answer_in_hand_goes_before_samples_that_were_cut_off():
    plan = plan_of(in_turn(Draw(0, 1), Draw(1, 1), Stop(leg=1)), legs=("small", "large"))

    async def go():
        slow = held(large(5))
        work = planned(plan, small(7), slow)
        return await work.run(Request.of("how many?"), work.backends[0], budget=Budget(seconds=0.1))

    result = asyncio.run(go())

    assert result.answer == "7"
    assert result.steps[-1].action == "stop with small"


# ── backends that fail ──────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_sample_is_left_out_of_what_the_plan_sees():
    plan = plan_of(in_turn(Draw(0, 4), Stop(leg=0)))
    result = run(plan, small(7, fails=lambda prefix, i: i == 1))

    assert "3 of 3 samples of small agree" in result.steps[-1].observation
    assert len(result.candidates) == 4
    assert "1 of 4 failed" in result.stopped_because


def test_where_a_backend_fails_at_the_start_the_plan_goes_on_with_another():
    plan = plan_of(lambda state: Stop(leg=1) if state.place.drawn[1] else Draw(0, 2), legs=("small", "large"))
    result = run(plan, small(7, fails=lambda prefix, i: True), large(5))

    assert result.answer == "5"
    assert result.stopped_because.startswith("small failed: ")
    assert [step.action for step in result.steps] == ["small x2", "large x1", "stop with large"]


def test_where_a_later_backend_fails_the_plan_goes_on_with_what_it_has():
    plan = plan_of(in_turn(Draw(0, 2), Draw(1, 2), Stop(leg=1)), legs=("small", "large"))
    result = run(plan, small(7), large(5, fails=lambda prefix, i: True))

    assert result.answer == "7"
    assert "large failed: " in result.stopped_because
    assert result.steps[-1].action == "stop with small"


def test_where_a_later_wave_fails_whole_its_backend_is_out():
    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 4), Stop(leg=0)))
    backend = small(7)
    backend._fails = lambda prefix, i: len(backend.calls) > 1
    result = run(plan, backend)

    assert result.answer == "7"
    assert result.steps[-1].action == "stop with small"


def test_where_every_backend_fails_the_first_failure_is_raised():
    plan = plan_of(in_turn(Draw(0, 2), Stop(leg=0)), legs=("small", "large"))
    with pytest.raises(BackendError, match="small") as raised:
        run(plan, *(b(7, fails=lambda prefix, i: True) for b in (small, large)))

    assert "large failed too" in raised.value.__notes__[0]


def test_a_backend_whose_context_does_not_hold_the_prompt_is_passed_over():
    plan = plan_of(lambda state: Stop(leg=1) if state.place.drawn[1] else Draw(0, 2), legs=("small", "large"))

    assert run(plan, small(7, context=5), large(5)).answer == "5"
    with pytest.raises(PromptTooLong):
        run(plan, small(7, context=5), large(5, context=5))


def test_after_a_search_that_failed_its_leg_is_drawn_on_where_it_stopped():
    deep = ScriptedBackend(answering(5), name="deep", fails=lambda prefix, i: True)

    def choose(state):
        return {0: Draw(0, 2), 2: Search(BEAM), 4: Stop(leg=0)}[state.place.drawn[0]]

    plan = plan_of(choose, searches=("deep/sc_1",))
    search = SelfConsistency(1, params=SamplingParams(max_tokens=40)).on(deep)
    result = run(plan, small(7), searches={"deep/sc_1": search})

    assert result.answer == "7"
    assert "deep/sc_1 failed: " in result.stopped_because


# ── seeds, traces, records ──────────────────────────────────────────────────────────────────────────────────


def test_seeded_legs_repeat_and_draw_apart_from_each_other():
    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 4), Draw(1, 2), Stop(leg=1)), legs=("small", "large"))

    def seeds(backends):
        calls = [call for backend in backends for call in backend.calls]
        return [params.seed + i for _, n, params in calls for i in range(n)]

    first, again = ((small(7), large(5)) for _ in range(2))
    run(plan, *first, seed=3)
    run(plan, *again, seed=3)

    assert seeds(first) == seeds(again)
    assert len(set(seeds(first))) == 6
    assert seeds(first)[:4] == [3, 4, 5, 6]


def test_the_recorder_logs_a_planned_run(tmp_path):
    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 4), Draw(1, 1), Stop(leg=1)), legs=("small", "large"))
    first, second = small(7, 3), large(5)
    work = planned(plan, first, second, seed=0)
    arm = work.on(first)

    async def go(recorder):
        request = Request.of("how many?")
        result = await arm.run(request, trace=recorder.trace(request, arm))
        recorder.finish(request, arm, result, quality=1.0)

    with Recorder(tmp_path / "log") as recorder:
        asyncio.run(go(recorder))
    log = Log.open(tmp_path / "log")
    samples, [run_] = log.samples(), log.runs().to_dict("records")

    assert run_["arm"] == "small/plan"
    assert samples["origin"].tolist() == ["live"] * 5
    assert samples["backend"].tolist() == ["small"] * 4 + ["large"]
    assert samples["wave"].tolist() == [0, 0, 1, 1, 2]
    assert samples["planned_n"].tolist() == [8] * 5
    assert set(samples["parent"]) == {run_["run_id"]}
    assert samples["quality"].tolist()[-1] == 1.0
    assert samples["prompt_cost"].gt(0).all()


# ── the contract of strategies ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("verified", [False, True], ids=["votes", "verifier"])
def test_a_plan_keeps_the_contract_of_every_strategy(check, verified):
    script = lambda prompt: [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)]  # noqa: E731
    backend = ScriptedBackend(script, name="small")
    plan = plan_of(in_turn(Draw(0, 2), Draw(0, 4), Draw(0, 8), Stop(leg=0)), verifier="judge" if verified else None)

    class AsStrategy:
        """On whatever backend it is given: its own leg's."""

        name = "plan"

        async def run(self, request, backend, *, budget=None, trace=None):
            work = planned(plan, backend, verifier=Judge() if verified else None, seed=3)
            return await work.run(request, backend, budget=budget, trace=trace)

    async def served():
        return backend.served.completion_tokens

    async def running():
        return backend.running

    def pause():
        backend.held = asyncio.Event()

    subject = Subject(
        strategy=AsStrategy(), backend=backend, prompts=tuple(f"{i} + {i + 1}" for i in range(8)), served=served,
        running=running, pause=pause, resume=lambda: backend.held.set(),
    )  # fmt: skip
    asyncio.run(check(subject))


# ── a router with a plan ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def router_of(trained):
    def make(plan, backends, **settings):
        predictor = Predictor.from_artifact(trained.manifest, trained.files)
        named = {b.name: b for b in backends}
        return Router(trained.manifest, predictor, plan=plan, backends=named, **settings)

    return make


ESCALATING = (Draw(0, 2), Draw(1, 1), Stop(leg=1))


def test_a_router_with_a_plan_runs_it_and_tells_its_steps(router_of, backend):
    plan = plan_of(in_turn(*ESCALATING), legs=("small", "large"))
    router = router_of(plan, [backend("small", answer="Answer: 7"), backend("large", answer="Answer: 9")])

    routed = router.run_sync("how many?")

    assert routed.answer == "9"
    assert [step.action for step in routed.steps] == ["small x2", "large x1", "stop with large"]
    assert routed.decision.arm == routed.steps[0].action
    assert routed.decision == router.decide("how many?")


def test_a_planned_stream_yields_its_answer_once(router_of, backend):
    router = router_of(plan_of(in_turn(Draw(0, 2), Stop(leg=0))), [backend("small")])

    async def go():
        stream = router.stream("how many?")
        pieces = [delta.text async for delta in stream]
        return stream, pieces, await stream.result()

    stream, pieces, routed = asyncio.run(go())

    assert pieces == [routed.text] == ["the answer is 7"]
    assert stream.decision is routed.decision
    assert [step.action for step in routed.steps] == ["small x2", "stop with small"]


def test_who_names_arms_is_served_by_an_arm(router_of, backend):
    router = router_of(plan_of(in_turn(*ESCALATING), legs=("small", "large")), [backend("small"), backend("large")])

    routed = router.run_sync("how many?", context=Context(allowed=["small/single"]))

    assert routed.decision.arm == "small/single"
    assert routed.steps == ()


def test_a_router_whose_small_backend_fails_goes_on_with_the_large_one(router_of, backend):
    plan = plan_of(lambda state: Stop(leg=1) if state.place.drawn[1] else Draw(0, 2), legs=("small", "large"))
    router = router_of(plan, [backend("small", fails=BackendError("down")), backend("large", answer="Answer: 9")])

    routed = router.run_sync("how many?")

    assert routed.answer == "9"
    assert "small failed: " in routed.result.stopped_because


def test_a_plan_whose_backend_was_not_handed_over_says_which(router_of, backend):
    router = router_of(plan_of(in_turn(*ESCALATING), legs=("small", "large")), [backend("small")])

    with pytest.raises(InputError, match="backend 'large'"):
        router.run_sync("how many?")


def test_what_cannot_be_decided_is_said_before_anything_is_opened(router_of, backend):
    class Dear(ByHand):
        def step(self, state, objective, policy, *, closed=(), blind=None, rng=None):
            raise NoFeasibleArm("all is too dear")

    plan = plan_of(in_turn(*ESCALATING), legs=("small", "large"))
    router = router_of(Dear(plan.facts, plan.arms, plan.nodes, plan.fixed_means), [backend("small")])

    with pytest.raises(NoFeasibleArm, match="too dear"):
        router.run_sync("how many?")


def test_a_router_that_explores_does_first_what_its_decision_says(router_of, backend):
    plan = plan_of(in_turn(*ESCALATING), legs=("small", "large"))
    router = router_of(plan, [backend("small"), backend("large")], policy=UtilityPolicy(epsilon=1.0), seed=1)

    routed = [router.run_sync("how many?") for _ in range(8)]

    assert all(r.decision.arm == r.steps[0].action for r in routed)
    assert len({r.decision.arm for r in routed}) > 2


def test_a_router_hands_its_plan_out_as_an_arm_that_can_be_recorded(router_of, backend, tmp_path):
    router = router_of(plan_of(in_turn(Draw(0, 2), Stop(leg=0))), [backend("small", answer="Answer: 7")])

    async def go(recorder):
        arm = await router.planned(OBJECTIVE)
        result = await arm.run("how many?", trace=recorder.trace("how many?", arm))
        recorder.finish("how many?", arm, result)
        return result

    with Recorder(tmp_path / "log") as recorder:
        result = asyncio.run(go(recorder))

    assert result.answer == "7"
    assert [step.action for step in result.steps] == ["small x2", "stop with small"]
    assert Log.open(tmp_path / "log").runs()["arm"].tolist() == ["small/plan"]
    with pytest.raises(ConfigError, match="decides by no plan"):
        asyncio.run(router_of(None, [backend("small")]).planned())


def test_a_failure_at_the_start_is_raised_where_what_is_left_breaks_a_limit():
    class Dear(ByHand):
        def step(self, state, objective, policy, *, closed=(), blind=None, rng=None):
            if closed[0]:
                raise NoFeasibleArm("all else is too dear")
            return super().step(state, objective, policy, closed=closed)

    plan = plan_of(in_turn(Draw(0, 2), Stop(leg=0)), legs=("small", "large"))
    plan = Dear(plan.facts, plan.arms, plan.nodes, plan.fixed_means)
    with pytest.raises(BackendError, match="small"):
        run(plan, small(7, fails=lambda prefix, i: True), large(5))


def test_a_planned_request_may_be_given_up(router_of, backend):
    small = backend("small")
    routed = router_of(plan_of(in_turn(GiveUp()), give_up=True), [small]).run_sync("how many?")

    assert routed.answer is None
    assert small.calls["generate"] == 0


# ── as a stop rule of one's own strategy ────────────────────────────────────────────────────────────────────


def until_two_agree(state):
    hand = state.hands[0]
    if hand is None:
        return Draw(0, 2)
    agreeing = hand.lead.mine.sum()
    return Stop(leg=0) if agreeing >= 2 else Draw(0, state.place.drawn[0] * 2)


def test_a_plan_is_a_stop_rule_for_a_strategy_of_ones_own():
    plan = plan_of(until_two_agree)
    rule = PlanRule(plan, OBJECTIVE, start=start(plan), policy=UtilityPolicy())
    vote = SelfConsistency(8, stop=rule, params=SamplingParams(max_tokens=40, seed=0))

    def drawn(*answers):
        return len(asyncio.run(vote.run(Request.of("how many?"), small(*answers))).candidates)

    assert drawn(7, 7) == 2
    assert drawn(7, 3, 7, 7) == 4
    assert drawn(1, 2, 3, 4, 5, 6, 7, 8) == 8
    assert vote.name == "sc_8_plan"


def test_as_a_stop_rule_a_plan_stays_on_its_first_leg():
    plan = plan_of(lambda state: Draw(1, 1) if state.place.drawn[0] else Draw(0, 2), legs=("small", "large"))
    rule = PlanRule(plan, OBJECTIVE, start=start(plan), policy=UtilityPolicy())
    backend = small(7)

    best = BestOfN(n=8, verifier=Judge(), stop=rule, params=SamplingParams(max_tokens=40))
    result = asyncio.run(best.run(Request.of("how many?"), backend))

    assert len(result.candidates) == 2


def test_a_stop_rule_cannot_draw_its_decisions_at_random():
    plan = plan_of(until_two_agree)
    with pytest.raises(ConfigError, match="at random"):
        PlanRule(plan, OBJECTIVE, start=start(plan), policy=UtilityPolicy(epsilon=0.1))
