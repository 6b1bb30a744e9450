"""Train the step reward model: exact labels from the families' solvers on solutions that both models wrote.

It starts from the large model's weights, because a judge has to know more than the writers it judges, and it is
trained past the plateau where the loss stands still before it falls.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from ...strategies.backends.llama import Llama, RewardModel
from ...strategies.verifiers.checkers import CHECKERS
from ..problems.chain import Chain
from ..problems.families import FAMILIES, Problem
from . import data
from .rollouts import Rollout, sample, text_of
from .tokenizer import END, token_id
from .trainer import Optimizer, Schedule, compiled, save_checkpoint

VALIDATION = 512
"""Judged solutions (the first ones) that are kept out of training."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One solution with its labels: token ids of prompt and solution; position -> label (0 or 1) of a step's end."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    labels: tuple[int, ...]


def is_right(problem: Problem, text: str) -> bool:
    """Grade a whole solution: by the exact check where the family has one, else the answer by the reference."""
    if problem.grader == "checker":
        return CHECKERS[problem.family](problem.prompt, text) is True
    lines = text.split("\n")
    return sum(line.startswith("Answer:") for line in lines) == 1 and lines[-1] == f"Answer: {problem.reference}"


def judge(problem: Problem, rollout: Rollout, tokenizer: Tokenizer) -> Judged | None:
    """Label a rollout at every newline (is the way still right?) and at its end token (is the whole right?).

    None for a rollout that holds no finished step.
    """
    newline, end = token_id(tokenizer, "\n"), token_id(tokenizer, END)
    text = text_of(rollout, tokenizer)
    labels = FAMILIES[problem.family].step_labels(problem, text)
    head = tokenizer.encode(problem.prompt + "\n").ids
    ends, found, line, filled = [], [], 0, False
    for place, token in enumerate(rollout.ids):
        if token == newline:
            line, filled = line + filled, False
            ends.append(len(head) + place)
            found.append(labels[line - 1] if line else 0)
        elif token == end:
            ends.append(len(head) + place)
            found.append(int(is_right(problem, text)))
        else:
            filled = True
    if not ends:
        return None
    return Judged((*head, *rollout.ids), tuple(ends), tuple(found))


def judged_rollouts(
    model: Llama, tokenizer: Tokenizer, n_problems: int, n: int, *, seed: int, path: Path
) -> list[Judged]:
    """Sample and judge `n` solutions of `n_problems` training problems, or read what an earlier run kept in `path`.

    Works in parts of 1,000 problems, each kept as soon as it is there.
    """
    found: list[Judged] = []
    for part in range(-(-n_problems // 1000)):
        kept = path.with_name(f"{path.name}-{part}.pt")
        if not kept.exists():
            began = time.monotonic()
            rng = random.Random(f"judged/{seed}/{part}")
            problems = data.draw(min(1000, n_problems - 1000 * part), rng, tilt=0.5)
            drawn = sample(model, tokenizer, [p.prompt for p in problems], n, seed=seed + part)
            judged = [
                (one.ids, one.ends, one.labels)
                for problem, rollouts in zip(problems, drawn, strict=True)
                for rollout in rollouts
                if (one := judge(problem, rollout, tokenizer)) is not None
            ]
            rng.shuffle(judged)
            save_checkpoint(kept, {"judged": judged})
            print(
                f"{path.name}: part {part}, {len(judged)} solutions, {time.monotonic() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        found += [Judged(*one) for one in torch.load(kept, weights_only=True)["judged"]]
    return found


def corrupted_chains(tokenizer: Tokenizer, n: int, *, seed: int) -> list[Judged]:
    """Judge `n` chains that no model wrote: three of four have one slip, so that checking a step is worth learning.

    Rollouts alone don't teach it in time: four of five steps that models write are right, and on 1,500 steps of
    training with rollouts alone a chain's first wrong step was scored .76, like its right ones.
    """
    rng = random.Random(f"corrupted/{seed}")
    chain = Chain()
    end = token_id(tokenizer, END)
    found = []
    for _ in range(n):
        problem = chain.generate(rng.choice(chain.levels), rng)
        text = chain.corrupted(problem, rng) if rng.random() < 0.75 else problem.solution
        judged = judge(problem, Rollout((*tokenizer.encode(text).ids, end), True), tokenizer)
        if judged is not None:
            found.append(judged)
    return found


def tensors(batch: Sequence[Judged]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack solutions into ids (B, T) and labels (B, T): 0 or 1 at the ends of steps, -1 elsewhere."""
    ids = data.pad_right([one.ids for one in batch], 0)
    labels = torch.full(ids.shape, -1.0)
    for row, one in enumerate(batch):
        labels[row, list(one.ends)] = torch.tensor(one.labels, dtype=torch.float)
    return ids, labels


def train_reward(
    base: Llama,
    judged: Sequence[Judged],
    schedule: Schedule,
    tokenizer: Tokenizer,
    *,
    seed: int,
    checkpoint: Path,
    tokens: int = 4096,
) -> RewardModel:
    """Train to the schedule's end from `base`'s weights, going on from `checkpoint` where it exists.

    Loss: binary cross-entropy, the mean over all steps of a batch. Prints the validation loss every 250 steps.
    """
    torch.manual_seed(seed)
    model = RewardModel(base.config)
    model.trunk.load_state_dict(base.state_dict())
    optimizer = Optimizer(model, schedule)
    step = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.restore(kept["optimizer"])
        step = kept["step"]
    held_out, training = judged[:VALIDATION], judged[VALIDATION:]
    batches = data.by_length([len(one.ids) for one in training], tokens)
    compiled(model.trunk, in_place=True)
    began, first, saved = time.monotonic(), step, time.monotonic()

    def loss_on(batch: Sequence[Judged]) -> torch.Tensor:
        ids, labels = tensors(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids)
        wanted = labels >= 0
        return F.binary_cross_entropy_with_logits(logits.float()[wanted], labels[wanted])

    average = 0.0
    while step < schedule.steps:
        epoch, place = divmod(step, len(batches))
        order = list(range(len(batches)))
        random.Random(f"reward/{seed}/{epoch}").shuffle(order)
        loss = loss_on([training[i] for i in batches[order[place]]])
        loss.backward()
        optimizer.step(step)
        step += 1
        average = loss.item() if not average else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0:
            print(
                f"tiny-prm: step {step}/{schedule.steps} loss {average:.3f} "
                f"{(step - first) / (time.monotonic() - began):.2f} steps/s",
                file=sys.stderr,
                flush=True,
            )
        if step % 250 == 0 or step == schedule.steps:
            with torch.no_grad():
                print(
                    f"tiny-prm: validation loss {loss_on(held_out).item():.3f}",
                    file=sys.stderr,
                    flush=True,
                )
        if time.monotonic() - saved > 120 or step == schedule.steps:
            save_checkpoint(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state(), "step": step})
            saved = time.monotonic()
    return model
