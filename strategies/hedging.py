"""When to start a second attempt beside a first one that takes long ("The tail at scale", Dean and Barroso 2013)."""

import math
from collections import deque

from .errors import ConfigError
from .naming import unusual


class Hedge:
    """When the second stage starts although the first is still running.

    after_s  : so many seconds after the first began.
    quantile : in (0, 1): after this quantile of the seconds that the first stage took so far. Before `warmup` first
               stages have ended it is `after_s`, and where that is None nothing is hedged.
    window   : how many of the latest count.

    A first stage that was stopped counts with the seconds until then, a lower bound. What it remembers are times
    alone, of all requests of one cascade; nothing of a request.
    """

    def __init__(
        self, after_s: float | None = None, *, quantile: float | None = None, warmup: int = 20, window: int = 500
    ) -> None:
        if after_s is None and quantile is None:
            raise ConfigError("a hedge needs after_s, or quantile, or both")
        if after_s is not None and not (math.isfinite(after_s) and after_s >= 0):
            raise ConfigError(f"after_s={after_s!r}: the second stage starts after a finite number of seconds >= 0")
        if quantile is not None and not 0 < quantile < 1:
            raise ConfigError(f"quantile={quantile!r}: it lies between 0 and 1, as in 0.95")
        if not 1 <= warmup <= window:
            raise ConfigError(f"warmup={warmup!r}: at least 1 time, and no more than window={window!r} are remembered")
        self.after_s, self.quantile, self.warmup, self.window = after_s, quantile, warmup, window
        self._took: deque[float] = deque(maxlen=window)

    def __repr__(self) -> str:
        return f"Hedge(after_s={self.after_s!r}, quantile={self.quantile!r})"

    @property
    def name(self) -> str:
        """For instance "hedged_2s", "hedged_q0.95", "hedged_q0.95_2s_warmup_50"."""
        quantile = [] if self.quantile is None else [f"q{self.quantile:g}"]
        seconds = [] if self.after_s is None else [f"{self.after_s:g}s"]
        return "_".join(["hedged", *quantile, *seconds, *unusual(self, Hedge, "warmup", "window")])

    def saw(self, seconds: float) -> None:
        """A first stage took so long."""
        self._took.append(seconds)

    def seconds(self) -> float | None:
        """How long the first stage may run alone; None = to its end. The quantile is the smallest time that so large
        a share did not exceed.
        """
        if self.quantile is None or len(self._took) < self.warmup:
            return self.after_s
        return sorted(self._took)[math.ceil(self.quantile * len(self._took)) - 1]
