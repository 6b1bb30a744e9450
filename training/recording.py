"""Record what strategies do live: their samples, tree nodes and runs go to a log, as training data.

    with Recorder("log") as recorder:
        result = await arm.run(request, trace=recorder.trace(request, arm))
        recorder.finish(request, arm, result)

Samples are logged with origin "live" and are never derived from (howhard.training.derive says why): live draws stop
when they succeed, and later waves of some strategies are drawn from more than the prompt. How rows are written
safely is the business of howhard.training.log, what they mean of howhard.training.tables.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..strategies.answers import EXTRACTOR
from ..strategies.base import Arm, Candidate, Prices, Prompt, Request, SamplingParams, StrategyResult, Usage
from ..strategies.errors import InputError
from .log import Log
from .tables import COLUMNS, drawn_cells, params_json, prompt_id

logger = logging.getLogger(__name__)

Row = dict[str, Any]

_FLUSH_S = 2.0  # rows of ended runs wait at most until the next run ends after this
_FLUSH_ROWS = 1024


class Recorder:
    """Writes live runs to a log directory, in batches.

    A run's rows are gathered while it goes on, and are ready to be written once `finish` is told its result. They are
    written, and safe from then on, by `flush`, by `close` (the end of a `with`, also after Ctrl-C), and in between
    whenever many rows or seconds have gathered; `close` writes also what is known of runs that never finished.
    Any number of runs may be under way at once, in one event loop.

    group : the prompts' task, tenant or route, where `trace` is told no other.

    Raises TableError for a directory that is no log, WorldError where another process writes to it.
    """

    def __init__(self, directory: str | Path, *, group: str = "live", clock: Callable[[], float] = time.monotonic):
        self.log = Log(directory)
        self.log.lock()
        self._group = group
        self._clock = clock
        self._flushed = clock()
        self._ready: dict[str, list[Row]] = {table: [] for table in COLUMNS}
        self._under_way: list[_Recording] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def trace(self, prompt: Prompt | Request, arm: Arm, *, group: str | None = None) -> "_Recording":
        """Return the Trace to hand to one run of the arm; a second run needs another one."""
        recording = _Recording(Request.of(prompt), arm, group or self._group)
        self._under_way.append(recording)
        return recording

    def finish(
        self, prompt: Prompt | Request, arm: Arm, result: StrategyResult | None, *, quality: float | None = None
    ) -> None:
        """Say that a traced run has ended with this result; None where it raised: what it told before is kept.

        quality : a grader's judgement of the answer, in [0, 1], where there is one. It goes to the run, to the
                  sample that was chosen, and, since it needs one, to an outcome of source "run": the first of
                  this arm on this prompt in the log.

        Raises InputError where no run of this arm on this prompt is under way, or quality is outside [0, 1].
        """
        if quality is not None and not 0 <= quality <= 1:
            raise InputError(f"quality={quality!r}: a grader's judgement lies in [0, 1]")
        recording = self._recording(Request.of(prompt), arm, result)
        self._under_way.remove(recording)
        recording.end(result, quality)
        self._gather(recording)
        waiting = sum(map(len, self._ready.values()))
        if waiting >= _FLUSH_ROWS or self._clock() - self._flushed >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the rows of all runs that have finished; they are safe when this returns."""
        for table, rows in self._ready.items():
            if rows:
                self.log.append(table, rows)
                rows.clear()
        self._flushed = self._clock()

    def close(self) -> None:
        """Write everything, that of unfinished runs too, and give the log's lock back."""
        while self._under_way:
            self._gather(self._under_way.pop(0))
        try:
            self.flush()
        finally:
            self.log.close()

    def _recording(self, request: Request, arm: Arm, result: StrategyResult | None) -> "_Recording":
        """Find the run that had this result: equal requests may be under way at once."""
        of_both = [r for r in self._under_way if r.request == request and r.arm == arm]
        if not of_both:
            raise InputError(
                f"no run of {arm.name!r} on this prompt is being recorded: hand recorder.trace(request, arm) to the "
                "run as its trace, and call finish once"
            )
        if result is not None:
            drawn = [id(c) for c in result.candidates]
            of_both = [r for r in of_both if [id(c) for c in r.candidates] == drawn] or of_both
        return of_both[0]

    def _gather(self, recording: "_Recording") -> None:
        for table, rows in recording.rows().items():
            self._ready[table] += rows
        for table, key in (("prompts", ("prompt_id",)), ("outcomes", ("prompt_id", "arm"))):
            first: dict[object, Row] = {}
            for row in self._ready[table]:
                first.setdefault(tuple(row[name] for name in key), row)
            self._ready[table] = list(first.values())


class _Recording:
    """What one run has told: a Trace."""

    def __init__(self, request: Request, arm: Arm, group: str) -> None:
        self.request, self.arm, self.group = request, arm, group
        self.run_id = uuid.uuid4().hex
        self.time = datetime.now(UTC)
        self.candidates: list[Candidate] = []
        self._prompt = prompt_id(request.messages)
        self._samples: list[Row] = []
        self._nodes: dict[int, Row] = {}
        self._chosen: Row | None = None
        self._ended: list[tuple[StrategyResult, float | None]] = []

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        """See Trace. An event that lacks fields, of a strategy of one's own, is told and breaks no run."""
        take = {"sample": self._sample, "node": self._node}.get(event)
        if take is not None:
            try:
                take(fields)
            except KeyError as exc:
                logger.warning("%s: a %r event without %s is not recorded", self.arm.name, event, exc)

    def end(self, result: StrategyResult | None, quality: float | None) -> None:
        """Learn what came of it."""
        if result is not None:
            self._ended = [(result, quality)]
            if self._chosen is not None:
                self._chosen["quality"] = quality

    def rows(self) -> dict[str, list[Row]]:
        """All that is to be logged of it, by table."""
        return {
            "prompts": [self._prompt_row()],
            "samples": self._samples,
            "nodes": list(self._nodes.values()),
            "runs": [self._run_row(*end) for end in self._ended],
            "outcomes": [self._outcome_row(*end) for end in self._ended if end[1] is not None],
        }

    def _sample(self, fields: Mapping[str, Any]) -> None:
        candidate, params = fields["candidate"], fields.get("params")
        prices: Prices = fields.get("prices", self.arm.backend.prices)
        g = candidate.generation
        row = {
            "prompt_id": self._prompt,
            "backend": fields["backend"],
            "fingerprint": fields.get("fingerprint", ""),
            "params": params_json(params) if isinstance(params, SamplingParams) else "{}",
            "sample_index": fields["index"],
            "origin": "live",
            "parent": self.run_id,
            "wave": fields.get("wave"),
            "planned_n": fields.get("planned"),
            "stopped_because": _text(str(fields["stopped_because"])) if fields.get("stopped_because") else None,
            "text": _text(candidate.text),
            "answer": None if candidate.answer is None else _text(candidate.answer),
            "extractor": EXTRACTOR,
            "quality": None,
            "verdicts": _verdicts(candidate, fields),
            **drawn_cells(g, prices),
        }
        self.candidates.append(candidate)
        self._samples.append(row)
        if fields.get("chosen"):
            self._chosen = row

    def _node(self, fields: Mapping[str, Any]) -> None:
        """A node that is told again has changed: its last state counts."""
        self._nodes[fields["node"]] = {
            "run_id": self.run_id,
            "prompt_id": self._prompt,
            "arm": self.arm.name,
            "backend": fields.get("backend", self.arm.backend.name),
            "node": fields["node"],
            "parent": fields.get("parent"),
            "depth": fields["depth"],
            "text": _text(fields["text"]),
            "score": fields.get("score"),
            "copies": fields.get("copies", 1),
            "completion_tokens": fields["completion_tokens"],
            "finished": bool(fields["finished"]),
            "kept": bool(fields["kept"]),
        }

    def _prompt_row(self) -> Row:
        return {
            "prompt_id": self._prompt,
            "text": _text(self.request.text),
            "messages": _messages_json(self.request),
            "group": self.group,
            "time": self.time,
        }

    def _run_row(self, result: StrategyResult, quality: float | None) -> Row:
        return {
            "run_id": self.run_id,
            "prompt_id": self._prompt,
            "arm": self.arm.name,
            "request_id": self.request.id or None,
            "time": datetime.now(UTC),
            "answer": None if result.answer is None else _text(result.answer),
            "quality": quality,
            **_spent(result.usage),
            "seconds": result.seconds,
            "stopped_because": _text(result.stopped_because),
        }

    def _outcome_row(self, result: StrategyResult, quality: float | None) -> Row:
        return {
            "prompt_id": self._prompt,
            "group": self.group,
            "arm": self.arm.name,
            "backend": self.arm.backend.name,
            "strategy": self.arm.strategy.name,
            "quality": quality,
            **_spent(result.usage),
            "source": "run",
            "answer": None if result.answer is None else _text(result.answer),
        }


def _spent(usage: Usage) -> Row:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "verifier_tokens": usage.verifier_tokens,
        "calls": usage.calls,
        "cost": usage.cost,
    }


def _verdicts(candidate: Candidate, fields: Mapping[str, Any]) -> list[Row]:
    if candidate.score is None:
        return []
    return [
        {
            "verifier": fields.get("verifier") or "verifier",
            "score": candidate.score,
            "tokens": fields.get("verifier_tokens", 0),
            "cost": fields.get("verifier_cost", 0.0),
        }
    ]


def _messages_json(request: Request) -> str | None:
    """As in a prompt set: null where the text says it all."""
    messages = request.messages
    if len(messages) == 1 and messages[0].role == "user":
        return None
    return json.dumps([{"role": m.role, "content": _text(m.content)} for m in messages], ensure_ascii=False)


def _text(text: str) -> str:
    """What can be stored: a half of a surrogate pair, which a model may write, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
