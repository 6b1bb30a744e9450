"""The front door: load a router, ask it for a decision, or have it answer.

    router = Router.load("models/router-quickstart")
    decision = router.decide("Use 3, 5 and 7 to make 36.")          # no I/O, well under a millisecond
    routed = await router.run("Use 3, 5 and 7 to make 36.")         # decides, runs the arm, hands back both

Estimates come from predictor.py, the choice from policy.py, the answer from howhard.strategies; this file
joins them, and knows what to do when a backend fails.
"""

import asyncio
import contextlib
import functools
import itertools
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..strategies import (
    ArmSpec,
    BackendSpec,
    BestOfNSpec,
    LocalSpec,
    PricesSpec,
    TreeSearchSpec,
    build_strategy,
    open_backend,
)
from ..strategies.base import (
    Arm,
    Backend,
    Budget,
    Delta,
    Prefix,
    Prompt,
    Request,
    StrategyResult,
    Streams,
    Trace,
    Verifier,
)
from ..strategies.errors import (
    ArtifactError,
    BackendError,
    ConfigError,
    InputError,
    NoFeasibleArm,
    PromptTooLong,
    nearest,
)
from ..strategies.specs import OpenedVerifiers
from .artifact import Manifest
from .decision import ArmEstimate, Context, Decision, Reason
from .estimates import Estimates, Floats
from .objective import Objective
from .plan import Plan
from .plan_choice import check_prices, usable_plan
from .plan_facts import Menu
from .plan_run import Planned
from .plan_told import Step, estimates_of
from .policy import Choices, Mask, Policy, ThresholdPolicy, UtilityPolicy
from .predictor import Predictor
from .sources import read_source

T = TypeVar("T")
_TEMPLATE_TOKENS = 64  # most that a chat template is taken to add to the prompt


class FingerprintWarning(UserWarning):
    """A backend is not the one that the router was trained on, so its estimates may be off."""


class ObjectiveWarning(UserWarning):
    """A value of a correct answer that the router's decisions were not checked at when it was trained."""


@dataclass(frozen=True, slots=True)
class RoutedResult:
    """An answer, and the decision that led to it (the last one, where a backend failed).

    steps : of a plan: every decision on the way, the first one included; () where an arm was chosen.
    """

    decision: Decision
    result: StrategyResult
    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.result.text

    @property
    def answer(self) -> str | None:
        """The final answer that was read out of the text, None where there is none."""
        return self.result.answer


class Router:
    """Decides which arm serves a prompt, and runs it.

    Made by `Router.load`. `decide` may be called from many threads at once; `run` and `stream` belong to an
    event loop. As an async context manager it closes the backends that it opened itself; those handed over
    are the caller's to close.

    manifest  : what the router is: arms, version, training facts.
    source    : where it was loaded from, a registry alias resolved to its version.
    policy, objective : what decides, and what is wanted where the caller says nothing.
    plan      : what decides in flight, with its own guard in the policy's place; None = the arm that a prompt alone
                decides on serves it. Not used where the policy is another than UtilityPolicy.
    """

    def __init__(
        self,
        manifest: Manifest,
        predictor: Predictor,
        *,
        source: str = "",
        backends: Mapping[str, Backend | BackendSpec] | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        policy: Policy | str | None = None,
        objective: Objective | None = None,
        fingerprint: Literal["warn", "error"] = "warn",
        seed: int | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.manifest = manifest
        self.predictor = predictor
        self.plan = plan
        self.source = source
        self.policy: Policy = _named(manifest.policy if policy is None else policy, manifest)
        self.objective = manifest.objective if objective is None else objective
        self._rng = np.random.default_rng(seed)
        self._drawing = threading.Lock()
        self._served = _Served(manifest, dict(backends or {}), dict(verifiers or {}), fingerprint)
        self._loop: _Loop | None = None
        self._checked_values = manifest.training.values
        self._warned_of_value = False

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        backends: Mapping[str, Backend | BackendSpec] | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        policy: Policy | str | None = None,
        objective: Objective | None = None,
        fingerprint: Literal["warn", "error"] = "warn",
        seed: int | None = None,
        plan: bool = True,
        tracking_uri: str | None = None,
    ) -> "Router":
        """Load a router.

        source       : a directory, a shipped router ("models/router-quickstart"), or
                       "models:/howhard-router@champion".
        backends     : name -> backend, or the spec of one, for every served backend that is to run; local
                       ones are opened from the manifest. Not needed to decide.
        verifiers    : name -> verifier, in place of those of the manifest.
        policy, objective : in place of the manifest's. A policy may be named: "utility", or "threshold", which
                       takes the reference arm below difficulty 0.3, best-of-4 of its backend below 0.7, and tree
                       search above (ThresholdPolicy for other thresholds and arms).
        fingerprint  : what a backend with other weights or prices than in training does, when it is first
                       used: "warn" (FingerprintWarning) or "error" (ArtifactError).
        seed         : of exploration; None = not reproducible.
        plan         : whether to decide in flight, where the router has a plan. Of several the first is used whose
                       signals the backends give (log-probabilities, confidences) and whose verifier can be asked;
                       PlanWarning says why where that isn't the first.
        tracking_uri : MLflow's, for "models:" addresses; None = MLflow's own setting.

        Raises ArtifactError for a directory that is missing, damaged or of another schema; InputError for a
        backend or verifier that the router does not know.
        """
        manifest, files, origin = read_source(source, tracking_uri=tracking_uri)
        chosen = None
        if plan and isinstance(_named(manifest.policy if policy is None else policy, manifest), UtilityPolicy):
            chosen = usable_plan(manifest, files, backends or {}, verifiers or {}, stacklevel=2)
        router = cls(
            manifest,
            Predictor.from_artifact(manifest, files),
            source=origin,
            backends=backends,
            verifiers=verifiers,
            policy=policy,
            objective=objective,
            fingerprint=fingerprint,
            seed=seed,
            plan=chosen,
        )
        other = None if chosen is None else check_prices(chosen, manifest, backends or {})
        if other is not None and fingerprint == "error":
            raise ArtifactError(other)
        if other is not None:
            warnings.warn(other, FingerprintWarning, stacklevel=2)
        return router

    def __repr__(self) -> str:
        return (
            f"Router({self.source!r}, version={self.version!r}, policy={self.policy.label!r}, "
            f"arms={', '.join(self.arms)})"
        )

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of all estimates."""
        return self.manifest.arms

    @property
    def version(self) -> str:
        """Content hash of what was loaded."""
        return self.manifest.router_version

    # ── deciding ────────────────────────────────────────────────────────────────────────────────────────────

    def estimate(self, prompts: Sequence[Prompt]) -> Estimates:
        """Predict every arm on every prompt."""
        return self.predictor.predict_texts([Request.of(p).text for p in prompts])

    def decide(
        self,
        prompt: Prompt | Request,
        objective: Objective | None = None,
        *,
        context: Context | None = None,
    ) -> Decision:
        """Choose an arm for one prompt, or what its plan does first; no I/O.

        With a plan (`Router.plan`) this is the plan's step where nothing is drawn yet: the decision's `arm` is the
        first action ("small x4"), its estimates are of the whole request. Where `context.allowed` names arms, one of
        these is chosen from the prompt alone.

        Raises NoFeasibleArm where no arm keeps the objective's hard limits (unless its `on_infeasible` is
        "fallback"), PromptTooLong where the prompt certainly fits none of the backends that are open, InputError for
        an empty prompt or an unknown arm in `context.allowed`. Warns once (ObjectiveWarning) where the objective's
        value lies outside of those that the router was checked at.
        """
        return self.decide_many([prompt], objective, context=context)[0]

    def decide_many(
        self,
        prompts: Sequence[Prompt | Request],
        objective: Objective | None = None,
        *,
        context: Context | None = None,
    ) -> list[Decision]:
        """Choose an arm for each prompt: as `decide`, in one pass."""
        requests = [Request.of(p) for p in prompts]
        if not requests:
            return []
        estimates = self.predictor.predict_texts([r.text for r in requests])
        if self._is_planned(context):
            return self._first_steps(requests, estimates, self._closed(requests), objective or self.objective, context)
        return self._decide(requests, estimates, objective or self.objective, context)

    @property
    def plan_policy(self) -> Policy | None:
        """What chooses among a plan's actions: the plan's own guard with the policy's exploration; see Plan.policy."""
        if self.plan is None or not isinstance(self.policy, UtilityPolicy):
            return None
        return self.plan.policy(self.policy.epsilon)

    def _is_planned(self, context: Context | None) -> bool:
        """Whether the plan serves a request: there is one, and the caller names no arms."""
        named = context is not None and context.allowed is not None
        return self.plan is not None and isinstance(self.policy, UtilityPolicy) and not named

    def _first_steps(
        self,
        requests: Sequence[Request],
        estimates: Estimates,
        closed: Sequence[tuple[bool, ...]],
        objective: Objective,
        context: Context | None,
        rng: np.random.Generator | None = None,
    ) -> list[Decision]:
        """What the plan does first with each prompt.

        closed : see `_closed`.   rng : of exploration; None = the router's own.
        """
        assert self.plan is not None
        self._check_value(objective)
        plan, menu, policy = self.plan, self.plan.facts.menu, self.plan_policy
        start = plan.start(estimates)
        own = policy.label if policy is not None and plan.facts.trusts(objective) else "keeps to the fixed plan"
        label = f"{own}; plan/1"
        difficulty, decisions = estimates.difficulty.tolist(), {}
        for pattern in dict.fromkeys(closed):
            rows = [i for i, own in enumerate(closed) if own == pattern]
            state = start if len(rows) == len(requests) else start[np.array(rows)]
            with self._drawing if policy is not None and policy.random else contextlib.nullcontext():
                steps = plan.step(state, objective, policy, closed=pattern, rng=self._rng if rng is None else rng)
            fixed = plan.best_fixed(objective, pattern).words(menu)
            for j, i in enumerate(rows):
                actions, index = estimates_of(menu, steps, objective, j), int(steps.index[j])
                decisions[i] = Decision(
                    arm=actions[index].name,
                    arms=actions,
                    utility=actions[index].utility,
                    propensity=float(steps.propensity[j]),
                    reason=steps.reason[j],
                    fallback=bool(steps.fallback[j]),
                    difficulty=difficulty[i],
                    objective=objective,
                    policy=label,
                    router_version=self.version,
                    familiar=bool(state.familiar[j]),
                    context=context,
                    plan=menu.words,
                    fixed_plan=fixed,
                )
        return [decisions[i] for i in range(len(requests))]

    def _closed(self, requests: Sequence[Request]) -> list[tuple[bool, ...]]:
        """Of each request, which legs, and behind them which searches, have a backend that cannot take the prompt.

        Raises PromptTooLong where all are.
        """
        assert self.plan is not None
        menu = self.plan.facts.menu
        names = [*(leg.backend for leg in menu.legs), *(self._served.backend_of(s) or s for s in menu.searches)]
        known = [(name, self._served.known.get(name)) for name in names]
        closed = [tuple(b is not None and _certainly_too_long(b, r) for _, b in known) for r in requests]
        full = [all(one) for one in closed]
        if any(full):
            raise _too_long(requests[full.index(True)], {n: b for n, b in known if b is not None})
        return closed

    def _decide(
        self,
        requests: Sequence[Request],
        estimates: Estimates,
        objective: Objective,
        context: Context | None,
        failed: tuple[str, ...] = (),
    ) -> list[Decision]:
        self._check_value(objective)
        estimates = estimates.at(objective)
        mask = self._open_to_choice(requests, context, failed)
        if self.policy.random:
            with self._drawing:
                choices = self.policy.choose(estimates, objective, allowed=mask, rng=self._rng)
        else:
            choices = self.policy.choose(estimates, objective, allowed=mask)
        return self._decisions(estimates, choices, objective, context, failed)

    def _check_value(self, objective: Objective) -> None:
        known = self._checked_values
        if known is None or self._warned_of_value or known[0] <= objective.value <= known[1]:
            return
        self._warned_of_value = True
        warnings.warn(
            f"objective.value={objective.value:g} lies outside of {known[0]:g} .. {known[1]:g}, the values of a right "
            f"answer (in {self.manifest.currency}) that this router was checked at: it decides, but nobody has looked "
            "how well. Give a value in that range, or train on arms whose costs lie around yours",
            ObjectiveWarning,
            stacklevel=5,
        )

    def _open_to_choice(
        self, requests: Sequence[Request], context: Context | None, failed: tuple[str, ...]
    ) -> Mask | None:
        """Which arms (n, a) may be chosen: allowed, not on a failed backend, and able to take the prompt."""
        arms = self.arms
        mask = np.ones((len(requests), len(arms)), dtype=bool)
        if context is not None and context.allowed is not None:
            unknown = [a for a in context.allowed if a not in arms]
            if unknown:
                raise InputError(f"allowed: {unknown[0]!r} is not an arm of this router{nearest(unknown[0], arms)}")
            mask &= [a in context.allowed for a in arms]
        down = {self._served.backend_of(a) or a for a in failed}
        if down:
            mask &= [(self._served.backend_of(a) or a) not in down for a in arms]
        before = mask.any(axis=1)
        for name, backend in self._served.known.items():
            full = [_certainly_too_long(backend, r) for r in requests]
            if any(full):
                mask &= ~np.outer(full, [self._served.backend_of(a) == name for a in arms])
        nowhere = before & ~mask.any(axis=1)
        if nowhere.any():
            raise _too_long(requests[int(nowhere.argmax())], self._served.known)
        return None if mask.all() else mask

    def _decisions(
        self,
        estimates: Estimates,
        choices: Choices,
        objective: Objective,
        context: Context | None,
        failed: tuple[str, ...],
    ) -> list[Decision]:
        latency = None
        if estimates.latency is not None:
            q = min(max(objective.deadline_quantile, estimates.quantiles[0]), estimates.quantiles[-1])
            latency = estimates.latency_at(q)
        arms, n = estimates.arms, len(estimates)

        def known(values: Floats | None) -> list[Any]:
            """One flat list, NaN as None: a list per prompt would keep the garbage collector busy in a batch."""
            if values is None:
                return [None] * (n * len(arms))
            flat = values.ravel().tolist()
            return [None if x != x else x for x in flat] if np.isnan(values).any() else flat

        # As ArmEstimate's fields beside the name, prompt by prompt.
        columns = (
            estimates.quality.ravel().tolist(),
            estimates.benefit.ravel().tolist(),
            estimates.benefit_se.ravel().tolist(),
            estimates.cost.ravel().tolist(),
            known(latency),
            known(choices.utilities),
            choices.feasible.ravel().tolist(),
            known(estimates.tokens),
        )
        every = [
            ArmEstimate(
                name=name,
                quality=quality,
                benefit=benefit,
                benefit_se=se,
                cost=cost,
                latency=seconds,
                utility=utility,
                feasible=feasible,
                tokens=tokens,
            )
            for name, quality, benefit, se, cost, seconds, utility, feasible, tokens in zip(
                itertools.cycle(arms), *columns, strict=False
            )
        ]
        difficulty = estimates.difficulty.tolist()
        familiar = [True] * n if estimates.familiar is None else estimates.familiar.tolist()
        label, version = self.policy.label, self.version
        decisions = []
        for i, index in enumerate(choices.index.tolist()):
            rows = tuple(every[i * len(arms) : (i + 1) * len(arms)])
            decisions.append(
                Decision(
                    arm=arms[index],
                    arms=rows,
                    utility=rows[index].utility,
                    propensity=float(choices.propensity[i]),
                    reason=Reason.BACKEND_FAILED if failed else choices.reason[i],
                    fallback=bool(failed) or bool(choices.fallback[i]),
                    difficulty=difficulty[i],
                    objective=objective,
                    policy=label,
                    router_version=version,
                    familiar=familiar[i],
                    failed=failed,
                    context=context,
                )
            )
        return decisions

    # ── answering ───────────────────────────────────────────────────────────────────────────────────────────

    async def run(
        self,
        prompt: Prompt | Request,
        objective: Objective | None = None,
        *,
        context: Context | None = None,
        budget: Budget | None = None,
        trace: Trace | None = None,
    ) -> RoutedResult:
        """Choose an arm and answer with it; with a plan (`Router.plan`), go on deciding while the samples come.

        A planned run ends with what the plan ends with, or where it gives up, with no answer; `steps` tells how it
        came to that. Samples in flight are cancelled when the budget's seconds or the objective's deadline pass, and
        the best answer in hand is returned; see Planned. `context.allowed` names arms, so no plan serves it.
        `trace` hears of samples as that of a strategy does.

        Where an arm's backend fails before there is an answer, or turns out not to take the prompt, every arm of
        that backend is out and the next best one answers; the decision then says BACKEND_FAILED and names
        what failed.

        Raises what `decide` raises; InputError where the arm's backend is served elsewhere and was not handed
        to `load`, or the arm came from an imported table; the first failure where every backend failed.
        """
        request = Request.of(prompt)
        if self._is_planned(context):
            return await self._run_plan(request, objective or self.objective, context, budget, trace)
        attempts = _Attempts(self, request, objective, context)
        while True:
            decision = attempts.next()
            try:
                arm = await self._served.ready(decision.arm)
                return RoutedResult(decision, await arm.run(request, budget=budget, trace=trace))
            except (BackendError, PromptTooLong) as exc:
                attempts.failed(decision.arm, exc)

    def stream(
        self,
        prompt: Prompt | Request,
        objective: Objective | None = None,
        *,
        context: Context | None = None,
        budget: Budget | None = None,
    ) -> "RoutedStream":
        """Answer piece by piece: `async for delta in router.stream(...)`, then `await stream.result()`.

        A single pass yields its pieces as they are drawn; a plan and every other strategy yield their answer once,
        when it stands. A backend that fails before the first piece is replaced as in `run`, one that fails later is
        not.
        """
        request = Request.of(prompt)
        if self._is_planned(context):
            whole = functools.partial(self._run_plan, request, objective or self.objective, context, budget)
            return RoutedStream(self, whole, budget)
        return RoutedStream(self, _Attempts(self, request, objective, context), budget)

    def run_sync(
        self,
        prompt: Prompt | Request,
        objective: Objective | None = None,
        *,
        context: Context | None = None,
        budget: Budget | None = None,
    ) -> RoutedResult:
        """`run` for scripts and notebooks: works with an event loop running or not."""
        with self._drawing:
            if self._loop is None:
                self._loop = _Loop(self)
        return self._loop.call(self.run(prompt, objective, context=context, budget=budget))

    async def planned(self, objective: Objective | None = None) -> Arm:
        """The plan at an objective as an arm that is run, traced and recorded like any other; opens its backends.

            arm = await router.planned()
            result = await arm.run(prompt, trace=recorder.trace(prompt, arm))

        Raises ConfigError where no plan is used.
        """
        if not self._is_planned(None):
            raise ConfigError(
                "this router decides by no plan: train one with `howhard train --plan`, load with plan=True"
            )
        planned = await self._planned(
            objective or self.objective, lambda r: self.predictor.predict_texts([r.text]), seed=self._seed()
        )
        return planned.on(planned.backends[0])

    async def _run_plan(
        self,
        request: Request,
        objective: Objective,
        context: Context | None,
        budget: Budget | None,
        trace: Trace | None = None,
    ) -> RoutedResult:
        seed, closed, estimates = self._seed(), self._closed([request]), self.predictor.predict_texts([request.text])
        [decision] = self._first_steps([request], estimates, closed, objective, context, np.random.default_rng(seed))
        planned = await self._planned(objective, lambda _: estimates, seed=seed, closed=closed[0])
        result = await planned.run(request, planned.backends[0], budget=budget, trace=trace)
        return RoutedResult(decision, result, result.steps)

    async def _planned(
        self,
        objective: Objective,
        estimate: Callable[[Request], Estimates],
        *,
        seed: int,
        closed: tuple[bool, ...] = (),
    ) -> Planned:
        """Open what it needs.

        estimate : of a request's arms.   seed : of exploration, which does at the start what a decision of the same
        seed says.
        """
        plan = self.plan
        assert plan is not None
        backends, verifier, searches = await self._served.for_plan(plan.facts.menu)
        return Planned(
            plan,
            objective=objective,
            start=lambda request: plan.start(estimate(request)),
            policy=self.plan_policy,
            backends=backends,
            verifier=verifier,
            searches=searches,
            closed=closed,
            rng=np.random.default_rng(seed),
        )

    def _seed(self) -> int:
        """Of one request's exploration."""
        with self._drawing:
            return int(self._rng.integers(2**63))

    async def close(self) -> None:
        """Close the backends that this router opened; it still decides, and a later run opens them again."""
        await self._served.close()
        if self._loop is not None:
            self._loop.stop()
            self._loop = None

    async def __aenter__(self) -> "Router":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def _named(policy: Policy | str, manifest: Manifest) -> Policy:
    """A policy, or the one that a name stands for with this router's arms."""
    if not isinstance(policy, str):
        return policy
    if policy == "utility":
        return manifest.policy if isinstance(manifest.policy, UtilityPolicy) else UtilityPolicy()
    if policy == "threshold":
        return manifest.policy if isinstance(manifest.policy, ThresholdPolicy) else threshold_policy(manifest)
    raise ConfigError(f"policy {policy!r}{nearest(policy, ('utility', 'threshold'))}")


def threshold_policy(manifest: Manifest) -> ThresholdPolicy:
    """The rule of thumb with a router's own arms: reference arm, best-of-4 of its backend, tree search of it.

    The best-of-N whose N is nearest to 4 is taken. Raises ConfigError where the backend has no such arms.
    """
    specs = dict(zip(manifest.arms, manifest.specs, strict=True))
    reference = specs[manifest.reference]
    own = {name: s.strategy for name, s in specs.items() if s and reference and s.backend == reference.backend}
    several = {name: s.n for name, s in own.items() if isinstance(s, BestOfNSpec)}
    searches = [name for name, s in own.items() if isinstance(s, TreeSearchSpec)]
    if not several or not searches:
        raise ConfigError(
            f"policy 'threshold': beside {manifest.reference!r} it needs a best-of-N and a tree search of the same "
            f"backend, but the arms are {', '.join(manifest.arms)}. Give ThresholdPolicy(arms=...) with three of them"
        )
    best_of_4 = min(several, key=lambda name: (abs(several[name] - 4), name))
    return ThresholdPolicy(arms=(manifest.reference, best_of_4, searches[0]))


class RoutedStream:
    """A routed answer under way: iterate for its pieces, `await .result()` for the whole (once or more
    often).

    `decision` is None until the first piece is asked for. A stream that is no longer wanted is ended by
    `aclose`.
    """

    def __init__(
        self, router: Router, attempts: "_Attempts | Callable[[], Awaitable[RoutedResult]]", budget: Budget | None
    ) -> None:
        """Go through attempts, arm by arm, or have an answer made as a whole."""
        self.decision: Decision | None = None
        self._router = router
        self._attempts = attempts
        self._budget = budget
        self._result: RoutedResult | None = None
        self._pieces = self._run()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._pieces

    async def result(self) -> RoutedResult:
        """Wait for the end (what was not yet iterated is passed over) and return the whole."""
        async for _ in self._pieces:
            pass
        if self._result is None:
            raise InputError("this stream was closed, or failed, before its answer was there: start another")
        return self._result

    async def aclose(self) -> None:
        """End the stream: what is being drawn is cancelled."""
        await self._pieces.aclose()

    async def _run(self) -> AsyncGenerator[Delta, None]:
        attempts = self._attempts
        if not isinstance(attempts, _Attempts):
            self._result = await attempts()
            self.decision = self._result.decision
            yield Delta(text=self._result.text, reasoning=self._result.result.reasoning)
            return
        while True:
            decision = self.decision = attempts.next()
            begun = False
            try:
                arm = await self._router._served.ready(decision.arm)
                if isinstance(arm.strategy, Streams):
                    drawing = arm.strategy.stream(attempts.request, arm.backend, budget=self._budget)
                    try:
                        async for delta in drawing:
                            begun = True
                            yield delta
                        result = await drawing.result()
                    finally:
                        drawing.cancel()
                else:
                    result = await arm.run(attempts.request, budget=self._budget)
                    begun = True
                    yield Delta(text=result.text, reasoning=result.reasoning)
            except (BackendError, PromptTooLong) as exc:
                if begun:
                    raise
                attempts.failed(decision.arm, exc)
                continue
            self._result = RoutedResult(decision, result)
            return


class _Attempts:
    """The choices of one request: the best arm, then the next best of the backends that have not failed."""

    def __init__(self, router: Router, request: Request, objective: Objective | None, context: Context | None) -> None:
        self.request = request
        self._router = router
        self._objective = objective or router.objective
        self._context = context
        self._estimates = router.predictor.predict_texts([request.text])
        self._failed: tuple[str, ...] = ()
        self._first: BackendError | PromptTooLong | None = None

    def next(self) -> Decision:
        """Choose among what is left. Where nothing is, the first failure is raised."""
        args = ([self.request], self._estimates, self._objective, self._context, self._failed)
        if self._first is None:
            return self._router._decide(*args)[0]
        try:
            [decision] = self._router._decide(*args)
        except (NoFeasibleArm, PromptTooLong):
            raise self._first from None
        return decision

    def failed(self, arm: str, error: BackendError | PromptTooLong) -> None:
        """Take an arm's backend out of the choice."""
        self._failed = (*self._failed, arm)
        if self._first is None:
            self._first = error
        else:
            self._first.add_note(f"then {arm} failed too: {error}")


class _Served:
    """The arms of a router, ready to run: backends and verifiers, opened when first needed."""

    def __init__(
        self,
        manifest: Manifest,
        backends: dict[str, Backend | BackendSpec],
        verifiers: dict[str, Verifier],
        fingerprint: Literal["warn", "error"],
    ) -> None:
        self._specs: dict[str, ArmSpec | None] = dict(zip(manifest.arms, manifest.specs, strict=True))
        self._needs = {a: _needs(s, manifest, verifiers) for a, s in self._specs.items() if s is not None}
        wanted = {name for names in self._needs.values() for name in names}
        for plan in manifest.plans:
            wanted |= {leg.backend for leg in plan.menu.legs}
            wanted |= set(manifest.asked_by([plan.menu.verifier] if plan.menu.verifier else [], verifiers))
        for name in backends:
            if name not in wanted:
                raise InputError(f"backends: {name!r} is not a backend of this router{nearest(name, wanted)}")
        for name in verifiers:
            if name not in manifest.verifiers:
                raise InputError(
                    f"verifiers: {name!r} is not a verifier of this router{nearest(name, manifest.verifiers)}"
                )
        if fingerprint not in ("warn", "error"):
            raise InputError(f"fingerprint={fingerprint!r}: it must be 'warn' or 'error'")
        self._manifest = manifest
        self._fingerprint = fingerprint
        self._to_open = {n: b for n, b in backends.items() if isinstance(b, BackendSpec)}
        self.known: dict[str, Backend] = {n: b for n, b in backends.items() if not isinstance(b, BackendSpec)}
        self._own: list[Backend] = []
        self._given = verifiers
        self._verifiers = verifiers
        self._arms: dict[str, Arm] = {}
        self._menus: dict[Menu, tuple[dict[str, Backend], Verifier | None]] = {}
        self._checked: set[str] = set()
        self._opening = threading.Lock()
        self._backend_of = {a: s.backend for a, s in self._specs.items() if s is not None}

    def backend_of(self, arm: str) -> str | None:
        """Name of an arm's backend; None for an arm of an imported table."""
        return self._backend_of.get(arm)

    async def ready(self, name: str) -> Arm:
        """Return an arm that can be run; the fingerprints of its backends are checked before their first use."""
        arm = self._arms.get(name)
        if arm is None:
            # Opening loads weights: not in the event loop.
            arm = await asyncio.to_thread(self._open, name)
        for backend in self._needs[name]:
            if backend not in self._checked:
                await self._check(backend, self.known[backend])
                self._checked.add(backend)
        return arm

    async def for_plan(self, menu: Menu) -> tuple[dict[str, Backend], Verifier | None, dict[str, Arm]]:
        """Backends, verifier and searches of a menu, ready to be used, checked as by `ready`."""
        searches = {name: await self.ready(name) for name in menu.searches}
        backends, verifier = self._menus.get(menu) or await asyncio.to_thread(self._open_menu, menu)
        for name, backend in backends.items():
            if name not in self._checked:
                await self._check(name, backend)
                self._checked.add(name)
        return backends, verifier, searches

    async def close(self) -> None:
        """Close the backends that were opened here; a later run opens them again."""
        for backend in self._own:
            await backend.close()
        closed = {id(b) for b in self._own}
        self._own.clear()
        self.known = {n: b for n, b in self.known.items() if id(b) not in closed}
        # Stages and judges hold backends too, which may be closed now: they are built anew.
        self._arms, self._menus, self._verifiers = {}, {}, self._given

    def _open(self, name: str) -> Arm:
        with self._opening:
            if name in self._arms:
                return self._arms[name]
            spec = self._specs[name]
            if spec is None:
                raise InputError(
                    f"arm {name!r} was learned from an imported table: it can be chosen, but nothing says how to "
                    "run it. Run the decision's arm yourself, or train on arms that howhard collected"
                )
            backends = {b: self._backend(b) for b in self._needs[name]}
            verifiers = OpenedVerifiers(self._manifest.verifiers, backends, self._verifiers)
            strategy = build_strategy(spec.strategy, verifiers, backends=backends)
            self._verifiers = verifiers.opened
            arm = self._arms[name] = Arm(strategy, backends[spec.backend])
            return arm

    def _open_menu(self, menu: Menu) -> tuple[dict[str, Backend], Verifier | None]:
        with self._opening:
            judges = () if menu.verifier is None else self._manifest.asked_by([menu.verifier], self._given)
            backends = {name: self._backend(name) for name in (*(leg.backend for leg in menu.legs), *judges)}
            verifiers = OpenedVerifiers(self._manifest.verifiers, backends, self._verifiers)
            verifier = None if menu.verifier is None else verifiers[menu.verifier]
            self._verifiers = verifiers.opened
            self._menus[menu] = backends, verifier
            return backends, verifier

    def _backend(self, name: str) -> Backend:
        if name in self.known:
            return self.known[name]
        facts = self._manifest.backends.get(name)
        spec = self._to_open.get(name)
        if spec is None and facts is not None and facts.kind == "local":
            p = facts.prices
            prices = PricesSpec(prompt=p.prompt, completion=p.completion, cached=p.cached)
            spec = LocalSpec(model=facts.model, prices=prices)
        if spec is None:
            what = f" ({facts.kind}, {facts.model!r})" if facts is not None else ""
            raise InputError(
                f"backend {name!r}{what} is served elsewhere, and a router never says where: hand it over, "
                f"Router.load(..., backends={{{name!r}: VLLMBackend(...)}}), or name it in the configuration"
            )
        backend = open_backend(name, spec)
        self._own.append(backend)
        self.known = {**self.known, name: backend}
        return backend

    async def _check(self, name: str, backend: Backend) -> None:
        facts = self._manifest.backends.get(name)
        if facts is None:
            return
        check = getattr(backend, "check", None)
        if not backend.fingerprint and check is not None:
            await check()  # a server tells its fingerprint when asked
        other = []
        if facts.fingerprint and backend.fingerprint and backend.fingerprint != facts.fingerprint:
            other.append(f"fingerprint {backend.fingerprint[:16]} instead of {facts.fingerprint[:16]}")
        if backend.prices != facts.prices:
            other.append(f"{backend.prices} instead of {facts.prices}")
        if not other:
            return
        message = (
            f"backend {name!r} is not the one that router {self._manifest.router_version} was trained on "
            f"({'; '.join(other)}), so its estimates may be off: "
            "serve the same weights and template, or train anew"
        )
        if self._fingerprint == "error":
            raise ArtifactError(message)
        warnings.warn(message, FingerprintWarning, stacklevel=2)


def _needs(spec: ArmSpec, manifest: Manifest, given: Mapping[str, Verifier]) -> tuple[str, ...]:
    """Names of all backends that an arm draws from: its own first, then those of its stages, and of its judges.

    given : verifiers that were handed over: what they ask is known to whoever made them.
    """
    names = (spec.backend, *spec.strategy.needs_backends, *manifest.asked_by(spec.strategy.needs_verifiers, given))
    return tuple(dict.fromkeys(names))


def _too_long(request: Request, known: Mapping[str, Backend]) -> PromptTooLong:
    held = ", ".join(f"{n!r} holds {b.context} tokens" for n, b in known.items() if b.context)
    return PromptTooLong(
        f"a prompt of {len(request.text)} characters fills the context of every backend that may serve it ({held}): "
        "shorten it, or allow an arm of a larger context"
    )


def _certainly_too_long(backend: Backend, request: Request) -> bool:
    """Whether the prompt alone fills the backend's context; False where only a server could tell."""
    if backend.context is None:
        return False
    # No tokenizer in use makes more tokens than there are bytes: most prompts need no counting.
    size = sum(len(m.content) for m in request.messages)
    if 4 * size + _TEMPLATE_TOKENS < backend.context:
        return False
    count = getattr(backend, "count_tokens", None)
    return count is not None and count(Prefix(request.messages)) >= backend.context


class _Loop:
    """An event loop in a thread of its own, for `run_sync`; ends with its router, or with the program."""

    def __init__(self, owner: Router) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=[self._loop], name="howhard-run-sync", daemon=True)
        self._thread.start()
        self.stop = weakref.finalize(owner, _stop, self._loop, self._thread)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())  # backends close their connections with these
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():  # the last reference may be dropped by the loop's own thread
        thread.join(timeout=5)
