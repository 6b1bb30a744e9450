"""REBASE: share a fixed number of samples out among all partial solutions, by their rewards.

Source: Wu et al. 2024, "Inference Scaling Laws" (2408.00724), section 3.2. Their shares are rounded one by one; here
by largest remainder, so that they always sum up to the budget.
"""

import math
import random
from collections.abc import Sequence
from typing import Unpack

from ..errors import ConfigError
from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one


def shares(total: int, rewards: Sequence[float], copies: Sequence[int], temperature: float) -> list[int]:
    """Share `total` samples out in proportion to copies_j * exp(reward_j / temperature), by largest remainder.

    Whole parts first, then one more to each in the order of what was left over; ties go to the earlier one. The shares
    sum up to `total`, and each differs by less than 1 from its exact value.
    >>> shares(8, [0.9, 0.9, 0.1], [1, 1, 1], 0.2)
    [4, 4, 0]
    """
    top = max(rewards)
    weights = [n * math.exp((r - top) / temperature) for r, n in zip(rewards, copies, strict=True)]
    exact = [total * w / math.fsum(weights) for w in weights]
    whole = [math.floor(e) for e in exact]
    order = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return whole


class Rebase(StepSearch):
    """Draw `n` samples a level, less those that have finished, shared out by softmax of the scores.

    n      : samples of the first level.
    spread : temperature of the softmax: small ones give all to the best (greedy), large ones give each the same.

    A step that k samples said has k times the weight of another with its score, as k equal nodes would have. For the
    other settings see StepSearch.
    """

    minor = ("spread",)

    def __init__(
        self,
        *,
        n: int,
        spread: float = 0.2,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(n=n)
        if not (math.isfinite(spread) and spread > 0):
            raise ConfigError(f"spread={spread!r}: it must be a finite number above 0")
        self.n, self.spread = n, spread
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.n

    @property
    def title(self) -> str:
        """For instance "rebase_16"."""
        return f"rebase_{self.n}"

    def rule(self, root: Branch, rng: random.Random) -> "_Shares":
        """See StepSearch."""
        return _Shares(self, root)


class _Shares:
    """Samples of the next level by branch, and how many samples have finished."""

    unit = "level"

    def __init__(self, settings: Rebase, root: Branch) -> None:
        self.settings = settings
        self.next = [Ask(root, settings.n)]
        self.finished = self.levels = 0
        self.ended = ""

    def ask(self) -> list[Ask]:
        asks = [ask for ask in self.next if ask.branch.open]
        if self.next and not asks:
            self.ended = f"took all {self.settings.max_steps} levels"
        else:
            self.ended = f"every way had ended after {self.levels} levels"
        return asks

    def tell(self, grown: Sequence[Grown]) -> None:
        self.levels += 1
        new = list(dict.fromkeys(child for one in grown for child in one.children))
        for branch in new:
            branch.kept = branch.finished
        self.finished += sum(branch.copies for branch in new if branch.finished)
        partial = [branch for branch in new if branch.state == "partial"]
        left = self.settings.n - self.finished
        self.next = []
        if partial and left > 0:
            worth = [branch.worth for branch in partial]
            each = shares(left, worth, [branch.copies for branch in partial], self.settings.spread)
            asks = [Ask(branch, n) for branch, n in zip(partial, each, strict=True) if n]
            self.next = sorted(asks, key=lambda ask: ask.branch.rank)
        for ask in self.next:
            ask.branch.kept = True

    def partials(self) -> list[Branch]:
        return [ask.branch for ask in self.next]


class RebaseSpec(SearchFields, frozen=True, kw_only=True, tag="rebase"):
    """Samples shared out by reward; see Rebase for each setting."""

    n: int = 16
    spread: float = 0.2

    def build(self, parts: Parts) -> Rebase:
        """See StrategyFields."""
        return Rebase(n=self.n, spread=self.spread, **self.common(parts, asked_by="REBASE"))
