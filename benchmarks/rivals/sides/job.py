"""What every side of the comparison does alike: read a job, answer its problems, say what it took.

A side is a program of its own, in its own environment; it is called with one JSON file, writes a line per problem to
`out` as soon as it has it, and prints one line of JSON last. Processor time is taken from the moment when everything
is imported and built to the last answer. Only the standard library: rivals' environments know nothing of howhard.

The job: url (of the vLLM server, with /v1), model, judge (url of the reward endpoint), problems (a JSONL file of
{id, prompt}), out, method (the side's own settings), max_tokens, temperature, seed, concurrency.
"""

import asyncio
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def read() -> dict[str, Any]:
    """Read the job that the command line names, and seed Python's own draws."""
    job = json.loads(Path(sys.argv[1]).read_text())
    random.seed(job["seed"])
    return job


def cpu_s() -> float:
    """Processor time of this process so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _problems(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job["problems"]).read_text().splitlines()]


def _rows(job: dict[str, Any]) -> TextIO:
    return Path(job["out"]).open("w")


async def work(job: dict[str, Any], answer: Answer) -> None:
    """Answer all problems, `concurrency` at a time; `answer(problem)` returns {text, ...} or raises."""
    problems = _problems(job)
    places = asyncio.Semaphore(job["concurrency"])
    started, cpu, failed = time.perf_counter(), cpu_s(), 0
    with _rows(job) as out:

        async def one(problem: dict[str, Any]) -> None:
            nonlocal failed
            async with places:
                begun = time.perf_counter()
                try:
                    row = await answer(problem)
                except Exception as exc:  # a rival's failure is a result, too
                    failed += 1
                    row = {"text": "", "error": f"{type(exc).__name__}: {exc}"[:300]}
                    if failed == 1:
                        traceback.print_exc()
                row |= {"id": problem["id"], "seconds": round(time.perf_counter() - begun, 4)}
                out.write(json.dumps(row) + "\n")
                out.flush()

        await asyncio.gather(*(one(problem) for problem in problems))
    done = {"problems": len(problems), "failed": failed, "client_cpu_s": round(cpu_s() - cpu, 4)}
    print(json.dumps(done | {"seconds": round(time.perf_counter() - started, 3)}), flush=True)


def end_with(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a side's program; what fails it stands in its last line, too."""
    try:
        asyncio.run(main())
    except Exception as error:
        print(json.dumps({"error": repr(error)}))
        raise
