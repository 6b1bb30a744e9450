"""Diverse verifier tree search: a forest of independent subtrees, with a beam of one in each.

Source: Beeching, Tunstall, Rush 2024, "Scaling test-time compute with open models" (Hugging Face).
"""

import random
from collections.abc import Sequence
from typing import Unpack

from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one


class DVTS(StepSearch):
    """Grow `width` subtrees apart from each other; each goes on from the best of its own `branches` next steps.

    width    : subtrees.
    branches : next steps drawn in each; the first level draws width * branches, shared out in turn.

    Subtrees never compete, so that a verifier's early mistake costs one of them. Where two stand at the same text
    their steps are drawn and judged once, and shared out. For the other settings see StepSearch.
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
        self.width, self.branches = width, branches
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.width * self.branches

    @property
    def title(self) -> str:
        """For instance "dvts_4x4": subtrees, then branches."""
        return f"dvts_{self.width}x{self.branches}"

    def rule(self, root: Branch, rng: random.Random) -> "_Forest":
        """See StepSearch."""
        return _Forest(self, root)


class _Forest:
    """Where each subtree stands; one that has ended is out."""

    unit = "level"

    def __init__(self, settings: DVTS, root: Branch) -> None:
        self.settings = settings
        self.heads = [root] * settings.width
        self.ended = ""

    def ask(self) -> list[Ask]:
        going = [head for head in self.heads if head.open]
        steps = self.settings.max_steps
        self.ended = f"took all {steps} levels" if self.heads else "every way had ended"
        return [Ask(head, going.count(head) * self.settings.branches) for head in dict.fromkeys(going)]

    def tell(self, grown: Sequence[Grown]) -> None:
        """Share each branch's samples out among the subtrees that stand there, in turn, and keep the best of each.

        A branch that the budget left out ends its subtrees, once nobody can pay for them.
        """
        heads = []
        for one in grown:
            there = self.heads.count(one.branch)
            for place in range(there):
                going = [child for child in one.children[place::there] if child.going]
                if going:
                    best = min(going, key=lambda b: b.rank)
                    best.kept = True
                    heads += [] if best.finished else [best]
        self.heads = heads

    def partials(self) -> list[Branch]:
        return sorted(dict.fromkeys(self.heads), key=lambda b: b.rank)


class DVTSSpec(SearchFields, frozen=True, kw_only=True, tag="dvts"):
    """Independent subtrees; see DVTS for each setting."""

    width: int = 4
    branches: int = 4

    def build(self, parts: Parts) -> DVTS:
        """See StrategyFields."""
        return DVTS(width=self.width, branches=self.branches, **self.common(parts, asked_by="DVTS"))
