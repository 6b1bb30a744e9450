"""How the worth of plans shrinks with what they are learned from: fewer logged samples per prompt, or fewer prompts.

The router whose estimates a plan reads is fitted to as little as the plan itself. All are replayed on the same test
prompts with all samples of the log; a plan that was learned from k samples never draws more than k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from ...router.plan import Menu, prompt_features
from ...strategies.errors import ConfigError
from .contest import Fold, PlanData, fold_on
from .outcome import Outcome
from .rivals import Learned

SAMPLES = (4, 8, 16, 32)
PROMPTS = (200, 500, 1000, 2000)


@dataclass(frozen=True, slots=True, eq=False)
class FewerSamples:
    """A plan that was learned from the first k samples per prompt and backend, as a rival of plans.

    data : of the same prompts, with k samples (`cut`).
    """

    data: PlanData
    kind: str = "fewer samples"
    quick: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return f"from {self.data.log.legs[0].draws.k} samples"

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """What it comes to on the test prompts, at each value. Raises ConfigError where the prompts are others."""
        if self.data.log.prompt_ids != fold.data.log.prompt_ids:
            raise ConfigError(f"{self.name}: its prompts are not those of the log that it is replayed on")
        return _taught(replace(fold, data=self.data), fold.train, values)


@dataclass(frozen=True, slots=True)
class FewerPrompts:
    """A plan that was learned from n of the training prompts, drawn at random, as a rival of plans."""

    n: int
    kind: str = "fewer prompts"
    quick: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return f"from {self.n:,} prompts"

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """What it comes to on the test prompts, at each value. Raises ConfigError where there are not so many."""
        if self.n > len(fold.train):
            raise ConfigError(f"{self.name}: a fold has {len(fold.train):,} training prompts")
        rng = np.random.default_rng(fold.settings.seed)
        return _taught(fold, np.sort(rng.permutation(fold.train)[: self.n]), values)


def _taught(fold: Fold, train: np.ndarray, values: Sequence[float]) -> list[Outcome]:
    """Teach from these prompts of the fold's data, and replay on the fold's runs."""
    taught = fold_on(fold.data, train, fold.test, seed=fold.settings.seed, deals=1, plan_settings=fold.settings)
    runs = fold.runs.seen_as(prompt_features(taught.estimates), taught.runs.familiar)
    return Learned(fit=lambda _: taught.plan).play(replace(fold, runs=runs), values)


def cut(menu: Menu, k: int) -> Menu:
    """The menu of a log that has k samples per prompt and backend: stages up to k. Raises ConfigError where none is."""
    legs = []
    for leg in menu.legs:
        stages = tuple(s for s in leg.stages if s <= k)
        if not stages:
            raise ConfigError(f"fewer samples: no stage of {leg.backend!r} is within {k}; the first is {leg.stages[0]}")
        legs.append(msgspec.structs.replace(leg, stages=stages))
    return msgspec.structs.replace(menu, legs=tuple(legs))
