"""Measure what compute buys on the embedded models: per family and level, every arm's quality and tokens.

Sixteen samples per prompt and model are drawn once; single pass, votes and best-of-N follow from them in closed
form or by exact order statistics, step search is run. Prompts are fresh ones of a seed that training never used
(in the easiest cells there are so few different prompts that training has met them all).
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from tokenizers import Tokenizer

from ...strategies.backends.llama import Llama, RewardModel, step_ends
from ..problems.families import FAMILIES, Problem, fresh_problems
from .reward import is_right
from .rollouts import Rollout, finish, sample, text_of
from .tokenizer import END, token_id

DRAWN = 16
"""Samples per prompt and model."""

SIZES_OF_N = (1, 2, 4, 8, 16)
SEARCHES = ((1, 4), (2, 4))
"""Step searches that are run: (beams kept, branches tried from each)."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One judged sample: right or not, its answer line, its completion tokens and the reward model's last score."""

    right: bool
    answer: str
    tokens: int
    score: float


def best_of(samples: Sequence[Drawn], n: int) -> float:
    """Expected quality of the best-scored of `n` samples drawn without replacement; ties share evenly.

    With the samples in falling order of score, the i-th (from 0) of m is the winner of C(m - 1 - i, n - 1) of the
    C(m, n) draws.
    """
    ordered = sorted(samples, key=lambda one: -one.score)
    quality = {}
    for score in {one.score for one in ordered}:
        quality[score] = mean(one.right for one in ordered if one.score == score)
    total = math.comb(len(ordered), n)
    return sum(
        math.comb(len(ordered) - 1 - place, n - 1) / total * quality[one.score] for place, one in enumerate(ordered)
    )


def coverage(samples: Sequence[Drawn], n: int) -> float:
    """Chance that one of `n` samples drawn without replacement is right: `1 - C(m - c, n) / C(m, n)`."""
    wrong = sum(not one.right for one in samples)
    return 1 - math.comb(wrong, n) / math.comb(len(samples), n)


def votes(samples: Sequence[Drawn], n: int, rng: random.Random, *, repeats: int = 40) -> float:
    """Expected quality of the most frequent answer of `n` samples (ties share evenly), over random subsets."""
    right = {one.answer: one.right for one in samples}
    scores = []
    for _ in range(1 if n == len(samples) else repeats):
        counts = Counter(one.answer for one in rng.sample(list(samples), n))
        top = [answer for answer, count in counts.items() if count == max(counts.values())]
        scores.append(mean(right[answer] for answer in top))
    return mean(scores)


def draw(
    model: Llama, judge: RewardModel, tokenizer: Tokenizer, problems: Sequence[Problem], *, seed: int
) -> list[list[Drawn]]:
    """Sample, grade and score `DRAWN` solutions of every problem."""
    newline, end = token_id(tokenizer, "\n"), token_id(tokenizer, END)
    rollouts = sample(model, tokenizer, [p.prompt for p in problems], DRAWN, seed=seed)
    found: list[list[Drawn]] = []
    for problem, drawn in zip(problems, rollouts, strict=True):
        head = tokenizer.encode(problem.prompt + "\n").ids
        whole = [[*head, *one.ids] for one in drawn]
        ends = [step_ends(ids, len(head), newline=newline, end=end)[-1:] for ids in whole]
        scores = judge.score_steps(whole, ends)
        texts = [text_of(one, tokenizer) for one in drawn]
        found.append(
            [
                Drawn(
                    one.ended and is_right(problem, text),
                    text.rsplit("\n", 1)[-1],
                    len(one.ids),
                    score[-1] if score and one.ended else 0.0,
                )
                for one, text, score in zip(drawn, texts, scores, strict=True)
            ]
        )
    return found


@dataclass(frozen=True, slots=True)
class Searched:
    """One step search: right or not, tokens generated, and tokens the reward model read (each once; see `cached`).

    cached : tokens of prompt and earlier steps that the reward model had read before (a prefix cache's share).
    """

    right: bool
    generated: int
    read: int
    cached: int


def search(
    model: Llama,
    judge: RewardModel,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    beams: int,
    branches: int,
    seed: int,
    most_steps: int = 17,
) -> list[Searched]:
    """Search over steps: from each kept beginning draw `branches` next steps, keep the `beams` best scored."""
    newline, end = token_id(tokenizer, "\n"), token_id(tokenizer, END)
    generator = torch.Generator().manual_seed(seed)
    heads = [tokenizer.encode(p.prompt + "\n").ids for p in problems]
    kept: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in problems]
    generated, read, cached = [0] * len(problems), [len(head) for head in heads], [0] * len(problems)
    for _ in range(most_steps):
        open_ones = [(i, ids) for i, own in enumerate(kept) for _, ids in own if ids[-1:] != (end,)]
        if not open_ones:
            break
        fresh: dict[int, dict[tuple[int, ...], None]] = {}
        for first in range(0, len(open_ones), 128):
            part = open_ones[first : first + 128]
            state = model.prefill([[*heads[i], *ids] for i, ids in part], reserve=16).expand(branches)
            steps = finish(model, state, end, generator, stop=newline, most=14)
            for place, step in enumerate(steps):
                i, ids = part[place // branches]
                generated[i] += len(step.ids)
                fresh.setdefault(i, {})[(*ids, *step.ids)] = None
                read[i] += len(step.ids)
                cached[i] += len(heads[i]) + len(ids)
        pairs = [(i, ids) for i, own in fresh.items() for ids in own]
        scores = judge.score_steps(
            [[*heads[i], *ids] for i, ids in pairs],
            [[len(heads[i]) + len(ids) - 1] if ids[-1] in (newline, end) else [] for i, ids in pairs],
        )
        scored: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
        for (i, ids), score in zip(pairs, scores, strict=True):
            if score:
                scored.setdefault(i, []).append((score[0], ids))
        for i in fresh:
            finished = [one for one in kept[i] if one[1][-1:] == (end,)]
            kept[i] = sorted([*finished, *scored.get(i, [])], key=lambda one: -one[0])[:beams]
    results = []
    for i, problem in enumerate(problems):
        done = [one for one in kept[i] if one[1][-1:] == (end,)]
        text = text_of(Rollout(max(done)[1], True), tokenizer) if done else ""
        results.append(Searched(bool(done) and is_right(problem, text), generated[i], read[i], cached[i]))
    return results


def measure_cell(
    models: dict[str, Llama], judge: RewardModel, tokenizer: Tokenizer, problems: Sequence[Problem], *, seed: int
) -> dict:
    """Measure one family at one level: for each model name, its arms as a JSON-ready dictionary."""
    rng = random.Random(seed)
    cell: dict = {
        "prompts": len(problems),
        "prompt_tokens": mean(len(tokenizer.encode(p.prompt + "\n").ids) for p in problems),
    }
    voted = problems[0].reference is not None
    for name, model in models.items():
        drawn = draw(model, judge, tokenizer, problems, seed=seed)
        own: dict = {
            "tokens": mean(one.tokens for samples in drawn for one in samples),
            "coverage": {n: mean(coverage(samples, n) for samples in drawn) for n in SIZES_OF_N},
            "best_of_prm": {n: mean(best_of(samples, n) for samples in drawn) for n in SIZES_OF_N},
        }
        per_prompt = [mean(one.right for one in samples) for samples in drawn]
        own["pass"] = mean(per_prompt)
        own["pass_se"] = (mean((p - own["pass"]) ** 2 for p in per_prompt) / max(1, len(per_prompt) - 1)) ** 0.5
        if voted:
            own["votes"] = {n: mean(votes(samples, n, rng) for samples in drawn) for n in SIZES_OF_N}
        cell[name] = own
    small = models["tiny-small"]
    cell["search"] = {}
    for beams, branches in SEARCHES:
        found = search(small, judge, tokenizer, problems, beams=beams, branches=branches, seed=seed)
        cell["search"][f"{beams}x{branches}"] = {
            "quality": mean(one.right for one in found),
            "generated": mean(one.generated for one in found),
            "prm_read": mean(one.read for one in found),
            "prm_cached": mean(one.cached for one in found),
        }
    return cell


def measure(
    models: dict[str, Llama],
    judge: RewardModel,
    tokenizer: Tokenizer,
    *,
    seed: int,
    per_cell: int,
    known: Collection[str],
    keep: Callable[[str, dict], None],
) -> None:
    """Measure every cell ("family-level") that is not yet `known`; each goes to `keep(name, figures)` at once."""
    for name, family in FAMILIES.items():
        problems = fresh_problems(per_cell * len(family.levels), 10_000 + seed, [name])
        for level in family.levels:
            key = f"{name}-{level}"
            own = [p for p in problems if p.level == level]
            if key in known or not own:
                continue
            began = time.monotonic()
            keep(key, measure_cell(models, judge, tokenizer, own, seed=seed))
            print(f"figures: {key} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
