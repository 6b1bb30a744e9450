"""`howhard run`: one strategy on one prompt, or over a file of prompts.

Results over a file are appended as they come, one JSON line each, and a second run goes on where the first stopped.
Nothing is graded here: that is what `howhard collect` and `howhard compare` do.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..strategies import ArmSpec, StrategySpec
from ..strategies.base import Arm, Budget, Candidate, Request, StrategyResult, Streams, Trace, Usage, as_messages
from ..strategies.errors import ConfigError
from .bounded import work_off
from .progress import bars
from .results_file import ResultsFile
from .workbench import AtHand, Workbench

if TYPE_CHECKING:
    from .recording import Recorder

_NAMED = 5  # failures that a report spells out


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be run: a strategy on the one backend of `at`, within a budget.

    seed : each prompt draws with a seed made of this one and its id, so that no two prompts share their luck.
    log  : a log directory that live samples and nodes are recorded in; None = nothing is recorded.
    """

    at: AtHand
    strategy: StrategySpec
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    log: Path | None = None

    @property
    def spec(self) -> ArmSpec:
        """The arm."""
        return ArmSpec(backend=self.at.chosen[0], strategy=self.strategy)


def prompt_seed(seed: int, prompt_id: str) -> int:
    """A seed of each prompt's own, below 2^31, as `howhard collect` draws with."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()[:4], "big") // 2


# ── one prompt ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One answer, and what it took."""

    arm: str
    result: StrategyResult
    currency: str
    verbose: bool = False
    streamed: bool = False
    tree: Path | None = None
    treeless: bool = False
    log: Path | None = None

    def text(self) -> str:
        """For people: the answer (unless it was streamed already), and a line about it."""
        r = self.result
        parts = [] if self.streamed else [r.text.strip(), ""]
        if self.verbose:
            if r.reasoning.strip() not in ("", r.text.strip()) and not self.streamed:
                parts = [r.reasoning.strip(), "", *parts]
            chosen = next((i for i, c in enumerate(r.candidates) if (c.text, c.answer) == (r.text, r.answer)), None)
            parts += [*(_candidate_line(c, i == chosen) for i, c in enumerate(r.candidates)), ""]
        parts.append(_line(self.arm, r, self.currency))
        parts += [f"{what}: {path}" for what, path in (("tree", self.tree), ("log", self.log)) if path is not None]
        if self.treeless:
            parts.append(f"no tree was written: {self.arm} is not a search")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "arm": self.arm,
            **_result_fields(self.result),
            "candidates": [
                {
                    "text": c.text,
                    "answer": c.answer,
                    "score": c.score,
                    "steps": c.steps,
                    "feedback": c.feedback,
                    "finish_reason": c.generation.finish_reason,
                    "completion_tokens": c.generation.completion_tokens,
                    "error": c.generation.error,
                }
                for c in self.result.candidates
            ],
            "tree": None if self.tree is None else str(self.tree),
            "log": None if self.log is None else str(self.log),
        }


def run_prompt(
    prompt: str,
    asked: Asked,
    *,
    tree: Path | None = None,
    verbose: bool = False,
    show: Callable[[str], None] | None = None,
) -> RunReport:
    """Answer one prompt.

    tree : where the search's tree goes, as a picture (.svg) or JSON (.json).
    show : is handed the pieces of the answer as they arrive; for strategies that stream.
    Raises ConfigError for a strategy that does not stream where that is asked.
    """
    if tree is not None and tree.suffix not in _TREES:
        raise ConfigError(f"--tree {tree}: name a file that ends in {' or '.join(_TREES)}")
    return asyncio.run(_run_prompt(prompt, asked, tree, verbose, show))


async def _run_prompt(
    prompt: str, asked: Asked, tree: Path | None, verbose: bool, show: Callable[[str], None] | None
) -> RunReport:
    from .tables import prompt_id

    as_messages(prompt)
    identity = prompt_id(prompt)
    async with Workbench(asked.at) as bench:
        arm = bench.arm(asked.spec, seed=prompt_seed(asked.seed, identity))
        if show is not None and not isinstance(arm.strategy, Streams):
            raise ConfigError(f"{arm.strategy.name} does not stream: it weighs whole answers; leave out --stream")
        await bench.check()
        with _recorder(asked.log) as recorder:
            request = Request(as_messages(prompt), id=identity)
            result = await _answer(arm, request, asked.budget, recorder, show)
    written = tree if tree is not None and _write_tree(result, tree) else None
    return RunReport(
        arm=arm.name,
        result=result,
        currency=asked.at.currency,
        verbose=verbose,
        streamed=show is not None,
        tree=written,
        treeless=tree is not None and written is None,
        log=asked.log,
    )


async def _answer(
    arm: Arm,
    request: Request,
    budget: Budget,
    recorder: "Recorder | None",
    show: Callable[[str], None] | None = None,
) -> StrategyResult:
    if recorder is None:
        return await _drawn(arm, request, budget, None, show)
    try:
        result = await _drawn(arm, request, budget, recorder.trace(request, arm), show)
    except BaseException:
        recorder.finish(request, arm, None)  # what it told before it failed is kept
        raise
    recorder.finish(request, arm, result)
    return result


async def _drawn(
    arm: Arm, request: Request, budget: Budget, trace: Trace | None, show: Callable[[str], None] | None
) -> StrategyResult:
    if show is None or not isinstance(arm.strategy, Streams):
        return await arm.run(request, budget=budget, trace=trace)
    flow = arm.strategy.stream(request, arm.backend, budget=budget, trace=trace)
    try:
        async for delta in flow:
            show(delta.text)
        show("\n")
        return await flow.result()
    finally:
        flow.cancel()  # where it could not be shown, nobody is left to read it


def _recorder(log: Path | None) -> "contextlib.AbstractContextManager[Recorder | None]":
    if log is None:
        return contextlib.nullcontext()
    from .recording import Recorder

    return Recorder(log)


# ── a file of prompts ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What was answered of a file, now and before."""

    arm: str
    out: Path
    answered: int
    before: int
    failed: int
    usage: Usage
    seconds: float
    currency: str
    problems: tuple[str, ...] = ()

    def text(self) -> str:
        """For people."""
        lines = [f"{self.out}: {self.answered:,} prompts answered by {self.arm}"]
        if self.before:
            lines[0] += f", {self.before:,} more were there"
        if self.answered:
            lines.append(
                f"{tokens_in_words(self.usage)}; {cost_in_words(self.usage, self.currency)}; {self.seconds:.1f} s"
            )
        if self.failed:
            lines += [f"{self.failed} failed; the same command tries them again", *(f"  {p}" for p in self.problems)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**{f: getattr(self, f) for f in self.__slots__}, "out": str(self.out), "usage": _usage(self.usage)}


def run_file(prompts: Path, out: Path, asked: Asked, *, concurrency: int = 16, quiet: bool = False) -> FileReport:
    """Answer every prompt of a file, and append the results to `out`, keyed by prompt and arm.

    prompts : JSONL, CSV or parquet as in prompt_sets; references and graders may be missing.
    What `out` holds already, by an arm of the same settings, model and prices, is not run again.
    """
    from .prompt_sets import messages_of, read_prompts

    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency}: it must be at least 1")
    table = read_prompts(prompts, grader="checker")  # any name that needs no reference: nothing is graded here
    requests = [Request(messages_of(row), id=row["prompt_id"]) for row in table.to_dict("records")]
    with ResultsFile(out) as results, _recorder(asked.log) as recorder:
        return asyncio.run(_run_file(requests, results, asked, recorder, concurrency, quiet))


async def _run_file(
    requests: list[Request],
    results: ResultsFile,
    asked: Asked,
    recorder: "Recorder | None",
    concurrency: int,
    quiet: bool,
) -> FileReport:
    started, spent, answered = time.perf_counter(), Usage(), 0
    async with Workbench(asked.at) as bench:
        name = bench.arm(asked.spec).name
        await bench.check()
        same = hashlib.sha256(
            f"{bench.identity(asked.spec)}/{asked.seed}/{msgspec.json.encode(asked.budget).decode()}".encode()
        ).hexdigest()[:16]

        def key(request: Request) -> str:
            return f"{request.id}/{name}/{same}"

        async def work(request: Request) -> None:
            nonlocal spent, answered
            arm = bench.arm(asked.spec, seed=prompt_seed(asked.seed, request.id))
            result = await _answer(arm, request, asked.budget, recorder)
            results.append(
                key(request), {"id": request.id, "arm": name, "prompt": request.text, **_result_fields(result)}
            )
            spent, answered = spent + result.usage, answered + 1

        todo = [request for request in requests if key(request) not in results]
        with bars(quiet=quiet) as progress:
            failures = await work_off(
                todo, work, width=concurrency, moved=lambda ended: progress(name, ended, len(todo))
            )
    return FileReport(
        arm=name,
        out=results.path,
        answered=answered,
        before=len(requests) - len(todo),
        failed=len(failures),
        usage=spent,
        seconds=time.perf_counter() - started,
        currency=asked.at.currency,
        problems=tuple(dict.fromkeys(str(f.error) for f in failures))[:_NAMED],
    )


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────


def tokens_in_words(usage: Usage) -> str:
    """For instance "11 prompt (8 cached) + 230 completion + 540 verifier tokens"."""
    parts = [f"{usage.prompt_tokens:,} prompt" + (f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else "")]
    parts.append(f"{usage.completion_tokens:,} completion")
    if usage.verifier_tokens:
        parts.append(f"{usage.verifier_tokens:,} verifier")
    return " + ".join(parts) + " tokens"


def cost_in_words(usage: Usage, currency: str) -> str:
    """For instance "cost 574 credits"."""
    return f"cost {usage.cost:,.4g} {currency}"


def _line(arm: str, r: StrategyResult, currency: str) -> str:
    n = len(r.candidates)
    chosen = f"1 of {n} candidates" if n > 1 else "1 sample"
    return (
        f"{arm}: {chosen}; {tokens_in_words(r.usage)}; {cost_in_words(r.usage, currency)}; {r.seconds:.2f} s; "
        f"{r.stopped_because}"
    )


def _candidate_line(c: Candidate, chosen: bool) -> str:
    g = c.generation
    said = " / ".join((g.error or c.text).strip().split("\n"))
    said = said if len(said) <= 80 else f"{said[:77]}..."
    score = "    -" if c.score is None else f"{c.score:5.3f}"
    return f"{'*' if chosen else ' '} {score} {g.completion_tokens:>6,} tokens {g.finish_reason:<9} {said}"


def _result_fields(r: StrategyResult) -> dict[str, Any]:
    return {
        "answer": r.answer,
        "text": r.text,
        "reasoning": r.reasoning,
        "usage": _usage(r.usage),
        "seconds": r.seconds,
        "stopped_because": r.stopped_because,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return msgspec.to_builtins(usage)


# ── the tree ─────────────────────────────────────────────────────────────────────────────────────────────────────

_TREES = (".svg", ".json")


def _write_tree(result: StrategyResult, path: Path) -> bool:
    """Write the tree, if there is one; the answer is not thrown away where there is none."""
    if result.tree is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    result.tree.save(path)
    return True
