"""Is a prompt like those that the router was trained on?

A prompt is strange when its features lie farther from every centre of the training prompts than nearly all prompts of
the same kind would. What is then done about it is predictor.py's and the policy's business.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

CLIP = 6.0


def rooted(features: Floats) -> Floats:
    """Signed square roots: counts then differ by their spread, and one long text does not rule."""
    x = np.asarray(features, dtype=np.float64)
    return np.sign(x) * np.sqrt(np.abs(x))


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """Centres of the training prompts in standardised feature space, and how far from them is strange.

    mean, weight : (d,) of the rooted features: z = clip((rooted(x) - mean) * weight, -CLIP, CLIP).
    centres      : (k, d), in z.
    limit        : squared distance to the nearest centre beyond which a prompt is strange.
    """

    mean: Floats
    weight: Floats
    centres: Floats
    limit: float

    def standardised(self, features: Floats) -> Floats:
        """Return z (n, d)."""
        return np.clip((rooted(features) - self.mean) * self.weight, -CLIP, CLIP)

    def distance(self, features: Floats) -> Floats:
        """Squared distance (n,) to the nearest centre."""
        z = self.standardised(features)
        # Not by `@`: for one prompt, waking the threads of a linear algebra library takes longer than the sums.
        products = np.einsum("nd,kd->nk", z, self.centres)
        to_each = (z * z).sum(axis=1)[:, None] - 2 * products + (self.centres**2).sum(axis=1)
        return np.maximum(to_each.min(axis=1), 0.0)

    def strange(self, features: Floats) -> NDArray[np.bool_]:
        """Which prompts (n,) are unlike the training prompts."""
        return self.distance(features) > self.limit
