"""What is trained: sizes and schedules of the embedded models, all in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ...strategies.backends.llama import LlamaConfig
from .trainer import Schedule

CONTEXT = 512
"""Longest text in tokens; the families stay below 220."""

SEEDLING = "seedling"
"""Trained on a gentle curriculum; both models start from it. It doesn't ship."""


@dataclass(frozen=True, slots=True)
class Size:
    """One model: width, layers, inner width of the feed-forward part, and how it is trained.

    grown_from : the model whose weights it starts from (see growing.py), or None for a start from scratch.
    """

    width: int
    layers: int
    inner: int
    schedule: Schedule
    grown_from: str | None = None

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
    "tiny-large": Size(192, 5, 512, Schedule(steps=3_000, muon_rate=0.008, adam_rate=0.002), SEEDLING),
}
"""In the order of training."""

JUDGED: dict[str, tuple[int, int]] = {"tiny-small": (8_000, 6), "tiny-large": (3_000, 4)}
"""For the reward model: writer -> (problems, solutions of each)."""

REWARD = Schedule(steps=2_500, muon_rate=0.004, adam_rate=0.001, decay_share=0.6)
"""The reward model's training, from tiny-large's weights."""

PER_CELL = 32
"""Prompts per family and level for the measured figures."""
