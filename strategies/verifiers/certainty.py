"""How sure a model was of its own text, as a verifier: self-certainty and mean log-probability.

Nothing is read and nothing is asked: the numbers come with the samples (`Generation.confidences`,
`Generation.logprobs`), so they cost no tokens. They measure the model's confidence, not truth: never sound.
"""

import math
from collections.abc import Sequence

from ..answers import canonical
from ..base import Candidate, Prices, Request, Verdicts
from ..confidence import BySelfCertainty
from ..errors import ConfigError, VerifierError
from ..running import answer_of
from ..spec import Parts, VerifierFields, restated


class SelfCertainty:
    """Score each sample by the self-certainty of its tokens, or by votes of samples so weighted (Borda).

    vocabulary : size V of the model's vocabulary, for the exact value: samples must then be drawn with
                 `SamplingParams(confidence_of=V)`, which an embedded model offers. None = the proxy below.
    top        : without a vocabulary: over how many most likely tokens the samples' confidences were taken
                 (`confidence_of`; servers cap it, vLLM at 20). That is a PROXY, and name and note call it one.
    power      : None = the score is the sample's own certainty. Otherwise p >= 0 of Borda voting: the sample ranked r
                 among N gives its answer (N - r + 1)^p votes, and a text's score is its answer's share of all votes,
                 so that best-of-N with it is the Borda vote; p = 0 is the plain vote. Equal certainty: by launch order.

        exact : s = -1/(nV) sum_i sum_j log(V p_ij) = mean_i C_i - log V >= 0, C_i the confidence of token i over V
        proxy : s = mean_i C_i >= 0, C_i over the `top` most likely tokens
        score : s / (1 + s), which keeps the order and lies in [0, 1)

    Source: Kang et al. 2025, "Scalable Best-of-N Selection for LLMs via Self-Certainty" (2502.18581), sections 3.3
    (the measure: KL divergence from the uniform distribution, up to a constant) and 3.4 (Borda voting).
    `confidence_of` says what samples must be drawn with. Partial solutions are not judged: only their last piece
    carries confidences.
    """

    sound = False
    prices: Prices | None = None  # reads no tokens

    def __init__(
        self, *, vocabulary: int | None = None, top: int = 20, power: float | None = None, name: str = ""
    ) -> None:
        if vocabulary is not None and vocabulary < 2:
            raise ConfigError(f"vocabulary={vocabulary!r}: it must be the model's number of tokens, 2 or more")
        if top < 1:
            raise ConfigError(f"top={top!r}: the proxy is taken over 1 or more most likely tokens")
        if power is not None and not (math.isfinite(power) and power >= 0):
            raise ConfigError(f"power={power!r}: it must be a finite number >= 0, or None for no vote")
        self.vocabulary, self.top, self.power = vocabulary, top, power
        self.relative = power is not None  # Borda's ranks are those within one call
        self.name = name or ("self_certainty" if vocabulary is not None else f"top{top}_certainty")

    @property
    def confidence_of(self) -> int:
        """The setting of SamplingParams that samples must be drawn with."""
        return self.vocabulary if self.vocabulary is not None else self.top

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Read the samples' confidences. Raises VerifierError where a sample carries none."""
        if partial:
            return Verdicts((None,) * len(candidates))
        certainty = [self._certainty(c, place) for place, c in enumerate(candidates)]
        note = "" if self.vocabulary is not None else f"a proxy of self-certainty, over the {self.top} likeliest tokens"
        if self.power is None:
            return Verdicts(tuple(s / (1 + s) for s in certainty), note=note)
        weighting = BySelfCertainty(self.power, top=self.top, vocabulary=self.vocabulary)
        return Verdicts(_shares(weighting.weights([c.generation for c in candidates]), candidates), note=note)

    def _certainty(self, candidate: Candidate, place: int) -> float:
        given = candidate.generation.confidences
        if not given:
            raise VerifierError(
                f"{self.name!r} needs the confidence of each token, and sample {place} has none: draw with "
                f"SamplingParams(confidence_of={self.confidence_of}), on a backend that offers it (the embedded "
                "models; a vLLM server up to its --max-logprobs)"
            )
        mean = math.fsum(given) / len(given)
        value = mean if self.vocabulary is None else mean - math.log(self.vocabulary)
        if not -1e-6 <= value < math.inf:
            least = "0" if self.vocabulary is None else f"log {self.vocabulary} = {math.log(self.vocabulary):.4g}"
            raise VerifierError(
                f"{self.name!r}: sample {place} has a mean confidence of {mean:.4g}; it cannot be below {least} nor "
                f"infinite, so it was drawn with another confidence_of than {self.confidence_of}"
            )
        return max(value, 0.0)


def _shares(weights: Sequence[float], candidates: Sequence[Candidate]) -> tuple[float, ...]:
    """The share of all weight that each candidate's answer has."""
    answers = [canonical(answer_of(c)) for c in candidates]
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        votes[answer] = votes.get(answer, 0.0) + weight
    total = math.fsum(votes.values())
    return tuple(votes[answer] / total for answer in answers)


class Logprob:
    """Score each sample by exp(mean log-probability of its tokens), the geometric mean of their probabilities.

    In [0, 1]. Samples must be drawn with `SamplingParams(logprobs=True)`, the default. Partial solutions are not
    judged: only their last piece carries log-probabilities.
    """

    sound = False
    prices: Prices | None = None  # reads no tokens

    def __init__(self, *, name: str = "logprob") -> None:
        self.name = name

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Read the samples' log-probabilities. Raises VerifierError where a sample carries none."""
        if partial:
            return Verdicts((None,) * len(candidates))
        scores: list[float] = []
        for place, candidate in enumerate(candidates):
            mean = candidate.generation.mean_logprob
            if mean is None:
                raise VerifierError(
                    f"{self.name!r} needs the log-probability of each token, and sample {place} has none: draw with "
                    "SamplingParams(logprobs=True), on a backend that offers it (see `howhard doctor`)"
                )
            scores.append(min(math.exp(mean), 1.0))
        return Verdicts(tuple(scores))


class SelfCertaintySpec(VerifierFields, frozen=True, kw_only=True, tag="self_certainty"):
    """How sure the model was; the settings are those of SelfCertainty. Without `vocabulary` it is a proxy."""

    vocabulary: int | None = None
    top: int = 20
    power: float | None = None

    def __post_init__(self) -> None:
        with restated():
            SelfCertainty(vocabulary=self.vocabulary, top=self.top, power=self.power)

    def open(self, name: str, parts: Parts) -> SelfCertainty:
        """See VerifierFields."""
        return SelfCertainty(vocabulary=self.vocabulary, top=self.top, power=self.power, name=name)


class LogprobSpec(VerifierFields, frozen=True, kw_only=True, tag="logprob"):
    """The mean log-probability of a sample's tokens."""

    def open(self, name: str, parts: Parts) -> Logprob:
        """See VerifierFields."""
        return Logprob(name=name)
