"""Describe the training prompts, so that a router knows when a prompt is unlike them.

howhard.router.familiarity says what a description is; here it is fitted, and its limit set to a stated false-alarm
rate. What a flag is worth is guard.py's business.
"""

import dataclasses

import numpy as np

from ..router.familiarity import Familiarity, rooted
from .clusters import k_means, squared_distances

PROMPTS_PER_CENTRE = 15
NARROWEST = 0.03
"""Least width of a centre, as a share of the feature's spread over all prompts."""
PRIOR = 10.0
"""Prompts that the average over all centres counts for in a centre's width and typical distance."""
_MOST = 4_000
"""Prompts that centres are sought on, and four times as many that widths are measured on."""


def describe(dense: np.ndarray, *, centres: int, seed: int) -> Familiarity:
    """Centres, widths and typical distances of prompts; limits are the typical distances, so that 1 is ordinary.

    dense : (n, d), their dense features.

    A centre's width and typical distance are shrunk to the average over all centres, and no width is below NARROWEST.
    """
    rng = np.random.default_rng(seed)
    pick = rng.permutation(len(dense))[: 4 * _MOST]
    root = rooted(dense[pick])
    mean, spread = root.mean(axis=0), root.std(axis=0)
    # A column that never varied counts as it is: where a prompt is the first to have it, that is news.
    weight = (1 / np.where(spread > 1e-6, spread, 1.0)).astype(np.float32)
    blank = np.ones((1, root.shape[1]), dtype=np.float32)
    frame = Familiarity(mean, weight, 0 * blank, blank, np.ones(1, dtype=np.float32))
    z = frame.standardised(dense[pick])
    found = k_means(z[:_MOST], min(centres, max(1, len(z) // PROMPTS_PER_CENTRE)), seed, rounds=10)
    own = squared_distances(z, found).argmin(axis=1)
    n = np.bincount(own, minlength=len(found))[:, None]
    square = np.stack([((z[own == i] - found[i]) ** 2).sum(axis=0) for i in range(len(found))])
    pooled = np.maximum(square.sum(axis=0) / len(z), NARROWEST**2)
    widths = np.sqrt(np.maximum((square + PRIOR * pooled) / (n + PRIOR), NARROWEST**2)).astype(np.float32)
    shaped = dataclasses.replace(frame, centres=found, widths=widths, limits=np.ones(len(found), dtype=np.float32))
    own, distance = shaped.nearest_of(z)
    count, total = (np.bincount(own, w, minlength=len(found)) for w in (None, distance))
    typical = (total + PRIOR * distance.mean()) / (count + PRIOR)
    return dataclasses.replace(shaped, limits=np.maximum(typical, 1e-3).astype(np.float32))


def left_out_distances(dense: np.ndarray, fold: np.ndarray, *, centres: int, seed: int) -> np.ndarray:
    """Distance (n,) of every prompt from a description of the other folds' prompts, in typical distances."""
    distance = np.empty(len(dense))
    for k in np.unique(fold):
        known = describe(dense[fold != k], centres=centres, seed=seed)
        of, far = known.nearest_of(known.standardised(dense[fold == k]))
        distance[fold == k] = far / known.limits[of]
    return distance


def limit_of(distance: np.ndarray, share: float) -> float:
    """The limit that at most `share` of new prompts like these exceed: their quantile, rounded up, and 1 at least.

    distance : (n,) of prompts left out, in typical distances. With n + 1 exchangeable prompts the chance that the last
    one lies above the ceil((n + 1)(1 - share))-th smallest of the others is at most `share`; beyond the largest where n
    is too small. Source: split conformal prediction, Vovk, Gammerman & Shafer 2005.
    """
    rank = int(np.ceil((len(distance) + 1) * (1 - share)))
    ordered = np.sort(distance)
    return max(1.0, float(ordered[-1] * (1 + 1e-6) if rank > len(ordered) else ordered[rank - 1]))
