"""Best-first search: go on from whatever partial solution scores best anywhere in the tree."""

import random
from collections.abc import Sequence
from typing import Unpack

from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one


class BestFirst(StepSearch):
    """Expand the best-scored partial solution of all, `batch` of them at once, until enough have finished.

    expansions : most partial solutions that are gone on from.
    branches   : next steps drawn from each.
    solutions  : different finished solutions after which it stops; the best of them is the answer.
    batch      : partial solutions that are gone on from at once.

    Unlike a beam it turns back to an earlier step as soon as all later ones look worse. Ties go to the longer
    solution, then by launch order: with a verifier that gives all the same it goes straight to an end. For the other
    settings see StepSearch.
    """

    minor = ("solutions", "batch")

    def __init__(
        self,
        *,
        expansions: int = 32,
        branches: int = 4,
        solutions: int = 2,
        batch: int = 1,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(expansions=expansions, branches=branches, solutions=solutions, batch=batch)
        self.expansions, self.branches, self.solutions, self.batch = expansions, branches, solutions, batch
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.branches

    @property
    def title(self) -> str:
        """For instance "best_first_32x4": expansions, then branches."""
        return f"best_first_{self.expansions}x{self.branches}"

    def rule(self, root: Branch, rng: random.Random) -> "_Frontier":
        """See StepSearch."""
        return _Frontier(self, root)


class _Frontier:
    """Partial solutions that were not gone on from, the best first."""

    unit = "round"

    def __init__(self, settings: BestFirst, root: Branch) -> None:
        self.settings = settings
        self.frontier = [root]
        self.expanded = self.finished = 0
        self.ended = ""

    def ask(self) -> list[Ask]:
        s = self.settings
        going = [branch for branch in self.frontier if branch.open]
        if self.finished >= s.solutions:
            self.ended = f"{self.finished} solutions had finished"
        elif self.expanded >= s.expansions:
            self.ended = f"made all {s.expansions} expansions"
        else:
            self.ended = "every way had ended"
            return [Ask(branch, s.branches) for branch in going[: min(s.batch, s.expansions - self.expanded)]]
        return []

    def tell(self, grown: Sequence[Grown]) -> None:
        passed = {one.branch for one in grown}
        new = dict.fromkeys(child for one in grown for child in one.children)
        for branch in new:
            branch.kept = branch.going
        self.expanded += len(grown)
        self.finished += sum(branch.finished for branch in new)
        going = [b for b in self.frontier if b not in passed] + [b for b in new if b.state == "partial"]
        self.frontier = sorted(going, key=lambda b: (b.rank[0], -b.depth, b.index))

    def partials(self) -> list[Branch]:
        return self.frontier


class BestFirstSpec(SearchFields, frozen=True, kw_only=True, tag="best_first"):
    """The best partial solution first; see BestFirst for each setting."""

    expansions: int = 32
    branches: int = 4
    solutions: int = 2
    batch: int = 1

    def build(self, parts: Parts) -> BestFirst:
        """See StrategyFields."""
        return BestFirst(
            expansions=self.expansions,
            branches=self.branches,
            solutions=self.solutions,
            batch=self.batch,
            **self.common(parts, asked_by="best-first search"),
        )
