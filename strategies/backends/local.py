"""Draw samples from an embedded model in this process: batched, reproducible, and stopped at any token.

One thread per backend runs the model. Calls that wait are merged into one group of rows (one per sample), at
most `max_batch` together; a prefix that several samples share is read once. Rows leave their group as they
end, and when few are left the next group starts beside it, so that nobody waits for the longest sample of
another call. (Letting rows join a running group was tried: padding them to its length cost a third more than
it saved.) The model itself is in `llama.py`; nothing here knows of strategies or of what a text means.

Needs the extra `local` (PyTorch, safetensors, tokenizers).
"""

import asyncio
import atexit
import collections
import functools
import hashlib
import itertools
import threading
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...models import path as shipped_path
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
from ..errors import BackendError, ConfigError, InputError, PromptTooLong
from .llama import Decoding, Llama, load

_FINGERPRINTED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_UNIFORMS = 64  # random numbers that a row draws ahead at a time
_CROWDED = 0.7  # rows are moved together once at most this share of their group's seats is taken
_LANES = 4  # groups of rows that are drawn in turn
_NEARLY_EMPTY = 0.25  # a new group starts beside others that hold at most this share of max_batch
_RESERVED = 32  # tokens that a group has room for at first: most samples of the embedded models are short
_LINGER_S = 2.0  # an idle engine thread waits this long for more work before it ends
_FLUSH_S = 0.03  # streamed samples show new text at most this often


def model_directory(model: str | Path) -> Path:
    """Find a model directory: a path that holds a config.json, or the name of a model that ships.

    Raises ConfigError when there is neither.
    """
    if (Path(model) / "config.json").is_file():
        return Path(model)
    try:
        return shipped_path(str(model))
    except FileNotFoundError as exc:
        raise ConfigError(f"model={str(model)!r}: no directory there holds a config.json, and {exc}") from exc


def fingerprint_of(directory: Path) -> str:
    """Hash what decides a model's texts: configuration, weights, tokenizer and chat template."""
    digest = hashlib.sha256()
    for name in _FINGERPRINTED:
        file = directory / name
        if file.is_file():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()[:32]}"


class LocalBackend:
    """An embedded model as a backend.

    name, prices : see Backend.
    model        : a directory in Hugging Face format, or the name of a model that ships ("tiny-small").
    device       : a torch device.
    max_batch    : most samples that are drawn together.
    prefix_cache_mb : memory for what the model made of prefixes read lately, in megabytes; 0 = none. A prefix given by
                   token ids, as steps of searches are, is then read from where its beginning was read before, and
                   those tokens are told as cached.

    A seeded sample depends on its prefix, its seed and its settings alone, not on what else is in the batch or was
    read before. (Both move logits by about 1e-6; a draw that falls into such a gap is the one exception.)
    What the model reads is the contents of the messages and one line break: the effect of the models' chat
    template. `served` adds up what all calls have spent, to check accounts against.
    """

    gives_logprobs = True
    gives_confidence = True

    def __init__(
        self,
        name: str,
        model: str | Path,
        *,
        prices: Prices,
        device: str = "cpu",
        max_batch: int = 256,
        prefix_cache_mb: float = 64.0,
    ) -> None:
        if max_batch < 1:
            raise ConfigError(f"max_batch={max_batch!r}: it must be at least 1")
        if not prefix_cache_mb >= 0:
            raise ConfigError(f"prefix_cache_mb={prefix_cache_mb!r}: it must be 0 or more megabytes")
        directory = model_directory(model)
        self.name = name
        self.prices = prices
        self.fingerprint = fingerprint_of(directory)
        self._model, self._tokenizer = load(directory, device)
        self.context: int | None = self._model.config.max_position_embeddings
        self._decoder = _Decoder(self._tokenizer)
        readings = _Readings(int(prefix_cache_mb * 2**20))
        self._engine = _Engine(self._model, self._decoder, device, max_batch, readings)
        self._calls: list[_Call] = []
        self._closed_usage = Usage()

    @property
    def running(self) -> int:
        """Samples that are waiting or being drawn."""
        return self._engine.pending

    @property
    def served(self) -> Usage:
        """What all calls so far have spent."""
        still_open = []
        for call in self._calls:
            if call.ended:
                self._closed_usage += call.usage(self.prices)
            else:
                still_open.append(call)
        self._calls = still_open
        return sum((call.usage(self.prices) for call in still_open), self._closed_usage)

    def count_tokens(self, prefix: Prefix) -> int:
        """Count the tokens that a generation from this prefix would read."""
        return len(self._encode(prefix))

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        """Start n samples for each prefix; every sample can be cancelled alone, `apart` or not.

        Raises PromptTooLong when a prefix and `max_tokens` do not fit the context together, InputError for
        token ids that the model does not have, for no prefix, or for n < 1 (ConfigError for a cap or effort of
        reasoning, which it has no setting for); BackendError once closed.
        """
        if n < 1 or not prefixes:
            raise InputError(f"generate needs at least one prefix and n >= 1, got {len(prefixes)} and n={n}")
        encoded = [self._encode(prefix) for prefix in prefixes]
        for ids in encoded:
            self._check_length(len(ids), params.max_tokens)
        if self._engine.closed:
            raise BackendError(f"backend {self.name!r} is closed: open a new one")
        for setting in ("thinking_tokens", "reasoning_effort"):
            if getattr(params, setting) is not None:
                raise ConfigError(
                    f"{setting}={getattr(params, setting)!r}: {self.name!r} is an embedded model, which has no such "
                    "setting; leave it out, or have ChainOfThought cap the reasoning itself (cap_by='here')"
                )
        loop = asyncio.get_running_loop()
        call = _Call(encoded, n, [n > 1 or prefix.token_ids is not None for prefix in prefixes])
        rows = [[_Row(self._engine, call, which, i, loop, params) for i in range(n)] for which in range(len(encoded))]
        self._calls.append(call)
        if len(self._calls) > 64:
            _ = self.served  # forgets the calls that have ended
        self._engine.submit([row for of_prefix in rows for row in of_prefix])
        return Batch([[row.sample for row in of_prefix] for of_prefix in rows], lambda: call.usage(self.prices))

    async def encode(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that goes on where other tokens end."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def close(self) -> None:
        """Cancel what is running, end the engine's thread, and refuse further calls."""
        await asyncio.to_thread(self._engine.close)

    def _encode(self, prefix: Prefix) -> tuple[int, ...]:
        if prefix.token_ids is not None:
            size = self._model.config.vocab_size
            if not prefix.token_ids or not all(0 <= i < size for i in prefix.token_ids):
                raise InputError(f"token_ids must be a non-empty list of ids below {size}")
            return prefix.token_ids
        text = templated(prefix.messages) + prefix.answer
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _check_length(self, prompt: int, max_tokens: int) -> None:
        if self.context is not None and prompt + max_tokens > self.context:
            room = self.context - prompt
            remedy = f"lower max_tokens to {room}" if room > 0 else "shorten the prompt"
            raise PromptTooLong(
                f"{self.name!r} holds {self.context} tokens, but the prompt has {prompt} and "
                f"max_tokens={max_tokens} more were asked for: {remedy}"
            )


def templated(messages: Sequence[Message]) -> str:
    """Write messages as the embedded models read them: their contents, then one line break."""
    return "".join(m.content for m in messages) + "\n"


# ── text out of tokens ──────────────────────────────────────────────────────────────────────────────────────


class _Decoder:
    """Turns drawn tokens into text, knowing that a token's text depends on the tokens before it."""

    context = 4  # tokens before the first drawn one that its text may depend on (a space, half a character)

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self._alone: list[str] | None = None
        self._enders: dict[tuple[str, ...], set[int] | None] = {}

    def text(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """Return the text of `ids` as it reads after `before`."""
        whole = self._tokenizer.decode([*before, *ids])
        return whole[len(self._tokenizer.decode(list(before))) :] if before else whole

    def enders(self, stop: tuple[str, ...]) -> set[int] | None:
        """Tokens that can complete one of the stop strings; None = any may.

        Tokens decoded alone lose white space at their ends, so a stop string that ends in a space is looked
        for at every token; so are tokens that hold half a character.
        """
        if stop not in self._enders:
            found: set[int] | None = None
            if not any(s[-1].isspace() and s[-1] != "\n" for s in stop):
                if self._alone is None:
                    size = self._tokenizer.get_vocab_size()
                    self._alone = [self._tokenizer.decode([i]) for i in range(size)]
                last = {s[-1] for s in stop} | {"\ufffd"}
                found = {i for i, piece in enumerate(self._alone) if not last.isdisjoint(piece)}
                if "\n" in last and not any("\n" in self._alone[i] for i in found):
                    found = None
            self._enders[stop] = found
        return self._enders[stop]


# ── one call, one sample ────────────────────────────────────────────────────────────────────────────────────


class _Call:
    """The account of one generate call. Written by the engine's thread, read from anywhere."""

    def __init__(self, encoded: list[tuple[int, ...]], n: int, goes_on: list[bool]) -> None:
        self.encoded = encoded
        self.goes_on = goes_on  # of each prefix, whether longer ones are to be expected
        self.read = [False] * len(encoded)
        self.cached = [0] * len(encoded)
        self.drawn = 0
        self.unfinished = n * len(encoded)
        self.start = time.perf_counter()

    @property
    def ended(self) -> bool:
        return self.unfinished == 0

    def usage(self, prices: Prices) -> Usage:
        prompt = sum(len(ids) for ids, read in zip(self.encoded, self.read, strict=True) if read)
        cached = sum(self.cached)
        cost = prices.cost(prompt=prompt, completion=self.drawn, cached=cached)
        return Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=self.drawn, calls=1, cost=cost)


class _StreamedSample(Sample):
    """A sample that costs nothing to stream until somebody does."""

    watched = False

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield the pieces as they arrive."""
        self.watched = True
        async for delta in super().__aiter__():
            yield delta


class _Row:
    """One sample on its way through the engine."""

    __slots__ = (
        "before", "call", "cancelled", "confidences", "enders", "engine", "ids", "logprobs", "loop", "params",
        "prefix", "sample", "sent", "told", "uniforms", "which", "window",
    )  # fmt: skip

    def __init__(
        self,
        engine: "_Engine",
        call: _Call,
        which: int,
        i: int,
        loop: asyncio.AbstractEventLoop,
        params: SamplingParams,
    ) -> None:
        prefix = call.encoded[which]
        self.engine, self.call, self.which, self.loop, self.params = engine, call, which, loop, params
        self.prefix = prefix
        self.before = prefix[-_Decoder.context :]
        rng = engine.shared
        if params.seed is not None:  # the prefix takes part: equal seeds on two prefixes draw apart
            entropy = [(params.seed + i) % 2**64, zlib.crc32(np.asarray(prefix, dtype="<i8").tobytes())]
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self.uniforms = _uniforms(rng)
        self.enders = engine.decoder.enders(params.stop) if params.stop else frozenset()
        self.window = max(map(len, params.stop), default=0) + _Decoder.context
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.confidences: list[float] = []
        self.sent = 0
        self.told = 0  # of the confidences, those that were streamed
        self.cancelled = False
        self.sample = _StreamedSample(self.cancel)

    def cancel(self) -> None:
        self.cancelled = True
        self.engine.wake(self)

    def ending(self, token: int, eos: int) -> tuple[FinishReason, str | None] | None:
        """Say why the sample ends at `token`, its last one, and at which stop string; None = it goes on."""
        if token == eos:
            return "stop", None
        if self.params.stop and (self.enders is None or token in self.enders):
            tail = self._tail()
            if any(s in tail for s in self.params.stop):
                text = self.text
                found = [s for s in self.params.stop if s in text]
                if found:
                    return "stop", min(found, key=text.index)
        return ("length", None) if len(self.ids) >= self.params.max_tokens else None

    def _tail(self) -> str:
        if len(self.ids) > self.window:
            return self.engine.decoder.text(self.ids[-self.window :])
        return self.text

    @property
    def text(self) -> str:
        """All that was drawn, as text."""
        return self.engine.decoder.text(self.ids, self.before)

    def fresh(self) -> str:
        """Text that was not streamed yet and that no later token can change or take away."""
        text = self.text
        safe = len(text)
        if text.endswith("\ufffd"):  # half a character
            safe = len(text.rstrip("\ufffd"))
        if not self.params.keep_stop:
            held = [k for s in self.params.stop for k in range(1, len(s)) if text.endswith(s[:k])]
            safe = min(safe, len(text) - max(held, default=0))
        piece = text[self.sent : safe]
        self.sent = max(self.sent, safe)
        return piece

    def delta(self) -> Delta | None:
        """What was not streamed yet; None = nothing."""
        piece, confidences = self.fresh(), tuple(self.confidences[self.told :])
        self.told += len(confidences)
        return Delta(piece, confidences=confidences) if piece or confidences else None

    def generation(self, reason: FinishReason, stop_text: str | None, error: str | None = None) -> Generation:
        text = self.text
        if stop_text is not None:
            text = text[: text.index(stop_text) + (len(stop_text) if self.params.keep_stop else 0)]
        return Generation(
            text=text,
            finish_reason=reason,
            completion_tokens=len(self.ids),
            prompt_tokens=len(self.prefix),
            cached_tokens=self.call.cached[self.which],
            stop_text=stop_text,
            token_ids=tuple(self.ids),
            prompt_token_ids=self.prefix,
            logprobs=tuple(self.logprobs) if self.params.logprobs else None,
            confidences=tuple(self.confidences) if self.params.confidence_of else None,
            seconds=time.perf_counter() - self.call.start,
            error=error,
        )


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(_UNIFORMS).tolist()


_End = tuple[_Row, FinishReason, str | None, str | None]
"""A row, why it ends, the stop string that ended it, and what went wrong."""


# ── the engine ──────────────────────────────────────────────────────────────────────────────────────────────


class _Engine:
    """Runs the model in one thread, batch after batch, for as long as rows are waiting."""

    def __init__(self, model, decoder: _Decoder, device: str, max_batch: int, readings: "_Readings") -> None:
        self.readings = readings
        self.model, self.decoder, self.device, self.max_batch = model, decoder, device, max_batch
        self.closed = False
        self._waiting: dict[_Row, None] = {}  # in the order in which they came
        self._running = 0
        self._thread: threading.Thread | None = None
        self._condition = threading.Condition()
        self._streamed = time.perf_counter()
        self.shared = np.random.default_rng()  # of rows without a seed
        atexit.register(_close_if_alive, weakref.ref(self))

    @property
    def pending(self) -> int:
        with self._condition:
            return len(self._waiting) + self._running

    def submit(self, rows: list[_Row]) -> None:
        with self._condition:
            self._waiting.update(dict.fromkeys(rows))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="howhard-local-engine", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def wake(self, row: _Row) -> None:
        """End a cancelled row here and now if it is still waiting; a running one ends at its next token."""
        with self._condition:
            if row not in self._waiting:
                return
            del self._waiting[row]
        _deliver([_ended(row, "cancelled", None)])

    def close(self) -> None:
        with self._condition:
            self.closed = True
            thread = self._thread
            self._condition.notify_all()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        lanes: list[_Lane] = []
        while lanes or self._wait_for_rows():
            rows = self._take(lanes)
            if rows:
                lanes.append(_Lane(self.model, self.device, rows, self.readings))
            for lane in lanes:
                ended: Sequence[_End]
                try:
                    with torch.inference_mode():
                        ended = lane.step(self.closed)
                except Exception as exc:
                    # Whatever went wrong in here ends the samples of this lane, and no others.
                    error = f"{type(exc).__name__}: {exc}"
                    ended = [(row, "error", None, error) for row in lane.rows]
                    lane.seats.clear()
                self._finish(ended)
            lanes = [lane for lane in lanes if lane.rows]
            self._stream([row for lane in lanes for row in lane.rows])

    def _wait_for_rows(self) -> bool:
        with self._condition:
            if not self._waiting and not self.closed:
                self._condition.wait(_LINGER_S)
            if self._waiting and not self.closed:
                return True
            self._thread = None
            dropped, self._waiting = list(self._waiting), {}
        _deliver([_ended(row, "cancelled", None) for row in dropped])
        return False

    def _take(self, lanes: "Sequence[_Lane]") -> list[_Row]:
        """Take waiting rows for a new lane, when so few are being drawn that it would not slow them down much."""
        drawing = sum(len(lane.rows) for lane in lanes)
        with self._condition:
            if self.closed or len(lanes) >= _LANES or drawing > _NEARLY_EMPTY * self.max_batch:
                return []
            rows = list(itertools.islice(self._waiting, self.max_batch - drawing))
            for row in rows:
                del self._waiting[row]
            self._running += len(rows)
        return rows

    def _stream(self, rows: Sequence[_Row]) -> None:
        now = time.perf_counter()
        if now - self._streamed > _FLUSH_S:
            self._streamed = now
            _deliver(
                [
                    (row, functools.partial(row.sample.feed, delta))
                    for row in rows
                    if row.sample.watched and (delta := row.delta())
                ]
            )

    def _finish(self, ended: Sequence[_End]) -> None:
        if ended:
            with self._condition:
                self._running = max(0, self._running - len(ended))
            _deliver([_ended(*end) for end in ended])


class _Readings:
    """What the model made of prefixes read lately: their keys and values, at most so many bytes of them.

    The engine's thread alone uses it. Those that were of no use longest go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: collections.OrderedDict[tuple[int, ...], torch.Tensor] = collections.OrderedDict()
        self._lengths: collections.Counter[int] = collections.Counter()

    def find(self, ids: tuple[int, ...]) -> torch.Tensor | None:
        """What was read of the longest known beginning of `ids`, all but its last token at most; None = nothing."""
        for length in sorted(self._lengths, reverse=True):
            found = self._kept.get(ids[:length]) if length <= len(ids) else None
            if found is not None:
                self._kept.move_to_end(ids[:length])
                found = found[..., : len(ids) - 1, :]
                return found if found.shape[-2] else None
        return None

    def keep(self, ids: tuple[int, ...], read: Callable[[], torch.Tensor]) -> None:
        """Keep what `read` gives; it is called only where there is room for any and the prefix is new."""
        if self._most == 0 or ids in self._kept:
            return
        made = self._kept[ids] = read()
        self._lengths[len(ids)] += 1
        self._bytes += made.nbytes
        while self._bytes > self._most:
            oldest, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
            self._lengths[len(oldest)] -= 1
            if not self._lengths[len(oldest)]:
                del self._lengths[len(oldest)]


class _Lane:
    """Rows that started together and are drawn together, until the last of them has ended.

    seats : rows in the order of the model's state; None where one has ended and its seat is still computed.
    """

    def __init__(self, model: Llama, device: str, rows: list[_Row], readings: "_Readings") -> None:
        self.model, self.device, self.readings = model, device, readings
        self.seats: list[_Row | None] = [*rows]
        self._state: Decoding | None = None
        self._tokens = np.empty(0, dtype=np.int64)  # drawn last, one per seat
        self._room = model.config.max_position_embeddings
        self._settle()

    @property
    def rows(self) -> list[_Row]:
        """Rows that have not ended."""
        return [row for row in self.seats if row is not None]

    def step(self, closed: bool) -> list[_End]:
        """Draw the next token of every row; returns the rows that have ended with it.

        The model comes first: when it fails, no row has changed yet, and none that has ended is forgotten.
        """
        self._state = state = self._read() if self._state is None else self._advance(self._state)
        logits = state.logits.float().cpu().numpy()
        uniform = np.array([0.0 if row is None else next(row.uniforms) for row in self.seats])
        self._tokens, logprobs = choose(logits, self._temperature, self._top_p, uniform)
        sure = confidences(logits, self._confidence_of) if self._confidence_of.any() else None
        ended: list[_End] = []
        self._room -= 1
        for seat, (row, token, logprob) in enumerate(
            zip(self.seats, self._tokens.tolist(), logprobs.tolist(), strict=True)
        ):
            if row is None:
                continue
            if closed:
                end = row, "cancelled", None, None
            else:
                end = self._place(row, token, logprob, None if sure is None else float(sure[seat]))
            if end is not None:
                ended.append(end)
                self.seats[seat] = None
                left = self.model.config.max_position_embeddings - len(row.prefix) - len(row.ids)
                self._room = min(self._room, left)
        return ended

    def _advance(self, state: Decoding) -> Decoding:
        """Have the model read the tokens drawn last."""
        alive = [seat for seat, row in enumerate(self.seats) if row is not None]
        # Moving rows together copies the cache, which takes as long as a step: not for every single end. But a
        # seat must not outgrow the context, so in time its row's end counts however few there are.
        crowded = len(alive) > _CROWDED * len(self.seats) and self._room > 0
        if len(alive) < len(self.seats) and not crowded:
            state.keep(alive)
            self.seats, self._tokens = [self.seats[seat] for seat in alive], self._tokens[alive]
            self._settle()
        self.model.step(state, torch.from_numpy(np.maximum(self._tokens, 0)).to(self.device))
        return state

    def _read(self) -> Decoding:
        """Read each distinct prefix once, from where it was read before; seat rows of one prefix side by side."""
        rows = self.rows
        distinct: dict[tuple[int, ...], int] = {}
        where = [distinct.setdefault(row.prefix, len(distinct)) for row in rows]
        counts = np.bincount(where, minlength=len(distinct)).tolist()
        longest = max(row.params.max_tokens for row in rows)
        prefixes, reserve = list(distinct), min(longest, _RESERVED)
        pasts = [self.readings.find(prefix) for prefix in prefixes]
        known = [0 if past is None else past.shape[-2] for past in pasts]
        if any(known):
            news = [prefix[n:] for prefix, n in zip(prefixes, known, strict=True)]
            state = self.model.resume(pasts, news, reserve=reserve)
        else:
            state = self.model.prefill(prefixes, reserve=reserve)
        for place in {place for row, place in zip(rows, where, strict=True) if row.call.goes_on[row.which]}:
            self.readings.keep(prefixes[place], functools.partial(state.row, place))
        state = state.expand(counts)
        for row, place in zip(rows, where, strict=True):
            if not row.call.read[row.which]:  # a call for more rows than a lane holds reads its prompt once
                row.call.read[row.which] = True
                row.call.cached[row.which] = known[place]
        self.seats = [rows[i] for i in sorted(range(len(rows)), key=where.__getitem__)]
        self._settle()
        return state

    def _settle(self) -> None:
        """Take each row's settings to its seat; no seat is dead now."""
        self._temperature = np.array([row.params.temperature for row in self.rows])
        self._top_p = np.array([row.params.top_p for row in self.rows])
        self._confidence_of = np.array([row.params.confidence_of for row in self.rows])
        self._room = self.model.config.max_position_embeddings

    def _place(self, row: _Row, token: int, logprob: float, confidence: float | None) -> _End | None:
        """Give a row its next token; return how it ends, None if it goes on."""
        if row.cancelled:
            return row, "cancelled", None, None
        if token < 0:
            return row, "error", None, "the model returned logits that are not finite"
        row.ids.append(token)
        row.logprobs.append(logprob)
        if confidence is not None and row.params.confidence_of:
            row.confidences.append(confidence)
        row.call.drawn += 1
        ending = row.ending(token, self.model.config.eos_token_id)
        return None if ending is None else (row, *ending, None)


def _ended(
    row: _Row, reason: FinishReason, stop_text: str | None, error: str | None = None
) -> tuple[_Row, Callable[[], None]]:
    try:
        generation = row.generation(reason, stop_text, error)
    except Exception as exc:  # text that can't be made of the tokens; a sample that never ended would be worse
        row.ids, row.logprobs, row.confidences = [], [], []
        generation = row.generation("error", None, f"{type(exc).__name__}: {exc}")
    rest = Delta(generation.text[row.sent :], confidences=(generation.confidences or ())[row.told :])
    row.call.unfinished -= 1

    def finish() -> None:
        if (rest.text or rest.confidences) and not row.sample.done:
            row.sample.feed(rest)
        row.sample.finish(generation)

    return row, finish


def _deliver(events: Sequence[tuple[_Row, Callable[[], None]]]) -> None:
    """Run each event in its row's event loop, one wake-up per loop; rows of a closed loop are cancelled."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Row, Callable[[], None]]]] = {}
    for row, event in events:
        by_loop.setdefault(row.loop, []).append((row, event))
    for loop, own in by_loop.items():

        def all_of(own: list[tuple[_Row, Callable[[], None]]] = own) -> None:
            for _, event in own:
                event()

        try:
            loop.call_soon_threadsafe(all_of)
        except RuntimeError:  # the loop is closed: nobody is left to read these samples
            for row, _ in own:
                row.cancelled = True


def _close_if_alive(engine: "weakref.ref[_Engine]") -> None:
    alive = engine()
    if alive is not None:
        alive.close()


def choose(
    logits: np.ndarray, temperature: np.ndarray, top_p: np.ndarray, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one token per row by inverting the cumulative distribution, in double precision.

    logits : (rows, vocabulary). temperature, top_p, uniform : (rows,); uniform in [0, 1). Temperature 0
             takes the largest logit. top_p keeps the fewest most likely tokens (after the temperature) that
             reach that probability. Returns ids (rows,), -1 where a row's logits are not finite, and their
             natural log-probabilities at temperature 1 and top_p 1 (rows,).
    """
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    plain = np.exp(x)
    total = plain.sum(axis=1)
    greedy = temperature == 0
    weights = plain
    if not np.all(greedy | (temperature == 1)):
        weights = np.exp(x / np.where(greedy, 1.0, temperature)[:, None])
    cut = np.flatnonzero((top_p < 1) & ~greedy)
    if cut.size:
        weights = weights.copy()
        weights[cut] = _nucleus(weights[cut], top_p[cut])
    cumulative = np.cumsum(weights, axis=1)
    ids = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
    largest = x.argmax(axis=1)
    ids = np.where(greedy | (ids >= x.shape[1]), largest, ids)
    rows = np.arange(len(ids))
    logprobs = x[rows, ids] - np.log(total)
    return np.where(np.isfinite(total), ids, -1), logprobs


def confidences(logits: np.ndarray, of: np.ndarray) -> np.ndarray:
    """How sure the model is of each row's next token: -(1/k) sum of its k largest natural log-probabilities.

    logits : (rows, vocabulary).   of : (rows,) integers, k; at or beyond the vocabulary's size all tokens count, and
             the value less log(vocabulary) is the row's self-certainty (2502.18581). 0 = the row is left out.

    Returns (rows,), >= 0, NaN for a row left out. The larger, the surer (DeepConf, 2508.15260, section 2.1).
    """
    result = np.full(len(logits), np.nan)
    for k in set(of.tolist()) - {0}:
        rows = np.flatnonzero(of == k)
        x = logits[rows].astype(np.float64)
        top = x.max(axis=1)
        total = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
        if k < x.shape[1]:
            x = np.partition(x, x.shape[1] - k, axis=1)[:, x.shape[1] - k :]
        result[rows] = total - x.mean(axis=1)
    return result


def _nucleus(weights: np.ndarray, top_p: np.ndarray) -> np.ndarray:
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    reached = np.cumsum(ranked, axis=1) - ranked  # what the more likely tokens hold together
    ranked[reached >= top_p[:, None] * ranked.sum(axis=1, keepdims=True)] = 0.0
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, order, ranked, axis=1)
    return kept
