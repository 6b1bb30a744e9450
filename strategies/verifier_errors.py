"""How many samples an imperfect verifier can stand: past some N, more samples make best-of-N worse.

Drawing goes on until the verifier accepts an answer, at most N times. On prompts that the model can hardly solve the
answers that come through are mostly the verifier's mistakes, and the more is drawn, the more of these prompts come
through: the precision of what was accepted FALLS with N, and its worth has an optimum, often below 10.

Source of the argument: "Inference Scaling fLaws", 2411.17501; the formulas are derived here. For one prompt of success
probability p, and a verifier that accepts right answers with probability t and wrong ones with probability f:

    q = t p + f (1 - p)                      an answer is accepted
    1 - (1 - q)^N                            something is accepted within N draws
    t p / q                                  what was accepted is right, at every N
    p (1 - t) / (1 - q)                      an answer that was not accepted is right
    (1 - (1 - q)^N) / q                      draws until the first is accepted, at most N
"""

import math
from collections.abc import Sequence

import msgspec

from .spec import demand

_NODES = 48  # of the quadrature over a Beta distribution: exact for polynomials of degree 95 in p


class PastTheOptimum(UserWarning):
    """More samples are drawn than the verifier's error rates make worth while."""


class VerifierErrors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verifier's error rates, the prompts that it meets, and what right and wrong answers are worth.

    true_positive, false_positive : chance that a right, a wrong answer is accepted; each in [0, 1].
    p     : success probability of one sample, of each prompt (all weigh the same): from logged samples, held-out ones.
    beta  : instead of `p`, the two parameters of their Beta distribution.
    value : of a right answer, loss : of a wrong one, cost : of drawing and judging one sample; >= 0, in one unit.
    answers_anyway : whether an answer is given where none was accepted (as best-of-N does; it is then right with
            p (1 - t) / (1 - q)), or none, which is worth 0.
    stops : whether drawing stops at the first accepted (else all N are drawn and paid).
    """

    true_positive: float = 1.0
    false_positive: float = 0.0
    p: tuple[float, ...] = ()
    beta: tuple[float, float] | None = None
    value: float = 1.0
    loss: float = 1.0
    cost: float = 0.0
    answers_anyway: bool = False
    stops: bool = True

    def __post_init__(self) -> None:
        for name in ("true_positive", "false_positive"):
            value = getattr(self, name)
            demand(0 <= value <= 1, f"{name}={value!r}: a rate lies in [0, 1]")
        for name in ("value", "loss", "cost"):
            value = getattr(self, name)
            demand(math.isfinite(value) and value >= 0, f"{name}={value!r}: it must be a finite number >= 0")
        demand(
            bool(self.p) != (self.beta is not None),
            "give the prompts' success probabilities either as p=(...) or as beta=(a, b)",
        )
        demand(all(0 <= p <= 1 for p in self.p), f"p={self.p!r}: probabilities lie in [0, 1]")
        demand(
            self.beta is None or all(math.isfinite(x) and x > 0 for x in self.beta),
            f"beta={self.beta!r}: both parameters must be finite and above 0",
        )

    def p_accepted(self, n: int) -> float:
        """Chance that something is accepted within n draws, over the prompts: E[1 - (1 - q)^n]."""
        return math.fsum(w * self._any(p, n) for p, w in self._prompts())

    def precision(self, n: int) -> float:
        """Share of right answers among those accepted within n draws, over the prompts; NaN where none ever is."""
        accepted = self.p_accepted(n)
        return self._right(n) / accepted if accepted > 0 else math.nan

    def draws(self, n: int) -> float:
        """Expected number of draws."""
        if not self.stops:
            return float(n)
        return math.fsum(w * (self._any(p, n) / q if (q := self._q(p)) > 0 else n) for p, w in self._prompts())

    def utility(self, n: int) -> float:
        """Expected value of right answers, less the loss of wrong ones, less what n draws at most cost, per prompt."""
        right, answered = self._right(n), self.p_accepted(n)
        if self.answers_anyway:
            # one term per prompt: (1 - q)^n times p (1 - t) / (1 - q)
            right += math.fsum(
                w * p * (1 - self.true_positive) * (1 - self._q(p)) ** (n - 1) for p, w in self._prompts()
            )
            answered = 1.0
        return self.value * right - self.loss * (answered - right) - self.cost * self.draws(n)

    def best_n(self, most: int = 64) -> int:
        """Return the N from 1 to `most` of the highest utility; of equals the smallest."""
        return max(range(1, most + 1), key=lambda n: (round(self.utility(n), 12), -n))

    def warning(self, n: int) -> str | None:
        """Say that n is past the optimum, and what that costs; None where it is not."""
        best = self.best_n(max(n, 1))
        if n <= best:
            return None
        return (
            f"n={n} is past the optimum of n={best} for a verifier that accepts {self.true_positive:.3g} of the right "
            f"and {self.false_positive:.3g} of the wrong answers: utility {self.utility(n):.4g} instead of "
            f"{self.utility(best):.4g}, precision {self.precision(n):.3g} instead of {self.precision(best):.3g}"
        )

    def _q(self, p: float) -> float:
        return self.true_positive * p + self.false_positive * (1 - p)

    def _any(self, p: float, n: int) -> float:
        q = self._q(p)
        return 1.0 if q >= 1 else -math.expm1(n * math.log1p(-q))

    def _right(self, n: int) -> float:
        """Chance that something is accepted, and right."""
        return math.fsum(
            w * self.true_positive * p / q * self._any(p, n) for p, w in self._prompts() if (q := self._q(p)) > 0
        )

    def _prompts(self) -> Sequence[tuple[float, float]]:
        if self.beta is None:
            return [(p, 1 / len(self.p)) for p in self.p]
        return beta_nodes(*self.beta)


def beta_nodes(a: float, b: float, nodes: int = _NODES) -> list[tuple[float, float]]:
    """Return points in (0, 1) and their weights, which add up to 1: the Gauss quadrature of a Beta(a, b) distribution.

    The mean of any polynomial of degree below 2 * nodes is exact. The points are the eigenvalues of the Jacobi
    matrix of the Jacobi polynomials (Golub and Welsch 1969).
    """
    import numpy as np

    s = a + b - 2.0  # the polynomials' alpha + beta, with alpha = b - 1 and beta = a - 1 on [-1, 1]
    k = np.arange(1, nodes, dtype=float)
    diagonal = np.empty(nodes)
    diagonal[0] = (a - b) / (s + 2)
    diagonal[1:] = ((a - 1) ** 2 - (b - 1) ** 2) / ((2 * k + s) * (2 * k + s + 2))
    off = np.empty(nodes - 1)
    off[0] = 4 * a * b / ((s + 2) ** 2 * (s + 3))  # k = 1, where a factor of the general form cancels
    k = k[1:]
    off[1:] = 4 * k * (k + b - 1) * (k + a - 1) * (k + s) / ((2 * k + s) ** 2 * (2 * k + s + 1) * (2 * k + s - 1))
    matrix = np.diag(diagonal) + np.diag(np.sqrt(off), 1) + np.diag(np.sqrt(off), -1)
    points, vectors = np.linalg.eigh(matrix)
    return [
        (min(max((1 + x) / 2, 0.0), 1.0), w) for x, w in zip(points.tolist(), (vectors[0] ** 2).tolist(), strict=True)
    ]
