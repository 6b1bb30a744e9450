"""How long does `import howhard.router` take, and what of it is numpy?

Median and worst of fresh interpreters, timed inside each from before the import to after it, files in the page cache.
The interpreter's own start is not counted.

    python benchmarks/import_time.py | tail -1 | jq .p50_s
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
MODULES = ("numpy", "howhard.strategies", "howhard.router")


def seconds(module: str) -> float:
    done = subprocess.run([sys.executable, "-c", TIMED.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    found = {}
    for module in MODULES:
        seconds(module)  # warm-up: byte code and page cache
        taken = sorted(seconds(module) for _ in range(runs))
        found[module] = {"p50_s": round(statistics.median(taken), 4), "max_s": round(taken[-1], 4)}
        print(f"import {module:20} p50 {found[module]['p50_s']:.3f} s   max {taken[-1]:.3f} s   ({runs} runs)")
    print(
        json.dumps(
            {
                "benchmark": "import_time",
                **found["howhard.router"],
                "by_module": found,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
