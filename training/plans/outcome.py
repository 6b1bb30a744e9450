"""What an entrant of a contest of plans came to on each prompt."""

from dataclasses import dataclass

import numpy as np

from .replay import Replayed


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Means per prompt (n,) over its deals; seconds of every deal, (n, deals), NaN = not timed."""

    quality: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of(cls, replayed: Replayed) -> "Outcome":
        """Of a replay of all runs, those of one prompt side by side."""
        n = int(replayed.prompt[-1]) + 1
        return cls.of_runs(n, replayed.quality, replayed.cost, replayed.tokens, replayed.seconds)

    @classmethod
    def of_runs(
        cls, n: int, quality: np.ndarray, cost: np.ndarray, tokens: np.ndarray, seconds: np.ndarray
    ) -> "Outcome":
        """Of (t,) arrays, the runs of one prompt side by side."""
        quality, cost, tokens = (x.reshape(n, -1).mean(axis=1) for x in (quality, cost, tokens))
        return cls(quality, cost, tokens, seconds.reshape(n, -1))

    def utility(self, value: float) -> float:
        """Mean quality less cost in units of a correct answer's value."""
        return float(self.quality.mean() - self.cost.mean() / value)
