"""The words of howhard's lowest floor: requests, generations, usage, and the protocols around them.

A *backend* generates text and has prices; a *verifier* scores candidates without a reference answer; a *strategy*
spends generations on one request; an *arm* is a strategy bound to a backend. Nothing here knows about routing,
HTTP, weights or files. Backends live in `backends/`, verifiers in `verifiers/`, each strategy in a file of its own.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from .errors import ConfigError, HowhardError, InputError

if TYPE_CHECKING:
    from .search.tree import Tree

FinishReason = Literal["stop", "length", "cancelled", "error"]


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


Prompt = str | Sequence[Message] | Sequence[Mapping[str, str]]


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
    """Turn a string or a list of chat messages into messages; a string is one user message.

    Raises InputError for an empty prompt, or for a message without a string role and content.
    """
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),)
    else:
        messages = tuple(_as_message(m, i) for i, m in enumerate(prompt))
    if not any(m.content.strip() for m in messages):
        raise InputError("the prompt is empty: give a non-empty string or a list of chat messages")
    return messages


def _as_message(message: object, index: int) -> Message:
    if isinstance(message, Message):
        return message
    if isinstance(message, Mapping):
        role, content = message.get("role"), message.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role, content)
    raise InputError(f"messages[{index}] is {message!r}: it needs a string 'role' and a string 'content'")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Request:
    """One prompt to be answered. It never holds a reference answer, so that no strategy can peek at one.

    `id` travels into logs and server request ids; "" lets each backend make its own.
    """

    messages: tuple[Message, ...]
    id: str = ""

    @classmethod
    def of(cls, prompt: "Prompt | Request", *, id: str = "") -> "Request":
        """Make a request from a string, from chat messages, or from a request (returned as it is)."""
        return prompt if isinstance(prompt, Request) else cls(as_messages(prompt), id)

    @property
    def text(self) -> str:
        """The contents of all messages, joined by newlines: what features and exact checks read."""
        return "\n".join(m.content for m in self.messages)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a generation continues: the messages, and the answer so far.

    `token_ids`, where given, is the exact tokenisation of prompt and answer as the backend made it (a Generation's
    `prompt_token_ids + token_ids`), so that a continuation neither re-tokenises nor misses the prefix cache.
    """

    messages: tuple[Message, ...]
    answer: str = ""
    token_ids: tuple[int, ...] | None = None

    def extended(self, generation: "Generation") -> "Prefix":
        """Return the prefix that continues after `generation`, by token ids where the backend gave them."""
        ids = None
        if generation.prompt_token_ids is not None and generation.token_ids is not None:
            ids = generation.prompt_token_ids + generation.token_ids
        return Prefix(self.messages, self.answer + generation.text, ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one text is drawn.

    temperature : >= 0; 0 is greedy.
    top_p       : in (0, 1].
    max_tokens  : >= 1, most completion tokens of one sample.
    stop        : strings that end a sample; the one that matched is kept at the end of the text if `keep_stop`.
    seed        : sample i of a call draws with seed + i; None = not reproducible.
    logprobs    : ask for the log-probability of each token drawn.
    confidence_of : ask for the confidence of each token drawn, over so many most likely tokens; 0 = don't. See
                  Generation.confidences. Servers cap it (vLLM at 20 by default), an embedded model knows all tokens.
    thinking_tokens : a reasoning model's own cap on reasoning tokens, where the server has one (vLLM's
                  `thinking_token_budget`); None = the server's default. A backend without one refuses it.
    reasoning_effort : such a model's setting of that name ("low", "high", ...), passed on; None = the server's default.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    seed: int | None = None
    logprobs: bool = True
    confidence_of: int = 0
    thinking_tokens: int | None = None
    reasoning_effort: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature={self.temperature!r}: it must be a finite number >= 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p!r}: it must lie in (0, 1]")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens={self.max_tokens!r}: it must be at least 1")
        if self.confidence_of < 0:
            raise ConfigError(f"confidence_of={self.confidence_of!r}: it must be 0 or more most likely tokens")
        if self.thinking_tokens is not None and self.thinking_tokens < 0:
            raise ConfigError(f"thinking_tokens={self.thinking_tokens!r}: it must be 0 or more")
        if any(not s for s in self.stop):
            raise ConfigError("stop holds an empty string, which would end every sample at once")

    def but(self, **changes: object) -> "SamplingParams":
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a backend's tokens cost, in the price book's one currency, per single token.

    `cached` is the price of a prompt token that the server reports as cached; None = the price of any prompt token.
    """

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"prices.{name}={value!r}: a price is a finite number >= 0, per token")

    def cost(self, *, prompt: int, completion: int, cached: int = 0) -> float:
        """Price a call: `prompt` counts all prompt tokens, the `cached` ones among them."""
        cached_price = self.prompt if self.cached is None else self.cached
        return (prompt - cached) * self.prompt + cached * cached_price + completion * self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was spent. Adding two usages adds every field.

    prompt_tokens     : a prompt that one call shares between n samples is counted once, as servers bill it.
    cached_tokens     : those of the prompt tokens that the server reported as cached.
    completion_tokens : all tokens drawn, those of failed, cancelled and losing samples included.
    verifier_tokens   : tokens that verifiers read or wrote.
    calls             : generate and score calls sent, retries included.
    cost              : in the price book's currency, verifiers included.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    verifier_tokens: int = 0
    calls: int = 0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{f: getattr(self, f) + getattr(other, f) for f in self.__slots__})

    @property
    def total_tokens(self) -> int:
        """Prompt, completion and verifier tokens together: what a Budget in tokens counts."""
        return self.prompt_tokens + self.completion_tokens + self.verifier_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Most that a run may spend; None = no limit. A strategy stops BEFORE the call that would break it."""

    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "seconds", "cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"budget.{name}={value!r}: it must be greater than 0, or None for no limit")


class Meter:
    """Adds up a run's usage and says what its budget still allows: nothing once `stopped` is set.

    One per run, never shared.
    """

    def __init__(self, budget: Budget | None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget = budget or Budget()
        self.usage = Usage()
        self.stopped = False
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._start

    def book(self, usage: Usage) -> None:
        """Add what a call has spent."""
        self.usage = self.usage + usage

    def allows(self, *, tokens: int = 0, cost: float = 0.0) -> bool:
        """Whether a call that takes at most `tokens` and `cost` keeps the budget."""
        b = self.budget
        return not self.stopped and (
            (b.tokens is None or self.usage.total_tokens + tokens <= b.tokens)
            and (b.cost is None or self.usage.cost + cost <= b.cost)
            and (b.seconds is None or self.seconds < b.seconds)
        )

    def left(self) -> Budget | None:
        """What the budget still holds, each limit less what was spent of it; None = nothing."""
        b = self.budget
        tokens = None if b.tokens is None else b.tokens - self.usage.total_tokens
        cost = None if b.cost is None else b.cost - self.usage.cost
        seconds = None if b.seconds is None else b.seconds - self.seconds
        if self.stopped or any(rest is not None and rest <= 0 for rest in (tokens, cost, seconds)):
            return None
        return Budget(tokens=tokens, cost=cost, seconds=seconds)


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One sample: the text drawn after its prefix (the prefix itself not included).

    stop_text        : the stop string that ended it; None at the end token, at the length, or when cancelled.
    token_ids        : the drawn tokens, prompt_token_ids those of prompt and answer so far; None if not offered.
    logprobs         : natural log-probability of each drawn token; None if not offered or not asked for.
    confidences      : of each drawn token, -(1/k) sum of the natural log-probabilities of the k most likely tokens at
                       its place (DeepConf, 2508.15260, section 2.1); None if not offered or not asked for.
    reasoning        : what a reasoning model thought before its answer; `text` is the answer alone.
    prompt_tokens    : length of the whole prefix in tokens (cached_tokens of them came from a cache).
    seconds          : from the call to this sample's last token.
    error            : why it failed, for finish_reason "error"; what was drawn before is kept.
    cause            : the same as an exception (PromptTooLong, BackendTimeout, ...), to be raised by a caller for whom
                       no sample is left; None where the backend knows no more than the words.
    """

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int = 0
    stop_text: str | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    confidences: tuple[float, ...] | None = None
    reasoning: str = ""
    seconds: float = 0.0
    error: str | None = None
    cause: HowhardError | None = field(default=None, compare=False, repr=False)

    @property
    def complete(self) -> bool:
        """Whether the sample came to its own end: a sample cut at `max_tokens` is not complete."""
        return self.finish_reason == "stop"

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability per drawn token, None where it is not known."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer. `reasoning` pieces are told apart from `text` pieces.

    confidences : of the tokens of this piece, where they were asked for and come while streaming.
    """

    text: str = ""
    reasoning: str = ""
    confidences: tuple[float, ...] = ()


class Sample:
    """A handle on one sample under way: await it, stream it, or cancel it. Backends feed it, callers read it.

    `result()` never raises for a failed sample: it returns a Generation with finish_reason "error".
    Everything here runs in the event loop that made it; a backend's thread feeds it by `call_soon_threadsafe`.
    """

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._done: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._deltas: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._on_cancel = on_cancel

    def feed(self, delta: Delta) -> None:
        """For the backend: a piece of text has arrived."""
        self._deltas.put_nowait(delta)

    def finish(self, generation: Generation) -> None:
        """For the backend: the sample has ended. A second call changes nothing."""
        if not self._done.done():
            self._done.set_result(generation)
            self._deltas.put_nowait(None)

    @property
    def done(self) -> bool:
        """Whether the sample has ended."""
        return self._done.done()

    def cancel(self) -> None:
        """Ask the backend to stop drawing; `result()` then gives what was drawn, finish_reason "cancelled"."""
        if not self.done and self._on_cancel is not None:
            self._on_cancel()

    async def result(self) -> Generation:
        """Wait for the end and return the whole sample."""
        return await asyncio.shield(self._done)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces as they arrive. Stopping early does not cancel the sample."""
        while (delta := await self._deltas.get()) is not None:
            yield delta


class Batch:
    """The samples of one `generate` call, n per prefix, in order: `samples[i][j]` is sample j of prefix i."""

    def __init__(self, samples: Sequence[Sequence[Sample]], usage: Callable[[], Usage]) -> None:
        self.samples = [list(row) for row in samples]
        self._usage = usage

    async def all(self) -> list[list[Generation]]:
        """Wait for every sample. If the caller is cancelled meanwhile, all samples are cancelled, then it raises."""
        try:
            return [[await s.result() for s in row] for row in self.samples]
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel every sample that has not ended."""
        for row in self.samples:
            for sample in row:
                sample.cancel()

    @property
    def usage(self) -> Usage:
        """What the call has spent so far; final once every sample has ended."""
        return self._usage()


# ── the protocols ────────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Backend(Protocol):
    """A model that generates text.

    name        : what arms and logs call it.
    prices      : per token, in the price book's currency.
    fingerprint : of weights, template and tokenizer: a router trained on one fingerprint warns about another.
    context     : most tokens of prompt and answer together, None if not known.
    """

    name: str
    prices: Prices
    fingerprint: str
    context: int | None

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """Start n samples for each prefix and return at once; needs a running event loop.

        `apart` asks that each sample can be cancelled alone, at the price of a call each where the server's own
        `n` cannot do that. Raises PromptTooLong before anything is drawn; a fault later on ends the sample it
        concerns with finish_reason "error" and leaves the others alone.
        """
        ...

    async def close(self) -> None:
        """Free connections and threads; a closed backend is not used again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer that a strategy weighs: a sample, what was read out of it, and what verifiers made of it.

    answer   : the extracted final answer, None where the sample is not complete.
    score    : of the strategy's verifier, in [0, 1]; None where it has none.
    steps    : the verifier's score after each step, where it has them.
    feedback : the verifier's words about it ("test 3 failed: ..."), where it has them.
    proven   : a sound verifier proved its answer right: the strategy's own, or one that judged it later.
    """

    text: str
    answer: str | None
    generation: Generation
    score: float | None = None
    steps: tuple[float, ...] | None = None
    feedback: str | None = None
    proven: bool = False

    @classmethod
    def of(cls, text: str, answer: str | None = None) -> "Candidate":
        """Make a candidate of a text alone, as it is read from a log: complete, and nothing known of its drawing."""
        return cls(
            text=text,
            answer=answer,
            generation=Generation(text=text, finish_reason="stop", completion_tokens=0, prompt_tokens=0),
        )


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A verifier's scores in [0, 1], one per candidate (None: not judged), step scores, and what they took.

    usage : of the whole call.
    shared : the part of `usage` that does not grow with the number of candidates: the prompt, read once for all.
    sound : a 1 among these scores proves its answer right, even where the verifier as a whole promises less (one
            that hands a request on to an exact check, say).
    feedback : words about each candidate that a model could act on (which test failed, and how), None where it has
            none.
    note : what must be known about the call as a whole, for instance how code was isolated; "" = nothing.
    """

    scores: tuple[float | None, ...]
    usage: Usage = field(default_factory=Usage)
    steps: tuple[tuple[float, ...] | None, ...] | None = None
    sound: bool = False
    shared: Usage = field(default_factory=Usage)
    feedback: tuple[str | None, ...] | None = None
    note: str = ""


@runtime_checkable
class Verifier(Protocol):
    """Scores candidates at run time, without a reference answer: it is handed only what the user asked.

    name  : what logs call its scores.
    sound : a score of 1 proves the answer right.
    """

    name: str
    sound: bool

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Score each candidate as an answer to the request; the texts of `partial` ones are unfinished solutions.

        A verifier that cannot judge this request (an exact check of another kind of puzzle) gives None for each.
        Raises VerifierError when it fails; nothing is ever silently ranked.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyResult:
    """What a run came to.

    stopped_because : a sentence for people: "drew all 8 samples", "the budget of 400 tokens was spent", ...
    candidates      : every answer weighed, failed samples included, in launch order.
    tree            : of a search: all its nodes, to be exported or drawn (search.tree.Tree); None elsewhere.
    """

    answer: str | None
    text: str
    reasoning: str = ""
    candidates: tuple[Candidate, ...] = ()
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    stopped_because: str = ""
    tree: "Tree | None" = None


Trace = Callable[[str, Mapping[str, object]], None]
"""Called with the name of an event and its fields, as a run goes on.

"sample" : backend, fingerprint, prices, params (SamplingParams), index, candidate (Candidate), chosen, wave (which
           draw of the run it came from, 0 the first), planned (samples planned in all), stopped_because, and of a
           scored one verifier (its name), verifier_tokens and verifier_cost (its equal share of what that took).
"begin"  : backend, run: a running.Run has begun; `run.stop()` ends it early, `run.meter.usage` is what it has spent.
"node"   : of a search: backend, node, parent, depth, text, score, copies, completion_tokens, finished, kept.
Others are the strategy's own."""


class Strategy(Protocol):
    """An algorithm that spends generations on one request. Holds settings only, checked when built."""

    @property
    def name(self) -> str:
        """Short and stable, settings included: "single", "best_of_8"."""
        ...

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Answer the request. Always returns the best finished answer that the budget allowed.

        Raises BackendError only when every sample failed.
        """
        ...

    def on(self, backend: Backend) -> "Arm":
        """Bind this strategy to a backend."""
        ...


class AnswerStream(Protocol):
    """A run under way. Iterate for the pieces of its answer, which stopping early does not cancel."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces as they arrive."""
        ...

    def cancel(self) -> None:
        """Stop drawing; `result` then gives what was drawn."""
        ...

    async def result(self) -> StrategyResult:
        """Wait for the end and return the whole. Raises as the strategy's `run`."""
        ...


@runtime_checkable
class Streams(Protocol):
    """What a strategy may offer beside Strategy: its answer piece by piece. Others weigh whole answers first."""

    def stream(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> AnswerStream:
        """Start and return at once; needs a running event loop. Raises as `run`, and PromptTooLong."""
        ...


@dataclass(frozen=True)
class Arm:
    """A strategy on a backend: what routers choose among, and what is run and logged."""

    strategy: Strategy
    backend: Backend

    @property
    def name(self) -> str:
        """`backend/strategy`, for instance "small/best_of_8"."""
        return f"{self.backend.name}/{self.strategy.name}"

    async def run(
        self, prompt: Prompt | Request, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Answer one prompt."""
        return await self.strategy.run(Request.of(prompt), self.backend, budget=budget, trace=trace)


class Bindable:
    """Gives a strategy its `on`; every strategy inherits it."""

    def on(self, backend: Backend) -> Arm:
        """Bind this strategy to a backend, giving an arm."""
        return Arm(self, backend)  # type: ignore[arg-type]
