"""A cascade: cheap first, dear only where the cheap answer is not good enough.

Each stage is a strategy, on a backend of its own if need be; a rule (`acceptance.py`) says whether its answer is taken
or the next stage begins. In sequence, or hedged: where the first stage takes long, the second one starts beside it,
and what is taken first stops the other.
Sources: FrugalGPT (Chen et al. 2023, 2305.05176); agreement of samples (Yue et al. 2023, 2310.03094).
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from .acceptance import Acceptance, get_acceptance
from .base import (
    Backend,
    Bindable,
    Budget,
    Request,
    Strategy,
    StrategyResult,
    Trace,
)
from .errors import BackendError, ConfigError, HowhardError, InputError, PromptTooLong, nearest
from .hedging import Hedge
from .legs import Leg, Whole, further_seed
from .naming import DEFAULT_VERIFIER
from .spec import Parts, SpecError, StrategyFields

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a cascade.

    strategy : what it runs. Seeds of stages on one backend must lie apart (CascadeSpec sees to it): with one seed they
               would draw the same samples again.
    backend  : what on; None = the backend that the cascade is bound to.
    accept   : when its answer is taken: a rule, or its words ("agreement >= 0.8"; see
               `acceptance.get_acceptance`). The last stage has none: it is taken as it comes.
    """

    strategy: Strategy
    backend: Backend | None = None
    accept: Acceptance | str | None = None

    def rule(self) -> Acceptance | None:
        """The rule itself. Raises ConfigError for words that name none."""
        return get_acceptance(self.accept) if isinstance(self.accept, str) else self.accept

    @property
    def name(self) -> str:
        """For instance "sc_5", "best_of_8_on_large"."""
        return self.strategy.name if self.backend is None else f"{self.strategy.name}_on_{self.backend.name}"


class Cascade(Bindable):
    """Run stages until the answer of one is accepted.

    stages : two or more, the cheapest first. All but the last need a rule.
    hedge  : seconds, or a Hedge; None = a stage begins when the one before has ended.

    The answer is that of the stage whose rule accepted it, else the last stage's as it comes. A stage whose backend
    fails, or whose context does not hold the prompt, falls to the next, and so does one without a complete answer;
    where the last has none, or the budget does not reach it, the latest earlier answer is returned. What a verifier
    or a setting does wrong is raised.

    Each stage gets what is left of the budget. Two runs at once could not both keep a budget of tokens or money, so
    under one the stages run in sequence, hedge or not. Stopping a stage returns its samples as far as they came: they
    are among the candidates, and what they took is billed. Candidates of all stages stand in the order in which the
    stages were launched. Holds settings, and the times of its Hedge, only: one instance may serve any number of
    requests at once.
    """

    def __init__(self, stages: Sequence[Stage], *, hedge: Hedge | float | None = None) -> None:
        if len(stages) < 2:
            raise ConfigError(f"stages: {len(stages)} given; a cascade has two or more, a single one runs by itself")
        self.stages = tuple(stages)
        self.rules = tuple(stage.rule() for stage in stages)
        for place, (stage, rule) in enumerate(zip(self.stages, self.rules, strict=True)):
            last = place == len(stages) - 1
            if last and rule is not None:
                raise ConfigError(f"stages[{place}].accept={rule.name!r}: the last stage is taken as it comes, drop it")
            if not last and rule is None:
                raise ConfigError(
                    f"stages[{place}].accept is missing: without a rule such as 'agreement >= 0.8' no later stage "
                    "would ever run"
                )
            if rule is not None:
                try:
                    rule.check(stage.strategy)
                except ConfigError as exc:
                    raise ConfigError(f"stages[{place}]: {exc}") from exc
        self.hedge = Hedge(hedge) if isinstance(hedge, (int, float)) else hedge

    def __repr__(self) -> str:
        return f"Cascade({list(self.stages)!r}, hedge={self.hedge!r})"

    @property
    def name(self) -> str:
        """For instance "sc_5_if_agreement_0.8_else_best_of_8_on_large"."""
        steps = [
            stage.name if rule is None else f"{stage.name}_if_{rule.name}"
            for stage, rule in zip(self.stages, self.rules, strict=True)
        ]
        return "_".join(["_else_".join(steps), *([self.hedge.name] if self.hedge is not None else [])])

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Run the stages.

        Their events go through to the trace, with a field `stage` (0 the first); nodes of their searches are numbered
        anew, so that none shares its number with another stage's.
        Raises what the first failed stage did where none has anything to return, InputError where the budget does
        not hold one token of the first stage, VerifierError and ConfigError as they come.
        """
        return await _Cascading(self, request, backend, budget, trace).go()


class _Stage(Leg):
    """A stage under way."""

    def __init__(self, of: "_Cascading") -> None:
        self.stage = of.settings.stages[len(of.whole.legs)]
        self.error: HowhardError | None = None
        super().__init__(of.whole, self.stage.strategy, self.stage.backend or of.run.backend)

    @property
    def title(self) -> str:
        """For people."""
        return f"stage {self.place + 1} ({self.stage.name})"


class _Cascading:
    """One request going through the stages."""

    def __init__(
        self, settings: Cascade, request: Request, backend: Backend, budget: Budget | None, trace: Trace | None
    ) -> None:
        self.settings = settings
        self.stages: list[_Stage] = []
        self.running: dict[asyncio.Task[StrategyResult], _Stage] = {}
        self.words: list[str] = []
        self.hedged = False  # or never to be
        self.whole = Whole(request, backend, budget, trace)
        self.run = self.whole.run
        self.run.when_stopped(self._stop_all)

    async def go(self) -> StrategyResult:
        try:
            winner = await self._race()
            await self._end_losers(winner)
        except BaseException:
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)
            raise
        winner = winner or self._latest()
        if winner is None:
            raise next(leg.error for leg in self.stages if leg.error is not None)
        return self._result(winner)

    # ── the race ────────────────────────────────────────────────────────────────────────────────────────────

    async def _race(self) -> _Stage | None:
        """Run the stages until one is taken; None where none is."""
        b = self.run.meter.budget
        if self.settings.hedge is not None and not (b.tokens is None and b.cost is None):
            self.words.append(f"not hedged, as two runs at once could not both keep {self.run.budget_words}")
            self.hedged = True
        self._start()
        while self.running:
            ended, _ = await asyncio.wait(
                self.running, timeout=self._until_hedge(), return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                self.hedged = True
                if self._start():
                    self.words.append(
                        f"{self.stages[-1].title} was started beside it after {self.stages[0].seconds:.3g} s"
                    )
            for leg in sorted((self.running[task] for task in ended), key=lambda leg: leg.place):
                if await self._taken(leg):
                    return leg
            if not self.running and not self.run.out_of_time:
                self._start()
        return None

    def _start(self) -> bool:
        """Start the next stage, if there is one and the budget has something left for it."""
        place = len(self.stages)
        if place == len(self.settings.stages):
            return False
        left = self.run.meter.left()
        if left is None:
            self.words.append(f"{self.run.budget_words} was spent before stage {place + 1}")
            return False
        leg = _Stage(self)
        self.stages.append(leg)
        self.running[leg.start(left)] = leg
        return True

    def _until_hedge(self) -> float | None:
        """Seconds until the second stage starts beside the first; None = it doesn't."""
        hedge = self.settings.hedge
        if hedge is None or self.hedged or len(self.stages) != 1:
            return None
        seconds = hedge.seconds()
        return None if seconds is None else max(0.0, seconds - self.run.meter.seconds)

    async def _taken(self, leg: _Stage) -> bool:
        """Book a stage that has ended, and say whether its answer is taken."""
        result = self._settle(leg)
        if result is None:
            return False
        rule = self.settings.rules[leg.place]
        if leg.chosen is None or result.answer is None:
            self.words.append(f"{leg.title} has no complete answer: {result.stopped_because}")
            return False
        if rule is None:
            self.words.append(f"{leg.title} is the last: {result.stopped_because}")
            return True
        weighed = await rule.weigh(self.run, result, leg.chosen, leg.backend.name)
        leg.learn(weighed.candidate)
        self.words.append(f"{leg.title} was {'' if weighed.yes else 'not '}accepted: {weighed.words}")
        return weighed.yes

    def _settle(self, leg: _Stage) -> StrategyResult | None:
        """Book a stage that has ended, and remember its result or its error."""
        task = next(task for task, running in self.running.items() if running is leg)
        del self.running[task]
        if leg.place == 0 and self.settings.hedge is not None:
            self.settings.hedge.saw(leg.seconds)
        if task.cancelled():  # called off before it had begun
            return None
        try:
            leg.result = task.result()
        except (BackendError, PromptTooLong) as exc:
            leg.error = exc
            self.words.append(f"{leg.title} failed: {exc}")
        except ConfigError:
            raise
        except InputError as exc:  # the budget does not hold a token of it
            if leg.place == 0:
                raise
            leg.error = exc
            self.words.append(f"{self.run.budget_words} does not hold {leg.title}")
        finally:
            self.run.meter.book(leg.usage)
        return leg.result

    async def _end_losers(self, winner: _Stage | None) -> None:
        """Stop what still runs, and bill it."""
        losers = list(self.running.items())
        self._stop_all()
        for task, leg in losers:
            await asyncio.wait([task])
            seconds = leg.seconds
            try:
                self._settle(leg)
            except HowhardError as exc:
                logger.info("%s raised while it was stopped: %s", leg.title, exc)
            self.words.append(f"{leg.title} was stopped after {seconds:.3g} s")

    def _stop_all(self) -> None:
        for task, leg in self.running.items():
            leg.stop(task)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def _latest(self) -> _Stage | None:
        """The latest stage that has an answer, else the latest that has anything."""
        some = [leg for leg in reversed(self.stages) if leg.result is not None]
        return next(
            (leg for leg in some if leg.result is not None and leg.result.answer is not None), next(iter(some), None)
        )

    def _result(self, winner: _Stage) -> StrategyResult:
        tree = None if winner.result is None else winner.result.tree
        return self.whole.result(winner.chosen, "; ".join(self.words), tree=tree)


# ── as data ─────────────────────────────────────────────────────────────────────────────────────────────────


class StageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stage.

    strategy : any strategy's spec, {"kind": "best_of_n", ...}; sampling settings and a
               verifier that it does not name are the cascade's.
    backend  : the name of a backend; None = the one that the cascade runs on.
    accept   : a rule in words: "agreement >= 0.8", "score of best >= 0.7", ...; None for the last stage.
    """

    strategy: Any
    backend: str | None = None
    accept: str | None = None


def _default_stages() -> tuple[StageSpec, ...]:
    return (
        StageSpec(strategy={"kind": "self_consistency", "n": 5}, accept="agreement >= 0.8"),
        StageSpec(strategy={"kind": "best_of_n"}),
    )


class CascadeSpec(StrategyFields, frozen=True, kw_only=True, tag="cascade"):
    """Stages; by default five votes, and where fewer than four agree best-of-N.

    verifier : of the stages' strategies that want one and name none.
    hedge_after_s, hedge_quantile, hedge_warmup, hedge_window : see Hedge; the first two None = in sequence.
    """

    stages: tuple[StageSpec, ...] = msgspec.field(default_factory=_default_stages)
    verifier: str = DEFAULT_VERIFIER
    hedge_after_s: float | None = None
    hedge_quantile: float | None = None
    hedge_warmup: int = 20
    hedge_window: int = 500

    def __post_init__(self) -> None:
        """Read each stage's strategy, of any kind that the catalogue knows by now."""
        read = (msgspec.structs.replace(s, strategy=self._strategy(i, s)) for i, s in enumerate(self.stages))
        msgspec.structs.force_setattr(self, "stages", tuple(read))
        super().__post_init__()

    def _strategy(self, place: int, stage: StageSpec) -> StrategyFields:
        from .catalogue import STRATEGIES  # which imports this module

        where, given = f"stages[{place}].strategy", stage.strategy
        if isinstance(given, StrategyFields):
            return given
        if not isinstance(given, Mapping) or "kind" not in given:
            raise SpecError(f"{where}={given!r}: give a table with a 'kind'")
        kinds = {str(kind.__struct_config__.tag): kind for kind in STRATEGIES}
        kind = kinds.get(str(given["kind"]))
        if kind is None:
            raise SpecError(f"{where}.kind={given['kind']!r}: no strategy has it{nearest(str(given['kind']), kinds)}")
        for name in given:
            if name != "kind" and name not in kind.__struct_fields__:
                raise SpecError(f"{where}: {given['kind']!r} has no {name!r}{nearest(name, kind.__struct_fields__)}")
        names = {*StrategyFields.__struct_fields__, "verifier"} & {*kind.__struct_fields__}
        shared = {name: getattr(self, name) for name in names}
        try:
            return msgspec.convert({**shared, **given}, kind)
        except msgspec.ValidationError as exc:
            raise SpecError(f"{where}: {exc}") from exc

    def build(self, parts: Parts) -> Cascade:
        """See StrategyFields."""
        hedge = None
        if self.hedge_after_s is not None or self.hedge_quantile is not None:
            learning = {"warmup": self.hedge_warmup, "window": self.hedge_window}
            hedge = Hedge(self.hedge_after_s, quantile=self.hedge_quantile, **learning)
        return Cascade([self._stage(i, s, parts) for i, s in enumerate(self.stages)], hedge=hedge)

    def _stage(self, place: int, stage: StageSpec, parts: Parts) -> Stage:
        asked_by = f"stages[{place}]"
        first = place == 0 and not isinstance(stage.strategy, CascadeSpec)
        own = parts if first or parts.seed is None else dataclasses.replace(parts, seed=further_seed(parts.seed, place))
        try:
            strategy = stage.strategy.build(own)
            rule = stage.accept and get_acceptance(stage.accept, verifier=lambda n: own.verifier(n, asked_by=asked_by))
        except ConfigError as exc:
            raise ConfigError(f"{asked_by}: {exc}") from exc
        backend = None if stage.backend is None else parts.backend(stage.backend, asked_by=asked_by)
        return Stage(strategy, backend, rule)
