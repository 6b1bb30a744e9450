"""What fits a component of the router's quality prediction (howhard.router.components), and what it is given."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..router.components import Component
from ..router.features import Features
from .matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What every learner is given.

    matrix : outcomes of n prompts and a arms; quality NaN where an arm was not run.
    x      : features of the prompts, in their order.
    arms   : (a, k), what is known of the arms themselves.
    rising : columns of `arms` in which quality cannot fall, all else equal: samples judged by a sound verifier.
    fold   : (n,) int in 0..K-1: member k must not see the outcomes of fold k.
    base   : (K, a), log-odds of each arm's mean quality on the prompts that member k sees.
    seed   : of everything random.
    """

    matrix: OutcomeMatrix
    x: Features
    arms: np.ndarray
    fold: np.ndarray
    base: np.ndarray
    rising: tuple[int, ...] = ()
    seed: int = 0

    @property
    def members(self) -> int:
        """K, the number of folds."""
        return len(self.base)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """A fitted component, and what it adds for its own training prompts.

    out_of_fold : (n, a) log-odds, by the member that has not seen the prompt: `component.added(x)[i, :, fold[i]]`.
    """

    component: Component
    out_of_fold: np.ndarray


class Learner(Protocol):
    """Fits one kind of component. Settings only."""

    @property
    def name(self) -> str:
        """That of the component."""
        ...

    def fit(self, lesson: Lesson) -> Learned:
        """Fit the K members. Works with outcomes of one arm per prompt, constant features, and a = 2."""
        ...
