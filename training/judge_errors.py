"""How often a judge is wrong, from a few answers that people graded, and the accuracy corrected for it.

    errors = judge_errors(judged=[1, 0, 1, 1], human=[1, 0, 0, 1])
    errors.true_positive, errors.false_positive               # rates with intervals
    corrected_accuracy(judged=many_more_verdicts, errors=errors)

A judge's share of "right" is not the accuracy: of wrong answers it lets through a share f, of right ones it takes a
share t. Nothing here asks a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from ..strategies.errors import InputError


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval, all in [0, 1]. `n`: how many cases it was estimated on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeErrors:
    """A judge's error rates.

    true_positive  : share of the answers that people call right which the judge calls right too.
    false_positive : share of the answers that people call wrong which the judge calls right.
    agreement      : share of all answers on which they agree.
    confidence     : of the intervals.
    """

    true_positive: Rate
    false_positive: Rate
    agreement: Rate
    confidence: float

    @property
    def informative(self) -> bool:
        """Whether the judge tells right from wrong at all: its true positive rate exceeds the false one."""
        return self.true_positive.value > self.false_positive.value


def wilson(hits: int, n: int, *, confidence: float = 0.95) -> Rate:
    """The interval of Wilson (1927) for a share: keeps its coverage for few cases and for shares near 0 and 1.

        centre +- z sqrt(p (1 - p) / n + z^2 / 4 n^2) / (1 + z^2 / n),   centre = (p + z^2 / 2n) / (1 + z^2 / n)

    >>> print(wilson(9, 10))
    0.900 [0.596, 0.982] of 10
    """
    if not 0 <= hits <= n or n < 1:
        raise InputError(f"{hits} hits of {n}: give n >= 1, and hits from 0 to n")
    z, p = _z(confidence), hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding must not leave the estimate outside its interval, as it would at 0 and 1.
    return Rate(p, min(max(0.0, centre - half), p), max(min(1.0, centre + half), p), n)


def judge_errors(
    judged: Sequence[bool | float],
    human: Sequence[bool | float],
    *,
    threshold: float = 0.5,
    confidence: float = 0.95,
) -> JudgeErrors:
    """Estimate a judge's error rates on answers that people graded too.

    judged, human : of the same answers, in one order: true or false, or a quality in [0, 1] that counts as right
                    from `threshold` on. The answers must be a random sample of those that will be judged.

    Raises InputError where lengths differ, a value is out of range, or one of the two kinds (right, wrong) is missing
    among the human grades: then one of the rates cannot be known.
    """
    if len(judged) != len(human):
        raise InputError(f"{len(judged)} verdicts and {len(human)} human grades: they must be of the same answers")
    said, true = _right(judged, threshold, "judged"), _right(human, threshold, "human")
    of_right = [s for s, t in zip(said, true, strict=True) if t]
    of_wrong = [s for s, t in zip(said, true, strict=True) if not t]
    for kind, cases, rate in (("right", of_right, "true"), ("wrong", of_wrong, "false")):
        if not cases:
            raise InputError(
                f"no answer is {kind} by the human grades, so the {rate} positive rate cannot be estimated"
            )
    agree = sum(s == t for s, t in zip(said, true, strict=True))
    return JudgeErrors(
        true_positive=wilson(sum(of_right), len(of_right), confidence=confidence),
        false_positive=wilson(sum(of_wrong), len(of_wrong), confidence=confidence),
        agreement=wilson(agree, len(said), confidence=confidence),
        confidence=confidence,
    )


def corrected_accuracy(judged: Sequence[bool | float], errors: JudgeErrors, *, threshold: float = 0.5) -> Rate:
    """Estimate the accuracy of answers that only the judge saw, corrected for its error rates (Rogan and Gladen 1978).

        p = (q - f) / (t - f),   q the share that the judge calls right; cut to [0, 1]

    The interval counts the sampling of q, t and f, after Lang and Reiczigel (2014, "Confidence limits for prevalence of
    disease adjusted for estimated sensitivity and specificity"): with q' = (n q + z^2/2) / (n + z^2), and t', f' as if
    one hit and one miss more had been seen,

        p' + d +- z sqrt(q'(1-q')/(n+z^2) + p'^2 t'(1-t')/(n_t+2) + (1-p')^2 f'(1-f')/(n_f+2)) / (t' - f')
        d = 2 z^2 (p' t'(1-t')/(n_t+2) - (1-p') f'(1-f')/(n_f+2))

    Raises InputError where the judge does not tell right from wrong (t <= f): then its verdicts say nothing.
    """
    said = _right(judged, threshold, "judged")
    if not said:
        raise InputError("no verdicts were given")
    t, f = errors.true_positive, errors.false_positive
    if not errors.informative:
        raise InputError(
            f"the judge calls {t.value:.2f} of the right and {f.value:.2f} of the wrong answers right: it does not "
            "tell them apart, and nothing can be corrected"
        )
    n, z = len(said), _z(errors.confidence)
    q = sum(said) / n
    value = min(max((q - f.value) / (t.value - f.value), 0.0), 1.0)
    n1, nt, nf = n + z * z, t.n + 2, f.n + 2
    q1, t1, f1 = (n * q + z * z / 2) / n1, (t.n * t.value + 1) / nt, (f.n * f.value + 1) / nf
    if t1 <= f1:  # so few labels that anything is possible
        return Rate(value, 0.0, 1.0, n)
    p1 = min(max((q1 - f1) / (t1 - f1), 0.0), 1.0)
    vt, vf = t1 * (1 - t1) / nt, f1 * (1 - f1) / nf
    shift = 2 * z * z * (p1 * vt - (1 - p1) * vf)
    half = z * math.sqrt(q1 * (1 - q1) / n1 + p1 * p1 * vt + (1 - p1) ** 2 * vf) / (t1 - f1)
    low, high = (min(max(end, 0.0), 1.0) for end in (p1 + shift - half, p1 + shift + half))
    return Rate(value, min(low, value), max(high, value), n)


def _right(values: Sequence[bool | float], threshold: float, what: str) -> list[bool]:
    for place, value in enumerate(values):
        if not 0 <= float(value) <= 1:
            raise InputError(f"{what}[{place}] is {value!r}: it must be true or false, or a quality in [0, 1]")
    return [float(value) >= threshold for value in values]


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence!r}: it must lie between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
