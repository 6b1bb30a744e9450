"""What a search leaves behind: every step that was tried, for export and for pictures.

Plain data, made once the search is over; how a tree grows is in `engine.py`, how it is drawn in `picture.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["partial", "finished", "failed", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step, and all before it on the way from the root.

    index, parent : the node's place in Tree.nodes, and its parent's; the root has parent None and no text.
    depth         : steps from the root.
    text          : this step alone.
    score         : of the verifier, in [0, 1], for the solution up to here (where steps are valued by rollouts: the
                    score of the rollout); None = not judged.
    copies        : samples that said this very step here; they are one node.
    visits, value : of a rule that counts (MCTS, AB-MCTS): samples that were backed up through here, and their mean
                    value; visits 0 and value None elsewhere.
    completion_tokens : of this step, drawn once however many copies.
    state         : "partial", "finished" (came to its own end), "failed" (the sample did), or "cut" (at the most
                    tokens of a solution, or when time was over).
    rollout       : whether the text was drawn to its end at once, to value its parent.
    kept          : whether the rule kept it, to go on from or as an answer.
    chosen        : whether it is on the way to the answer.
    """

    index: int
    parent: int | None
    depth: int
    text: str
    score: float | None
    copies: int
    visits: int
    value: float | None
    completion_tokens: int
    state: State
    rollout: bool
    kept: bool
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All nodes of one search, parents before their children; node 0 is the root.

    strategy : its name.    prompt : what was asked.
    """

    strategy: str
    prompt: str
    nodes: tuple[Node, ...]

    def __len__(self) -> int:
        return len(self.nodes)

    def children(self, node: Node) -> list[Node]:
        """Return a node's children, in launch order."""
        return [n for n in self.nodes if n.parent == node.index]

    def path(self, node: Node) -> list[Node]:
        """Return the way from the root to a node, both included."""
        way = [node]
        while (parent := way[-1].parent) is not None:
            way.append(self.nodes[parent])
        return way[::-1]

    def text(self, node: Node) -> str:
        """Return the solution up to and with a node."""
        return "".join(n.text for n in self.path(node))

    @property
    def chosen(self) -> list[Node]:
        """The way from the root to the answer; the root alone where there was none."""
        return [n for n in self.nodes if n.chosen]

    def to_dict(self) -> dict[str, object]:
        """Return plain lists, dicts, strings and numbers, ready for `json.dumps`."""
        return {
            "strategy": self.strategy,
            "prompt": self.prompt,
            "nodes": [dataclasses.asdict(node) for node in self.nodes],
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Tree":
        """Read what `to_dict` gave, also after a way through JSON."""
        nodes: Sequence[Mapping] = data["nodes"]
        return cls(strategy=data["strategy"], prompt=data["prompt"], nodes=tuple(Node(**n) for n in nodes))

    def to_svg(self) -> str:
        """Draw the tree: a picture that any browser opens."""
        from .picture import svg

        return svg(self)

    def save(self, path: str | Path) -> None:
        """Write the tree to a file: a picture where its name ends in ".svg", JSON elsewhere."""
        import json

        path = Path(path)
        text = self.to_svg() if path.suffix == ".svg" else json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        path.write_text(text, encoding="utf-8")

    def _repr_svg_(self) -> str:
        """Shown by notebooks."""
        return self.to_svg()
