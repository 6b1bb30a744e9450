"""Beam search: after every level the best partial solutions are kept, and gone on from."""

import random
from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from ..errors import ConfigError, nearest
from ..spec import Parts
from .branch import Ask, Branch, Grown
from .engine import Common, SearchFields, StepSearch, at_least_one

Places = Literal["distinct", "drawn"]
PLACES: tuple[str, ...] = get_args(Places)


class TreeSearch(StepSearch):
    """Keep the `width` best partial solutions after each level, and draw `branches` next steps of each.

    width    : partial solutions that are kept after each level.
    branches : next steps drawn for each of them; the first level draws width * branches, so that all levels cost
               alike.
    places   : "distinct": every partial solution takes one place, however often it was drawn: more ways are looked
               at. "drawn": it takes a place for each time it was drawn, and draws for each: what the model itself finds
               likely weighs as it does in a beam that does not merge, and a rare step that the verifier overrates
               can't fill the beam.

    A finished solution takes its place in the beam out of play; the search ends when all places are. For the other
    settings see StepSearch.
    """

    blind = "ways were kept in launch order"

    def __init__(
        self,
        *,
        width: int,
        branches: int,
        places: Places = "distinct",
        **common: Unpack[Common],
    ) -> None:
        at_least_one(width=width, branches=branches)
        if places not in PLACES:
            raise ConfigError(f"places={places!r}{nearest(str(places), PLACES)}")
        self.width = width
        self.branches = branches
        self.places: Places = places
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
        """For instance "beam_4x4": width, then branches; "beam_4x4_drawn" where places go by draws."""
        return f"beam_{self.width}x{self.branches}" + ("_drawn" if self.places == "drawn" else "")

    def rule(self, root: Branch, rng: random.Random) -> "_Beam":
        """See StepSearch."""
        return _Beam(self, root)


class _Beam:
    """The beam, best first: the places of each partial solution, and how many places are still in play."""

    unit = "level"

    def __init__(self, settings: TreeSearch, root: Branch) -> None:
        self.settings = settings
        self.beam = {root: settings.width}
        self.in_play, self.levels = settings.width, 0
        self.ended = ""

    def ask(self) -> list[Ask]:
        s = self.settings
        if self.levels == s.max_steps:
            self.ended = f"took all {s.max_steps} levels"
            return []
        if not self.beam:
            self.ended = f"every way had ended after {self.levels} levels"
        return [Ask(branch, s.branches * places) for branch, places in self.beam.items()]

    def tell(self, grown: Sequence[Grown]) -> None:
        new = dict.fromkeys(child for one in grown for child in one.children)
        self.beam, free = {}, self.in_play
        for branch in sorted((b for b in new if b.going), key=lambda b: b.rank):
            places = min(free, branch.copies if self.settings.places == "drawn" else 1)
            if not places:
                break
            free -= places
            branch.kept = True
            if branch.finished:
                self.in_play -= places
            else:
                self.beam[branch] = places
        self.levels += 1

    def partials(self) -> list[Branch]:
        return list(self.beam)


class TreeSearchSpec(SearchFields, frozen=True, kw_only=True, tag="tree_search"):
    """A beam over steps; see TreeSearch for each setting."""

    width: int = 4
    branches: int = 4
    places: Places = "distinct"

    def build(self, parts: Parts) -> TreeSearch:
        """See StrategyFields."""
        return TreeSearch(
            width=self.width, branches=self.branches, places=self.places, **self.common(parts, asked_by="tree search")
        )
