"""Remake the embedded models: `python -m howhard.training.embedded --out models --seed 0`.

Each stage keeps checkpoints under `--work` and is skipped or resumed on a second run:
tiny-small, tiny-large (two processes may train them side by side: `--only`), rollouts, tiny-prm, figures, cards.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from . import tokenizer as tokenizers
from .export import export
from .sizes import SIZES
from .trainer import train


def main(argv: list[str] | None = None) -> int:
    """Parse, then run the stages asked for in order."""
    parser = argparse.ArgumentParser(prog="python -m howhard.training.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="where the model directories go")
    parser.add_argument("--work", type=Path, default=Path(".work/embedded"), help="checkpoints and rollouts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=[*SIZES], help="only these stages (repeatable)")
    parser.add_argument("--steps", type=int, help="another length of training than the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    stages = options.only or [*SIZES]
    tokenizer = tokenizers.build()
    end = tokenizer.token_to_id(tokenizers.END)
    for name, size in SIZES.items():
        if name in stages:
            schedule = dataclasses.replace(size.schedule, steps=options.steps or size.schedule.steps)
            model = train(
                name, size.config(tokenizer.get_vocab_size(), end), schedule, tokenizer, seed=options.seed,
                checkpoint=options.work / f"{name}.pt")
            export(model, tokenizer, options.out / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
