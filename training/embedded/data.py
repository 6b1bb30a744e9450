"""The endless stream of training batches: fresh problems, tokenized, grouped by length.

Pool k of a seed is always the same, so a trainer that stopped goes on exactly where it was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..problems.chain import Chain
from ..problems.families import FAMILIES, Family, Problem
from .tokenizer import END, PAD, token_id

POOL = 4096
"""Problems per pool; batches are cut from a pool sorted by length."""

EASY_POOLS = 25
"""Over so many pools of a gentle stream the levels' weights go from mostly easy to their final shape."""

GENTLE = {**FAMILIES, "chain": Chain(gentle=True)}
"""The families of a gentle stream."""

SHARES: dict[str, float] = {"chain": 0.25, "countdown": 0.35, "path": 0.25, "remainder": 0.15}
"""Share of training problems per family."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (B, T), padded on the right, and the targets: the next token, or -100 in prompt and padding."""

    ids: Tensor
    targets: Tensor


def draw(
    n: int,
    rng: random.Random,
    *,
    tilt: float = 1.0,
    families: Mapping[str, Family] = FAMILIES,
    shares: Mapping[str, float] = SHARES,
) -> list[Problem]:
    """Draw `n` training problems by the families' `shares`, easy levels oftener than hard ones.

    Of L levels, the i-th (0 is the easiest) has a weight of ((L - i) / L) ** tilt.
    """
    names, weights = list(shares), list(shares.values())
    problems = []
    for name in rng.choices(names, weights, k=n):
        levels = families[name].levels
        chances = [((len(levels) - i) / len(levels)) ** tilt for i in range(len(levels))]
        problems.append(families[name].generate(rng.choices(levels, chances)[0], rng))
    return problems


def encode(tokenizer: Tokenizer, prompts: Sequence[str], solutions: Sequence[str]) -> list[tuple[list[int], int]]:
    """Encode pairs as (ids of prompt, newline, solution and end token; how many of them are the prompt's)."""
    end = token_id(tokenizer, END)
    heads = tokenizer.encode_batch([prompt + "\n" for prompt in prompts])
    tails = tokenizer.encode_batch(list(solutions))
    return [([*head.ids, *tail.ids, end], len(head.ids)) for head, tail in zip(heads, tails, strict=True)]


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stack rows of different lengths into (rows, longest), padded with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Cut indices, sorted by length, into batches of at most `tokens` tokens with padding (one row at least)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[index] > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def pool(
    tokenizer: Tokenizer,
    seed: int,
    number: int,
    *,
    gentle: bool = False,
    shares: Mapping[str, float] = SHARES,
    tokens: int = 4096,
) -> list[Batch]:
    """Make pool `number` of a seed: batches of about `tokens` tokens in random order, loss on the solution only."""
    rng = random.Random(f"embedded/{seed}/{number}")
    if gentle:
        problems = draw(POOL, rng, tilt=max(1.0, 3.0 - number / EASY_POOLS * 2.0), families=GENTLE, shares=shares)
    else:
        problems = draw(POOL, rng, shares=shares)
    rows = encode(tokenizer, [p.prompt for p in problems], [p.solution for p in problems])
    pad = token_id(tokenizer, PAD)
    batches = []
    for indices in by_length([len(ids) for ids, _ in rows], tokens):
        chosen = [rows[i] for i in indices]
        targets = [[-100] * (start - 1) + ids[start:] for ids, start in chosen]
        batches.append(Batch(pad_right([ids[:-1] for ids, _ in chosen], pad), pad_right(targets, -100)))
    rng.shuffle(batches)
    return batches


def stream(
    tokenizer: Tokenizer, seed: int, first_pool: int = 0, *, gentle: bool = False, shares: Mapping[str, float] = SHARES
) -> Iterator[tuple[int, Batch]]:
    """Yield (pool number, batch) for ever, from `first_pool` on.

    gentle : a curriculum for a model that starts from scratch: easy levels first, chains with small operands.
    """
    number = first_pool
    while True:
        for batch in pool(tokenizer, seed, number, gentle=gentle, shares=shares):
            yield number, batch
        number += 1
