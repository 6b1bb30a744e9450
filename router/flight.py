"""What a request shows while it is in flight: the samples drawn so far, the answer in hand, and the features of both.

Arrays hold many runs at once, one row each; a row depends on its own run alone, to the last bit. Learning, replay and
a request that is being served all come through here, so that they see the same and decide the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.base import Candidate

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

FLIGHT_VERSION = "flight/1"
"""Of the features' meaning; a plan that was learned on another version is not read."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The first k samples of one backend in each of n runs, in launch order; every array is (n, k).

    complete : came to its own end.   label : which answer it gave, equal numbers mean equivalent answers, also between
    backends of one run; -1 = none.   score : the verifier's, in [0, 1], NaN where it was not judged.
    proven   : a sound verifier proved the answer right.   logprob, confidence : of the sample, NaN where not known.
    tokens   : completion tokens.
    """

    complete: Mask
    label: Ints
    score: Floats
    proven: Mask
    logprob: Floats
    confidence: Floats
    tokens: Floats

    @property
    def k(self) -> int:
        """Samples of each run."""
        return self.label.shape[1]

    def first(self, k: int) -> "Draws":
        """The first k samples of each run."""
        return Draws(*(np.ascontiguousarray(getattr(self, f.name)[:, :k]) for f in fields(self)))

    def __getitem__(self, rows: Any) -> "Draws":
        """Some of the runs."""
        return Draws(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def of(
        cls, candidates: Sequence[Candidate], labels: Sequence[int | None], confidences: Sequence[float | None]
    ) -> "Draws":
        """One run's candidates, in launch order."""

        def row(values: list[Any], kind: Any) -> NDArray[Any]:
            return np.array([values], dtype=kind)

        def known(value: float | None) -> float:
            return np.nan if value is None else value

        generations = [c.generation for c in candidates]
        return cls(
            complete=row([g.complete for g in generations], np.bool_),
            label=row([-1 if label is None else label for label in labels], np.int64),
            score=row([known(c.score) for c in candidates], np.float64),
            proven=row([c.proven for c in candidates], np.bool_),
            logprob=row([known(g.mean_logprob) for g in generations], np.float64),
            confidence=row([known(c) for c in confidences], np.float64),
            tokens=row([g.completion_tokens for g in generations], np.float64),
        )


def seconds_of_wave(shape: tuple[float, float, float] | None, tokens: Floats) -> Floats:
    """(n,) seconds that a wave takes: a + b * its longest sample's tokens + c * all its tokens.

    shape : (a, b, c), see PlanFacts.seconds; None = never timed, NaN.   tokens : (n, k), of the wave's samples.
    """
    if shape is None:
        return np.full(len(tokens), np.nan)
    return shape[0] + shape[1] * tokens.max(axis=1) + shape[2] * tokens.sum(axis=1)


# ── the answer in hand ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Lead:
    """The answer in hand of each run, and how the samples stand to it.

    index : (n,) place of the sample that is the answer.   label : (n,) its label, -1 where it has none.
    votes : (n, k) how many samples give the same answer as each, itself included; 0 where it has none.
    mine  : (n, k) the samples that give the answer in hand.
    """

    index: Ints
    label: Ints
    votes: Floats
    mine: Mask


def lead_of(draws: Draws) -> Lead:
    """Choose the answer in hand: proven before all; by summed scores where any is above 0; else by votes.

    Ties of votes go to the answer of the higher mean log-probability, where all that are tied have one, then to the
    one launched first: as `strategies.selection.elect`. Within an answer the highest score, then the first launched, as
    `weighted_best`. Where no sample has an answer: the first complete one, else the first.
    """
    given = draws.label >= 0
    same = draws.label[:, :, None] == draws.label[:, None, :]
    same &= given[:, :, None]
    votes = same.sum(axis=2, dtype=np.float64)
    score = np.where(given & (draws.score > 0.0), draws.score, 0.0)
    judged, proved = np.asarray(score.any(axis=1)), np.asarray(draws.proven.any(axis=1))
    weight = votes
    if judged.any():
        weight = np.where(judged[:, None], np.where(same, score[:, None, :], 0.0).sum(axis=2), votes)
    best = given & (weight == weight.max(axis=1, keepdims=True))
    rows = np.arange(len(best))
    first = best.argmax(axis=1)
    tied = ~judged & (best.sum(axis=1) > votes[rows, first])
    if tied.any():
        logprob = np.where(same, draws.logprob[:, None, :], 0.0).sum(axis=2) / np.maximum(votes, 1.0)
        told = tied & ~(best & np.isnan(logprob)).any(axis=1)
        sure = np.where(best & told[:, None], logprob, -np.inf)
        first = np.where(told, (sure == sure.max(axis=1, keepdims=True)).argmax(axis=1), first)
    answered = given.any(axis=1)
    if not answered.all():
        first = np.where(answered, first, draws.complete.argmax(axis=1))
    if proved.any():
        first = np.where(proved, draws.proven.argmax(axis=1), first)
    label, mine = draws.label[rows, first], same[rows, first]
    index = np.where(proved | ~judged, first, np.where(mine, score, -1.0).argmax(axis=1))
    return Lead(index=index, label=label, votes=votes, mine=mine)


# ── features ────────────────────────────────────────────────────────────────────────────────────────────────

OF_SAMPLES = (
    "drawn",
    "answered",
    "cut",
    "distinct",
    "votes",
    "runner_up",
    "share",
    "entropy",
    "stays_ahead",
    "score_best",
    "score_lead",
    "score_mean",
    "score_spread",
    "logprob_lead",
    "logprob_mean",
    "confidence_lead",
    "confidence_mean",
    "tokens_mean",
    "tokens_longest",
    "tokens_lead",
)
"""What is read off the samples of one backend; each name stands behind the backend's."""

STAYS_AHEAD = OF_SAMPLES.index("stays_ahead")


def features_of_samples(draws: Draws, lead: Lead) -> Floats:
    """(n, len(OF_SAMPLES)): see there; NaN where the samples do not tell.

    entropy     : of the answers, in nats.   stays_ahead : the Beta rule's chance that the leading answer would stay
    ahead of the second (strategies.stopping.Beta).   *_lead : mean over the samples that give the answer in hand;
    score_lead their highest.
    """
    # Sums and maxima over the samples are taken of all quantities at once: for one run calls are what takes time.
    n, k = draws.label.shape
    given, mine = draws.label >= 0, lead.mine
    at_least_one = np.maximum(lead.votes, 1.0)
    summed = np.empty((n, 20, k))
    summed[:, 0], summed[:, 1], summed[:, 2] = given, draws.complete, mine
    np.divide(given, at_least_one, out=summed[:, 3])
    signals, known = summed[:, 4:8], summed[:, 8:12]
    signals[:, 0], signals[:, 1], signals[:, 2], signals[:, 3] = (
        draws.score, draws.logprob, draws.confidence, draws.tokens,
    )  # fmt: skip
    unknown = np.isnan(signals)
    np.logical_not(unknown, out=known)
    signals[unknown] = 0.0
    np.multiply(summed[:, 4:12], mine[:, None], out=summed[:, 12:20])
    total = summed.sum(axis=2)
    # (n, all or those of the answer in hand, sum or number, signal)
    parts = total[:, 4:].reshape(n, 2, 2, 4)
    number = parts[:, :, 1]
    means = np.where(number > 0.0, parts[:, :, 0] / np.maximum(number, 1.0), np.nan)
    answered, top = total[:, 0], total[:, 2]
    some = np.maximum(answered, 1.0)
    entropy = (np.log(some[:, None] / at_least_one) * given).sum(axis=1) / some
    off = (signals[:, 0] - means[:, :1, 0]) * known[:, 0]
    spread = np.sqrt((off * off).sum(axis=1) / np.maximum(number[:, 0, 0], 1.0))
    highest = np.empty((n, 4, k))
    highest[:, 0] = draws.tokens
    np.multiply(lead.votes, ~mine, out=highest[:, 1])
    np.subtract(signals[:, 0], unknown[:, 0], out=highest[:, 2])  # -1 where it was not judged
    highest[:, 3] = np.where(mine, highest[:, 2], -1.0)
    most = highest.max(axis=2)
    second = most[:, 1]
    best = np.where(most[:, 2:] < 0.0, np.nan, most[:, 2:])
    out = np.empty((n, len(OF_SAMPLES)))
    columns = (
        k,
        answered,
        k - total[:, 1],
        total[:, 3],
        top,
        second,
        top / some,
        entropy,
        _ahead(1 << (k - 1).bit_length())[top.astype(np.intp), second.astype(np.intp)],
        best[:, 0],
        best[:, 1],
        means[:, 0, 0],
        spread,
        means[:, 1, 1],
        means[:, 0, 1],
        means[:, 1, 2],
        means[:, 0, 2],
        means[:, 0, 3],
        most[:, 0],
        means[:, 1, 3],
    )
    for j, column in enumerate(columns):
        out[:, j] = column
    return out


@lru_cache(maxsize=32)  # of powers of two: never made twice
def _ahead(most: int) -> Floats:
    """Chance (most + 1, most + 1) that v1 votes stay ahead of v2 of them, v1 + v2 <= most; each is exact, then rounded.

    Whoever is ahead after n + 1 tosses was so after n, or the last toss made it so: N(a, b) = N(a - 1, b) + N(a, b - 1)
    of 2^(a + b + 1) ways, see strategies.stopping.Beta.
    """
    out, ways = np.zeros((most + 1, most + 1)), [0] * (most + 1)
    for a in range(most + 1):
        here = 1 << a
        for b in range(most + 1 - a):
            here = ways[b] = here + ways[b]
            out[a, b] = here / (2 << (a + b))
    return out
