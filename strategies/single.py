"""One sample, taken as it comes: the cheapest strategy, and the one that can be streamed."""

import asyncio
from collections.abc import AsyncIterator

from .base import (
    Backend,
    Batch,
    Bindable,
    Budget,
    Delta,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
)
from .running import Call, Run, candidate
from .spec import Parts, StrategyFields


class SinglePass(Bindable):
    """Draw one answer.

    Holds settings only: one instance may serve any number of requests at once.
    """

    def __init__(self, params: SamplingParams | None = None) -> None:
        self.params = params or SamplingParams()

    def __repr__(self) -> str:
        return f"SinglePass({self.params!r})"

    @property
    def name(self) -> str:
        """Always "single"."""
        return "single"

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Draw one answer, of fewer tokens where the budget holds no more.

        Raises InputError where the budget does not hold one token, BackendError where the sample failed.
        """
        return await self.stream(request, backend, budget=budget, trace=trace).result()

    def stream(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> "SingleStream":
        """Start one sample and return at once: iterate for its pieces, `await .result()` for the whole.

        Needs a running event loop. Raises as `run`, and PromptTooLong.
        """
        return SingleStream(Run(request, backend, budget, trace), self.params)


class SingleStream:
    """A single pass under way.

        stream = strategy.stream(request, backend)
        async for delta in stream: print(delta.text, end="")
        result = await stream.result()

    A caller that is cancelled while it iterates or waits cancels the sample; one that merely stops iterating
    calls `cancel`.
    """

    def __init__(self, run: Run, params: SamplingParams) -> None:
        prefix = Prefix(run.request.messages)
        self._run = run
        self._asked = params.max_tokens
        self._params = params.but(max_tokens=run.at_least_one(prefix, params.max_tokens))
        call = Call([prefix], 1, self._params)
        self._batch: Batch = run.backend.generate(call.prefixes, n=call.n, params=call.params)
        self._release = run.arm([self._batch])
        self._result: StrategyResult | None = None
        self._settling = asyncio.Lock()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces as they arrive."""
        try:
            async for delta in self._batch.samples[0][0]:
                yield delta
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop drawing; `result()` then gives what was drawn, without an answer."""
        self._batch.cancel()

    async def result(self) -> StrategyResult:
        """Wait for the end and return the whole. Raises BackendError where the sample failed."""
        async with self._settling:  # the usage is booked once, however many wait
            if self._result is None:
                self._release()
                [[[generation]]] = await self._run.collect([self._batch])
                only = candidate(generation)
                self._result = self._run.result([only], only, self._why(generation.finish_reason), params=self._params)
        return self._result

    def _why(self, finish_reason: str) -> str:
        run, cap = self._run, self._params.max_tokens
        if finish_reason == "length":
            cut = f"the sample was cut at {cap} tokens"
            return cut if cap == self._asked else f"{cut}, all that {run.budget_words} holds"
        if finish_reason == "cancelled":
            return f"{run.budget_words} was spent" if run.out_of_time else "the sample was cancelled"
        return "drew 1 sample"


class SingleSpec(StrategyFields, frozen=True, kw_only=True, tag="single"):
    """One sample."""

    def build(self, parts: Parts) -> SinglePass:
        """See StrategyFields."""
        return SinglePass(self.params(parts.seed))
