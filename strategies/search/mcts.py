"""Monte Carlo tree search over steps: UCT or PUCT, batched leaves, progressive widening.

Sources: UCT, Kocsis and Szepesvari 2006. PUCT, Silver et al. 2018 (AlphaZero), with its constant 19652. Samples in
flight count as visits, values stay what they are: WU-UCT, Liu et al. 2020 (1810.11755), so that a batch of leaves
grows the tree that one leaf at a time would. Progressive widening: Coulom 2007; Chaslot et al. 2008.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from ..errors import BackendError, ConfigError, nearest
from ..spec import Parts
from .branch import Ask, Branch, Grown, most_visited
from .engine import Common, SearchFields, StepSearch, at_least_one

Choice = Literal["uct", "puct"]
Value = Literal["verifier", "rollout"]

EXPLORATION: dict[Choice, float] = {"uct": 0.3, "puct": 1.25}
"""The constant c of each rule where none is set. Values lie in [0, 1]."""


def uct(value: float, *, visits: int, in_flight: int, parent_visits: int, parent_in_flight: int, c: float) -> float:
    """Q + c sqrt(ln(N + O) / (n + o)), with visits N, n and samples in flight O, o of parent and child.

    With nothing in flight, plain UCT. WU-UCT writes sqrt(2 ln(...)): its c is this one divided by sqrt(2).
    """
    n, parent = visits + in_flight, parent_visits + parent_in_flight
    return value + c * math.sqrt(math.log(max(parent, 1)) / n)


def puct(
    value: float, *, prior: float, visits: int, in_flight: int, parent_visits: int, parent_in_flight: int, c: float
) -> float:
    """Q + [ln((N + O + 19653) / 19652) + c] P sqrt(N + O) / (1 + n + o), P the model's own probability of the step."""
    n, parent = visits + in_flight, parent_visits + parent_in_flight
    return value + (math.log((parent + 19653) / 19652) + c) * prior * math.sqrt(parent) / (1 + n)


def allowance(visits: int, k: float, alpha: float) -> int:
    """How many steps a branch may have drawn after so many visits: ceil(k visits^alpha), at least 1."""
    return max(1, math.ceil(k * max(visits, 1) ** alpha - 1e-9))


class MCTS(StepSearch):
    """Spend `samples` step samples where UCT or PUCT sends them.

    samples     : step samples in all (of a rollout, the step before it).
    choice      : "uct", or "puct", which multiplies exploration by the model's probability of a step (exp of the mean
                  log-probability of its tokens, divided by the sum over its siblings; needs log-probabilities).
    value       : what a new branch is worth: "verifier", what the verifier says of the partial solution (a process
                  or outcome reward model that reads partial ones), or "rollout", what it says of one sample from there
                  to its end, which is an answer too (for verifiers that judge whole solutions only).
    exploration : the rule's c; None = 0.3 for UCT, 1.25 for PUCT.
    widen_k, widen_alpha : a branch of v visits draws steps up to widen_k * v^widen_alpha of them; alpha 0 = a fixed
                  number of steps.
    batch       : most branches that are grown at once.

    A visit is one sample: each, duplicates included, is backed up as the value of where it led. While a batch is put
    together, samples in flight count as visits of the branches above them (see `uct`). The steps that a branch has in
    flight stand beside its children as one that is worth the branch's mean. Where that one is chosen, the best thing
    to do is to wait for it: its place in the batch stays empty and counts as in flight, so a batch may be smaller than
    it could. What has finished or was cut, or has no place left below it, is not visited again. For the other
    settings see StepSearch.
    """

    across = False
    minor = ("exploration", "widen_k", "widen_alpha", "batch")

    def __init__(
        self,
        *,
        samples: int = 96,
        choice: Choice = "uct",
        value: Value = "verifier",
        exploration: float | None = None,
        widen_k: float = 3.0,
        widen_alpha: float = 0.2,
        batch: int = 8,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(samples=samples, batch=batch)
        for name, found, known in (("choice", choice, get_args(Choice)), ("value", value, get_args(Value))):
            if found not in known:
                raise ConfigError(f"{name}={found!r}{nearest(str(found), known)}")
        if exploration is not None and not (math.isfinite(exploration) and exploration >= 0):
            raise ConfigError(f"exploration={exploration!r}: it must be a finite number >= 0, or None")
        if not (math.isfinite(widen_k) and widen_k >= 1):
            raise ConfigError(f"widen_k={widen_k!r}: it must be a finite number >= 1")
        if not 0 <= widen_alpha < 1:
            raise ConfigError(f"widen_alpha={widen_alpha!r}: it must lie in [0, 1)")
        self.samples, self.value, self.batch = samples, value, batch
        self.choice: Choice = choice
        self.exploration = exploration
        self.widen_k, self.widen_alpha = widen_k, widen_alpha
        self.rollouts = value == "rollout"
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return math.ceil(self.widen_k)

    @property
    def title(self) -> str:
        """For instance "mcts_96", "mcts_96_puct_rollout"."""
        parts = ["mcts", str(self.samples)]
        parts += ["puct"] if self.choice == "puct" else []
        parts += ["rollout"] if self.rollouts else []
        return "_".join(parts)

    def rule(self, root: Branch, rng: random.Random) -> "_Visits":
        """See StepSearch."""
        return _Visits(self, root)


class _Visits:
    """Counts of the tree: visits stand in the branches, what is in flight stands here."""

    unit = "round"

    def __init__(self, settings: MCTS, root: Branch) -> None:
        self.settings, self.root = settings, root
        self.c = EXPLORATION[settings.choice] if settings.exploration is None else settings.exploration
        self.drawn = 0
        self.asked: dict[Branch, int] = {}  # samples in flight that a branch drew itself
        self.flying: dict[Branch, int] = {}  # samples in flight at or below a branch
        self.priors: dict[Branch, float] = {}
        self.done: set[Branch] = set()
        self.ended = ""

    # ── choosing ────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self) -> list[Ask]:
        s = self.settings
        for _ in range(s.batch):
            most = s.samples - self.drawn - sum(self.asked.values())
            if most < 1 or not self.alive(self.root):
                break
            leaf, ready = self.select()
            n = max(1, self.missing(leaf))
            if ready:
                n = min(n, most)
                self.asked[leaf] = self.asked.get(leaf, 0) + n
            for branch in leaf.way():
                self.flying[branch] = self.flying.get(branch, 0) + n
        if not self.asked:
            self.ended = f"drew all {s.samples} steps" if self.drawn >= s.samples else "every way had ended"
        return [Ask(branch, n) for branch, n in self.asked.items()]

    def missing(self, branch: Branch) -> int:
        """How many more steps it may draw now."""
        s, o = self.settings, self.flying.get(branch, 0)
        allowed = allowance(branch.visits + o, s.widen_k, s.widen_alpha)
        return allowed - branch.drawn - self.asked.get(branch, 0) if branch.open else 0

    def alive(self, branch: Branch) -> bool:
        """Whether anything is left to do at or below a branch, now or when what is in flight is there."""
        if not branch.open or branch in self.done:
            return False
        if self.missing(branch) > 0 or branch in self.flying or any(self.alive(child) for child in branch.children):
            return True
        self.done.add(branch)  # for good: only samples from below it could allow it more steps
        return False

    def select(self) -> tuple[Branch, bool]:
        """Go down to the branch that is to draw more, and whether it can now: if not, what is in flight there first."""
        branch = self.root
        while self.missing(branch) <= 0:
            options = [(self.score(branch, child), child) for child in branch.children if self.alive(child)]
            if not options:
                return branch, False
            best, child = max(options, key=lambda option: (option[0], -option[1].index))
            if branch in self.asked and self.score_in_flight(branch) > best:
                return branch, False
            branch = child
        return branch, True

    def score(self, parent: Branch, child: Branch) -> float:
        """UCT or PUCT of a child."""
        counts = {
            "visits": child.visits,
            "in_flight": self.flying.get(child, 0),
            "parent_visits": parent.visits,
            "parent_in_flight": self.flying.get(parent, 0),
            "c": self.c,
        }
        if self.settings.choice == "uct":
            return uct(child.mean, **counts)
        total = math.fsum(self.priors[c] for c in parent.children if c in self.priors)
        return puct(child.mean, prior=self.priors[child] / total, **counts)

    def score_in_flight(self, parent: Branch) -> float:
        """The same of the steps that a branch has in flight, taken as one child worth the branch's mean."""
        counts = {
            "visits": 0,
            "in_flight": self.asked[parent],
            "parent_visits": parent.visits,
            "parent_in_flight": self.flying[parent],
            "c": self.c,
        }
        if self.settings.choice == "uct":
            return uct(parent.mean, **counts)
        return puct(parent.mean, prior=1 / (1 + len(parent.children)), **counts)

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, grown: Sequence[Grown]) -> None:
        self.asked.clear()
        self.flying.clear()
        for one in grown:
            self.drawn += len(one.children)
            for child in one.children:
                child.kept = child.going
                if child.state == "failed":
                    continue
                if self.settings.choice == "puct" and child.steps[-1].finish_reason != "cancelled":
                    self.priors[child] = _probability(child)
                for branch in child.way():
                    branch.visits += 1
                    branch.total += child.worth

    def partials(self) -> list[Branch]:
        return most_visited(self.root)


def _probability(branch: Branch) -> float:
    """The model's probability of a step: exp of the mean log-probability of its tokens."""
    mean = branch.steps[-1].mean_logprob
    if mean is None:
        raise BackendError(
            "PUCT needs the log-probability of every step, and the backend sent none (or a function ends the steps): "
            "use a server that sends logprobs with sampling settings logprobs=True, or choice='uct'"
        )
    return math.exp(mean)


class MCTSSpec(SearchFields, frozen=True, kw_only=True, tag="mcts"):
    """Monte Carlo tree search; see MCTS for each setting."""

    samples: int = 96
    choice: Choice = "uct"
    value: Value = "verifier"
    exploration: float | None = None
    widen_k: float = 3.0
    widen_alpha: float = 0.2
    batch: int = 8

    def build(self, parts: Parts) -> MCTS:
        """See StrategyFields."""
        return MCTS(
            samples=self.samples,
            choice=self.choice,
            value=self.value,
            exploration=self.exploration,
            widen_k=self.widen_k,
            widen_alpha=self.widen_alpha,
            batch=self.batch,
            **self.common(parts, asked_by="MCTS"),
        )
