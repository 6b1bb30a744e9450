"""Adaptive branching MCTS with node aggregation: at every branch, Thompson sampling between wider and deeper.

Source: Inoue et al. 2025, "Wider or Deeper?" (2503.04412), AB-MCTS-A; posteriors as in treequest 0.3.3.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from ..errors import ConfigError
from ..spec import Parts
from .branch import Ask, Branch, Grown, most_visited
from .engine import Common, SearchFields, StepSearch, at_least_one


@dataclass(frozen=True, slots=True)
class Nix:
    """Normal-inverse-chi-squared belief about the mean of scores: what has been seen, and what was held before.

    m, kappa, nu, tau2 : the prior mean, its weight in observations, degrees of freedom, scale.
    After n observations of mean x and sum of squared deviations S (Murphy 2023, section 3.4.3.3):

        kappa' = kappa + n    nu' = nu + n    m' = (kappa m + n x) / kappa'
        nu' tau2' = nu tau2 + S + n kappa (m - x)^2 / kappa'
    """

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau2: float = 0.1

    def seen(self, score: float) -> "Nix":
        """The belief after one more observation; one by one gives the same as all at once."""
        kappa, nu = self.kappa + 1, self.nu + 1
        scale = self.nu * self.tau2 + self.kappa * (self.m - score) ** 2 / kappa
        return Nix((self.kappa * self.m + score) / kappa, kappa, nu, scale / nu)

    def pending(self, n: int) -> "Nix":
        """The belief with n trials in flight, taken as n observations of its own mean: surer, not elsewhere."""
        return dataclasses.replace(self, kappa=self.kappa + n, nu=self.nu + n, tau2=self.nu * self.tau2 / (self.nu + n))

    def draw(self, rng: random.Random) -> float:
        """Draw a mean: sigma2 from nu tau2 / chi2(nu), then the mean from N(m, sigma2 / kappa)."""
        sigma2 = self.nu * self.tau2 / rng.gammavariate(self.nu / 2, 2)
        return rng.gauss(self.m, math.sqrt(sigma2 / self.kappa))


class ABMCTS(StepSearch):
    """Spend `samples` step samples where Thompson sampling sends them: a new step here, or deeper.

    samples    : step samples in all.
    prior_mean : what all beliefs start from (the paper's is 0); None = each branch's own from its score, an even
                 chance at the root. From 0, going on is hardly tried once a few steps were drawn: their scores count
                 for drawing more of them, and nothing is known yet of going on.
    batch      : samples that are drawn at once; those in flight count as pseudo-observations (see Nix.pending).

    At each branch a draw from the belief about new steps (GEN: scores of its own children, and 0 for every sample
    that said what was there already, since it adds nothing) is set against one from the belief about going on (CONT:
    scores of everything below its children). Where going on wins, the child with the highest draw from its own belief
    (its score, and all scores below it) is gone to. Going on is possible only to children with something left below
    them. A branch is done once all its children are, and no further step is to be expected of it: every one of them
    was drawn twice or more (the Good-Turing estimate of something new is 0). For the other settings see StepSearch.
    """

    across = False
    minor = ("prior_mean", "batch")

    def __init__(
        self,
        *,
        samples: int = 96,
        prior_mean: float | None = None,
        batch: int = 8,
        **common: Unpack[Common],
    ) -> None:
        at_least_one(samples=samples, batch=batch)
        if prior_mean is not None and not 0 <= prior_mean <= 1:
            raise ConfigError(f"prior_mean={prior_mean!r}: it must lie in [0, 1], as scores do, or be None")
        self.samples, self.prior_mean, self.batch = samples, prior_mean, batch
        super().__init__(**common)

    @property
    def stride(self) -> int:
        """See StepSearch."""
        return self.batch

    @property
    def title(self) -> str:
        """For instance "ab_mcts_96"."""
        return f"ab_mcts_{self.samples}"

    def rule(self, root: Branch, rng: random.Random) -> "_Beliefs":
        """See StepSearch."""
        return _Beliefs(self, root, rng)


@dataclass(slots=True)
class _Belief:
    """What is believed at one branch, and how many trials are in flight that will tell more."""

    gen: Nix
    cont: Nix
    own: Nix
    gen_pending: int = 0
    cont_pending: int = 0
    own_pending: int = 0


class _Beliefs:
    """The beliefs at every branch."""

    unit = "round"

    def __init__(self, settings: ABMCTS, root: Branch, rng: random.Random) -> None:
        self.settings, self.root, self.rng = settings, root, rng
        self.at: dict[Branch, _Belief] = {root: self.believed(root)}
        self.done: set[Branch] = set()
        self.drawn = 0
        self.ended = ""

    def believed(self, branch: Branch) -> _Belief:
        """What is believed before anything was drawn from a branch."""
        mean = self.settings.prior_mean
        prior = Nix(branch.worth if mean is None else mean)
        return _Belief(prior, prior, prior)

    def ask(self) -> list[Ask]:
        s = self.settings
        asked: dict[Branch, int] = {}
        while sum(asked.values()) < min(s.batch, s.samples - self.drawn) and self.alive(self.root):
            branch = self.select()
            asked[branch] = asked.get(branch, 0) + 1
            self.at[branch].gen_pending += 1
            for below in branch.way():
                if below.parent is not None:
                    self.at[below].own_pending += 1
                    self.at[below.parent].cont_pending += 1
        if not asked:
            self.ended = f"drew all {s.samples} steps" if self.drawn >= s.samples else "every way had ended"
        return [Ask(branch, n) for branch, n in asked.items()]

    def alive(self, branch: Branch) -> bool:
        """Whether anything is to be expected at or below a branch."""
        if not branch.open or branch in self.done:
            return False
        children = [child for child in branch.children if child.going]
        if not children or any(child.copies == 1 or self.alive(child) for child in children):
            return True
        self.done.add(branch)  # for good: only samples from here or below could tell of more
        return False

    def select(self) -> Branch:
        """Go down to the branch that is to draw a new step."""
        branch, rng = self.root, self.rng
        while True:
            going = [child for child in branch.children if self.alive(child)]
            if not going:
                return branch
            belief = self.at[branch]
            wider = belief.gen.pending(belief.gen_pending).draw(rng)
            deeper = belief.cont.pending(belief.cont_pending).draw(rng)
            if wider >= deeper:
                return branch
            draws = [self.at[child].own.pending(self.at[child].own_pending).draw(rng) for child in going]
            branch = going[draws.index(max(draws))]

    def tell(self, grown: Sequence[Grown]) -> None:
        for belief in self.at.values():
            belief.gen_pending = belief.cont_pending = belief.own_pending = 0
        for one in grown:
            self.drawn += len(one.children)
            for child in one.children:
                child.kept = child.going
                if child.state != "failed":
                    self.learn(one.branch, child)

    def learn(self, parent: Branch, child: Branch) -> None:
        """Back one sample up: GEN of its parent, its own belief, and CONT and own beliefs on the way to the root.

        A step that was there already is told to GEN alone, as worth nothing.
        """
        score, new = child.worth, child not in self.at
        self.at[parent].gen = self.at[parent].gen.seen(score if new else 0.0)
        own = self.at.setdefault(child, self.believed(child))
        if not new:
            return
        own.own = own.own.seen(score)
        for branch in parent.way():
            if branch.parent is not None:
                self.at[branch].own = self.at[branch].own.seen(score)
                self.at[branch.parent].cont = self.at[branch.parent].cont.seen(score)
        for branch in child.way():
            branch.visits += 1
            branch.total += score

    def partials(self) -> list[Branch]:
        return most_visited(self.root)


class ABMCTSSpec(SearchFields, frozen=True, kw_only=True, tag="ab_mcts"):
    """AB-MCTS-A; see ABMCTS for each setting."""

    samples: int = 96
    prior_mean: float | None = None
    batch: int = 8

    def build(self, parts: Parts) -> ABMCTS:
        """See StrategyFields."""
        return ABMCTS(
            samples=self.samples,
            prior_mean=self.prior_mean,
            batch=self.batch,
            **self.common(parts, asked_by="AB-MCTS"),
        )
