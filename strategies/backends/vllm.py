"""A vLLM server as a backend, over HTTP. (Any other OpenAI-compatible server: openai.py, which builds on this.)

One streaming call per prefix: `n` samples share it (the prompt is read and billed once), or one call per
sample where samples must be stopped alone, because vLLM stops a request only when its connection closes, and
then all of it. Answers begin at /v1/chat/completions, where the server applies its template; they are
continued at /v1/completions by token ids, so that a step ends up in the next prompt exactly as it was drawn
and the prefix cache hits.

The spending is what the server reports, seen as it streams (`continuous_usage_stats`), so a call that is cut
off is booked too. Two residues stay and are stated, not hidden: tokens that the server drew between its last
chunk and the moment when it saw the connection close (a sample of a shared call comes in chunks of 16; half a chunk is
booked for one that is cut off), and the prompt of a call closed before its first chunk.

Nothing here retries quietly: a call is sent again only if no byte of an answer came, it is logged and it
counts in `Usage.calls`. Neither prompts nor the API key go into logs, messages or reprs. What vLLM 0.32.0
does was read in its source and tried (tests/integration); SSE framing is in sse.py, strategies know nothing
of this module.
"""

import asyncio
import contextlib
import functools
import hashlib
import heapq
import json
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from ..base import (
    Batch,
    Delta,
    FinishReason,
    Generation,
    Message,
    Prefix,
    Prices,
    Sample,
    SamplingParams,
    Usage,
)
from ..errors import (
    BackendError,
    BackendTimeout,
    BackendUnreachable,
    ConfigError,
    HowhardError,
    InputError,
    ModelNotServed,
    PromptTooLong,
)
from .http import (
    TOO_LONG,
    TRY_AGAIN,
    TryAgain,
    api_key,
    check_waiting,
    error_message,
    repeats,
    retry_after_s,
    server_address,
)
from .sse import EventDecoder, EventTooLong

logger = logging.getLogger(__name__)

_METRICS = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "prompt_tokens": ("prompt_tokens_total",),
    "cached_tokens": ("prompt_tokens_cached_total",),
    "completion_tokens": ("generation_tokens_total",),
    "prefix_cache_queries": ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total"),
    "prefix_cache_hits": ("prefix_cache_hits_total", "gpu_prefix_cache_hits_total"),
    "kv_cache_usage": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "preemptions": ("num_preemptions_total",),
}
"""Our name: vLLM's names without "vllm:", today's first, then those of older releases."""


# ── what the server sends (fields that are not named here are passed over) ──────────────────────────────────


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _TopLogprob(msgspec.Struct):
    logprob: float


class _TokenLogprob(msgspec.Struct):
    logprob: float
    top_logprobs: list[_TopLogprob] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_TokenLogprob] | None = None  # chat
    token_logprobs: list[float | None] | None = None  # completions
    top_logprobs: list[dict[str, float] | None] | None = None  # completions


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None  # vLLM
    reasoning_content: str | None = None  # older vLLM, DeepSeek, SGLang, llama.cpp


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Message | None = None  # chat
    text: str | None = None  # completions
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    matched_stop: int | str | None = None  # SGLang
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None  # completions


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    prompt_token_ids: list[int] | None = None  # chat
    error: dict | str | None = None


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


_START = "start it: vllm serve MODEL --served-model-name {} ; and check url and api_key_env"
_ADVICE = {
    "logprobs": "no log-probabilities came: mean_logprob features and confidence rules stay empty",
    "token_ids": "no token ids came (return_token_ids): step search re-tokenises; use a newer vLLM",
    "usage": "no token counts came while streaming (stream_options), so the spending of cancelled samples is "
    "estimated: start the server with --enable-force-include-usage",
    "cached_tokens": "cached prompt tokens are not told, so they are priced in full: start the server with "
    "--enable-prompt-tokens-details",
    "metrics": "no counters at /metrics: the accounting cannot be checked against the server's",
}

_MOST_LOGPROBS = 20  # vLLM's --max-logprobs where nothing else is said

_decode_chunk = msgspec.json.Decoder(_Chunk).decode


# ── one call ────────────────────────────────────────────────────────────────────────────────────────────────


class _Drawn:
    """What one sample has drawn so far. `held` is text that may be the beginning of a stop string looked for here."""

    __slots__ = (
        "confidences", "counted", "finish", "held", "ids", "logprobs", "pieces", "reasoning", "seconds", "stop_text",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.reasoning: list[str] = []
        self.held = ""
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.confidences: list[float | None] = []
        self.counted = 0
        self.finish: str | None = None
        self.stop_text: str | None = None
        self.seconds: float | None = None

    @property
    def tokens(self) -> int:
        """The server's own count, or what it listed; a server that tells neither is counted by its pieces."""
        return self.counted or len(self.ids) or len(self.logprobs) or len(self.pieces) + len(self.reasoning)

    def until_stop(self, text: str, stop: Sequence[str], keep: bool) -> str:
        """Take a piece; return what of it can be shown, and end the sample at a stop string in it."""
        text, self.held = self.held + text, ""
        found = [(place + len(s), s) for s in stop if (place := text.find(s)) >= 0]
        if found:
            end, self.stop_text = min(found)
            self.finish = "stop"
            return text[: end if keep else end - len(self.stop_text)]
        held = max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
        self.held = text[len(text) - held :]
        return text[: len(text) - held]


class StreamedCall:
    """One HTTP call: n samples of one prefix, what was drawn, and what it took.

    The samples of a shared call end together, when the stream does: only its last chunk tells the cached
    tokens, and a sample that needs its end alone is sent apart.
    """

    def __init__(self, backend: "VLLMBackend", prefix: Prefix, n: int, params: SamplingParams) -> None:
        self.backend, self.prefix, self.params, self.n = backend, prefix, params, n
        self.request_id = f"howhard-{uuid.uuid4().hex}"
        self.samples = [Sample(functools.partial(self.cancel, i)) for i in range(n)]
        self.drawn = [_Drawn() for _ in range(n)]
        self.started = time.perf_counter()
        self.sent = 0
        self.answered = False
        self.stops_here = bool(params.stop) and not backend.stops_there
        self.counts_stream = False
        self.prompt_tokens = 0
        self.cached_tokens: int | None = None
        self.prompt_ids: tuple[int, ...] | None = None
        self.total: int | None = None
        self.cut = False  # the connection was closed before the server's total came
        self.task: asyncio.Task[None] | None = None

    @property
    def usage(self) -> Usage:
        """What the call has taken, as far as it was seen: the server's total once it is there.

        Of a sample that was cut off between two events, half an event was drawn and not seen, on average.
        """
        seen = sum(d.tokens for d in self.drawn)
        if self.cut and self.total is None and self.n > 1:
            unseen = self.backend.tokens_per_event // 2
            seen += sum(
                min(unseen, self.params.max_tokens - d.tokens) for d in self.drawn if d.finish is None and d.tokens
            )
        completion = seen if self.total is None else self.total
        if not self.backend.counts_each:  # the total may have come beside a choice, before the others' ends
            completion = max(completion, seen)
        prompt, cached = self.prompt_seen, self.cached_tokens or 0
        return Usage(
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            calls=self.sent,
            cost=self.backend.prices.cost(prompt=prompt, cached=cached, completion=completion),
        )

    @property
    def prompt_seen(self) -> int:
        """Tokens of the prompt, as the server counted them; the backend's guess where it has answered without."""
        if self.prompt_tokens == 0 and self.answered:
            return self.backend.guessed_prompt(self.prefix)
        return self.prompt_tokens

    @property
    def over(self) -> bool:
        """Whether every sample was ended here, by a stop string: there is nothing to read on for."""
        return self.stops_here and all(d.finish is not None for d in self.drawn)

    def take(self, event: bytes) -> None:
        """Book one event of the stream. Raises BackendError for an error, or for what is no piece."""
        try:
            chunk = _decode_chunk(event)
        except msgspec.MsgspecError:
            raise BackendError(f"{self._where}: sent something that is not a piece of an answer") from None
        if chunk.error is not None:
            remedy = self.backend.remedy(error_message(chunk.error), self.params)
            raise BackendError(f"{self._where}: {self.backend.told(chunk.error, self.prefix)}{remedy}")
        if chunk.prompt_token_ids is not None:
            self.prompt_ids = tuple(chunk.prompt_token_ids)
        for choice in chunk.choices:
            if not 0 <= choice.index < self.n:
                raise BackendError(f"{self._where}: sent choice {choice.index} of a call with n={self.n}")
            self._piece(choice)
        if chunk.usage is not None:
            self._count(chunk.usage, chunk.choices)

    def _piece(self, choice: _Choice) -> None:
        drawn, sample = self.drawn[choice.index], self.samples[choice.index]
        message = choice.delta or _Message()
        text = choice.text or message.content or ""
        reasoning = message.reasoning or message.reasoning_content or ""
        if self.stops_here:
            if drawn.finish is not None:
                return
            text = drawn.until_stop(text, self.params.stop, self.params.keep_stop)
            if choice.finish_reason is not None and drawn.finish is None:
                text, drawn.held = text + drawn.held, ""
        if choice.prompt_token_ids is not None:
            self.prompt_ids = tuple(choice.prompt_token_ids)
        if choice.token_ids:
            drawn.ids += choice.token_ids
        confidences = ()
        if choice.logprobs is not None:
            drawn.logprobs += [t.logprob for t in choice.logprobs.content or ()]
            drawn.logprobs += [value for value in choice.logprobs.token_logprobs or () if value is not None]
            if self.params.confidence_of:
                confidences = _confidences(choice.logprobs, self.params.confidence_of)
                drawn.confidences += confidences
        if choice.finish_reason is not None and drawn.finish is None:
            stopped = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
            drawn.stop_text = stopped if isinstance(stopped, str) else None
            if drawn.stop_text and self.params.keep_stop and not self.backend.keeps_stop:
                text += drawn.stop_text
            drawn.finish = choice.finish_reason
        if drawn.finish is not None:
            drawn.seconds = time.perf_counter() - self.started
        if text:
            drawn.pieces.append(text)
        if reasoning:
            drawn.reasoning.append(reasoning)
        known = tuple(c for c in confidences if c is not None)
        if (text or reasoning or known) and not sample.done:
            sample.feed(Delta(text, reasoning, known))

    def _count(self, usage: _Usage, choices: Sequence[_Choice]) -> None:
        completion = usage.completion_tokens or 0
        self.prompt_tokens = max(self.prompt_tokens, usage.prompt_tokens)
        if usage.prompt_tokens_details is not None:
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if len(choices) == 1 and self.backend.counts_each:
            self.counts_stream = True
            self.drawn[choices[0].index].counted = completion
        elif not choices or not self.backend.counts_each:
            self.total = completion
            if self.n == 1:
                self.drawn[0].counted = completion

    def cancel(self, index: int) -> None:
        """End one sample here; close the connection when no sample of the call is still being drawn."""
        self._end(index, "cancelled")
        if self.task is not None and all(
            s.done or d.finish is not None for s, d in zip(self.samples, self.drawn, strict=True)
        ):
            self.cut = True
            self.task.cancel()

    def stream_ended(self) -> None:
        """End every sample: by its own reason, or as an error where the server never gave it one."""
        came = sum(d.finish is not None or d.tokens > 0 for d in self.drawn)
        for index, drawn in enumerate(self.drawn):
            if drawn.finish is None and not self.samples[index].done:
                reason = (
                    "the stream ended before the sample did"
                    if drawn.tokens
                    else f"sent {came} of the {self.n} choices asked for"
                )
                self._end(index, "error", BackendError(f"{self._where}: {reason}"))
        self.end_all("cancelled")

    def end_all(self, reason: FinishReason, cause: HowhardError | None = None) -> None:
        """End what has not ended: finished samples by their own reason, the others by `reason`."""
        for index in range(self.n):
            self._end(index, reason, cause)

    def _end(self, index: int, reason: FinishReason, cause: HowhardError | None = None) -> None:
        sample, drawn = self.samples[index], self.drawn[index]
        if sample.done:
            return
        if drawn.finish is not None:
            reason, cause = "error", None
            if drawn.finish in ("stop", "length"):
                reason = drawn.finish
            else:
                cause = BackendError(f"{self._where}: ended a sample with finish_reason {drawn.finish!r}")
        seconds = drawn.seconds if drawn.seconds is not None else time.perf_counter() - self.started
        if drawn.held:  # the stream broke off in what might have become a stop string
            sample.feed(Delta(drawn.held))
            drawn.pieces.append(drawn.held)
            drawn.held = ""
        confidences = tuple(c for c in drawn.confidences if c is not None)
        sample.finish(
            Generation(
                text="".join(drawn.pieces),
                reasoning="".join(drawn.reasoning),
                finish_reason=reason,
                stop_text=drawn.stop_text,
                completion_tokens=drawn.tokens,
                prompt_tokens=self.prompt_seen,
                cached_tokens=self.cached_tokens or 0,
                token_ids=tuple(drawn.ids) if drawn.ids else None,
                prompt_token_ids=self.prompt_ids,
                logprobs=tuple(drawn.logprobs) if drawn.logprobs and self.params.logprobs else None,
                confidences=confidences if confidences and len(confidences) == len(drawn.confidences) else None,
                seconds=seconds,
                error=None if cause is None else str(cause),
                cause=cause,
            )
        )

    @property
    def _where(self) -> str:
        return f"{self.backend.name} ({self.backend.url}), request {self.request_id}"


# ── the backend ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server was seen to offer, for `howhard doctor`.

    error  : why it could not be asked, in a sentence; None when all went well.
    served : the model names that it serves.
    usage  : it counts tokens while it streams, so that cancelled samples are booked.
    advice : a sentence for each thing to switch on or to mend.
    """

    reachable: bool
    error: str | None = None
    served: tuple[str, ...] = ()
    model_served: bool = False
    context: int | None = None
    version: str = ""
    fingerprint: str = ""
    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False
    cached_tokens: bool = False
    metrics: bool = False
    advice: tuple[str, ...] = ()


@dataclass(eq=False)
class _LoopState:
    """What belongs to one running event loop: connections cannot be carried from one to another."""

    session: aiohttp.ClientSession
    slots: asyncio.Semaphore
    calls: set[StreamedCall] = field(default_factory=set)
    check: asyncio.Task[None] | None = None
    closer: AsyncGenerator[None, None] | None = None


class VLLMBackend:
    """A model on a vLLM server.

    name              : what arms and logs call it.
    url               : of the server, with or without the trailing /v1; https is verified.
    model             : the name under which the server serves it.
    prices            : per token, in the price book's currency.
    api_key_env       : name of the environment variable that holds the API key; None sends none.
    timeout_s         : most seconds between two pieces of an answer, the first one's wait in the server's
                        queue included. There is no limit on the whole: long answers are not cut.
    connect_timeout_s : most seconds to make a connection.
    retries           : how often a call is sent again after 429, 502, 503 or a connection lost before any
                        answer.
    max_concurrency   : most calls under way at once; the others wait here, in order.
    fingerprint       : given when the weights are known better than a server can tell; "" or None = asked
                        for.
    extra_body        : fields that every generate request carries beside ours, for what only this server or
                        model knows: {"chat_template_kwargs": {"enable_thinking": False}}.
    thinking_budget   : the server caps reasoning by `thinking_token_budget` itself (a vLLM with --reasoning-parser).

    `fingerprint` and `context` are "" and None until `check` has run, which the first `generate` does by
    itself. The fingerprint hashes what a server tells: model name, root, context length, vLLM's version, and
    the token ids that its template makes of a fixed conversation. It cannot see weights that were changed in
    place.

    One instance serves any number of event loops, one after another or in threads. Raises ConfigError.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        model: str,
        prices: Prices,
        api_key_env: str | None = None,
        timeout_s: float = 120.0,
        connect_timeout_s: float = 10.0,
        retries: int = 1,
        max_concurrency: int = 256,
        fingerprint: str | None = None,
        extra_body: Mapping[str, object] | None = None,
        thinking_budget: bool = False,
    ) -> None:
        self.name, self.model, self.prices = name, model, prices
        self.url = self._address(url)
        self.thinking_budget = thinking_budget
        check_waiting(timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, retries=retries)
        if max_concurrency < 1:
            raise ConfigError(f"max_concurrency={max_concurrency!r}: it must be at least 1")
        if not model:
            raise ConfigError("model is empty: give the name under which the server serves the model")
        self.extra_body = dict(extra_body or {})
        if ours := OUR_FIELDS & self.extra_body.keys():
            raise ConfigError(f"extra_body sets {min(ours)!r}, which the backend sets itself")
        self.fingerprint = fingerprint or ""
        self.context: int | None = None
        self.version = ""
        self._given_fingerprint = bool(fingerprint)
        self._key_env = api_key_env
        api_key(api_key_env)  # told now, not at the first call
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=timeout_s)
        self._retries, self._max_concurrency = retries, max_concurrency
        self._checked = self._closed = False
        self._states: dict[asyncio.AbstractEventLoop, _LoopState] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, url={self.url!r}, model={self.model!r})"

    # what other dialects of the protocol do in another way

    stops_there = True  # stop strings are sent, and the server tells which one ended a sample
    keeps_stop = True  # the server leaves the stop string in the text where that is asked for
    counts_each = True  # usage beside one choice counts that sample alone
    gives_logprobs = True
    gives_confidence = True  # over as many tokens as its --max-logprobs allows, which it does not tell
    tokens_per_event = 16  # of each sample, in calls that several share
    base_path = "/v1"  # what stands before every path of the protocol
    server_kind = "a vLLM server"
    start = _START
    advice = _ADVICE
    longer_context = "serve the model with a larger --max-model-len"

    def _address(self, url: str) -> str:
        return server_address(url)

    def _check_call(self, prefixes: Sequence[Prefix], params: SamplingParams) -> None:
        """Raise InputError for what this server is known not to do."""

    def _sizes(self, n: int, params: SamplingParams, apart: bool) -> Sequence[int]:
        """How many samples each call for n samples of one prefix draws."""
        return [1] * n if apart or params.temperature == 0 else [n]

    def guessed_prompt(self, prefix: Prefix) -> int:
        """Tokens to book for a prompt that was read but not counted: none, as vLLM tells with its first chunk."""
        return 0

    def request(self, call: StreamedCall) -> tuple[str, dict[str, object]]:
        """The path and the JSON of a call."""
        p, prefix = call.params, call.prefix
        body = self.extra_body | {
            "model": self.model,
            "n": call.n,
            "temperature": p.temperature,
            "top_p": p.top_p,
            "max_tokens": p.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "return_token_ids": True,
            "request_id": call.request_id,
        }
        if call.n > 1:  # samples that nobody watches or stops one by one need no event per token
            body["stream_interval"] = self.tokens_per_event
        if p.seed is not None:
            body["seed"] = p.seed
        if p.stop:
            body |= {"stop": p.stop, "include_stop_str_in_output": p.keep_stop}
        if p.thinking_tokens is not None:
            body["thinking_token_budget"] = p.thinking_tokens
        if prefix.token_ids is not None:
            body["prompt"] = prefix.token_ids
            if p.confidence_of:  # by id: tokens of one text would be one entry
                body |= {"logprobs": p.confidence_of, "return_tokens_as_token_ids": True}
            elif p.logprobs:
                body["logprobs"] = 0
            return "/completions", body
        messages = [{"role": m.role, "content": m.content} for m in prefix.messages]
        if prefix.answer:
            messages.append({"role": "assistant", "content": prefix.answer})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if p.confidence_of:
            # The token drawn takes a place in the list even where it is not among the k likeliest, so one more is
            # asked for, within the server's cap of 20. At 20 itself the drawn one may stand for the 20th.
            body |= {"logprobs": True, "top_logprobs": p.confidence_of + (p.confidence_of < _MOST_LOGPROBS)}
        elif p.logprobs:
            body |= {"logprobs": True, "top_logprobs": 0}
        if p.reasoning_effort is not None:
            body["reasoning_effort"] = p.reasoning_effort
        return "/chat/completions", body | {"messages": messages}

    # generating

    @property
    def running(self) -> int:
        """Samples of this backend that have not ended, those that wait for a free place included."""
        calls = [call for state in list(self._states.values()) for call in list(state.calls)]
        return sum(not sample.done for call in calls for sample in call.samples)

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """Start n samples for each prefix and return at once; see strategies.base.Backend.

        Greedy samples (temperature 0) are always sent apart: vLLM refuses n > 1 for them. A prefix without
        token ids is measured by the server, so its PromptTooLong arrives as the `cause` of each of its
        samples.
        """
        if n < 1 or not prefixes:
            raise InputError(f"generate needs at least one prefix and n >= 1, got {len(prefixes)} and n={n}")
        for i, prefix in enumerate(prefixes):
            if self.context is not None and len(prefix.token_ids or ()) >= self.context:
                raise PromptTooLong(
                    f"prefix {i} has {len(prefix.token_ids or ())} tokens; {self.name} reads at most "
                    f"{self.context}, the answer included. Shorten it, or serve with a larger --max-model-len"
                )
        self._check_call(prefixes, params)
        state = self._state()
        sizes = self._sizes(n, params, apart)
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        rows, calls = [], []
        for prefix in prefixes:
            row = [
                StreamedCall(self, prefix, size, params.but(seed=None if params.seed is None else params.seed + first))
                for size, first in zip(sizes, firsts, strict=True)
            ]
            calls += row
            rows.append([sample for call in row for sample in call.samples])
        for call in calls:
            state.calls.add(call)
            call.task = asyncio.get_running_loop().create_task(self._run(call, state))
            call.task.add_done_callback(functools.partial(_ended, call, state))
        return Batch(rows, lambda: sum((call.usage for call in calls), Usage()))

    async def _run(self, call: StreamedCall, state: _LoopState) -> None:
        try:
            async with state.slots:
                await self._ready(state)
                await self._send(call, state)
            call.stream_ended()
        except HowhardError as error:
            call.end_all("error", error)

    async def _send(self, call: StreamedCall, state: _LoopState) -> None:
        path, body = self.request(call)
        data = msgspec.json.encode(body)
        for attempt in range(self._retries + 1):
            call.sent += 1
            try:
                with self._translated(call.request_id):
                    await self._stream(call, state, self.base_path + path, data)
                return
            except TryAgain as failed:
                if call.answered or attempt == self._retries:
                    raise failed.error from failed.__cause__
                wait = 0.2 * 2**attempt if failed.wait is None else failed.wait
                logger.warning(
                    "%s; sending it again in %.1f s (%d of %d)",
                    failed.error,
                    wait,
                    attempt + 1,
                    self._retries,
                )
                await asyncio.sleep(wait)

    async def _stream(self, call: StreamedCall, state: _LoopState, path: str, data: bytes) -> None:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        async with state.session.post(
            self.url + path, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
        ) as response:
            try:
                if response.status != 200:
                    raise await self._refused(response, call)
                if response.content_type != "text/event-stream":
                    raise BackendError(
                        f"{self.name} ({self.url}): answered with {response.content_type!r} instead of an "
                        f"event stream; is this the address of {self.server_kind}?"
                    )
                call.answered = True
                decoder = EventDecoder()
                async for chunk in response.content.iter_any():
                    for event in decoder.feed(chunk):
                        if event == b"[DONE]":
                            return
                        call.take(event)
                        if call.over:
                            response.close()  # as below
                            return
            except BaseException:
                response.close()  # releasing would read on; closing is what stops the server
                raise

    async def _refused(self, response: aiohttp.ClientResponse, call: StreamedCall) -> HowhardError | TryAgain:
        try:
            text = (await response.content.read(1 << 16)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError):
            text = ""
        try:
            answer: object = json.loads(text)
        except ValueError:
            answer = text
        status, where = response.status, f"{self.name} ({self.url}), request {call.request_id}"
        message = error_message(answer)
        told = self.told(answer, call.prefix)
        if status == 400 and TOO_LONG.search(message):
            return PromptTooLong(
                f"{where}: the prompt does not fit the context of {self.context or 'unknown'} tokens: {told} "
                f"Shorten it, or {self.longer_context}"
            )
        if status == 404 and "does not exist" in message:
            return ModelNotServed(f"{where}: {told}")
        if status in (401, 403):
            return BackendError(f"{where}: {self._key_refused(status)}")
        if 300 <= status < 400:
            return BackendError(f"{where}: redirects elsewhere ({status}), which is not followed; give the final url")
        error = BackendError(f"{where}: answered {status}: {told}{self.remedy(message, call.params)}")
        return TryAgain(error, retry_after_s(response.headers.get("Retry-After"))) if status in TRY_AGAIN else error

    def remedy(self, message: str, params: SamplingParams) -> str:
        """What helps against a refusal of what was asked for, as far as we know."""
        if params.confidence_of and "logprobs" in message:
            return f"; confidence_of={params.confidence_of} needs a server with --max-logprobs that high"
        return ""

    @contextlib.contextmanager
    def _translated(self, request_id: str = "") -> Iterator[None]:
        """Turn aiohttp's exceptions into ours; not chained where they carry headers, and so the key."""
        where = f"{self.name} ({self.url})" + (f", request {request_id}" if request_id else "")
        try:
            yield
        except aiohttp.ConnectionTimeoutError as exc:
            raise BackendUnreachable(f"{where}: no connection within {self._timeout.connect} s") from exc
        except aiohttp.ServerTimeoutError as exc:
            raise BackendTimeout(
                f"{where}: nothing came for {self._timeout.sock_read} s; raise timeout_s if it is that busy"
            ) from exc
        except aiohttp.ClientConnectorError as exc:
            raise BackendUnreachable(f"{where}: cannot be reached ({exc}); is it up?") from exc
        except aiohttp.ServerDisconnectedError as exc:
            raise TryAgain(BackendError(f"{where}: closed the connection before it answered")) from exc
        except aiohttp.ClientPayloadError as exc:
            raise BackendError(f"{where}: the connection broke off in the middle of an answer") from exc
        except aiohttp.ClientConnectionError as exc:  # reset, or closed by the server just as we wrote
            raise TryAgain(BackendError(f"{where}: the connection was lost ({exc})")) from exc
        except EventTooLong as exc:
            raise BackendError(f"{where}: sent {exc}, which is no answer of a language model") from exc
        except aiohttp.ClientError as exc:
            raise BackendError(f"{where}: sent no valid HTTP ({type(exc).__name__})") from None

    # asking the server about itself

    async def check(self) -> None:
        """Ask whether the server is there and serves the model; learn `context`, `version` and `fingerprint`.

        Raises BackendUnreachable, BackendTimeout, ModelNotServed (with the names that are served),
        BackendError.
        """
        models = await self._models()
        model = next((m for m in models if m.id == self.model), None)
        if model is None:
            served = [m.id for m in models]
            raise ModelNotServed(
                f"{self.name} ({self.url}): model {self.model!r} is not served there; it serves "
                f"{', '.join(map(repr, served)) or 'none'}"
            )
        version = await self._get_or_none("/version")
        self.version = str(version.get("version", "")) if isinstance(version, dict) else ""
        self.context = model.max_model_len
        if not self._given_fingerprint:
            told = [model.id, model.root, model.max_model_len, self.version, await self._rendered()]
            told += [self.extra_body] if self.extra_body else []
            self.fingerprint = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
        self._checked = True

    async def probe(self) -> Capabilities:
        """Try what the server offers, with two tokens drawn after a short prompt; its faults are told."""
        try:
            models = await self._models()
        except HowhardError as error:
            reachable = not isinstance(error, BackendUnreachable | BackendTimeout)
            return Capabilities(reachable=reachable, error=str(error), advice=(self.start.format(self.model),))
        served = tuple(m.id for m in models)
        metrics = await self._has_metrics()
        try:
            await self.check()
            call = await self._try_call()
        except HowhardError as error:
            return Capabilities(
                reachable=True,
                error=str(error),
                served=served,
                model_served=self.model in served,
                metrics=metrics,
            )
        g = await call.samples[0].result()
        seen = {
            "logprobs": g.logprobs is not None,
            "token_ids": g.token_ids is not None and g.prompt_token_ids is not None,
            "usage": call.total is not None and (call.counts_stream or not self.counts_each),
            "cached_tokens": call.cached_tokens is not None,
            "metrics": metrics,
        }
        return Capabilities(
            reachable=True,
            error=g.error,
            served=served,
            model_served=True,
            context=self.context,
            version=self.version,
            fingerprint=self.fingerprint,
            advice=tuple(
                self.advice[what]
                for what, there in seen.items()
                if not there and g.error is None and what in self.advice
            ),
            **seen,
        )

    async def metrics(self) -> dict[str, float]:
        """Read the server's counters: tokens since it started, requests running now, and so on.

        Keys: running, waiting, prompt_tokens, cached_tokens, completion_tokens, prefix_cache_queries,
        prefix_cache_hits, kv_cache_usage (0-1), preemptions; those that the server has. They are the whole
        server's, its other clients included, and `prompt_tokens` counts a prompt once per sample. Raises
        BackendError.
        """
        text = (await self._get("/metrics")).decode(errors="replace")
        totals: dict[str, float] = {}
        for match in re.finditer(r"^vllm:(\w+)(?:\{.*\})? (\S+)", text, re.MULTILINE):
            totals[match[1]] = totals.get(match[1], 0.0) + float(match[2])
        found = {
            ours: next(totals[name] for name in names if name in totals)
            for ours, names in _METRICS.items()
            if any(name in totals for name in names)
        }
        if not found:
            raise BackendError(f"{self.name} ({self.url}): /metrics holds no vllm: counters")
        return found

    async def _ready(self, state: _LoopState) -> None:
        """Run `check` once; calls that wait share one try, and a failed one is tried again later."""
        if not self._checked:
            if state.check is None or state.check.done():
                state.check = asyncio.get_running_loop().create_task(self.check())
                state.check.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(state.check)

    async def _try_call(self) -> StreamedCall:
        state = self._state()
        params = SamplingParams(temperature=0.0, max_tokens=2)
        call = StreamedCall(self, Prefix((Message("user", "Say yes."),)), 1, params)
        await self._run(call, state)
        return call

    async def _models(self) -> list[_Model]:
        answer = await self._get(self.base_path + "/models")
        try:
            return msgspec.json.decode(answer, type=_Models).data
        except msgspec.MsgspecError:
            raise BackendError(
                f"{self.name} ({self.url}): {self.base_path}/models is no list of models; is this {self.server_kind}?"
            ) from None

    async def _rendered(self) -> object:
        """The token ids that the server's template makes of a fixed conversation, if it tells."""
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in _CONVERSATION],
        }
        answer = await self._get_or_none("/tokenize", body)
        return answer.get("tokens") if isinstance(answer, dict) else None

    async def _get_or_none(self, path: str, body: Mapping[str, object] | None = None) -> object:
        try:
            return msgspec.json.decode(await self._get(path, body))
        except (BackendError, msgspec.MsgspecError):
            return None

    async def encode(self, text: str) -> tuple[int, ...] | None:
        """The token ids of a text that goes on where other tokens end; None where the server doesn't tell."""
        body: dict[str, object] = {"model": self.model, "prompt": text, "add_special_tokens": False}
        answer = await self._get_or_none("/tokenize", body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        return tuple(tokens) if tokens and all(isinstance(t, int) for t in tokens) else None

    async def _has_metrics(self) -> bool:
        try:
            await self.metrics()
        except BackendError:
            return False
        return True

    async def _get(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """GET a path, or POST a body to it; once more if the connection was lost, as pooled ones may be."""
        for attempt in (0, 1):
            try:
                with self._translated():
                    async with self._state().session.request(
                        "GET" if body is None else "POST",
                        self.url + path,
                        json=body,
                        timeout=self._timeout,
                        allow_redirects=False,
                    ) as response:
                        if response.status in (401, 403):
                            raise BackendError(f"{self.name} ({self.url}): {self._key_refused(response.status)}")
                        if response.status != 200:
                            hint = f"; is this the address of {self.server_kind}?" if response.status == 404 else ""
                            raise BackendError(f"{self.name} ({self.url}): {path} answered {response.status}{hint}")
                        return await response.content.read()
            except TryAgain as failed:
                if attempt:
                    raise failed.error from failed.__cause__
        raise AssertionError("unreachable")

    # what is never told

    def _key_refused(self, status: int) -> str:
        if self._key_env is None:
            return f"refused the request ({status}): it wants an API key; set api_key_env"
        return f"refused the API key in ${self._key_env} ({status})"

    def told(self, answer: object, prefix: Prefix) -> str:
        """The server's error message, cut to 300 characters; left out where it holds prompt or key."""
        message = error_message(answer)
        key = os.environ.get(self._key_env or "")
        if key and key in message:
            return "(the server's message repeats the API key and is left out)"
        for text in (*(m.content for m in prefix.messages), prefix.answer):
            if repeats(message, text):
                return "(the server's message repeats the prompt and is left out)"
        return message[:300] or "(no message)"

    # connections

    def _state(self) -> _LoopState:
        """The running loop's connections: made at first use, closed by `close` or at the loop's end."""
        if self._closed:
            raise BackendError(f"{self.name}: this backend was closed and cannot be used again")
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is None:
            for ended in [other for other in self._states if other.is_closed()]:
                del self._states[ended]
            key = api_key(self._key_env)
            session = aiohttp.ClientSession(
                # vLLM drops idle connections after 5 s: leave them earlier, or a call meets a closed one.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
                headers={"Authorization": f"Bearer {key}"} if key else None,
                trust_env=False,
            )
            state = _LoopState(session, asyncio.Semaphore(self._max_concurrency))
            # asyncio.run finalises the generators that began in its loop: so a loop that ends without `close`
            # closes its connections all the same, and the next asyncio.run makes its own.
            state.closer = self._closing(loop, session)
            with contextlib.suppress(StopIteration):
                state.closer.__anext__().send(None)
            self._states[loop] = state
        return state

    async def _closing(
        self, loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._states.pop(loop, None)
            await session.close()

    async def close(self) -> None:
        """Cancel what is under way in this event loop and close its connections; not used again."""
        self._closed = True
        state = self._states.pop(asyncio.get_running_loop(), None)
        if state is None:
            return
        tasks = [call.task for call in state.calls if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if state.closer is not None:
            await state.closer.aclose()


# ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

OUR_FIELDS = {
    *("model", "messages", "prompt", "n", "temperature", "top_p", "max_tokens", "seed", "stop", "request_id"),
    *("include_stop_str_in_output", "stream", "stream_options", "logprobs", "top_logprobs", "return_token_ids"),
    *("continue_final_message", "add_generation_prompt", "thinking_token_budget", "reasoning_effort"),
    *("return_tokens_as_token_ids", "max_completion_tokens", "stream_interval"),
}
"""Fields that backends set themselves, so that extra_body may not."""
_CONVERSATION = (("user", "one"), ("assistant", "two"), ("user", "three"))


def _ended(call: StreamedCall, state: _LoopState, task: asyncio.Task[None]) -> None:
    """A call's task is over: by itself, cancelled (perhaps before its first step), or by our mistake."""
    state.calls.discard(call)
    mistake = None if task.cancelled() else task.exception()
    if mistake is None:
        call.end_all("cancelled")
    else:
        logger.error("a call failed unexpectedly: %s", type(mistake).__name__, exc_info=mistake)
        call.end_all("error", BackendError(f"{call.backend.name}: unexpected {type(mistake).__name__}"))


def _confidences(logprobs: _Logprobs, k: int) -> list[float | None]:
    """Each token's confidence of k, see Generation.confidences; None where fewer than k log-probabilities came."""
    listed = [[top.logprob for top in token.top_logprobs or ()] for token in logprobs.content or ()]
    listed += [list((top or {}).values()) for top in logprobs.top_logprobs or ()]
    return [-sum(heapq.nlargest(k, values)) / k if len(values) >= k else None for values in listed]
