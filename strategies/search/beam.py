"""Beam search: after every level the best partial solutions are kept, and gone on from."""

import random
from collections.abc import Sequence
from typing import Unpack

from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one


class TreeSearch(StepSearch):
    """Keep the `width` best partial solutions after each level, and draw `branches` next steps of each.

    width    : partial solutions that are kept after each level.
    branches : next steps drawn for each of them; the first level draws width * branches, so that all levels cost
               alike.

    A finished solution takes its place in the beam out of play; the search ends when all places are. For the other
    settings see StepSearch.
    """

    blind = "ways were kept in launch order"

    def __init__(
        self,
        *,
        width: int,
        branches: int,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(width=width, branches=branches)
        self.width = width
        self.branches = branches
        super().__init__(**common)

    def __repr__(self) -> str:
        return (
            f"TreeSearch(width={self.width}, branches={self.branches}, verifier={self.verifier.name!r}, "
            f"params={self.params!r})"
        )

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.width * self.branches

    @property
    def title(self) -> str:
        """For instance "beam_4x4": width, then branches."""
        return f"beam_{self.width}x{self.branches}"

    def rule(self, root: Branch, rng: random.Random) -> "_Beam":
        """See StepSearch."""
        return _Beam(self, root)


class _Beam:
    """The beam, best first, and how many of its places are still in play."""

    unit = "level"

    def __init__(self, settings: TreeSearch, root: Branch) -> None:
        self.settings = settings
        self.beam, self.places, self.levels = [root], settings.width, 0
        self.ended = ""

    def ask(self) -> list[Ask]:
        s = self.settings
        if self.levels == s.max_steps:
            self.ended = f"took all {s.max_steps} levels"
            return []
        if not self.beam:
            self.ended = f"every way had ended after {self.levels} levels"
        return [Ask(branch, s.branches if branch.steps else s.width * s.branches) for branch in self.beam]

    def tell(self, grown: Sequence[Grown]) -> None:
        new = dict.fromkeys(child for one in grown for child in one.children)
        kept = sorted((b for b in new if b.going), key=lambda b: b.rank)[: self.places]
        for branch in kept:
            branch.kept = True
        self.places -= sum(branch.finished for branch in kept)
        self.beam = [branch for branch in kept if not branch.finished]
        self.levels += 1

    def partials(self) -> list[Branch]:
        return self.beam


class TreeSearchSpec(SearchFields, frozen=True, kw_only=True, tag="tree_search"):
    """A beam over steps; see TreeSearch for each setting."""

    width: int = 4
    branches: int = 4

    def build(self, parts: Parts) -> TreeSearch:
        """See StrategyFields."""
        return TreeSearch(width=self.width, branches=self.branches, **self.common(parts, asked_by="tree search"))
