"""Remake the embedded models: `python -m howhard.training.embedded --out models --seed 0`.

Stages, each skipped or resumed on a second run (checkpoints lie under `--work`):
seedling, tiny-small and sapling (both start from it; the sapling is of the large size), tiny-large (starts from the
sapling), rollouts (judged solutions of tiny-small and the sapling), tiny-prm (starts from the sapling), figures
(measured curves), cards. `--only STAGE` runs single stages, so that two of them may run side by side in two processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ...strategies.backends.llama import load, load_reward
from ..problems.families import FAMILIES
from . import cards, curves, reward
from . import tokenizer as tokenizers
from .export import export
from .growing import grow
from .sizes import CORRUPTED, JUDGED, PER_CELL, REWARD, SAPLING, SEEDLING, SIZES
from .trainer import fresh_model, train

SHIPPED = ("tiny-small", "tiny-large")
STAGES = (*SIZES, "rollouts", "tiny-prm", "figures", "cards")


def directory_of(name: str, options: argparse.Namespace) -> Path:
    """Where a model is written: what ships under `--out`, seedling and sapling under `--work`."""
    return (options.work if name in (SEEDLING, SAPLING) else options.out) / name


def train_language_model(name: str, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Train one language model to its end and export it."""
    size = SIZES[name]
    schedule = dataclasses.replace(size.schedule, steps=options.steps or size.schedule.steps)
    config = size.config(tokenizer.get_vocab_size(), tokenizers.token_id(tokenizer, tokenizers.END))
    if size.grown_from is None:
        model = fresh_model(config, options.seed)
    else:
        model = grow(load(directory_of(size.grown_from, options))[0], config, options.seed)
    # Another seed per model, so that a grown one meets other problems than the one that it grew from.
    seed = options.seed + 1000 * list(SIZES).index(name)
    checkpoint = options.work / f"{name}.pt"
    train(
        name,
        model,
        schedule,
        tokenizer,
        seed=seed,
        checkpoint=checkpoint,
        gentle=size.grown_from is None,
        shares=size.shares,
    )
    export(model, tokenizer, directory_of(name, options))


def judged_solutions(tokenizer: Tokenizer, options: argparse.Namespace) -> list[reward.Judged]:
    """Draw (or read back) the judged solutions of both writers, and chains with slips made on purpose, mixed."""
    found: list[reward.Judged] = []
    for place, (name, (problems, n)) in enumerate(JUDGED.items()):
        model, _ = load(directory_of(name, options))
        found += reward.judged_rollouts(
            model, tokenizer, problems, n, seed=options.seed + 100 * place, path=options.work / f"judged-{name}"
        )
    found += reward.corrupted_chains(tokenizer, CORRUPTED, seed=options.seed)
    random.Random(options.seed).shuffle(found)
    return found


def train_reward_model(tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Train tiny-prm from the sapling's weights and export it."""
    base, _ = load(directory_of(SAPLING, options))
    schedule = dataclasses.replace(REWARD, steps=options.steps or REWARD.steps)
    model = reward.train_reward(
        base,
        judged_solutions(tokenizer, options),
        schedule,
        tokenizer,
        seed=options.seed,
        checkpoint=options.work / "tiny-prm.pt",
    )
    export(model, tokenizer, options.out / "tiny-prm")


def measure_figures(tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Measure every cell, each kept in a file of its own, and write figures.json beside each model."""
    models = {name: load(options.out / name)[0] for name in SHIPPED}
    judge, _ = load_reward(options.out / "tiny-prm")
    folder = options.work / "figures"
    folder.mkdir(parents=True, exist_ok=True)

    def keep(key: str, cell: dict) -> None:
        part = folder / f"{key}.part"
        part.write_text(json.dumps(rounded(cell)))
        part.replace(folder / f"{key}.json")

    known = {kept.stem for kept in folder.glob("*.json")}
    curves.measure(models, judge, tokenizer, seed=options.seed, per_cell=options.per_cell, known=known, keep=keep)
    names = [f"{name}-{level}" for name, family in FAMILIES.items() for level in family.levels]
    cells = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    for name in (*SHIPPED, "tiny-prm"):
        content = {"seed": options.seed, "samples_per_prompt": curves.DRAWN, "cells": cells}
        (options.out / name / "figures.json").write_text(json.dumps(content, indent=1) + "\n")


def rounded(value: object) -> object:
    """Round every number in a nest of dictionaries to four decimals."""
    if isinstance(value, dict):
        return {str(key): rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def training_text(name: str, work: Path) -> str:
    """Say how a model was trained, from its checkpoint."""
    kept = torch.load(work / f"{name}.pt", weights_only=True)
    if name == "tiny-prm":
        solutions = " and ".join(f"{a * n:,} of {model}" for model, (a, n) in JUDGED.items())
        return (
            f"from the large sapling's weights, {kept['step']:,} steps of about 4,096 "
            f"tokens; every step of {solutions} and of {CORRUPTED:,} chains with a slip made on purpose, judged by the "
            "families' exact solvers"
        )
    parts = [f"{kept['step']:,} steps, {kept['tokens'] / 1e6:.1f} M tokens"]
    parent = SIZES[name].grown_from
    while parent is not None:
        before = torch.load(work / f"{parent}.pt", weights_only=True)
        wider = SIZES[name].width > SIZES[parent].width
        parts.append(
            ("grown, to the same function in a wider and deeper model, " if wider else "")
            + f"from a {parent} ({before['step']:,} steps, {before['tokens'] / 1e6:.1f} M tokens)"
        )
        name, parent = parent, SIZES[parent].grown_from
    return ", ".join(parts) + "; loss on the solution only; Muon and AdamW, one CPU core each"


def write_cards(options: argparse.Namespace) -> None:
    """Write the README.md of all three models from figures.json and the checkpoints."""
    what = {
        "tiny-small": (
            "The cheap writer of the pair: solves four kinds of small problems, a step per line.",
            "text-generation",
        ),
        "tiny-large": (
            "The dear writer of the pair, for the same four kinds of problems; the table says where it is better.",
            "text-generation",
        ),
        "tiny-prm": (
            "A process reward model: scores each step of a solution of tiny-small or tiny-large with the "
            "chance that it is\nstill on a right way, read at the newline or end token that closes the step. Beside "
            "the last hidden state its head sees how\nunlikely the least likely token so far was (the trunk still is a "
            "language model), so load it with\n`howhard.strategies.backends.llama.load_reward`; a plain score head of "
            "transformers has no place for that.",
            "text-classification",
        ),
    }
    for name, (text, task) in what.items():
        directory = options.out / name
        config = json.loads((directory / "config.json").read_text())
        model = load_reward(directory)[0] if name == "tiny-prm" else load(directory)[0]
        figures = json.loads((directory / "figures.json").read_text())
        cards.write_card(
            directory,
            name=name,
            what=text,
            task=task,
            training=training_text(name, options.work),
            config=config,
            parameters=sum(weight.numel() for weight in model.parameters()),
            cells=figures["cells"],
            seed=figures["seed"],
        )


def main(argv: list[str] | None = None) -> int:
    """Parse, then run the stages asked for in order."""
    parser = argparse.ArgumentParser(prog="python -m howhard.training.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="where the model directories go")
    parser.add_argument("--work", type=Path, default=Path(".work/embedded"), help="checkpoints, rollouts, figures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=STAGES, help="only these stages (repeatable)")
    parser.add_argument("--steps", type=int, help="another length of training than the recipe's")
    parser.add_argument("--per-cell", type=int, default=PER_CELL, help="prompts per family and level for the figures")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    stages = options.only or STAGES
    tokenizer = tokenizers.build()
    for stage in STAGES:
        if stage not in stages:
            continue
        if stage in SIZES:
            train_language_model(stage, tokenizer, options)
        elif stage == "rollouts":
            judged_solutions(tokenizer, options)
        elif stage == "tiny-prm":
            train_reward_model(tokenizer, options)
        elif stage == "figures":
            measure_figures(tokenizer, options)
        else:
            write_cards(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
