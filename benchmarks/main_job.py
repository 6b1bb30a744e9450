"""How long does the main job take, and what does the router save on prompts that it was not trained on?

Runs what `howhard quickstart` runs, in a directory of its own: collecting, training, evaluation on the prompts held
out, three prompts decided live. With --dir a log that is there already is reused, and `seconds` then leaves out
what was not drawn anew. Quality of derived arms is an expectation over the logged samples.

    python benchmarks/main_job.py | tail -1 | jq .seconds
    python benchmarks/main_job.py --prompts 2200 --holdout .5 --seed 1 --dir .work/router | tail -1 | jq .cost_share
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

from howhard.training.evaluate import Evaluation
from howhard.training.quickstart import quickstart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=480)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--holdout", type=float, default=1 / 3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    directory = options.dir or Path(tempfile.mkdtemp(prefix="howhard-"))
    start = time.perf_counter()
    done = quickstart(
        directory,
        n_prompts=options.prompts,
        n_samples=options.samples,
        holdout=options.holdout,
        seed=options.seed,
    )
    seconds = time.perf_counter() - start
    print(done.text())
    held = next(e for e in done.trained.report.evaluations if isinstance(e, Evaluation) and e.split == "holdout")
    best, router = held.row(held.best_arm), held.router
    print(
        json.dumps(
            {
                "benchmark": "main_job",
                "machine": f"{platform.processor() or platform.machine()}, {platform.python_version()}",
                "prompts": options.prompts,
                "held_out": held.n_prompts,
                "seconds": round(seconds, 1),
                "best_arm": held.best_arm,
                "best_quality": best.quality.mean,
                "router_quality": router.quality.mean,
                "cost_share": router.cost.mean / best.cost.mean,
                "token_share": router.tokens.mean / best.tokens.mean if router.tokens and best.tokens else None,
                "over_hull": list(_triple(router.over_hull)),
                "cost_below_hull": list(_triple(held.cost_below_hull)),
            }
        )
    )


def _triple(interval):
    return interval.mean, interval.low, interval.high


if __name__ == "__main__":
    main()
