"""Chain of thought: one sample that thinks before it answers, and how long it may, or must, think.

Two kinds of models are served. One that thinks when it is asked to gets an instruction; its reasoning is all that comes
before the stated answer. One that reasons by itself marks its reasoning (<think>...</think>), or its server tells it
apart; for it, the cap on reasoning tokens is the dial that buys quality:

    ChainOfThought()                                        "cot": think step by step
    ChainOfThought(template=None, thinking_tokens=2048, params=params)      "think_2048": 2048 tokens, then answer
    ChainOfThought(template=None, thinking_tokens=2048, waits=2, ...)       "think_2048_wait_2": and think again, twice

The cap is kept by the server's own `thinking_token_budget` where the backend says that it has one, else by budget
forcing (Muennighoff et al. 2025, "s1", 2501.19393): what has not ended at the cap is ended here, by the end marker and
"Final Answer:", and the answer is drawn as the text that follows. Its opposite ends no reasoning before it went on
`waits` times: each end that the model makes is replaced by "Wait".
"""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol, runtime_checkable

from .base import (
    Backend,
    Batch,
    Bindable,
    Budget,
    Delta,
    Generation,
    Message,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
)
from .errors import ConfigError
from .naming import unusual
from .reasoning import THINK, Markers, Splitter
from .running import CountsTokens, Run, candidate, most_tokens
from .spec import Parts, StrategyFields

SLOT = "{prompt}"
STEP_BY_STEP = (
    f"{SLOT}\n\nThink step by step. Then give the final answer alone on the last line, in the form:\nAnswer: <answer>"
)
"""The default instruction."""

WAIT = "\nWait"
FINAL_ANSWER = "Final Answer:"

CapBy = Literal["auto", "server", "here"]

_ANSWER_TOKENS = 32  # what a budget holds back for an answer that is forced
_STRIDE = 1_000_003  # between the seeds of a sample's parts, so that none draws as another sample's first


@runtime_checkable
class EncodesText(Protocol):
    """What a backend may offer beside Backend: token ids for a text that goes on where other tokens end."""

    async def encode(self, text: str) -> tuple[int, ...] | None:
        """Return the ids, None where the server doesn't tell them."""
        ...


class ChainOfThought(Bindable):
    """Draw one answer with its reasoning.

    template        : an instruction with the slot {prompt}, put in place of the last user message; None (or "",
                      on command lines) leaves the prompt as it is, for models that reason by themselves.
    thinking_tokens : most tokens of reasoning, >= 1 and below max_tokens, which bounds reasoning and answer together;
                      None = no cap of its own.
    waits           : how often reasoning that ends before the cap is made to go on. Needs an empty template.
    wait_text       : what such an end is replaced by.
    forced_text     : what the answer begins with, where it is forced.
    markers         : what stands around reasoning; of no account where the server tells it apart.
    cap_by          : who keeps the cap: the "server" (thinking_token_budget), this strategy ("here"), or "auto": the
                      server where its backend's setting `thinking_budget` says that it can.
    params          : how tokens are drawn. `reasoning_effort` is passed on.

    The text of the result is the answer alone, `reasoning` is what came before it; in a prompted chain the answer
    begins with the first line that states one. Reasoning that never ends gives no answer, unless it is capped. What
    was put in (the "Wait", the forced beginning) stands in the texts and is in no count of completion tokens; each
    further call reads prompt and reasoning again, and its usage says so. Holds settings only: one instance may serve
    any number of requests at once.
    """

    def __init__(
        self,
        *,
        template: str | None = STEP_BY_STEP,
        thinking_tokens: int | None = None,
        waits: int = 0,
        wait_text: str = WAIT,
        forced_text: str = FINAL_ANSWER,
        markers: Markers = THINK,
        cap_by: CapBy = "auto",
        params: SamplingParams | None = None,
    ) -> None:
        self.params = params or SamplingParams()
        template = template or None
        if template is not None and SLOT not in template:
            raise ConfigError(f"template={template!r}: it has no slot {SLOT}, where the user's message goes")
        if thinking_tokens is not None and not 1 <= thinking_tokens < self.params.max_tokens:
            raise ConfigError(
                f"thinking_tokens={thinking_tokens!r}: it must be at least 1 and below "
                f"max_tokens={self.params.max_tokens}, which holds reasoning and answer together"
            )
        if waits < 0:
            raise ConfigError(f"waits={waits!r}: it must be 0 or more")
        if waits and template is not None:
            raise ConfigError(
                f"waits={waits!r} needs a model that marks the end of its reasoning: leave template empty"
            )
        if cap_by not in ("auto", "server", "here"):
            raise ConfigError(f"cap_by={cap_by!r}: it must be 'auto', 'server' or 'here'")
        if cap_by == "server" and (waits or thinking_tokens is None):
            raise ConfigError("cap_by='server' is for a cap: it needs thinking_tokens, and waits=0")
        if self.params.thinking_tokens is not None:
            raise ConfigError("params.thinking_tokens is set: give the cap as ChainOfThought(thinking_tokens=...)")
        for setting, text in (("wait_text", wait_text), ("forced_text", forced_text)):
            if not text.strip():
                raise ConfigError(f"{setting}={text!r}: it is empty")
        self.template, self.thinking_tokens, self.waits = template, thinking_tokens, waits
        self.wait_text, self.forced_text = wait_text, forced_text
        self.markers = markers
        self.cap_by: CapBy = cap_by

    def __repr__(self) -> str:
        return f"ChainOfThought({self.name!r}, markers={self.markers!r}, params={self.params!r})"

    @property
    def name(self) -> str:
        """For instance "cot", "think", "think_2048", "think_low_2048_wait_2": effort, cap, waits; what else is not as
        usual shows behind them.
        """
        parts = ["think" if self.template is None else "cot"]
        parts += [self.params.reasoning_effort] if self.params.reasoning_effort is not None else []
        parts += [str(self.thinking_tokens)] if self.thinking_tokens is not None else []
        parts += [f"wait_{self.waits}"] if self.waits else []
        parts += unusual(self, ChainOfThought, "template") if self.template is not None else []
        parts += unusual(self, ChainOfThought, "wait_text", "forced_text", "markers", "cap_by")
        return "_".join(parts)

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Think and answer, in fewer tokens where the budget holds no more.

        Raises InputError where the budget does not hold one token, ConfigError where the backend lacks what a cap or
        a wait needs, BackendError where the sample failed.
        """
        thought = _Thought(self, Run(request, backend, budget, trace))
        thought.start()
        return await thought.finish()

    def stream(
        self,
        request: Request,
        backend: Backend,
        *,
        budget: Budget | None = None,
        trace: Trace | None = None,
        reasoning: bool = True,
    ) -> "ThoughtStream":
        """Start and return at once: iterate for the pieces, `await .result()` for the whole.

        reasoning : show pieces of reasoning; the result has it either way.

        Needs a running event loop. Raises as `run`, and PromptTooLong.
        """
        return ThoughtStream(_Thought(self, Run(request, backend, budget, trace)), reasoning=reasoning)

    def prefix(self, request: Request) -> Prefix:
        """What is drawn from: the messages, the last one of the user (or the last) written into the template."""
        messages = list(request.messages)
        if self.template is not None:
            place = max((i for i, m in enumerate(messages) if m.role == "user"), default=len(messages) - 1)
            last = messages[place]
            messages[place] = Message(last.role, self.template.replace(SLOT, last.content))
        return Prefix(tuple(messages))


class _Thought:
    """One chain of thought under way: what was drawn, and where it goes on. `show` is told each piece as it comes."""

    def __init__(self, strategy: ChainOfThought, run: Run) -> None:
        self.strategy, self.run = strategy, run
        self.show: Callable[[Delta], None] | None = None
        self.cancelled = False
        self._splitter = Splitter(strategy.markers, stated=strategy.template is not None)
        self._prefix = strategy.prefix(run.request)
        self._parts: list[Generation] = []
        self._put_in = False  # text that no token was drawn for
        self._waited = 0
        self._forced = False
        self._short = ""  # what kept it from going on
        self._batch: Batch | None = None
        by_server = strategy.cap_by == "server" or getattr(run.backend, "thinking_budget", False)
        self._here = strategy.thinking_tokens is not None and not (by_server and strategy.cap_by != "here")
        if strategy.waits and strategy.thinking_tokens is not None:
            self._here = True

    # one part after another

    def start(self) -> None:
        """Begin to draw. Raises InputError."""
        strategy, run, params = self.strategy, self.run, self.strategy.params
        if (self._here or strategy.waits) and not getattr(run.backend, "can_continue", True):
            raise ConfigError(
                f"{strategy.name} goes on from begun reasoning, which {run.backend.name!r} can't: set its `continues` "
                "or `template` if the server can, or its `thinking_field` for the server's own cap; or set "
                "reasoning_effort in place of thinking_tokens"
            )
        if strategy.thinking_tokens is not None and not self._here:
            params = params.but(thinking_tokens=strategy.thinking_tokens)
        most = self._affordable_thinking() if self._here else run.at_least_one(self._prefix, params.max_tokens)
        self._asked = most
        self._draw(params.but(max_tokens=most, stop=self._stop(thinking=True)))

    async def finish(self) -> StrategyResult:
        """Draw what follows, part by part, to the end."""
        await self._receive()
        while True:
            step = self._next()
            if step is None:
                break
            text, thinking = step
            if not await self._go_on(text, thinking=thinking):
                break
            await self._receive()
        self._tell(self._splitter.end(complete=self._finish_reason() == "stop"))
        only = candidate(self._whole())
        return self.run.result([only], only, self._why(), params=self.strategy.params)

    def cancel(self) -> None:
        """Stop drawing; what was drawn is the result."""
        self.cancelled = True
        if self._batch is not None:
            self._batch.cancel()

    def _stop(self, *, thinking: bool) -> tuple[str, ...]:
        stop = self.strategy.params.stop
        return (*stop, self.strategy.markers.end) if thinking and self.strategy.waits else stop

    def _draw(self, params: SamplingParams) -> None:
        self._batch = self.run.backend.generate([self._prefix], n=1, params=params)
        self._release = self.run.arm([self._batch])

    async def _receive(self) -> None:
        batch = self._batch
        assert batch is not None
        try:
            if self.show is not None:
                async for delta in batch.samples[0][0]:
                    self._tell(self._splitter.feed(delta))
        except BaseException:
            batch.cancel()
            raise
        finally:
            self._release()
        [[[generation]]] = await self.run.collect([batch])
        if self.show is None:
            self._splitter.feed(Delta(generation.text, generation.reasoning))
        self._parts.append(generation)

    def _tell(self, delta: Delta) -> None:
        if self.show is not None and (delta.text or delta.reasoning or delta.confidences):
            self.show(delta)

    @property
    def _used(self) -> int:
        return sum(part.completion_tokens for part in self._parts)

    def _next(self) -> tuple[str, bool] | None:
        """Return what is to be put in before the next part, and whether that part thinks; None = it is over."""
        s, last = self.strategy, self._parts[-1]
        if last.finish_reason not in ("stop", "length") or self.cancelled or self.run.out_of_time:
            return None
        end = s.markers.end
        if s.waits and last.stop_text == end and not self._splitter.answering:
            if self._waited < s.waits and (s.thinking_tokens is None or self._used < s.thinking_tokens):
                self._waited += 1
                return s.wait_text, True
            return f"{end}\n\n", False
        if self._splitter.answering:  # it was the cap on reasoning that cut the answer
            capped = self._here and last.finish_reason == "length" and self._asked < s.params.max_tokens
            return ("", False) if capped and len(self._parts) == 1 + self._waited and not self._forced else None
        if self._here and not self._forced and (last.finish_reason == "length" or self._splitter.marked):
            self._forced = True
            close = self._splitter.to_close if self._splitter.marked else ""
            return f"{close}\n\n{s.forced_text}", False
        return None

    async def _go_on(self, text: str, *, thinking: bool) -> bool:
        """Put `text` in and draw on; False where nothing more can be drawn."""
        s, run = self.strategy, self.run
        prefix = await self._continued(text)
        cap = s.thinking_tokens if thinking and s.thinking_tokens is not None else s.params.max_tokens
        most = cap - self._used
        limit = f"max_tokens={s.params.max_tokens} was spent"
        if run.backend.context is not None:
            room = run.backend.context - self._length(prefix, text)
            if room < most:
                most, limit = max(room, 0), f"the context of {run.backend.context} tokens is full"
        fits = run.most_completion(prefix, most)
        if fits < 1 or self.cancelled:
            self._short = limit if most < 1 else f"{run.budget_words} was spent"
            return False
        if text:
            self._put_in = True
            self._tell(self._splitter.write(text))
        self._prefix = prefix
        self._asked = fits
        seed = None if s.params.seed is None else s.params.seed + _STRIDE * len(self._parts)
        self._draw(s.params.but(max_tokens=fits, seed=seed, stop=self._stop(thinking=thinking)))
        return True

    def _length(self, prefix: Prefix, text: str) -> int:
        """Tokens of a prefix that ends in `text`: exact, or a token per byte of `text`."""
        if prefix.token_ids is not None or isinstance(self.run.backend, CountsTokens):
            return most_tokens(self.run.backend, prefix)
        last = self._parts[-1]
        return last.prompt_tokens + last.completion_tokens + len(text.encode())

    async def _continued(self, text: str) -> Prefix:
        """The prefix after the last part and `text`, by token ids where the backend gives them.

        An end marker that stopped the last part is not in its text, but may be among its tokens: it goes.
        """
        last, backend, end = self._parts[-1], self.run.backend, self.strategy.markers.end
        answer = self._prefix.answer + last.text + text
        if last.token_ids is not None and last.prompt_token_ids is not None:
            if not text:
                return self._prefix.extended(last)
            more = await backend.encode(text) if isinstance(backend, EncodesText) else None
            if more:
                drawn = last.token_ids
                if last.stop_text == end and isinstance(backend, EncodesText):
                    marker = await backend.encode(end) or ()
                    drawn = drawn[: len(drawn) - len(marker)] if drawn[-len(marker) :] == marker else drawn
                return Prefix(self._prefix.messages, answer, last.prompt_token_ids + drawn + more)
        if last.reasoning:
            raise ConfigError(
                f"{self.strategy.name} can't go on from the reasoning of {backend.name!r}: its server tells reasoning "
                "apart, so the text as the model wrote it is not known, and it gives no token ids to go on from. Use "
                "the server's own cap (cap_by='server'), serve without a reasoning parser, or set reasoning_effort"
            )
        return Prefix(self._prefix.messages, answer)

    def _affordable_thinking(self) -> int:
        """Find how many tokens of reasoning the budget holds beside a forced answer; without one if it must be."""
        run, cap = self.run, self.strategy.thinking_tokens or 0
        prompt = most_tokens(run.backend, self._prefix)
        forced = len(f"{self.strategy.markers.end}\n\n{self.strategy.forced_text}".encode())
        answer = min(_ANSWER_TOKENS, self.strategy.params.max_tokens - cap)
        low, high = 0, cap
        while low < high:
            middle = (low + high + 1) // 2
            if run.allows(prompt=2 * prompt + middle + forced, completion=middle + answer):
                low = middle
            else:
                high = middle - 1
        return low or run.at_least_one(self._prefix, cap)

    # what it came to

    def _finish_reason(self) -> str:
        last = self._parts[-1]
        if self._short and last.finish_reason == "stop":
            return "length"
        return last.finish_reason

    def _whole(self) -> Generation:
        """All parts as one sample: the prompt of the first, the end of the last, and the tokens drawn by all."""
        first, last, parts = self._parts[0], self._parts[-1], self._parts
        ids, logprobs = [p.token_ids for p in parts], [p.logprobs for p in parts]
        confidences = [p.confidences for p in parts]
        return dataclasses.replace(
            last,
            text=self._splitter.text,
            reasoning=self._splitter.reasoning,
            finish_reason=self._finish_reason(),
            stop_text=last.stop_text if last.stop_text in self.strategy.params.stop else None,
            completion_tokens=self._used,
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
            prompt_token_ids=first.prompt_token_ids,
            token_ids=None if self._put_in else _chained(ids),
            logprobs=_chained(logprobs),
            confidences=_chained(confidences),
            seconds=sum(part.seconds for part in parts),
        )

    def _why(self) -> str:
        s, run, last = self.strategy, self.run, self._parts[-1]
        said = "drew 1 sample" if len(self._parts) == 1 else f"drew 1 sample in {len(self._parts)} parts"
        if self._waited:
            said += f", reasoning went on {self._waited} of {s.waits} times"
        if self._forced:
            said += f", reasoning was ended after {self._thought_for()} tokens"
        if run.out_of_time:
            return f"{said}; {run.budget_words} was spent"
        if self.cancelled or last.finish_reason == "cancelled":
            return f"{said}; it was cancelled"
        if self._short:
            return f"{said}; {self._short}"
        if last.finish_reason == "length":
            full = self._used >= s.params.max_tokens
            return f"{said}; it was cut at {self._used} tokens{'' if full else f', all that {run.budget_words} holds'}"
        return said

    def _thought_for(self) -> int:
        return sum(part.completion_tokens for part in self._parts[: 1 + self._waited])


def _chained(parts: list) -> tuple | None:
    return None if None in parts else tuple(itertools.chain.from_iterable(parts))


class ThoughtStream:
    """A chain of thought under way, as SingleStream: pieces by iterating, the whole by `result`.

    A caller that is cancelled while it iterates or waits cancels the sample; one that merely stops iterating
    calls `cancel`.
    """

    def __init__(self, thought: _Thought, *, reasoning: bool) -> None:
        self._thought = thought
        self._reasoning = reasoning
        self._pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        thought.show = self._take
        thought.start()
        self._task = asyncio.get_running_loop().create_task(thought.finish())
        self._task.add_done_callback(self._ended)

    def _take(self, delta: Delta) -> None:
        shown = delta if self._reasoning else dataclasses.replace(delta, reasoning="")
        if shown.text or shown.reasoning or shown.confidences:
            self._pieces.put_nowait(shown)

    def _ended(self, task: "asyncio.Task[StrategyResult]") -> None:
        self._thought.cancel()  # a task that is cancelled before its first step has no chance to
        if not task.cancelled():
            task.exception()  # told by `result`, or by nobody
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces as they arrive. A sample that fails ends them; `result` says why."""
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._pieces.put_nowait(None)  # for whoever iterates again

    def cancel(self) -> None:
        """Stop drawing; `result()` then gives what was drawn."""
        self._thought.cancel()

    async def result(self) -> StrategyResult:
        """Wait for the end and return the whole. Raises as `ChainOfThought.run`."""
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            self._task.cancel()
            raise


class ChainOfThoughtSpec(StrategyFields, frozen=True, kw_only=True, tag="chain_of_thought"):
    """A chain of thought; see ChainOfThought, and Markers for start, end and opened."""

    template: str | None = STEP_BY_STEP
    thinking_tokens: int | None = None
    waits: int = 0
    wait_text: str = WAIT
    forced_text: str = FINAL_ANSWER
    start: str = "<think>"
    end: str = "</think>"
    opened: bool = False
    cap_by: CapBy = "auto"
    reasoning_effort: str | None = None

    def build(self, parts: Parts) -> ChainOfThought:
        """See StrategyFields."""
        return ChainOfThought(
            template=self.template,
            thinking_tokens=self.thinking_tokens,
            waits=self.waits,
            wait_text=self.wait_text,
            forced_text=self.forced_text,
            markers=Markers(start=self.start, end=self.end, opened=self.opened),
            cap_by=self.cap_by,
            params=self.params(parts.seed).but(reasoning_effort=self.reasoning_effort),
        )
