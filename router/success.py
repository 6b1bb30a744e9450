"""The distribution of the chance p that one sample is right, and what follows from it for best-of-N.

A prediction of quality is a mean over prompts that look alike; their p differ. That decides what more samples are
worth: where p is .1 on every prompt, 20 samples hold a right one .88 of the time; where it is 1 on a tenth of them and
0 elsewhere, .1. So p of a prompt is Beta(a, b) about the predicted mean, and of best-of-N under a SOUND verifier, one
that accepts right answers and no others,

    quality(N) = 1 - E (1 - p)^N = 1 - B(a, b + N) / B(a, b) = 1 - prod_{i < N} (b + i) / (a + b + i)

which rises with N by construction, for any N. Votes, generated tests and reward models promise nothing of the kind
(with generated tests the real curve is .232, .250, .213 at 5, 20, 100 samples): their arms are left as predicted.

howhard.training.fit_success fits the concentration. Source: Beta-binomial, for instance Johnson, Kotz and Kemp,
"Univariate Discrete Distributions" (1992), section 6.9.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError
from .estimates import Floats

MOST_LOG_ODDS = 9.0
"""Means are taken no nearer to 0 and 1 than this; below, the concentration is that of this mean."""
LOG_CONCENTRATION = (-5.0, 9.0)
"""Smallest and largest log of the concentration: all prompts are 0 or 1, and all prompts have the mean."""
MOST_SAMPLES = 4096
BLOCK = 2**18
"""Numbers that are held in memory at once, about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuccessModel:
    """Beta distributions of single arms' p, and the best-of-N arms that follow from them.

    singles      : int (b,), columns of the arms that draw one sample.
    coefficients : float64 (b, 3): the concentration a + b is exp(c0 + c1 z + c2 z^2), z = log-odds of the mean.
    chains       : int (c,), columns of the best-of-N arms with a sound verifier that `apply` replaces.
    draws_from   : int (c,), which of `singles` each draws from.
    samples      : float64 (c,) >= 1, N of each.
    """

    singles: NDArray[np.intp]
    coefficients: Floats
    chains: NDArray[np.intp]
    draws_from: NDArray[np.intp]
    samples: Floats

    def beta(self, quality: Floats) -> tuple[Floats, Floats]:
        """The parameters a and b of each single arm, (n, b, ...), from predicted quality (n, a, ...)."""
        mean = quality[:, self.singles]
        least = 1.0 / (1.0 + np.exp(MOST_LOG_ODDS))
        mean = np.minimum(np.maximum(mean, least), 1.0 - least)
        z = np.log(mean / (1.0 - mean))
        c = self.coefficients.reshape(*self.coefficients.shape, *(1,) * (z.ndim - 2))
        low, high = LOG_CONCENTRATION
        size = np.exp(np.minimum(np.maximum(c[:, 0] + z * (c[:, 1] + z * c[:, 2]), low), high))
        return mean * size, (1.0 - mean) * size

    def best_of(self, quality: Floats, n: float) -> Floats:
        """Quality of the best of n samples of each single arm under a sound verifier, (n, b, ...), for any n >= 1."""
        which = np.arange(len(self.singles))
        return _best_of(quality[:, self.singles], *self.beta(quality), which, np.full(len(which), float(n)))

    def apply(self, quality: Floats) -> Floats:
        """Return quality (n, a, ...) with the chain arms replaced by what follows from their single arms."""
        out = np.array(quality, dtype=np.float64)
        per_row = len(self.singles) * math.prod(out.shape[2:]) * max(self.samples, default=1.0)
        rows = max(1, int(BLOCK // max(1.0, per_row)))
        for i in range(0, len(out), rows):
            some = out[i : i + rows]
            some[:, self.chains] = _best_of(some[:, self.singles], *self.beta(some), self.draws_from, self.samples)
        return out

    def arrays(self) -> dict[str, Floats]:
        """What `of` makes the same model from."""
        return {
            "success_singles": self.singles.astype(np.float64),
            "success_coefficients": self.coefficients,
            "success_chains": np.stack([self.chains, self.draws_from, self.samples], axis=1).astype(np.float64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], *, arms: int) -> "SuccessModel | None":
        """Make the model from its arrays, for a router of so many arms; None where there are none of its arrays.

        Raises ArtifactError for an array that is missing or does not fit.
        """
        found = {name: a for name, a in arrays.items() if name.startswith("success_")}
        if not found:
            return None
        singles, chains = found.get("success_singles"), found.get("success_chains")
        b, c = (0 if x is None else len(np.atleast_1d(x)) for x in (singles, chains))
        for name, shape in (("singles", (b,)), ("coefficients", (b, 3)), ("chains", (c, 3))):
            array = found.get(f"success_{name}")
            if array is None:
                raise ArtifactError(f"the router lacks success_{name}: train it anew")
            if array.dtype != np.float64 or array.shape != shape or not np.isfinite(array).all():
                raise ArtifactError(
                    f"success_{name} is {array.dtype} {array.shape}: it must be finite float64 {shape}. Train the "
                    "router anew"
                )
        assert singles is not None  # checked above, as is chains
        assert chains is not None
        for name, numbers, below in (
            ("singles", singles, arms),
            ("chains", chains[:, 0], arms),
            ("chains", chains[:, 1], b),
        ):
            if (numbers != np.floor(numbers)).any() or (numbers < 0).any() or (numbers >= below).any():
                raise ArtifactError(f"success_{name} names an arm outside of 0..{below - 1}: train the router anew")
        if (chains[:, 2] < 1).any() or (chains[:, 2] > MOST_SAMPLES).any():
            raise ArtifactError(f"success_chains has an arm of less than 1 or more than {MOST_SAMPLES} samples")
        return cls(
            singles=singles.astype(np.intp),
            coefficients=found["success_coefficients"],
            chains=chains[:, 0].astype(np.intp),
            draws_from=chains[:, 1].astype(np.intp),
            samples=chains[:, 2],
        )


def _best_of(mean: Floats, a: Floats, b: Floats, of: NDArray[np.intp], samples: Floats) -> Floats:
    """Quality (n, c, ...) of N = `samples` (c,) draws from the single arms `of`, whose mean, a and b are (n, b, ...).

    Between whole N the chance of failure goes straight in log N.
    """
    low = np.floor(samples)
    whole = bool((low == samples).all())
    tail = (1,) * (mean.ndim - 1)
    later = np.arange(low.max(initial=1.0) + (not whole)).reshape(-1, *tail)
    failure = b[:, None] + later
    failure /= failure + a[:, None]
    failure[:, 0] = 1.0 - mean  # the same, but for means next to 0 and 1, where a and b are bounded
    np.multiply.accumulate(failure, axis=1, out=failure)
    at = low.astype(np.intp) - 1
    chosen = failure[:, at, of]
    if not whole:
        share = (np.log(samples / low) / np.log1p(1.0 / low)).reshape(-1, *tail[1:])
        chosen += share * (failure[:, at + 1, of] - chosen)
    return 1.0 - chosen
