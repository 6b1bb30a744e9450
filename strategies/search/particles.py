"""Particle filtering: solutions grow side by side, and after each step are drawn anew by how good they look.

Source: Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based
Monte Carlo Methods" (2502.01618), algorithm 1: a particle's log-weight is the logit of the reward so far. Resampling
is systematic here, which has the same mean and less noise than their multinomial draws.
"""

import math
import random
from collections.abc import Sequence
from typing import Unpack

from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one

_NEAREST = 1e-7  # a reward is taken to lie so far from 0 and 1, for its logit


def logit(reward: float) -> float:
    """ln(r / (1 - r)), finite also at 0 and 1."""
    r = min(max(reward, _NEAREST), 1 - _NEAREST)
    return math.log(r / (1 - r))


def softmax(logs: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Weights proportional to exp(log / temperature), summing up to 1; -inf has weight 0."""
    top = max(logs)
    weights = [math.exp((x - top) / temperature) for x in logs]
    total = math.fsum(weights)
    return [w / total for w in weights]


def effective(weights: Sequence[float]) -> float:
    """Effective sample size of weights that sum up to 1: 1 / sum w_i^2, between 1 and their number."""
    return 1 / math.fsum(w * w for w in weights)


def temper(weights: Sequence[float], step: int, steps: int) -> float:
    """Temperature of the entropic variant: keeps early weights from gathering on few particles.

    max(1, (N / ESS) (1 - t / T))    while ESS / N < 1/2 and t / T < 1/2, else 1
    """
    n, size = len(weights), effective(weights)
    done = step / steps
    return max(1.0, n / size * (1 - done)) if size / n < 0.5 and done < 0.5 else 1.0


def systematic(weights: Sequence[float], n: int, uniform: float) -> list[int]:
    """Draw n indices by one uniform number in [0, 1): index i comes floor(n w_i) or ceil(n w_i) times.

    The places (u + k) / n, k = 0 ... n - 1, fall into the cells of the running sum of weights.
    """
    chosen, i, reached = [], 0, weights[0]
    last = max(j for j, w in enumerate(weights) if w > 0)
    for k in range(n):
        while i < last and (uniform + k) / n >= reached:
            i += 1
            reached = math.fsum(weights[: i + 1])
        chosen.append(i)
    return chosen


class ParticleFilter(StepSearch):
    """Let `n` particles take a step each, then draw n anew from them by softmax of the logit of their scores.

    n        : particles.
    entropic : temper the weights while the first half of `max_steps` lasts and fewer than half of the particles
               count (see `temper`).

    A finished particle stays as it is, and keeps its weight; one whose sample failed or was cut has none. The search
    ends when all have finished. Particles that stand at the same text are one branch. For the other settings see
    StepSearch.
    """

    def __init__(
        self,
        *,
        n: int,
        entropic: bool = False,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(n=n)
        self.n, self.entropic = n, entropic
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.n

    @property
    def title(self) -> str:
        """For instance "particles_16", "particles_16_entropic"."""
        return f"particles_{self.n}" + ("_entropic" if self.entropic else "")

    def rule(self, root: Branch, rng: random.Random) -> "_Particles":
        """See StepSearch."""
        return _Particles(self, root, rng)


class _Particles:
    """Where each particle stands."""

    unit = "level"

    def __init__(self, settings: ParticleFilter, root: Branch, rng: random.Random) -> None:
        self.settings, self.rng = settings, rng
        self.at = [root] * settings.n
        self.levels = 0
        self.ended = ""

    def ask(self) -> list[Ask]:
        going = [branch for branch in self.at if branch.open]
        if any(branch.state == "partial" for branch in self.at) and not going:
            self.ended = f"took all {self.settings.max_steps} levels"
        else:
            self.ended = f"every particle had ended after {self.levels} levels"
        return [Ask(branch, going.count(branch)) for branch in sorted(dict.fromkeys(going), key=lambda b: b.rank)]

    def tell(self, grown: Sequence[Grown]) -> None:
        """Move the particles, then draw them anew. Those that the budget gave no sample are left out."""
        s = self.settings
        self.levels += 1
        moved = [branch for branch in self.at if not branch.open]
        moved += [child for one in grown for child in one.children]
        alive = [branch for branch in moved if branch.going]
        self.at = []
        if alive:
            logs = [logit(branch.worth) for branch in alive]
            weights = softmax(logs)
            if s.entropic:
                weights = softmax(logs, temper(weights, self.levels, s.max_steps))
            self.at = [alive[i] for i in systematic(weights, s.n, self.rng.random())]
        for branch in self.at:
            branch.kept = True

    def partials(self) -> list[Branch]:
        return sorted(dict.fromkeys(b for b in self.at if b.state == "partial"), key=lambda b: b.rank)


class ParticleFilterSpec(SearchFields, frozen=True, kw_only=True, tag="particles"):
    """Particle filtering; see ParticleFilter for each setting."""

    n: int = 16
    entropic: bool = False

    def build(self, parts: Parts) -> ParticleFilter:
        """See StrategyFields."""
        return ParticleFilter(n=self.n, entropic=self.entropic, **self.common(parts, asked_by="particle filtering"))
