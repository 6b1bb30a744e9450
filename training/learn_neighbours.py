"""Fit the outcomes of the nearest prompts (howhard.router.neighbours): the space, the prototypes, how much to shrink.

The space is that of the dense features that have names. Measured out of fold on BIG-Bench Hard (log loss gained over
the arms' means, 40 neighbours of 4,000 prompts): named features .115, with the hashed n-grams .081, sparse text turned
at random .062 with inverse document frequencies and .081 without, all of the sparse text .073, its 32 main directions
.103; their 16 main directions lose nothing (.113). Where there is an embedding, the folds choose among the features,
the embedding and both.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..router.features import Features, FeatureSpec
from ..router.neighbours import BLOCK, CLIP, Directions, NeighboursComponent, added_by, half_length, nearest, position
from .clusters import squared_distances
from .learners import Learned, Lesson

JUDGED = 10_000
"""Prompts that the settings are chosen on, at most."""
GATHERED = 20_000
"""Prompts that prototypes are gathered from, at most; all are then added to them."""
ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighboursLearner:
    """Learns what happened near a prompt. Of every tuple the folds choose one, by log loss.

    prototypes : most of them; where there are fewer prompts, each is one. per_prototype : prompts for each, at least.
    neighbours : how many are looked at.
    shared, own : strengths of the shrinking, in outcomes; see `added_by`.
    directions : main directions of each kind of features.
    """

    name: str = "neighbours"
    prototypes: tuple[int, ...] = (1024,)
    per_prototype: float = 1.0
    neighbours: tuple[int, ...] = (5, 10, 20, 40)
    shared: tuple[float, ...] = (5.0, 20.0)
    own: tuple[float, ...] = (2.0, 5.0, 20.0, 80.0)
    directions: int = 24

    def fit(self, lesson: Lesson) -> Learned:
        """Choose the settings on out-of-fold predictions, and keep the prototypes' outcomes.

        The settings are shared by the members, and the positions come from the texts alone: a prompt's own outcome
        enters its out-of-fold row only through which of a few dozen settings is best for all prompts.
        """
        n = len(lesson.x)
        judged = np.sort(np.random.default_rng(lesson.seed).permutation(n)[:JUDGED])
        best, least = None, np.inf
        for candidate in self._candidates(lesson):
            where = candidate.position(lesson.x[judged])
            for k in sorted({min(k, len(candidate.outcomes)) for k in self.neighbours}):
                near = _near(where, candidate.places, k, candidate.outcomes, lesson.fold[judged])
                for loss, shared, own in self._losses(lesson, judged, near):
                    if loss < least:
                        least, best = loss, replace(candidate, neighbours=k, shared=shared, own=own)
        assert best is not None  # every tuple of settings has an entry
        return Learned(component=best, out_of_fold=best.added(lesson.x)[np.arange(n), :, lesson.fold])

    def _candidates(self, lesson: Lesson) -> Iterator[NeighboursComponent]:
        """One for each space and number of prototypes; what to look at and how much to shrink is still open."""
        n = len(lesson.x)
        for dense, embedding in _spaces(lesson.x, self.directions):
            where = position(lesson.x, dense, embedding)
            for m in sorted({max(1, min(m, int(n / self.per_prototype))) for m in self.prototypes}):
                places, home = gathered(where, m, lesson.seed)
                yield NeighboursComponent(
                    name=self.name,
                    dense=dense,
                    embedding=embedding,
                    places=np.ascontiguousarray(places.T),
                    outcomes=_outcomes(lesson, home, len(places)),
                    base=np.ascontiguousarray(lesson.base.T),
                    neighbours=1,
                    shared=1.0,
                    own=1.0,
                )

    def _losses(self, lesson: Lesson, judged: np.ndarray, near: np.ndarray) -> Iterator[tuple[float, float, float]]:
        """Log loss of the outcomes at each strength of the shrinking."""
        quality = lesson.matrix.quality[judged]
        has = ~np.isnan(quality)
        base = lesson.base[lesson.fold[judged]]
        for shared, own in itertools.product(self.shared, self.own):
            # The base of a prompt's own member: prompts stand where members do.
            added = added_by(near[:, 0].T, near[:, 1].T, base.T, shared=shared, own=own).T
            z = base + added
            loss = np.logaddexp(0.0, z) - np.nan_to_num(quality) * z
            yield float(loss[has].mean()), shared, own


def cells_learner() -> NeighboursLearner:
    """The mean of the cluster: the nearest of a few centres, whose number the folds choose."""
    return NeighboursLearner(name="cells", prototypes=(16, 32, 64, 128), per_prototype=15.0, neighbours=(1,))


def gathered(where: np.ndarray, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most m prototypes of positions (n, r), float32 (m, r), and the number (n,) of each position's own.

    Where they are few, the different positions themselves; else centres by Lloyd's algorithm from random positions.
    """
    if len(where) <= m:
        places, home = np.unique(where, axis=0, return_inverse=True)
        return places, home.ravel()
    rng = np.random.default_rng(seed)
    some = where[np.sort(rng.permutation(len(where))[:GATHERED])]
    places = some[rng.permutation(len(some))[:m]]
    for _ in range(ROUNDS):
        at = _home(some, places)
        size = np.bincount(at, minlength=len(places))
        sums = np.stack([np.bincount(at, weights=column, minlength=len(places)) for column in some.T], axis=1)
        places = (sums[size > 0] / size[size > 0, None]).astype(np.float32)
    used, home = np.unique(_home(where, places), return_inverse=True)
    return places[used], home


def _home(where: np.ndarray, places: np.ndarray, block: int = 4096) -> np.ndarray:
    parts = [squared_distances(where[i : i + block], places).argmin(axis=1) for i in range(0, len(where), block)]
    return np.concatenate(parts)


def _outcomes(lesson: Lesson, home: np.ndarray, m: int) -> np.ndarray:
    """Sum and number of the outcomes of each prototype, arm and member, (m, 2, a, K): without the member's own fold."""
    quality = lesson.matrix.quality
    a, members = quality.shape[1], lesson.members
    of_fold = np.zeros((2, m, a, members))
    for to, values in zip(of_fold, (np.nan_to_num(quality), (~np.isnan(quality)).astype(float)), strict=True):
        np.add.at(to, (home[:, None], np.arange(a)[None, :], lesson.fold[:, None]), values)
    # What the others hold, added up fold by fold: the whole less the own would leave crumbs of the own.
    others = ~np.eye(members, dtype=bool)
    return (
        np.stack([of_fold[..., others[k]].sum(axis=-1) for k in range(members)], axis=-1).transpose(1, 0, 2, 3).copy()
    )


def _near(where: np.ndarray, places: np.ndarray, k: int, outcomes: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Outcomes (n, 2, a) of the k nearest prototypes, as each prompt's own member knows them."""
    half = half_length(places)
    buffer = np.empty((BLOCK, len(half)), dtype=np.float32)
    parts = []
    for i in range(0, len(where), BLOCK):
        near = nearest(where[i : i + BLOCK], places, half, k, buffer)
        parts.append(outcomes[near, :, :, fold[i : i + BLOCK, None]].sum(axis=1))
    return np.concatenate(parts)


def _spaces(x: Features, directions: int) -> Iterator[tuple[Directions | None, Directions | None]]:
    named = min(len(FeatureSpec(n_hashed=0).names), x.dense.shape[1])
    dense = _main_directions(x.dense[:, :named], directions, root=True)
    yield dense, None
    if x.embedding is not None:
        embedding = _main_directions(x.embedding, directions, root=False)
        yield None, embedding
        yield dense, embedding


def _main_directions(x: np.ndarray, directions: int, *, root: bool) -> Directions:
    """Main directions of standardised features, scaled so that positions have a mean squared length of 1.

    A feature that does not vary has weight 0. Embeddings are not standardised: their columns are alike.
    """
    v = np.asarray(x, dtype=np.float64)
    if root:
        v = np.copysign(np.sqrt(np.abs(v)), v)
    mean, spread = v.mean(axis=0), v.std(axis=0)
    varies = spread > 1e-6
    weight = np.where(varies, 1.0 / np.where(varies, spread, 1.0) if root else 1.0, 0.0)
    z = np.clip((v - mean) * weight, -CLIP, CLIP)
    variance, turn = np.linalg.eigh(z.T @ z / len(z))
    kept = np.argsort(-variance, kind="stable")[: max(1, min(directions, int(varies.sum())))]
    scale = 1.0 / np.sqrt(max(float(variance[kept].sum()), 1e-12))
    return Directions(
        mean.astype(np.float32),
        weight.astype(np.float32),
        np.ascontiguousarray(turn[:, kept] * scale, np.float32),
        root,
    )
