"""How long does training take, how does it grow with the rows, and how much memory does it need?

Made-up outcomes of 8 arms on prompts of 20 to 800 characters, fast features: from texts to a router's files, guard by
families left out included. Each size is trained in a process of its own, whose peak memory is reported.

    python benchmarks/train_scale.py --rows 100000 | tail -1 | jq .seconds
    python benchmarks/train_scale.py --rows 50000 100000 1000000
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np
from decide_latency import ARMS, prompt

from howhard.training.fit import fit
from howhard.training.matrix import OutcomeMatrix

FAMILIES = 20


def made_up(rows: int, seed: int = 0) -> OutcomeMatrix:
    """Outcomes that depend on the prompt, the arm and the family."""
    rng = np.random.default_rng(seed)
    n = rows // ARMS
    texts = tuple(f"{prompt(rng, int(k))} {i}" for i, k in enumerate(rng.integers(20, 800, size=n)))
    family = rng.integers(FAMILIES, size=n)
    hard = np.array([len(t) / 800 + 0.5 * ("prove" in t) - 0.3 * ("sum" in t) for t in texts]) + family / FAMILIES / 2
    chance = 1 / (1 + np.exp(3 * (hard[:, None] - np.linspace(0.2, 1.2, ARMS))))
    cost = np.arange(1.0, ARMS + 1) * (1 + hard[:, None]) * rng.lognormal(0, 0.3, (n, ARMS))
    names = tuple(f"family {f}" for f in family)
    return OutcomeMatrix(
        prompt_ids=tuple(map(str, range(n))),
        texts=texts,
        groups=names,
        families=names,
        arms=tuple(f"backend-{i % 2}/strategy_{i}" for i in range(ARMS)),
        quality=(rng.random((n, ARMS)) < chance).astype(float),
        cost=cost,
        tokens=cost * 20,
        latency=np.full((n, ARMS), np.nan),
        draws=np.ones((n, ARMS)),
    )


def one(rows: int) -> dict[str, float]:
    matrix = made_up(rows)
    start, processor = time.perf_counter(), time.process_time()
    fitted = fit(matrix)
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "gain": round(fitted.gain, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(one(options.rows[0])))
        return
    found = []
    for rows in options.rows:
        command = [sys.executable, __file__, "--alone", "--rows", str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(
            "{rows:>9,} rows: {seconds:7.1f} s ({processor_seconds:.1f} of processor), {peak_gb:.2f} GB".format(
                **found[-1]
            )
        )
    print(
        json.dumps(
            {
                "benchmark": "train_scale",
                **found[-1],
                "by_rows": found,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load_average": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
