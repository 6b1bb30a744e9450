"""Train one language model, or go on where a killed run stopped.

Muon for the hidden matrices, AdamW for the embedding and the norms; warm-up, a long plateau, then a straight
line to zero; bf16 autocast. Checkpoints are written whole and renamed, so a kill at any moment is safe.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ...strategies.backends.llama import Llama, LlamaConfig
from . import data


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast: `steps` batches, peak rates, and the share of steps in which the rate falls."""

    steps: int
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    warmup: int = 100
    decay_share: float = 0.5

    def factor(self, step: int) -> float:
        """Give the rate's factor in (0, 1] at a step: up in `warmup`, flat, then a straight line to zero."""
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return min(1.0, (step + 1) / self.warmup, max(left, 1e-3))


def fresh_model(config: LlamaConfig, seed: int) -> Llama:
    """Initialise: normal weights, smaller in the projections that write to the residual stream."""
    torch.manual_seed(seed)
    model = Llama(config)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            scale = 0.5 / math.sqrt(weight.shape[1]) if "embed" not in name else 0.05
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= math.sqrt(2 * config.num_hidden_layers)
            nn.init.normal_(weight, std=scale)
    return model


class Optimizer:
    """Muon and AdamW behind one `step` and one state."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        named = list(model.named_parameters())
        hidden = [p for name, p in named if p.ndim == 2 and "layers." in name]
        other = [p for name, p in named if not (p.ndim == 2 and "layers." in name)]
        self.schedule = schedule
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.Muon(hidden, lr=schedule.muon_rate, weight_decay=0.01, adjust_lr_fn="original"),
                schedule.muon_rate,
            ),
            (torch.optim.AdamW(other, lr=schedule.adam_rate, betas=(0.9, 0.98), weight_decay=0.0), schedule.adam_rate),
        ]

    def step(self, step: int) -> None:
        """Apply the gradients at the rate of `step`, then forget them."""
        for part, rate in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * self.schedule.factor(step)
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict]:
        """Everything needed to go on."""
        return [part.state_dict() for part, _ in self.parts]

    def restore(self, states: Iterable[dict]) -> None:
        """Go on from `state`."""
        for (part, _), state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint beside its place, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def compiled(model: Llama, *, in_place: bool = False) -> Callable[[Tensor], Tensor]:
    """Compile `model.hidden` where a C++ compiler is at hand (1.4 to 1.7 times as fast on one core), else as it is."""
    if shutil.which("g++") is None:
        return model.hidden
    forward = torch.compile(model.hidden, dynamic=True)
    if in_place:
        model.hidden = forward
    return forward


def loss_of(model: Llama, batch: data.Batch, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean cross-entropy over the solution's tokens, in nats; the head is computed for these alone."""
    wanted = batch.targets >= 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden = forward(batch.ids)[wanted]
        logits = model.head(hidden)
    return F.cross_entropy(logits.float(), batch.targets[wanted])


def train(
    name: str,
    model: Llama,
    schedule: Schedule,
    tokenizer: Tokenizer,
    *,
    seed: int,
    checkpoint: Path,
    on_checkpoint: Callable[[Llama, int], None] = lambda model, step: None,
    every_s: float = 120.0,
    gentle: bool = False,
    shares: Mapping[str, float] = data.SHARES,
) -> Llama:
    """Train `model` in place to the schedule's end, going on from `checkpoint` where it exists.

    `gentle` chooses the curriculum for a model that starts from scratch (see data.py). Progress goes
    to stderr; `on_checkpoint(model, step)` runs after each save (about every `every_s` seconds).
    """
    optimizer = Optimizer(model, schedule)
    forward = compiled(model)
    step = first_pool = skip = tokens = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.restore(kept["optimizer"])
        step, first_pool, skip, tokens = kept["step"], kept["pool"], kept["used"], kept["tokens"]

    def save(pool: int, used: int) -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state(),
                "step": step,
                "pool": pool,
                "used": used,
                "tokens": tokens,
            },
        )
        on_checkpoint(model, step)

    began = saved = time.monotonic()
    began_tokens, average, pool, used = tokens, 0.0, first_pool, 0
    for number, batch in data.stream(tokenizer, seed, first_pool, gentle=gentle, shares=shares):
        if step >= schedule.steps:
            break
        used = used + 1 if number == pool else 1
        pool = number
        if pool == first_pool and used <= skip:
            continue
        loss = loss_of(model, batch, forward)
        loss.backward()
        optimizer.step(step)
        step += 1
        tokens += batch.ids.numel()
        average = loss.item() if not average else 0.98 * average + 0.02 * loss.item()
        now = time.monotonic()
        if step % 100 == 0:
            print(
                f"{name}: step {step}/{schedule.steps} loss {average:.3f} {tokens / 1e6:.2f} M tokens "
                f"{(tokens - began_tokens) / (now - began):,.0f} tokens/s {now - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        if now - saved > every_s:
            save(pool, used)
            saved = time.monotonic()
    save(pool, used)
    return model
