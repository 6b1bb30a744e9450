"""Remake the shipped router: `python -m howhard.training.embedded.router --out models`.

It is what `howhard quickstart` trains, on more prompts, with its table and its picture as the card. The log stays
under `--work`, so that a second run draws nothing anew.
"""

import argparse
import shutil
from pathlib import Path

from ...router.artifact import read_artifact
from ..quickstart import QuickstartReport, quickstart

NAME = "router-quickstart"

CARD = """---
license: apache-2.0
tags: [howhard, router]
---

# {name}

Chooses single pass, best-of-N, a vote or a tree search, on `tiny-small` or `tiny-large`, for the four kinds of problems
that those models solve. **For showing howhard**: on any other prompt its estimates mean nothing, and it marks prompts
unlike those of its training ("Write a poem about the sea.") as unfamiliar.

| | |
| --- | --- |
| learned from | {learned:,} fresh prompts, {samples} samples of each model, {trained} |
| versions | router {version}, data {data}, howhard {code} |
| format | a plain directory: a manifest with checksums, LightGBM text models, npz arrays; no pickle |
| licence | Apache-2.0; made from generated problems alone |
| made by | `python -m howhard.training.embedded.router --out models --prompts {prompts} --samples {samples}` |

What it did on prompts that it was not trained on, and what routers like it do on whole families left out:

```
{table}
```

![quality against cost](plane.png)
"""


def main(argv: list[str] | None = None) -> int:
    """Record, train, and put the router with its card under `--out`."""
    parser = argparse.ArgumentParser(prog="python -m howhard.training.embedded.router", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--work", type=Path, default=Path(".work/router"), help="the log, and MLflow's store")
    parser.add_argument("--prompts", type=int, default=2200)
    parser.add_argument("--holdout", type=float, default=0.5, help="share of the prompts for the card's figures")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    done = quickstart(
        options.work,
        n_prompts=options.prompts,
        n_samples=options.samples,
        holdout=options.holdout,
        seed=options.seed,
    )
    print(done.text())
    publish(done, options.out / NAME, prompts=options.prompts, samples=options.samples)
    return 0


def publish(done: QuickstartReport, directory: Path, *, prompts: int, samples: int) -> None:
    """Copy the router, its picture and its card; what lay in `directory` before is replaced."""
    made = done.trained.out
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(made, directory)
    shutil.copy(made.with_suffix(".png"), directory / "plane.png")
    report = done.trained.report
    manifest, _ = read_artifact(made)
    card = CARD.format(
        name=NAME,
        learned=done.trained.n_learned,
        prompts=prompts,
        samples=samples,
        version=manifest.router_version,
        data=manifest.training.data_version,
        code=manifest.howhard_version,
        trained=f"seed {done.trained.seed}",
        table=report.text(width=110),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
