"""One contract that every strategy keeps on every backend, and what is needed to check it.

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda c: c.__name__)
    def test_contract(check, strategy, backend):
        asyncio.run(check(Subject(strategy, backend, prompts=("1 + 2", "3 + 4"))))

Each check is a coroutine that raises AssertionError. `ScriptedBackend` is a small honest fake for faults and
exact texts; `FailingOn` makes chosen samples of any backend fail, `Noting` tells what it was asked for. For tests of
this and of other packages.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .base import (
    Backend,
    Batch,
    Budget,
    Delta,
    FinishReason,
    Generation,
    Prefix,
    Prices,
    Request,
    Sample,
    SamplingParams,
    Strategy,
    StrategyResult,
    Usage,
)
from .errors import BackendError, HowhardError, InputError, PromptTooLong
from .running import gives_confidence, gives_logprobs

# ── fakes ───────────────────────────────────────────────────────────────────────────────────────────────────


class ScriptedBackend:
    """Writes prepared solutions, a token per character, and counts what it served.

    script : what is written: `script(prompt)` gives the whole solutions to choose from. Sample i (its seed, if it has
             one) takes the one at that place among those that begin with the answer so far, going round.
    fails  : `fails(prefix, i)`: such a sample fails after its first token.
    confidences : `confidences(solution)`: the confidence of each token of a whole solution; the last one goes on. They
             come while streaming, as Generation.confidences where asked for. None = not offered.
    logprob : `logprob(solution)`: the log-probability of each of its tokens. None = not offered.
    held   : set it to let samples go on after their first token.
    """

    def __init__(
        self,
        script: Callable[[str], Sequence[str]],
        *,
        name: str = "scripted",
        prices: Prices | None = None,
        context: int | None = None,
        fails: Callable[[Prefix, int], bool] = lambda prefix, i: False,
        confidences: Callable[[str], Sequence[float]] | None = None,
        logprob: Callable[[str], float] | None = None,
    ) -> None:
        self.name = name
        self.prices = prices or Prices(prompt=1.0, completion=2.0)
        self.fingerprint = "scripted"
        self.context = context
        self.served = Usage()
        self.running = 0
        self.calls: list[tuple[tuple[Prefix, ...], int, SamplingParams]] = []
        self.held: asyncio.Event | None = None
        self._script, self._fails = script, fails
        self._confidences, self._logprob = confidences, logprob
        self.gives_confidence, self.gives_logprobs = confidences is not None, logprob is not None

    def count_tokens(self, prefix: Prefix) -> int:
        """One per character of prompt and answer."""
        return len(Request(prefix.messages).text) + len(prefix.answer)

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """See Backend."""
        self.calls.append((tuple(prefixes), n, params))
        for prefix in prefixes:
            if self.context is not None and self.count_tokens(prefix) + params.max_tokens > self.context:
                raise PromptTooLong(f"{self.name} holds {self.context} tokens")
        usage = [Usage(calls=1)]

        def book(*, prompt: int = 0, drawn: int = 0) -> None:
            cost = self.prices.cost(prompt=prompt, completion=drawn)
            more = Usage(prompt_tokens=prompt, completion_tokens=drawn, cost=cost)
            usage[0] += more
            self.served += more

        self.served += usage[0]
        rows = []
        for prefix in prefixes:
            book(prompt=self.count_tokens(prefix))
            rows.append([self._start(prefix, i, params, book) for i in range(n)])
        return Batch(rows, lambda: usage[0])

    def _start(self, prefix: Prefix, i: int, params: SamplingParams, book: Callable[..., None]) -> Sample:
        task: asyncio.Task[None]

        def cancel() -> None:
            task.cancel()

        sample = Sample(cancel)
        task = asyncio.get_running_loop().create_task(self._write(sample, prefix, i, params, book))
        task.add_done_callback(lambda _: sample.finish(self._generation(prefix, "", "cancelled")))
        return sample

    async def _write(
        self, sample: Sample, prefix: Prefix, i: int, params: SamplingParams, book: Callable[..., None]
    ) -> None:
        whole = [s for s in self._script(Request(prefix.messages).text) if s.startswith(prefix.answer)]
        place = i if params.seed is None else params.seed + i
        solution = whole[place % len(whole)] if whole else ""
        rest = solution[len(prefix.answer) :]
        text, reason, stop, error = "", "stop", None, None
        sure: list[float] = []
        known = self._confidences(solution) if self._confidences is not None and params.confidence_of else ()
        self.running += 1
        try:
            for token in [*rest, ""]:  # "" is the end token
                await asyncio.sleep(0)
                book(drawn=1)
                text += token
                told = known[min(len(prefix.answer) + len(sure), len(known) - 1) :][:1]
                sure += told
                sample.feed(Delta(token, confidences=tuple(told)))
                if self._fails(prefix, i):
                    reason, error = "error", "scripted failure"
                    break
                stop = next((s for s in params.stop if text.endswith(s)), None)
                if stop is not None:
                    text = text if params.keep_stop else text.removesuffix(stop)
                    break
                if len(text) >= params.max_tokens and token:
                    reason = "length"
                    break
                if self.held is not None:
                    await self.held.wait()
        except asyncio.CancelledError:
            reason = "cancelled"
        finally:
            self.running -= 1
        made = self._generation(prefix, text, reason, stop, error)
        if known:
            made = dataclasses.replace(made, confidences=tuple(sure))
        if self._logprob is not None and params.logprobs:
            made = dataclasses.replace(made, logprobs=(self._logprob(solution),) * made.completion_tokens)
        sample.finish(made)

    def _generation(
        self, prefix: Prefix, text: str, reason: str, stop: str | None = None, error: str | None = None
    ) -> Generation:
        ended: FinishReason = reason  # type: ignore[assignment]
        ending = int(ended == "stop" and stop is None)  # the end token is drawn too
        return Generation(
            text=text,
            finish_reason=ended,
            completion_tokens=len(text) + ending,
            prompt_tokens=self.count_tokens(prefix),
            stop_text=stop,
            error=error,
        )

    async def close(self) -> None:
        """Nothing to free."""


class FailingOn:
    """Another backend, of which the samples at some places of every call fail, after they have been drawn.

    places : which of a prefix's samples.    cause : what Generation.cause then says.
    spared : samples so far that were left to end by themselves.
    """

    def __init__(self, backend: Backend, places: Collection[int], *, cause: HowhardError | None = None) -> None:
        self.backend, self.places, self.cause = backend, places, cause
        self.spared = 0
        self.name, self.prices = backend.name, backend.prices
        self.fingerprint, self.context = backend.fingerprint, backend.context
        self.gives_logprobs, self.gives_confidence = gives_logprobs(backend), gives_confidence(backend)

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """See Backend."""
        batch = self.backend.generate(prefixes, n=n, params=params, apart=apart)
        for row in batch.samples:
            for place in self.places:
                if place < len(row):
                    row[place] = _Failing(row[place], self.cause)
            self.spared += sum(not isinstance(sample, _Failing) for sample in row)
        return batch

    async def close(self) -> None:
        """Leave it to the owner of the other backend."""


class Noting:
    """Another backend, and what it was asked for. `calls`: the prefixes, n and settings of each call."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.calls: list[tuple[tuple[Prefix, ...], int, SamplingParams]] = []
        self.name, self.prices = backend.name, backend.prices
        self.fingerprint, self.context = backend.fingerprint, backend.context
        self.gives_logprobs, self.gives_confidence = gives_logprobs(backend), gives_confidence(backend)

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """See Backend."""
        self.calls.append((tuple(prefixes), n, params))
        return self.backend.generate(prefixes, n=n, params=params, apart=apart)

    async def close(self) -> None:
        """Leave it to the owner of the other backend."""


class _Failing(Sample):
    def __init__(self, sample: Sample, cause: HowhardError | None) -> None:
        super().__init__(sample.cancel)
        self._sample, self._cause = sample, cause

    async def result(self) -> Generation:
        drawn = await self._sample.result()
        error = "failed on purpose"
        return dataclasses.replace(drawn, finish_reason="error", stop_text=None, error=error, cause=self._cause)


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A strategy on a backend, to be checked.

    prompts     : two prompts or more, all different.
    served      : completion tokens that the backend has drawn since it was opened, of all calls.
    running     : samples that the backend is drawing or will draw.
    pause, resume : hold the backend before each sample's second token, and let it go on; None where it can't be.
    same_seed   : whether the backend repeats a seeded sample.
    independent : whether it does so whatever else it is drawing.
    """

    strategy: Strategy
    backend: Backend
    prompts: Sequence[str]
    served: Callable[[], Awaitable[int]]
    running: Callable[[], Awaitable[int]]
    pause: Callable[[], None] | None = None
    resume: Callable[[], None] | None = None
    same_seed: bool = True
    independent: bool = True

    async def run(self, prompt: str, budget: Budget | None = None) -> StrategyResult:
        """Run the strategy on a prompt."""
        return await self.strategy.run(Request.of(prompt), self.backend, budget=budget)


Check = Callable[[Subject], Awaitable[None]]


async def usage_is_what_the_backend_served(subject: Subject) -> None:
    """Every token drawn is booked, the losers' too, and the cost is the price of what was booked."""
    before = await subject.served()
    result = await subject.run(subject.prompts[0])
    usage = result.usage
    assert usage.completion_tokens == await subject.served() - before
    assert usage.calls >= 1
    assert usage.prompt_tokens >= result.candidates[0].generation.prompt_tokens > 0
    generated = subject.backend.prices.cost(
        prompt=usage.prompt_tokens, completion=usage.completion_tokens, cached=usage.cached_tokens
    )
    assert usage.cost >= generated - 1e-9
    if usage.verifier_tokens == 0:
        assert abs(usage.cost - generated) < 1e-9
    assert usage.completion_tokens >= max(c.generation.completion_tokens for c in result.candidates) > 0


async def a_token_budget_holds(subject: Subject) -> None:
    """No budget is exceeded, however small; one that does not hold a single token is refused."""
    free = (await subject.run(subject.prompts[0])).usage.total_tokens
    for tokens in sorted({1, 2, free // 8, free // 4, free // 2, free - 1, free, 2 * free, 20 * free} - {0}):
        try:
            result = await subject.run(subject.prompts[0], Budget(tokens=tokens))
        except InputError as exc:
            words = str(exc)
            assert f"{tokens} tokens" in words
        else:
            assert 0 < result.usage.total_tokens <= tokens
            assert result.stopped_because


async def a_cost_budget_holds(subject: Subject) -> None:
    """As with tokens."""
    free = (await subject.run(subject.prompts[0])).usage.cost
    for share in (0.01, 0.3, 0.6, 0.99, 1.0, 3.0):
        try:
            result = await subject.run(subject.prompts[0], Budget(cost=free * share))
        except InputError as exc:
            words = str(exc)
            assert "cost" in words
        else:
            assert 0 < result.usage.cost <= free * share + 1e-9


async def the_same_seed_gives_the_same_result(subject: Subject) -> None:
    """Texts, answers and usage of a seeded run repeat."""
    if subject.same_seed:
        assert _essence(await subject.run(subject.prompts[0])) == _essence(await subject.run(subject.prompts[0]))


async def a_cancelled_run_leaves_no_sample_behind(subject: Subject) -> None:
    """Cancelling the caller cancels its samples, which stop drawing, and CancelledError goes through."""
    whole = (await subject.run(subject.prompts[0])).usage.completion_tokens
    before = await subject.served()
    if subject.pause is not None:
        subject.pause()
    task = asyncio.ensure_future(subject.run(subject.prompts[0]))
    try:
        await _until(lambda: _any(subject.running, lambda: task.done()))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        else:
            raise AssertionError("the run had ended before it could be cancelled: give it more to draw")
    finally:
        if subject.resume is not None:
            subject.resume()
    await _until(lambda: _none(subject.running))
    if subject.pause is not None and subject.same_seed:
        assert await subject.served() - before < whole


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110  # another thread's or process's state: there is no event to wait for
            await asyncio.sleep(0)


async def _any(running: Callable[[], Awaitable[int]], ended: Callable[[], bool]) -> bool:
    return await running() > 0 or ended()


async def _none(running: Callable[[], Awaitable[int]]) -> bool:
    return await running() == 0


async def out_of_time_it_returns_the_best_so_far(subject: Subject) -> None:
    """A budget in seconds ends the run by itself: what was drawn is returned, and nothing goes on being drawn."""
    if subject.pause is None or subject.resume is None:
        return
    subject.pause()
    timer = asyncio.get_running_loop().call_later(0.1, subject.resume)
    try:
        result = await subject.run(subject.prompts[0], Budget(seconds=0.02))
    finally:
        timer.cancel()
        subject.resume()
    assert "0.02 s" in result.stopped_because
    assert any(c.generation.finish_reason == "cancelled" for c in result.candidates)
    assert result.text in [c.text for c in result.candidates]
    await _until(lambda: _none(subject.running))
    usage = result.usage
    assert usage.completion_tokens >= sum(c.generation.completion_tokens for c in result.candidates[:1])


async def stopped_at_any_moment_it_returns_the_best_so_far(subject: Subject) -> None:
    """`Run.stop` ends a run as its time would, wherever it stands; no sample and no task is left behind."""
    before = asyncio.all_tasks()
    for turns in (1, 2, 3, 8, 26, 60, 150):
        runs: list[Any] = []

        def begun(event: str, fields: Mapping[str, object], runs: list[Any] = runs) -> None:
            if event == "begin":
                runs.append(fields["run"])

        run = subject.strategy.run(Request.of(subject.prompts[0]), subject.backend, trace=begun)
        task = asyncio.ensure_future(run)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert runs
        for started in runs:
            started.stop()
        result = await task
        assert result.text in [c.text for c in result.candidates]
        await _until(lambda: _none(subject.running))
        await _until(lambda: _ended(asyncio.all_tasks() - before))


async def _ended(tasks: Collection[asyncio.Task]) -> bool:
    return not [task for task in tasks if task is not asyncio.current_task()]


async def a_failed_sample_is_visible_and_loses_no_other(subject: Subject) -> None:
    """Samples that did not fail are still weighed; where none is left, BackendError names the first error."""
    failing = FailingOn(subject.backend, {0})
    flawed = dataclasses.replace(subject, backend=failing)
    try:
        result = await flawed.run(subject.prompts[0])
    except BackendError as exc:
        words = str(exc)
        assert "failed on purpose" in words
        assert failing.spared == 0
    else:
        failed = [c for c in result.candidates if c.generation.finish_reason == "error"]
        assert failed
        assert all(c.answer is None and c.generation.error == "failed on purpose" for c in failed)
        assert len(result.candidates) > len(failed)
        assert "failed on purpose" in result.stopped_because


async def concurrent_requests_do_not_mix(subject: Subject) -> None:
    """64 requests at once have the results that they have one by one."""
    distinct = {prompt: await subject.run(prompt) for prompt in subject.prompts}
    asked = [subject.prompts[i % len(subject.prompts)] for i in range(64)]
    results = await asyncio.gather(*(subject.run(prompt) for prompt in asked))
    for prompt, result in zip(asked, results, strict=True):
        assert _lengths(result) == _lengths(distinct[prompt])
        if subject.independent:
            assert _essence(result) == _essence(distinct[prompt])


async def there_is_an_answer_where_a_sample_is_complete(subject: Subject) -> None:
    """The result is one of the candidates, and a complete one where there is one."""
    for prompt in subject.prompts:
        result = await subject.run(prompt)
        assert result.text in [c.text for c in result.candidates]
        complete = [c for c in result.candidates if c.generation.complete]
        assert (result.answer is not None) == bool(complete)
        if complete:
            assert (result.text, result.answer) in [(c.text, c.answer) for c in complete]
        assert all(c.answer is None for c in result.candidates if not c.generation.complete)
        assert result.seconds > 0


async def the_trace_tells_every_candidate(subject: Subject) -> None:
    """One "sample" event per candidate, in order, and one of them chosen at most."""
    events: list[tuple[str, dict]] = []
    result = await subject.strategy.run(
        Request.of(subject.prompts[0]), subject.backend, trace=lambda event, fields: events.append((event, {**fields}))
    )
    samples = [fields for event, fields in events if event == "sample"]
    assert [fields["candidate"].text for fields in samples] == [c.text for c in result.candidates]
    assert sum(bool(fields["chosen"]) for fields in samples) == 1


async def no_sample_is_drawn_twice(subject: Subject) -> None:
    """No two samples of a run share prefix and seed: they would be one sample, paid and counted twice."""
    noting = Noting(subject.backend)
    await dataclasses.replace(subject, backend=noting).run(subject.prompts[0])
    drawn = [
        (prefix.messages, prefix.answer, params.seed + i)
        for prefixes, n, params in noting.calls
        if params.seed is not None and params.temperature > 0
        for prefix in prefixes
        for i in range(n)
    ]
    assert len(set(drawn)) == len(drawn), f"drawn twice: {max(drawn, key=drawn.count)}"


CONTRACT: tuple[Check, ...] = (
    usage_is_what_the_backend_served,
    a_token_budget_holds,
    a_cost_budget_holds,
    the_same_seed_gives_the_same_result,
    a_cancelled_run_leaves_no_sample_behind,
    out_of_time_it_returns_the_best_so_far,
    stopped_at_any_moment_it_returns_the_best_so_far,
    a_failed_sample_is_visible_and_loses_no_other,
    concurrent_requests_do_not_mix,
    there_is_an_answer_where_a_sample_is_complete,
    the_trace_tells_every_candidate,
    no_sample_is_drawn_twice,
)
"""What every strategy promises on every backend."""


def _essence(result: StrategyResult) -> object:
    usage = dataclasses.replace(result.usage, cached_tokens=0)
    drawn = [(c.text, c.generation.finish_reason, c.generation.token_ids) for c in result.candidates]
    return result.answer, result.text, drawn, usage


def _lengths(result: StrategyResult) -> set[int]:
    return {c.generation.prompt_tokens for c in result.candidates}
