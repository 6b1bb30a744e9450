"""An embedded process reward model as a verifier: a score after every line of a solution.

The model itself is in `backends/llama.py`. Needs the extra `local`, which is imported when the model is
opened.
"""

import asyncio
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from ..base import Candidate, Prices, Request, Usage, Verdicts
from ..errors import ConfigError, VerifierError, nearest
from ..spec import Parts, PricesSpec, VerifierFields, demand, prices_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.llama import RewardModel as Model

Aggregate = Literal["last", "min", "product", "mean"]

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda steps: steps[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda steps: math.fsum(steps) / len(steps),
}
"""How the step scores of a solution become one number."""

assert set(AGGREGATES) == set(get_args(Aggregate))


class RewardModel:
    """Score solutions and partial solutions by a step reward model.

    model     : a directory, or the name of a model that ships.
    prices    : of the tokens that it reads; only `prompt` counts.
    aggregate : "last" (default), "min", "product" or "mean" of the step scores.
    device    : a torch device.

    A step is a line. A finished text is closed with the model's end token, a partial one is read as it stands, and
    remembered as long as its request lives: a search that goes on from it pays for the new tokens alone. The prompt
    is read once for all texts of a call that begin with it. Every token read is booked, in `Usage.verifier_tokens`
    and `Usage.cost`. A text that does not fit the model's context is not judged. One thread runs the model; calls
    that wait for it are read together.
    """

    sound = False

    def __init__(
        self,
        model: str | Path = "tiny-prm",
        *,
        prices: Prices,
        aggregate: Aggregate = "last",
        device: str = "cpu",
        name: str = "prm",
    ) -> None:
        if aggregate not in AGGREGATES:
            raise ConfigError(f"aggregate={aggregate!r}: choose one of {', '.join(AGGREGATES)}")
        from ..backends.llama import load_reward
        from ..backends.local import fingerprint_of, model_directory

        directory = model_directory(model)
        self.name = name
        self.prices = prices
        self.aggregate = aggregate
        self.fingerprint = fingerprint_of(directory)
        self._model, self._tokenizer = load_reward(directory, device)
        self._end = self._model.trunk.config.eos_token_id
        self._context = self._model.trunk.config.max_position_embeddings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="howhard-reward-model")
        self._lock = threading.Lock()
        self._waiting: list[_Job] = []
        self._memories: dict[int, _Memory] = {}

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Read each text and score it. Raises VerifierError where the model fails."""
        prompt = self._prompt(request)
        encoded = [self._encode(prompt, c.text, partial) for c in candidates]
        fits = [len(ids) <= self._context for ids, _ in encoded]
        job = _Job(
            self._memory(request), tuple(prompt), [e for e, fit in zip(encoded, fits, strict=True) if fit], partial
        )
        try:
            if job.texts:
                await self._read(job)
        except (RuntimeError, ValueError) as exc:
            raise VerifierError(f"reward model {self.name!r} failed: {exc}") from exc
        found = iter(job.scores)
        steps = tuple(tuple(next(found)) if fit else None for fit in fits)
        merge = AGGREGATES[self.aggregate]
        scores = tuple(None if own is None else merge(own) for own in steps)
        usage = self._usage(job.prompt_read + job.own_read, calls=int(job.prompt_read + job.own_read > 0))
        return Verdicts(scores, usage, steps, shared=self._usage(job.prompt_read, calls=0))

    def _usage(self, read: int, *, calls: int) -> Usage:
        return Usage(verifier_tokens=read, calls=calls, cost=self.prices.cost(prompt=read, completion=0))

    def _memory(self, request: Request) -> "_Memory":
        """What was read for this very request, forgotten with it."""
        key = id(request)
        with self._lock:
            if key not in self._memories:
                self._memories[key] = _Memory()
                weakref.finalize(request, self._memories.pop, key, None)
            return self._memories[key]

    def _prompt(self, request: Request) -> list[int]:
        from ..backends.local import templated

        return self._tokenizer.encode(templated(request.messages), add_special_tokens=False).ids

    def _encode(self, prompt: list[int], text: str, partial: bool) -> "_Text":
        """Return the ids of prompt and text, and where each step's last token stands among them."""
        if not partial:
            text = text.rstrip()
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = [*prompt, *encoding.ids]
        ends: list[int] = []
        at = 0
        for token, (_, end) in enumerate(encoding.offsets):
            # A step ends at the token that holds its line break; a blank line is no step.
            if "\n" in text[at:end] and text[:end].rpartition("\n")[0][_line_start(text, at) :].strip():
                ends.append(len(prompt) + token)
            at = max(at, end)
        if not partial:
            ends.append(len(ids))
            ids.append(self._end)
        elif not ends or text.rpartition("\n")[2].strip():
            ends.append(len(ids) - 1)  # a step under way; with nothing drawn yet, the prompt alone
        return ids, ends

    async def _read(self, job: "_Job") -> None:
        with self._lock:
            self._waiting.append(job)
        self._thread.submit(self._read_all_waiting)
        await asyncio.wrap_future(job.done)

    def _read_all_waiting(self) -> None:
        with self._lock:
            jobs, self._waiting = self._waiting, []
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        try:
            _read_jobs(self._model, jobs)
            for job in jobs:
                job.done.set_result(None)
        except Exception as exc:
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(exc)


_Text = tuple[list[int], list[int]]
"""Token ids of prompt and text, and the index of each step's last token."""


@dataclass(slots=True, eq=False)
class _Piece:
    """A text that was read: what it goes on from, keys and values of its own tokens, chances after all its tokens."""

    parent: "_Piece | None"
    own: "Tensor"
    chances: list[float]

    def whole(self) -> "Tensor":
        """Keys and values of all tokens, (layers, 2, heads, length, head_dim)."""
        import torch

        pieces: list[Tensor] = []
        piece: _Piece | None = self
        while piece is not None:
            pieces.append(piece.own)
            piece = piece.parent
        return torch.cat(pieces[::-1], dim=-2)


@dataclass(slots=True, eq=False)
class _Memory:
    """What was read for one request: its prompt and its partial solutions, by token ids. Used by one thread."""

    pieces: dict[tuple[int, ...], _Piece] = field(default_factory=dict)

    def longest(self, ids: list[int], ends: list[int], prompt: int) -> _Piece:
        """Return the longest beginning of a text that was read; the prompt always was."""
        for end in reversed(ends):
            piece = self.pieces.get(tuple(ids[: end + 1]))
            if piece is not None:
                return piece
        return self.pieces[tuple(ids[:prompt])]


@dataclass(slots=True, eq=False)
class _Job:
    """One call of `score`: what is to be read, and what came of it.

    prompt_read, own_read : tokens to pay for: the prompt where a text began with nothing but it, and new tokens.
    """

    memory: _Memory
    prompt: tuple[int, ...]
    texts: list[_Text]
    partial: bool
    scores: list[list[float]] = field(default_factory=list)
    prompt_read: int = 0
    own_read: int = 0
    done: "Future[None]" = field(default_factory=Future)


_BATCH = 64  # texts read at once

_Key = TypeVar("_Key")


def _read_jobs(model: "Model", jobs: Sequence[_Job]) -> None:
    """Read the prompts that are new, then every text from the longest beginning that was read before."""
    fresh = [job for job in jobs if job.prompt not in job.memory.pieces]
    for job, chances, own in _in_batches(model, fresh, [(None, list(job.prompt)) for job in fresh]):
        job.memory.pieces[job.prompt] = _Piece(None, own, chances)
    todo: list[tuple[_Job, int, _Piece]] = []
    for job in jobs:
        job.scores = [[] for _ in job.texts]
        for index, (ids, ends) in enumerate(job.texts):
            piece = job.memory.longest(ids, ends, len(job.prompt))
            if piece.parent is None:
                job.prompt_read = len(job.prompt)
            job.own_read += len(ids) - len(piece.chances)
            todo.append((job, index, piece))
    new = [(job, index, piece) for job, index, piece in todo if len(job.texts[index][0]) > len(piece.chances)]
    rows = [(piece, job.texts[index][0][len(piece.chances) :]) for job, index, piece in new]
    read = {
        (id(job), index): _Piece(piece, own, [*piece.chances, *chances])
        for (job, index, piece), chances, own in _in_batches(model, new, rows)
    }
    for job, index, piece in todo:
        ids, ends = job.texts[index]
        piece = read.get((id(job), index), piece)
        job.scores[index] = [piece.chances[end] for end in ends]
        if job.partial:
            job.memory.pieces.setdefault(tuple(ids), piece)


def _in_batches(
    model: "Model", keys: Sequence[_Key], rows: Sequence[tuple[_Piece | None, list[int]]]
) -> "Iterator[tuple[_Key, list[float], Tensor]]":
    """Yield (key, chances after the new tokens, their keys and values) of every row, texts of like length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    for first in range(0, len(order), _BATCH):
        batch = order[first : first + _BATCH]
        pasts = [None if (piece := rows[i][0]) is None else piece.whole() for i in batch]
        chances, own = model.read(pasts, [rows[i][1] for i in batch])
        for i, chance, cache in zip(batch, chances, own, strict=True):
            yield keys[i], chance, cache


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


class RewardModelSpec(VerifierFields, frozen=True, kw_only=True, tag="reward_model"):
    """An embedded process reward model.

    aggregate : how step scores become one: "last", "min", "product" or "mean".
    prices    : of the tokens it reads (`prompt`); None = they count as much as tokens drawn.
    """

    model: str = "tiny-prm"
    aggregate: Aggregate = "last"
    prices: PricesSpec | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        demand(bool(self.model), "model is empty: give a directory or the name of a model that ships")
        demand(
            self.aggregate in AGGREGATES,
            f"aggregate={self.aggregate!r}{nearest(str(self.aggregate), AGGREGATES)}",
        )

    def open(self, name: str, parts: Parts) -> RewardModel:
        """See VerifierFields."""
        prices = prices_of(self.prices, Prices(prompt=1.0, completion=0.0))
        return RewardModel(self.model, prices=prices, aggregate=self.aggregate, device=self.device, name=name)
