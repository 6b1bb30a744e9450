"""What is trained: sizes and schedules of the embedded models, all in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...strategies.backends.llama import LlamaConfig
from .data import SHARES
from .trainer import Schedule

CONTEXT = 512
"""Longest text in tokens; the families stay below 220."""

SEEDLING = "seedling"
"""Trained on a gentle curriculum; tiny-small and the sapling start from it. It doesn't ship."""

SAPLING = "sapling"
"""Of the large size; tiny-large and tiny-prm start from it. It doesn't ship."""


@dataclass(frozen=True, slots=True)
class Size:
    """One model: width, layers, inner width of the feed-forward part, and how it is trained.

    grown_from : the model whose weights it starts from (see growing.py), or None for a start from scratch.
    shares : share of training problems per family.
    """

    width: int
    layers: int
    inner: int
    schedule: Schedule
    grown_from: str | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)

    def config(self, vocabulary: int, end: int) -> LlamaConfig:
        """Give the Llama configuration: heads of size 32, as many as fit the width."""
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            eos_token_id=end,
        )


SIZES: dict[str, Size] = {
    SEEDLING: Size(96, 3, 256, Schedule(steps=5_000, muon_rate=0.01)),
    "tiny-small": Size(96, 3, 256, Schedule(steps=1_500, muon_rate=0.008, adam_rate=0.003), SEEDLING),
    SAPLING: Size(192, 5, 512, Schedule(steps=3_000, muon_rate=0.008, adam_rate=0.002), SEEDLING),
    "tiny-large": Size(
        192,
        5,
        512,
        Schedule(steps=1_800, muon_rate=0.006, adam_rate=0.0015, decay_share=0.7),
        SAPLING,
        {"chain": 0.12, "countdown": 0.40, "path": 0.40, "remainder": 0.08},
    ),
}
"""In the order of training."""

JUDGED: dict[str, tuple[int, int]] = {"tiny-small": (8_000, 6), SAPLING: (3_000, 4)}
"""For the reward model: writer -> (problems, solutions of each)."""

CORRUPTED = 30_000
"""Chains with a slip made on purpose, for the reward model."""

REWARD = Schedule(steps=800, muon_rate=0.001, adam_rate=0.0005, decay_share=0.8)
"""The reward model's training, from the sapling's weights."""

PER_CELL = 96
"""Prompts per family and level for the measured figures."""
