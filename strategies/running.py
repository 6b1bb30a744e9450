"""What every strategy needs for one run: draw within the budget, have texts judged, keep the books.

A strategy holds settings; a Run holds the state of one request. Nothing here decides how compute is spent.
"""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .answers import extract
from .base import (
    Backend,
    Batch,
    Budget,
    Candidate,
    Generation,
    Meter,
    Prefix,
    Prices,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Usage,
    Verdicts,
    Verifier,
)
from .errors import BackendError, ConfigError, HowhardError, InputError, VerifierError

if TYPE_CHECKING:
    from .search.tree import Tree

_TEMPLATE_TOKENS = 64  # most tokens that a chat template is taken to add where the backend can't count them


@runtime_checkable
class CountsTokens(Protocol):
    """What a backend may offer beside Backend: the exact length of a prefix, without I/O."""

    def count_tokens(self, prefix: Prefix) -> int:
        """Count the tokens that a generation from this prefix would read."""
        ...


def most_tokens(backend: Backend, prefix: Prefix) -> int:
    """Bound the tokens of a prefix from above: exact where the backend counts or made them.

    Elsewhere one token per byte of UTF-8, which no tokenizer in use exceeds, and 64 for the chat template.
    """
    if prefix.token_ids is not None:
        return len(prefix.token_ids)
    if isinstance(backend, CountsTokens):
        return backend.count_tokens(prefix)
    texts = [*(m.content for m in prefix.messages), prefix.answer]
    return _TEMPLATE_TOKENS + sum(len(text.encode()) for text in texts)


def gives_logprobs(backend: Backend) -> bool:
    """Whether samples come with log-probabilities where asked for: a backend's attribute `gives_logprobs`.

    It goes by the backend's settings, without I/O. False where a backend does not say: nobody then waits for what may
    never come.
    """
    return getattr(backend, "gives_logprobs", False)


def gives_confidence(backend: Backend) -> bool:
    """Whether samples come with Generation.confidences where asked for: `gives_confidence`; see `gives_logprobs`.

    How many most likely tokens they may be taken over is for the backend to say, when it is asked.
    """
    return getattr(backend, "gives_confidence", False)


def reading_prices(verifier: Verifier) -> Prices | None:
    """What a verifier pays for the tokens that it reads: its `prices`; None where it reads none.

    Budgets hold back as many tokens for it as the backend counts in prompt and answer, and two more per text. A
    verifier whose tokenizer cuts finer than the backend's can exceed that.
    """
    return getattr(verifier, "prices", None)


@runtime_checkable
class BoundsUsage(Protocol):
    """What a verifier may offer beside Verifier, where it reads more than the texts or writes (a judge does)."""

    def most_usage(self, request: Request, candidates: Sequence[Candidate]) -> Usage | None:
        """Bound from above, without I/O, what judging these candidates may take; None = no bound is known."""
        ...


def most_usage(verifier: Verifier, request: Request, candidates: Sequence[Candidate]) -> Usage | None:
    """Return a verifier's own bound of what a call takes; None where it gives none."""
    return verifier.most_usage(request, candidates) if isinstance(verifier, BoundsUsage) else None


@dataclass(frozen=True, slots=True)
class Call:
    """One `generate` call to be made: n samples for each prefix."""

    prefixes: Sequence[Prefix]
    n: int
    params: SamplingParams


class Run:
    """One request being answered: its books, its deadline, its trace. One per run, never shared.

    A run tells its trace that it begins, and hands itself over ("begin"), so that whoever started it can end it
    early (`stop`) and read what it has spent.
    """

    def __init__(
        self, request: Request, backend: Backend, budget: Budget | None = None, trace: Trace | None = None
    ) -> None:
        self.request = request
        self.backend = backend
        self.meter = Meter(budget)
        self.out_of_time = False
        self._trace = trace
        self._under_way: dict[object, Callable[[], object]] = {}  # what ends a wait, by whom it is for
        self._judged: dict[str, Usage] = {}  # what each verifier took
        self.trace("begin", backend=backend.name, run=self)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """End the run as if its time were over: what it waits for is cancelled, and it returns its best so far."""
        self.meter.stopped = self.out_of_time = True
        for end in tuple(self._under_way.values()):
            end()

    def when_stopped(self, end: Callable[[], object]) -> Callable[[], object]:
        """Have `end` called by `stop`, at once where that was called before; returns what calls this off."""
        key = object()
        self._under_way[key] = end
        if self.meter.stopped:
            end()
        return lambda: self._under_way.pop(key, None)

    @contextlib.asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Let what runs inside go on until the run is stopped or its time is over; then TimeoutError ends it."""
        async with asyncio.timeout(self._seconds_left()) as limit:
            forget = self.when_stopped(lambda: None if limit.expired() else limit.reschedule(0.0))
            try:
                yield
            finally:
                forget()
                self.out_of_time = self.out_of_time or limit.expired()

    # ── the budget ──────────────────────────────────────────────────────────────────────────────────────────

    def allows(self, *, prompt: int, completion: int, judged: int = 0, verifier: Verifier | None = None) -> bool:
        """Whether the budget holds a call of at most so many prompt and completion tokens, with no token
        cached.

        judged : tokens that `verifier` would then read, at its price.
        """
        cost = self.backend.prices.cost(prompt=prompt, completion=completion)
        prices = reading_prices(verifier) if verifier is not None else None
        if prices is None:
            judged = 0
        else:
            cost += prices.cost(prompt=judged, completion=0)
        return self.meter.allows(tokens=prompt + completion + judged, cost=cost)

    def most_completion(self, prefix: Prefix, most: int) -> int:
        """Return how many tokens, at most `most`, the budget lets one more sample of `prefix` draw; 0 = none.

        Bisection: what fits is monotone in the number of tokens.
        """
        prompt = most_tokens(self.backend, prefix)
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.allows(prompt=prompt, completion=middle):
                low = middle
            else:
                high = middle - 1
        return low

    def at_least_one(self, prefix: Prefix, most: int) -> int:
        """Like `most_completion`, but InputError where the budget does not hold one single token."""
        fits = self.most_completion(prefix, most)
        if fits < 1:
            prompt = most_tokens(self.backend, prefix)
            cost = self.backend.prices.cost(prompt=prompt, completion=1)
            raise InputError(
                f"{self.budget_words} does not hold one token of {self.backend.name!r}: the prompt alone takes "
                f"up to {prompt} tokens, with one token drawn the call costs {cost:.4g}; raise the budget or "
                "shorten the prompt"
            )
        return fits

    @property
    def budget_words(self) -> str:
        """The budget for people: "the budget of 400 tokens"."""
        if self.meter.stopped:
            return "the time until it was stopped"
        b = self.meter.budget
        limits = (
            (b.tokens, f"{b.tokens} tokens"),
            (b.cost, f"cost {b.cost:g}" if b.cost is not None else ""),
            (b.seconds, f"{b.seconds:g} s" if b.seconds is not None else ""),
        )
        return "the budget of " + (" and ".join(words for limit, words in limits if limit is not None) or "no limit")

    def _seconds_left(self) -> float | None:
        seconds = 0.0 if self.meter.stopped else self.meter.budget.seconds
        return None if seconds is None else max(0.0, seconds - self.meter.seconds)

    # ── drawing and judging ─────────────────────────────────────────────────────────────────────────────────

    async def draw(self, calls: Sequence[Call]) -> list[list[list[Generation]]]:
        """Make the calls at once and wait for all samples: `[call][prefix][sample]`.

        When the budget's time is over, samples that still run are cancelled and returned as far as they came.
        When the caller is cancelled, so are all samples.
        """
        batches: list[Batch] = []
        try:
            for call in calls:
                batch = self.backend.generate(call.prefixes, n=call.n, params=call.params)
                batches.append(batch)
        except BaseException:
            _cancel(batches)
            for batch in batches:
                self.meter.book(batch.usage)
            raise
        return await self.collect(batches)

    async def wave(self, prefix: Prefix, n: int, params: SamplingParams, *, drawn: int) -> list[Generation]:
        """Draw n more samples of a prefix of which `drawn` were drawn already; together they are as one seeded call."""
        seed = None if params.seed is None else params.seed + drawn
        [[generations]] = await self.draw([Call([prefix], n, params.but(seed=seed))])
        return generations

    async def collect(self, batches: Sequence[Batch]) -> list[list[list[Generation]]]:
        """Wait for batches under way, and book them; see `draw`."""
        release = self.arm(batches)
        try:
            generations = [await batch.all() for batch in batches]
        except BaseException:
            _cancel(batches)
            raise
        finally:
            release()
            for batch in batches:
                self.meter.book(batch.usage)
        return generations

    def arm(self, batches: Sequence[Batch]) -> Callable[[], None]:
        """Have batches cancelled when the run is stopped or its time is over; returns what calls this off."""

        def expire() -> None:
            self.out_of_time = True
            _cancel(batches)

        left = self._seconds_left()
        timer = None if left is None else asyncio.get_running_loop().call_later(left, expire)
        forget = self.when_stopped(expire)

        def release() -> None:
            forget()
            if timer is not None:
                timer.cancel()

        return release

    async def judge(self, verifier: Verifier, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Have candidates judged and book it. Out of time, every one stays unjudged.

        So does every one where the verifier bounds its own usage, and the budget does not hold that bound.
        Raises VerifierError, see `judged`.
        """
        nothing = Verdicts((None,) * len(candidates))
        left = self._seconds_left()
        if not candidates or left == 0:
            self.out_of_time = self.out_of_time or left == 0
            return nothing
        most = most_usage(verifier, self.request, candidates)
        if most is not None and not self.meter.allows(tokens=most.total_tokens, cost=most.cost):
            words = f"{self.budget_words} does not hold the {most.total_tokens} tokens that {verifier.name!r} may take"
            return dataclasses.replace(nothing, note=words)
        try:
            async with self.in_time():
                verdicts = await judged(verifier, self.request, candidates, partial=partial)
        except TimeoutError:
            return nothing
        self.meter.book(verdicts.usage)
        self._judged[verifier.name] = self._judged.get(verifier.name, Usage()) + verdicts.usage
        return verdicts

    # ── telling ─────────────────────────────────────────────────────────────────────────────────────────────

    def trace(self, event: str, **fields: object) -> None:
        """Tell whoever traces this run."""
        if self._trace is not None:
            self._trace(event, fields)

    def result(
        self,
        candidates: Sequence[Candidate],
        best: Candidate | None,
        stopped_because: str,
        *,
        params: SamplingParams | None = None,
        waves: Sequence[int] | None = None,
        planned: int | None = None,
        tree: "Tree | None" = None,
    ) -> StrategyResult:
        """Close the run: trace every candidate, and answer with the best one.

        Where no candidate is complete there is no answer, and the text is the best one's all the same.
        params : how the candidates were drawn.   waves : which draw each came from; None = all from one.
        planned : samples that were planned in all; None = those that were drawn.
        Raises BackendError, or what the backend said more precisely, where every sample failed.
        """
        scored = sum(c.score is not None for c in candidates)
        took = sum(self._judged.values(), Usage())
        for index, c in enumerate(candidates):
            self.trace(
                "sample",
                backend=self.backend.name,
                fingerprint=self.backend.fingerprint,
                prices=self.backend.prices,
                params=params,
                index=index,
                candidate=c,
                chosen=c is best,
                wave=0 if waves is None else waves[index],
                planned=len(candidates) if planned is None else planned,
                stopped_because=stopped_because,
                verifier="+".join(self._judged) if c.score is not None and self._judged else None,
                verifier_tokens=took.verifier_tokens // scored if c.score is not None else 0,
                verifier_cost=took.cost / scored if c.score is not None else 0.0,
            )
        reasons = [stopped_because]
        failed = [c for c in candidates if c.generation.finish_reason == "error"]
        if failed and len(failed) == len(candidates):
            raise _nothing_left(self.backend.name, [c.generation for c in failed])
        if failed:
            reasons.append(f"{len(failed)} of {len(candidates)} failed: {failed[0].generation.error}")
        if candidates and (best is None or best.answer is None):
            reasons.append("no sample was complete")
        return StrategyResult(
            answer=best.answer if best is not None else None,
            text=best.text if best is not None else "",
            reasoning=best.generation.reasoning if best is not None else "",
            candidates=tuple(candidates),
            usage=self.meter.usage,
            seconds=self.meter.seconds,
            stopped_because="; ".join(reasons),
            tree=tree,
        )


def _nothing_left(backend: str, failed: Sequence[Generation]) -> HowhardError:
    """Make the error for a run whose every sample failed: of the kind of the first one's cause."""
    first = failed[0]
    if len(failed) == 1:
        error = f"the only sample of {backend!r} failed: {first.error}"
    else:
        error = f"all {len(failed)} samples of {backend!r} failed; the first: {first.error}"
    if first.cause is None:
        return BackendError(error)
    failure = type(first.cause)(error)
    failure.__cause__ = first.cause
    return failure


def _cancel(batches: Sequence[Batch]) -> None:
    for batch in batches:
        batch.cancel()


def candidate(generation: Generation, *, text: str | None = None) -> Candidate:
    """Make a candidate of a sample; only a complete one has an answer. `text` replaces the sample's own."""
    text = generation.text if text is None else text
    return Candidate(text=text, answer=extract(text) if generation.complete else None, generation=generation)


def answer_of(candidate: Candidate) -> str:
    """The final answer in a candidate's text, also where nobody has read it out yet (of a text from a log)."""
    return extract(candidate.text) if candidate.answer is None else candidate.answer


def with_verdict(candidate: Candidate, verifier: Verifier, verdicts: Verdicts, place: int) -> Candidate:
    """Return a candidate, not a partial one, with what a verifier made of it; it stood at `place` in the call."""
    return dataclasses.replace(
        candidate,
        score=verdicts.scores[place],
        steps=None if verdicts.steps is None else verdicts.steps[place],
        feedback=None if verdicts.feedback is None else verdicts.feedback[place],
        proven=proves(verifier, verdicts, place),
    )


def is_relative(verifier: Verifier) -> bool:
    """Whether a verifier's scores compare only within one call: it says so (`relative`), or a member of it does."""
    return bool(getattr(verifier, "relative", False)) or any(map(is_relative, getattr(verifier, "verifiers", ())))


def demand_absolute(verifier: Verifier, why: str, remedy: str) -> None:
    """Raise ConfigError for a verifier whose scores of different calls do not compare; see `is_relative`."""
    if is_relative(verifier):
        raise ConfigError(
            f"{why}, but verifier {verifier.name!r} scores texts by comparing them with each other: take {remedy}"
        )


def proves(verifier: Verifier, verdicts: Verdicts, place: int) -> bool:
    """Whether the score at `place` proves its answer right: a 1, of a verifier or of verdicts that are sound."""
    return (verifier.sound or verdicts.sound) and verdicts.scores[place] == 1.0


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the complete candidate with the highest score; ties go to the one launched first.

    A complete candidate without a score comes after all that have one. Where none is complete: the first
    that did not fail, None where all did.
    """
    complete = [c for c in candidates if c.generation.complete]
    if complete:
        return max(complete, key=lambda c: -math.inf if c.score is None else c.score)
    return next((c for c in candidates if c.generation.finish_reason != "error"), None)


async def judged(
    verifier: Verifier, request: Request, candidates: Sequence[Candidate], *, partial: bool = False
) -> Verdicts:
    """Have candidates judged, and check what comes back before anything is ranked by it.

    Raises VerifierError where the verifier raises, where it returns another number of scores or steps than
    there are candidates, or a score that is NaN or outside [0, 1].
    """
    try:
        verdicts = await verifier.score(request, candidates, partial=partial)
    except HowhardError:
        raise
    except Exception as exc:
        raise VerifierError(f"verifier {verifier.name!r} raised {type(exc).__name__}: {exc}") from exc
    if not isinstance(verdicts, Verdicts) or not isinstance(verdicts.usage, Usage):
        raise VerifierError(f"verifier {verifier.name!r} returned {type(verdicts).__name__}, not Verdicts")
    n = len(candidates)
    steps = verdicts.steps if verdicts.steps is not None else (None,) * n
    feedback = verdicts.feedback if verdicts.feedback is not None else (None,) * n
    if not len(verdicts.scores) == len(steps) == len(feedback) == n:
        raise VerifierError(
            f"verifier {verifier.name!r} returned {len(verdicts.scores)} scores, {len(steps)} step lists and "
            f"{len(feedback)} pieces of feedback for {n} candidates"
        )
    for i, (score, own_steps) in enumerate(zip(verdicts.scores, steps, strict=True)):
        for value in (score, *(own_steps or ())):
            if value is not None and not _is_score(value):
                raise VerifierError(
                    f"verifier {verifier.name!r} gave candidate {i} the score {value!r}: it must lie in [0, 1]"
                )
    return verdicts


def _is_score(value: object) -> bool:
    try:
        return 0.0 <= value <= 1.0  # type: ignore[operator]  # False for NaN
    except TypeError:
        return False
