"""How many short programs the sandbox runs in a second, each in processes of its own, with its tests in another.

    python benchmarks/sandbox_rate.py [--programs 200] [--allow bubblewrap] [--concurrency 2]

The last line is JSON: programs per second, and the latency of one program alone.
"""

import argparse
import asyncio
import json
import statistics
import time

from howhard.strategies.sandbox import Sandbox, Test, Tests

PROGRAM = "def add(a, b):\n    return a + b + {n} - {n}\n"
TESTS = Tests((Test("add(1, 2)", "3"), Test("add(-1, 1)", "0"), Test("assert add(0.5, 0.5) == 1")), calls=("add",))


async def measured(allow: tuple[str, ...], programs: int, concurrency: int | None) -> dict[str, object]:
    """Run the programs, first one by one, then together."""
    sandbox = Sandbox(allow=allow, concurrency=concurrency)
    isolation = await sandbox.isolation()
    texts = [PROGRAM.format(n=n) if n % 2 else "def add(a, b):\n    return sum([a, b])\n" for n in range(programs)]
    alone = []
    for text in texts[:20]:
        begin = time.perf_counter()
        await sandbox.run(text, TESTS)
        alone.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    executions = await asyncio.gather(*(sandbox.run(text, TESTS) for text in texts))
    seconds = time.perf_counter() - begin
    sandbox.close()
    return {
        "isolation": str(isolation),
        "programs": programs,
        "concurrency": sandbox.concurrency,
        "programs_per_s": round(programs / seconds, 1),
        "alone_ms_median": round(1000 * statistics.median(alone), 1),
        "outcomes": {name: sum(e.outcome == name for e in executions) for name in {e.outcome for e in executions}},
    }


def main() -> None:
    """Print one line a mechanism, then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--allow", nargs="+", default=["bubblewrap", "uid"])
    asked = parser.parse_args()
    found = {}
    for name in asked.allow:
        found[name] = asyncio.run(measured((name,), asked.programs, asked.concurrency))
        print(f"{name:12} {found[name]['programs_per_s']:>6} programs/s   {found[name]['isolation']}")
    print(json.dumps({"benchmark": "sandbox_rate", **found}))


if __name__ == "__main__":
    main()
