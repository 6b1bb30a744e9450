"""Run a plan live: a request goes from place to place, through the ordinary strategies, until the plan ends it.

A leg of a plan is a run of BestOfN, or of SelfConsistency where the menu has no verifier, whose stop rule asks the plan
after every wave: draw more, or leave the leg for a later one, a search, or an end. All that decides is `Flight`: it
takes the samples as they come and is at every place the State that a replay on a log would be at, so that both take
the same steps. Time enters by the seconds that the samples' tokens foretell; the wall clock only cuts a run short.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from ..strategies.answers import canonical
from ..strategies.base import (
    Arm,
    Backend,
    Bindable,
    Budget,
    Candidate,
    Request,
    SamplingParams,
    Strategy,
    StrategyResult,
    Trace,
    Verifier,
)
from ..strategies.best_of_n import BestOfN
from ..strategies.confidence import LIKELIEST, WINDOW, groups
from ..strategies.errors import BackendError, ConfigError, InputError, NoFeasibleArm, PromptTooLong
from ..strategies.legs import Leg, Whole, further_seed
from ..strategies.running import best_of, demand_absolute, gives_confidence, gives_logprobs
from ..strategies.self_consistency import SelfConsistency
from ..strategies.stopping import Seen, StopRule
from .decision import Reason
from .flight import Draws, seconds_of_wave
from .objective import Objective
from .plan import Hand, Plan, State
from .plan_facts import Action, Draw, GiveUp, Search, Stop, after, start_of, words_of
from .plan_told import Step, told
from .policy import Policy

Start = Callable[[Request], State]
"""The state of a request of which nothing is drawn yet: `lambda r: plan.start(router.estimate([r.messages]))`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult(StrategyResult):
    """What a planned run came to, and every decision on the way, in order."""

    steps: tuple[Step, ...] = ()


# ── where a request stands ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Deciding:
    """What decides for one request: a plan at an objective.

    policy : see Plan.step.   rng : of a policy that draws.
    """

    plan: Plan
    objective: Objective
    policy: Policy | None
    rng: np.random.Generator | None = None


class Flight:
    """One request under way: what it has shown so far, and what the plan makes of it. One per request, never shared.

    place : where it stands.   samples : of each leg, all that were drawn, in launch order, those that failed too.
    steps : the decisions so far.   notes : sentences that the result must tell.
    closed : of each leg, and behind them each search, whether it may not be used any more.
    """

    def __init__(self, by: Deciding, start: State) -> None:
        menu = by.plan.facts.menu
        self.by, self.place = by, start.place
        self.samples: list[tuple[Candidate, ...]] = [()] * len(menu.legs)
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.closed = [False] * (len(menu.legs) + len(menu.searches))
        self._start = start
        self._hands: list[Hand | None] = [None] * len(menu.legs)
        self._found: int | None = None
        self._spent, self._elapsed = float(start.spent[0]), float(start.elapsed[0])
        self._labels: dict[str, int] = {}

    @property
    def state(self) -> State:
        """As the plan reads it."""
        return dataclasses.replace(
            self._start,
            place=self.place,
            hands=tuple(self._hands),
            found=None if self._found is None else np.array([self._found]),
            spent=np.array([self._spent]),
            elapsed=np.array([self._elapsed]),
        )

    def next(self) -> Action:
        """Decide. Raises as Plan.step."""
        return self._decide(self.closed, self.by.policy)

    def drew(self, action: Draw, samples: Sequence[Candidate], *, spent: float) -> bool:
        """Take in a wave; False where nothing of it is of any use, and the request stands where it stood.

        samples : all of the leg's so far. Those that failed were no part of what the plan was learned from, so it does
                  not see them: it is at the place that was asked for, with fewer samples than that.
        spent   : by the whole request.
        """
        facts, leg = self.by.plan.facts, action.leg
        fresh = [c for c in samples[len(self.samples[leg]) :] if _useful(c)]
        self.samples[leg], self._spent = tuple(samples), spent
        if not fresh:
            return False
        tokens = np.array([[float(c.generation.completion_tokens) for c in fresh]])
        self._elapsed += float(seconds_of_wave(facts.seconds[leg], tokens)[0])
        self._hands[leg] = Hand.of(self._draws([c for c in samples if _useful(c)]))
        self.place = after(self.place, action)
        return True

    def searched(self, action: Search, answer: str | None, *, spent: float) -> None:
        """Take in what a search came to."""
        seconds = self.by.plan.facts.search_seconds[action.search]
        self._spent, self._elapsed = spent, self._elapsed + (np.nan if seconds is None else seconds)
        self._found = self._label(answer)
        self.place = after(self.place, action)

    def cut(self) -> Stop | None:
        """End now: with the answer in hand that the plan thinks best, one that is an answer before one that is none.

        None where nothing was drawn.
        """
        if self.place == start_of(self.by.plan.facts.menu):
            return None
        action = self._decide([True] * len(self.closed), self.by.plan.policy())  # exploration is over
        assert isinstance(action, Stop)
        if not self._answers(action):
            others = [Stop(leg=i) for i, hand in enumerate(self._hands) if hand is not None]
            others += [Stop(search=self.place.search)] if self._found is not None else []
            action = next((other for other in others if self._answers(other)), action)
        words = words_of(self.by.plan.facts.menu, action)
        self.steps[-1] = msgspec.structs.replace(self.steps[-1], action=words, reason=Reason.LIMITS_REACHED)
        return action

    def lead(self, leg: int) -> int:
        """Which of a leg's samples is its answer in hand."""
        hand = self._hands[leg]
        assert hand is not None
        useful = [i for i, c in enumerate(self.samples[leg]) if _useful(c)]
        return useful[int(hand.lead.index[0])]

    def _decide(self, closed: Sequence[bool], policy: Policy | None) -> Action:
        by, state = self.by, self.state
        steps = by.plan.step(state, by.objective, policy, closed=tuple(closed), rng=by.rng)
        self.steps.append(told(by.plan.facts.menu, state, steps, by.objective))
        return steps.actions[int(steps.index[0])]

    def _answers(self, end: Stop) -> bool:
        hand = self._hands[end.leg] if end.leg >= 0 else None
        return self._found != -1 if hand is None else bool(hand.lead.label[0] >= 0)

    def _draws(self, samples: Sequence[Candidate]) -> Draws:
        """As the log would hold them: a signal that the plan does not read is not there."""
        facts = self.by.plan.facts
        draws = Draws.of(samples, [self._label(c.answer) for c in samples], [_confidence(c) for c in samples])
        score = np.full_like(draws.score, np.nan) if facts.menu.verifier is None else draws.score
        signals = {"logprobs": draws.logprob, "confidence": draws.confidence}
        for name, values in signals.items():
            if name not in facts.needs:
                values[:] = np.nan
            elif not np.isfinite(values).all():
                values[~np.isfinite(values)] = np.nan
                self._note(f"samples came without {name}, which the plan decides by: it decided without them")
        return dataclasses.replace(draws, score=score, logprob=signals["logprobs"], confidence=signals["confidence"])

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _label(self, answer: str | None) -> int:
        """Equal numbers for answers of one canonical form, whoever gave them; -1 = none."""
        return -1 if answer is None else self._labels.setdefault(canonical(answer), len(self._labels))


def _useful(candidate: Candidate) -> bool:
    return candidate.generation.finish_reason != "error"


def _confidence(candidate: Candidate) -> float | None:
    """As the samples log has it: of the least confident group of tokens."""
    confidences = candidate.generation.confidences
    return min(groups(confidences, WINDOW)) if confidences else None


# ── a plan as a stop rule ───────────────────────────────────────────────────────────────────────────────────


class PlanRule:
    """A plan as a stop rule for a strategy of one's own: it draws from the plan's first leg, and stops it.

        rule = PlanRule(plan, objective, start=lambda r: plan.start(router.estimate([r.messages])))
        result = await SelfConsistency(32, stop=rule).run(request, small)

    Nothing else of the menu is open to it: no later backend, no search, no giving up after the first sample. A plan
    that reads a verifier's scores needs BestOfN with that verifier, one that reads log-probabilities or confidences
    needs params that ask for them. The strategy chooses the answer, in its own way.

    start  : see Start.   policy : see Plan.step; the plan's own where not given.
    Holds settings only: it goes the plan's way again over the samples so far whenever it is asked.
    """

    name = "plan"

    def __init__(self, plan: Plan, objective: Objective, *, start: Start, policy: Policy | None = None) -> None:
        if policy is not None and policy.random:
            raise ConfigError(
                f"policy={policy.label!r} draws at random; a stop rule must say the same when asked again"
            )
        self.plan, self.objective, self.start = plan, objective, start
        self.policy = policy if policy is not None else plan.policy()

    def __repr__(self) -> str:
        return f"<stop rule {self.name}>"

    def more(self, seen: Seen) -> int:
        """See StopRule. Cost so far is shared out over the samples by their tokens where a limit asks for it."""
        flight = Flight(Deciding(self.plan, self.objective, self.policy), self.start(seen.request))
        flight.closed[1:] = [True] * (len(flight.closed) - 1)
        drawn = len(seen.candidates)
        every = sum(c.generation.completion_tokens for c in seen.candidates)
        while isinstance(action := flight.next(), Draw):
            if action.total > drawn:
                return max(0, min(action.total, seen.planned) - drawn)
            samples = seen.candidates[: action.total]
            share = sum(c.generation.completion_tokens for c in samples) / max(every, 1)
            if not flight.drew(action, samples, spent=seen.usage.cost * share):
                break
        return 0


class _LegRule:
    """Stops one leg of a planned run where the plan leaves it.

    asked : the stage that is being drawn.   then : what the plan does when it leaves the leg; None = not known yet.
    """

    name = "plan"

    def __init__(self, flight: Flight, action: Draw, *, spent: float) -> None:
        self.asked = action
        self.then: Action | None = None
        self._flight, self._spent = flight, spent
        self._before = flight.samples[action.leg]

    def more(self, seen: Seen) -> int:
        """See StopRule."""
        samples = (*self._before, *seen.candidates)
        if len(samples) == self.asked.total:
            if not self._flight.drew(self.asked, samples, spent=self._spent + seen.usage.cost):
                return 0
            action = self._flight.next()
            if not isinstance(action, Draw) or action.leg != self.asked.leg:
                self.then = action
                return 0
            self.asked = action
        return self.asked.total - len(samples)


# ── a plan as a strategy ────────────────────────────────────────────────────────────────────────────────────


class Planned(Bindable):
    """A plan that is run: draws, searches and ends as the plan says, and answers with what the plan ends with.

    objective : what is wanted.   start : see Start.   policy : see Plan.step.
    backends  : of the plan's legs, by name; the first may be left to `run`.   verifier : of the menu, where it has one.
    searches  : arms of the menu's searches, by name.
    seed      : of the samples of the legs; None = not reproducible. Searches bring their own, apart from it.
    closed    : of each leg, and behind them each search, whether it may not be used; () = all may.
    rng       : of a policy that draws.

    A budget in seconds, or the objective's deadline, that passes cancels the samples in flight; so does a budget that
    does not hold the next sample end the run: the best answer in hand is returned, and `stopped_because` says so. A
    backend that fails, or cannot take the prompt, is out for the rest of the request: the plan goes on with what it
    has. Holds settings only: one instance may serve any number of requests at once.

    Raises ConfigError where a backend, the verifier or a search is missing, or a backend does not give what the plan
    decides by.
    """

    name = "plan"

    def __init__(
        self,
        plan: Plan,
        *,
        objective: Objective,
        start: Start,
        policy: Policy | None,
        backends: Mapping[str, Backend],
        verifier: Verifier | None = None,
        searches: Mapping[str, Arm] | None = None,
        seed: int | None = None,
        closed: Sequence[bool] = (),
        rng: np.random.Generator | None = None,
    ) -> None:
        self.plan, self.objective, self.start, self.policy = plan, objective, start, policy
        self.verifier, self.seed, self.closed, self.rng = verifier, seed, tuple(closed), rng
        menu, arms = plan.facts.menu, searches or {}
        for what, needed, given in (
            ("backends", [leg.backend for leg in menu.legs], backends),
            ("searches", menu.searches, arms),
        ):
            missing = [name for name in needed if name not in given]
            if missing:
                raise ConfigError(f"{what}: {missing[0]!r} of the plan's menu is missing: hand it over")
        self.backends = tuple(backends[leg.backend] for leg in menu.legs)
        self.searches = tuple(arms[name] for name in menu.searches)
        if (menu.verifier is None) != (verifier is None):
            wanted = "votes alone: hand over none" if menu.verifier is None else f"{menu.verifier!r}: hand it over"
            raise ConfigError(f"verifier={None if verifier is None else verifier.name!r}: the plan decides by {wanted}")
        if verifier is not None:
            demand_absolute(verifier, "a plan has each wave judged alone", "one that scores each text by itself")
        for backend in self.backends:
            for signal, gives in (("logprobs", gives_logprobs), ("confidence", gives_confidence)):
                if signal in plan.facts.needs and not gives(backend):
                    raise ConfigError(
                        f"backends: {backend.name!r} gives no {signal}, which the plan decides by: serve it with them, "
                        "or take a plan that needs none"
                    )

    def __repr__(self) -> str:
        return f"Planned({self.plan.facts.menu!r}, objective={self.objective!r})"

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> PlanResult:
        """Answer a request; `backend` is that of the first leg.

        Events of the legs' and searches' runs go through to the trace, with a field `stage` (0 the first).
        Raises what the first failed backend did where none has anything to return, InputError where the budget does not
        hold one token of the first leg, NoFeasibleArm where nothing keeps the objective's limits, VerifierError and
        ConfigError as they come.
        """
        return await _Running(self, request, backend, budget, trace).go()

    def strategy(self, leg: int, rule: StopRule, drawn: int) -> Strategy:
        """The strategy that draws from a leg of which some samples were drawn already."""
        facts = self.plan.facts
        menu = facts.menu.legs[leg]
        seed = None if self.seed is None else (further_seed(self.seed, leg) if leg else self.seed) + drawn
        params = SamplingParams(
            temperature=menu.temperature,
            top_p=menu.top_p,
            max_tokens=menu.max_tokens,
            seed=seed,
            logprobs="logprobs" in facts.needs,
            confidence_of=LIKELIEST if "confidence" in facts.needs else 0,
        )
        most = menu.stages[-1] - drawn
        if self.verifier is None:
            return SelfConsistency(most, stop=rule, params=params)
        return BestOfN(n=most, verifier=self.verifier, stop=rule, params=params)


class _Running:
    """One request on its way."""

    def __init__(
        self, settings: Planned, request: Request, backend: Backend, budget: Budget | None, trace: Trace | None
    ) -> None:
        self.settings, self.menu = settings, settings.plan.facts.menu
        self.backends = (backend, *settings.backends[1:])
        by = Deciding(settings.plan, settings.objective, settings.policy, settings.rng)
        self.whole = Whole(request, backend, _within(budget, settings.objective), trace)
        self.run = self.whole.run
        self.flight = Flight(by, settings.start(request))
        self.flight.closed[: len(settings.closed)] = settings.closed
        self.of_leg: list[list[Leg]] = [[] for _ in self.menu.legs]
        self.of_search: Leg | None = None
        self.words: list[str] = []
        self.first_error: BackendError | PromptTooLong | None = None

    async def go(self) -> PlanResult:
        action: Action | None = self.flight.next()
        while isinstance(action, Draw | Search):
            left = self.run.meter.left()
            if left is None and self.whole.legs:
                action = self._cut(f"{self.run.budget_words} was spent")
            elif isinstance(action, Draw):
                action = await self._draw(action, left)
            else:
                action = await self._search(action, left)
        return self._result(action)

    # ── what a plan does ────────────────────────────────────────────────────────────────────────────────────

    async def _draw(self, action: Draw, left: Budget | None) -> Action | None:
        """Run a leg until the plan leaves it, and say what it does then."""
        flight, place = self.flight, action.leg
        before = flight.samples[place]
        rule = _LegRule(flight, action, spent=self.run.meter.usage.cost)
        leg = Leg(self.whole, self.settings.strategy(place, rule, len(before)), self.backends[place])
        self.of_leg[place].append(leg)
        ended = await self._ended(leg, self.menu.legs[place].backend, left)
        if rule.then is not None:
            return rule.then
        samples = [*before, *(sample["candidate"] for sample in leg.samples)]
        useful = flight.drew(rule.asked, samples, spent=self.run.meter.usage.cost)
        if ended is None or leg.out_of_time:
            return self._cut(f"{self.run.budget_words} was over")
        if not useful:
            return self._without(leg)
        if len(samples) < rule.asked.total:
            return self._cut(f"{self.run.budget_words} does not hold more of {leg.backend.name}")
        return flight.next()

    async def _search(self, action: Search, left: Budget | None) -> Action | None:
        arm = self.settings.searches[action.search]
        leg = self.of_search = Leg(self.whole, arm.strategy, arm.backend)
        ended = await self._ended(leg, self.menu.searches[action.search], left)
        if ended is False:
            return self._without(leg)
        if leg.result is not None:
            self.flight.searched(action, leg.result.answer, spent=self.run.meter.usage.cost)
        if ended is None or leg.out_of_time:
            return self._cut(f"{self.run.budget_words} was over")
        return self.flight.next()

    async def _ended(self, leg: Leg, title: str, left: Budget | None) -> bool | None:
        """Wait for a run and book it: whether it has a result, and None where the budget held nothing of it."""
        task = leg.start(left or self.run.meter.budget)
        forget = self.run.when_stopped(lambda: leg.stop(task))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            forget()
            self.run.meter.book(leg.usage)
        if task.cancelled():  # stopped before it had begun
            return None
        try:
            leg.result = task.result()
        except (BackendError, PromptTooLong) as exc:
            self.words.append(f"{title} failed: {exc}")
            if self.first_error is None:
                self.first_error = exc
            else:
                self.first_error.add_note(f"then {title} failed too: {exc}")
            return False
        except ConfigError:
            raise
        except InputError:  # the budget does not hold a token of it
            if len(self.whole.legs) == 1:
                raise
            return None
        self.words.append(f"{title}: {leg.result.stopped_because}")
        return True

    def _without(self, failed: Leg) -> Action | None:
        """Go on without a backend."""
        backends = (*self.backends, *(arm.backend for arm in self.settings.searches))
        closed = self.flight.closed
        closed[:] = [
            c or b is failed.backend or b.name == failed.backend.name for c, b in zip(closed, backends, strict=True)
        ]
        if self.flight.place == start_of(self.menu) and all(closed):
            return None
        try:
            return self.flight.next()
        except NoFeasibleArm:  # nothing is drawn yet, and what is left breaks a limit
            return None

    def _cut(self, why: str) -> Stop | None:
        self.words.append(why)
        return self.flight.cut()

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def _result(self, action: Action | None) -> PlanResult:
        tree = None
        if isinstance(action, Stop) and action.leg >= 0:
            samples = [sample for leg in self.of_leg[action.leg] for sample in leg.samples]
            best = samples[self.flight.lead(action.leg)]["candidate"]
        elif isinstance(action, Stop):
            assert self.of_search is not None
            best = self.of_search.chosen
            tree = None if self.of_search.result is None else self.of_search.result.tree
        else:
            best = best_of([sample["candidate"] for leg in self.whole.legs for sample in leg.samples])
        if best is None and self.first_error is not None:
            raise self.first_error
        last = self.flight.steps[-1]
        if isinstance(action, GiveUp):
            self.words.append(f"given up: {last.sentence}")
        elif action is not None:
            self.words.append(f"{words_of(self.menu, action)}: {last.sentence}")
        told = "; ".join([*self.words, *self.flight.notes])
        result = self.whole.result(best, told, tree=tree)
        own = {f.name: getattr(result, f.name) for f in dataclasses.fields(StrategyResult)}
        return PlanResult(**own, steps=tuple(self.flight.steps))


def _within(budget: Budget | None, objective: Objective) -> Budget | None:
    """A run's budget, which ends at the objective's deadline."""
    if objective.deadline is None:
        return budget
    if objective.deadline == 0:
        raise NoFeasibleArm("deadline=0: nothing is drawn in no time: give one above 0, or None for no limit")
    own = budget or Budget()
    seconds = objective.deadline if own.seconds is None else min(own.seconds, objective.deadline)
    return dataclasses.replace(own, seconds=seconds)
