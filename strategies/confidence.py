"""What a sample's vote weighs: by the model's own log-probabilities, its rank in certainty, or DeepConf's confidence.

    get_weighting("logprob")                        exp(mean log-probability)
    get_weighting("self_certainty:2")               Borda votes by self-certainty, to the power 2
    get_weighting("confidence:tail,keep=0.9")       DeepConf: the tail's confidence, the best 90 % of the samples

All of it is measured from the samples themselves, costs no tokens, and says how sure the model was, not whether it is
right. The votes are counted in `self_consistency.py`.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from .base import Generation, SamplingParams
from .errors import ConfigError, nearest

WINDOW = 2048
"""Tokens of one group in DeepConf."""

LIKELIEST = 20
"""Most likely tokens that a confidence is taken over where nothing else was asked for."""


@runtime_checkable
class Weighting(Protocol):
    """Weighs votes. Holds settings only.

    name    : part of the strategy's name; "" for plain votes.
    largest : the most that one vote can weigh, None where there is no bound.
    """

    name: str
    largest: float | None

    def asking(self, params: SamplingParams) -> SamplingParams:
        """Return the sampling settings with which samples carry what it needs."""
        ...

    def weights(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """Weigh the votes of complete samples, in launch order; >= 0.

        Raises ConfigError where a sample does not carry what was asked for.
        """
        ...


def get_weighting(what: "str | Weighting | None") -> Weighting:
    """Make the weighting of a name; None is the plain vote, a weighting is returned as it is.

        logprob                           see ByLogprob
        self_certainty, self_certainty:2  see BySelfCertainty; `top=20` or `vocabulary=151936` behind a comma
        confidence, confidence:tail       see ByConfidence; `keep=0.9`, `window=2048`, `top=20` behind commas

    Raises ConfigError for an unknown name, or a setting out of range.
    """
    if what is None:
        return Plain()
    if not isinstance(what, str):
        if isinstance(what, Weighting):
            return what
        raise ConfigError(f"weights={what!r}: give None, or one of {', '.join(_KINDS)}")
    head, *options = (part.strip() for part in what.split(","))
    kind, colon, setting = head.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"weights={what!r} is not known{nearest(kind, _KINDS)}")
    make, first, known = _KINDS[kind]
    settings: dict[str, Any] = {}
    for key, value in [*([(first, setting)] if colon else []), *(_option(what, option) for option in options)]:
        if key not in known:
            raise ConfigError(f"weights={what!r}: setting {key!r} is not known{nearest(key, known)}")
        try:
            settings[key] = known[key](value)
        except ValueError:
            raise ConfigError(f"weights={what!r}: {value!r} is not a number, as in 'confidence,keep=0.9'") from None
    return make(**settings)


def _option(what: str, option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise ConfigError(f"weights={what!r}: {option!r} must be a setting and its value, as in 'keep=0.9'")
    return key, value


# ── the weightings ──────────────────────────────────────────────────────────────────────────────────────────


class Plain:
    """Every vote weighs 1."""

    name = ""
    largest: float | None = 1.0

    def __repr__(self) -> str:
        return "Plain()"

    def asking(self, params: SamplingParams) -> SamplingParams:
        """See Weighting."""
        return params

    def weights(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """See Weighting."""
        return (1.0,) * len(samples)


class ByLogprob:
    """A vote weighs exp(mean log-probability of its tokens), the geometric mean of their probabilities, in [0, 1]."""

    name = "logprob"
    largest: float | None = 1.0

    def __repr__(self) -> str:
        return "ByLogprob()"

    def asking(self, params: SamplingParams) -> SamplingParams:
        """See Weighting."""
        return params.but(logprobs=True)

    def weights(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """See Weighting."""
        means = [sample.mean_logprob for sample in samples]
        return tuple(min(1.0, math.exp(_given(m, place, "log-probability", self))) for place, m in enumerate(means))


class BySelfCertainty:
    """Borda votes: of N samples the one ranked r by self-certainty has (N - r + 1)^power votes.

    power      : >= 0; 0 is the plain vote.   Equal certainty ranks by launch order.
    vocabulary : size of the model's vocabulary, over which an embedded model gives the exact measure. None = over
                 the `top` most likely tokens, which servers offer: a proxy, and its name says so ("top20_certainty").

    Self-certainty is the mean over the tokens of their confidence, less log V, which no rank depends on.
    Source: Kang et al. 2025 (2502.18581), sections 3.3 and 3.4.
    """

    largest: float | None = None

    def __init__(self, power: float = 1.0, *, top: int = LIKELIEST, vocabulary: int | None = None) -> None:
        if not (math.isfinite(power) and power >= 0):
            raise ConfigError(f"power={power!r}: Borda's power must be a finite number >= 0")
        _demand_top(top)
        if vocabulary is not None and vocabulary < 2:
            raise ConfigError(f"vocabulary={vocabulary!r}: it must be the model's number of tokens, 2 or more")
        self.power, self.top, self.vocabulary = power, top, vocabulary
        self.name = f"top{top}_certainty" if vocabulary is None else "self_certainty"
        if power != 1:
            self.name += f"_{power:g}"

    def __repr__(self) -> str:
        return f"BySelfCertainty({self.power:g}, top={self.top}, vocabulary={self.vocabulary})"

    def asking(self, params: SamplingParams) -> SamplingParams:
        """See Weighting."""
        return params.but(confidence_of=self.vocabulary or self.top)

    def weights(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """See Weighting; in units of the first rank's N^power, so that no power is too large."""
        given = [_given(sample.confidences, place, "confidence", self) for place, sample in enumerate(samples)]
        means = [math.fsum(c) / len(c) for c in given]
        n, weights = len(means), [0.0] * len(means)
        for rank, place in enumerate(sorted(range(n), key=lambda i: -means[i])):
            weights[place] = ((n - rank) / n) ** self.power
        return tuple(weights)


class ByConfidence:
    """DeepConf: a vote weighs the sample's confidence, and only the most confident samples vote.

    Confidence of token t: C_t = -(1/k) sum_{j <= k} log p_(j) over the k = `top` most likely tokens; of a group: the
    mean of C_t over `window` tokens in a row (all of them in a shorter sample); of a sample, by `measure`:

        lowest : of its lowest group             bottom : the mean of the lowest tenth of its groups
        tail   : the mean of its last `window`   mean   : the mean of all its tokens

    keep : share of the samples that vote, the most confident ones, rounded up; of equals those launched first. .1 and
           .9 in the paper; None = all.
    Source: Fu et al. 2025, "Deep Think with Confidence" (2508.15260), sections 3.1 and 3.2.
    """

    largest: float | None = None

    def __init__(
        self, measure: str = "lowest", *, keep: float | None = None, window: int = WINDOW, top: int = LIKELIEST
    ) -> None:
        if measure not in MEASURES:
            raise ConfigError(f"measure={measure!r}: no such confidence of a sample{nearest(measure, MEASURES)}")
        if keep is not None and not 0 < keep <= 1:
            raise ConfigError(f"keep={keep!r}: the share of samples that vote must lie in (0, 1], as in 'keep=0.9'")
        if window < 1:
            raise ConfigError(f"window={window!r}: a group holds at least 1 token")
        _demand_top(top)
        self.measure, self.keep, self.window, self.top = measure, keep, window, top
        shown = ("confidence", "" if measure == "lowest" else measure, "" if keep is None else f"keep_{keep:g}")
        sizes = ("" if window == WINDOW else f"window_{window}", "" if top == LIKELIEST else f"top_{top}")
        self.name = "_".join(part for part in (*shown, *sizes) if part)

    def __repr__(self) -> str:
        return f"ByConfidence({self.measure!r}, keep={self.keep}, window={self.window}, top={self.top})"

    def asking(self, params: SamplingParams) -> SamplingParams:
        """See Weighting."""
        return params.but(confidence_of=self.top)

    def weights(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """See Weighting."""
        values = self.confidences(samples)
        kept = set(most_confident(values, 1.0 if self.keep is None else self.keep))
        return tuple(value if place in kept else 0.0 for place, value in enumerate(values))

    def confidences(self, samples: Sequence[Generation]) -> tuple[float, ...]:
        """Measure each sample; nothing is left out."""
        given = [_given(sample.confidences, place, "confidence", self) for place, sample in enumerate(samples)]
        return tuple(MEASURES[self.measure](c, self.window) for c in given)


def most_confident(values: Sequence[float], share: float) -> list[int]:
    """Return the places of the largest values, ceil(share * n) of them; of equals the first.

    >>> most_confident([2.0, 5.0, 3.0, 5.0], 0.5)
    [1, 3]
    """
    most = math.ceil(share * len(values) - 1e-9)  # .1 of 10 is 1, whatever the float says
    return sorted(range(len(values)), key=lambda i: -values[i])[:most]


# ── DeepConf's measures ─────────────────────────────────────────────────────────────────────────────────────


def groups(confidences: Sequence[float], window: int) -> list[float]:
    """Return the mean of each `window` tokens in a row; of all of them where they are fewer. Never empty.

    >>> groups([1.0, 2.0, 6.0], 2)
    [1.5, 4.0]
    """
    running = RunningLowest(window)
    found = [mean for c in confidences if (mean := running.add(c)) is not None]
    return found or [math.fsum(confidences) / len(confidences)]


def _bottom(confidences: Sequence[float], window: int) -> float:
    found = sorted(groups(confidences, window))
    lowest = found[: max(1, len(found) // 10)]
    return math.fsum(lowest) / len(lowest)


def _mean(confidences: Sequence[float]) -> float:
    return math.fsum(confidences) / len(confidences)


MEASURES: dict[str, Callable[[Sequence[float], int], float]] = {
    "lowest": lambda c, window: min(groups(c, window)),
    "bottom": _bottom,
    "tail": lambda c, window: _mean(c[-window:]),
    "mean": lambda c, window: _mean(c),
}


class RunningLowest:
    """The lowest group of a sample under way: fed token by token, in constant time each.

    lowest : the lowest group so far; infinite while there are fewer than `window` tokens.
    """

    def __init__(self, window: int) -> None:
        self._last: deque[float] = deque()
        self._window, self._sum = window, 0.0
        self.lowest = math.inf

    def add(self, confidence: float) -> float | None:
        """Take the next token's confidence; return the mean of the group that it completes, None before the first."""
        self._last.append(confidence)
        self._sum += confidence
        if len(self._last) > self._window:
            self._sum -= self._last.popleft()
        if len(self._last) < self._window:
            return None
        mean = self._sum / self._window
        self.lowest = min(self.lowest, mean)
        return mean


# ── small things ────────────────────────────────────────────────────────────────────────────────────────────

_KINDS: dict[str, tuple[Callable[..., Weighting], str, dict[str, Callable[[str], Any]]]] = {
    "logprob": (ByLogprob, "", {}),
    "self_certainty": (BySelfCertainty, "power", {"power": float, "top": int, "vocabulary": int}),
    "confidence": (ByConfidence, "measure", {"measure": str, "keep": float, "window": int, "top": int}),
}


def _given(what: Any, place: int, words: str, weighting: Weighting) -> Any:
    if what is None or what == ():
        raise ConfigError(
            f"weights={weighting.name!r} needs the {words} of each token, and sample {place} came without: this "
            "backend does not offer it (the embedded models do, a vLLM server within its --max-logprobs); take "
            "weights=None, or another backend"
        )
    return what


def _demand_top(top: int) -> None:
    if top < 1:
        raise ConfigError(f"top={top!r}: a confidence is taken over 1 or more most likely tokens")
