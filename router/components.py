"""What a quality prediction is put together from: components, each saying what the prompt adds to an arm's average.

    log-odds of quality = base of the arm + sum over components of weight * what the component adds

Every component holds K members, each blind to one fold of the training prompts: their mean predicts, their spread tells
how sure that is, and in training each prompt is predicted by the member that has not seen it. predictor.py puts the
components together; howhard.training.learners fits them.
"""

from collections.abc import Mapping
from typing import Protocol

from .estimates import Floats
from .features import Features


class Component(Protocol):
    """One way of predicting quality. Settings and arrays only: safe to share between threads."""

    @property
    def name(self) -> str:
        """What reports call it; its files begin with it."""
        ...

    def added(self, x: Features) -> Floats:
        """Log-odds (n, a, K) that each prompt adds to each arm's base, of every member.

        A row depends on its own prompt alone: the same to the last bit in a batch and by itself.
        """
        ...

    def pack(self) -> Mapping[str, bytes]:
        """The files that `read` makes the same component from; names begin with `name`."""
        ...
