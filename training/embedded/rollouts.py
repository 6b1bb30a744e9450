"""Draw many solutions at temperature 1: the raw material of the reward model and of every measured curve.

Works on token ids from start to end, so that counting tokens is exact. What serves requests is
howhard.strategies.backends.local; this is the recipe's own plain loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from ...strategies.backends.llama import Decoding, Llama
from .tokenizer import END, token_id

MOST = 120
"""Most tokens in one solution; the longest right one (a chain of 14) has 89."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled solution: its token ids (the end token included where it came) and whether it ended."""

    ids: tuple[int, ...]
    ended: bool


def draw_ids(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Sample one id per row of (rows, vocabulary) logits at temperature 1 (the Gumbel trick)."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log_()).argmax(-1)


@torch.inference_mode()
def finish(
    model: Llama,
    state: Decoding,
    end: int,
    generator: torch.Generator,
    *,
    stop: int | None = None,
    most: int = MOST,
) -> list[Rollout]:
    """Go on with every row of `state` until its end token, until `stop` (a newline, kept) or `most` tokens."""
    written: list[list[int]] = [[] for _ in range(len(state))]
    alive = list(range(len(state)))
    gone = torch.zeros(len(state), dtype=torch.bool)
    for _ in range(most):
        ids = draw_ids(state.logits, generator)
        for row, token in zip(alive, ids.tolist(), strict=True):
            if token >= 0 and not gone[row]:
                written[row].append(token)
        done = (ids == end) | (ids == stop if stop is not None else False)
        for index in done.nonzero().flatten().tolist():
            gone[alive[index]] = True
        still = [index for index, row in enumerate(alive) if not gone[row]]
        if not still:
            break
        if len(still) < 0.75 * len(alive):
            state.keep(still)
            ids, alive = ids[torch.tensor(still)], [alive[index] for index in still]
        model.step(state, ids)
    return [Rollout(tuple(ids), bool(ids) and ids[-1] == end) for ids in written]


def sample(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[str], n: int, *, seed: int, rows: int = 512
) -> list[list[Rollout]]:
    """Draw `n` solutions for every prompt, about `rows` at a time; prompts of like length go together."""
    generator = torch.Generator().manual_seed(seed)
    end = token_id(tokenizer, END)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch([prompt + "\n" for prompt in prompts])]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    found: list[list[Rollout]] = [[] for _ in prompts]
    at_once = max(1, rows // n)
    for first in range(0, len(order), at_once):
        chosen = order[first : first + at_once]
        state = model.prefill([encoded[i] for i in chosen], reserve=MOST).expand(n)
        rollouts = finish(model, state, end, generator)
        for place, index in enumerate(chosen):
            found[index] = rollouts[place * n : (place + 1) * n]
    return found


def text_of(rollout: Rollout, tokenizer: Tokenizer) -> str:
    """Decode a rollout without its end token."""
    return tokenizer.decode(list(rollout.ids), skip_special_tokens=True)
