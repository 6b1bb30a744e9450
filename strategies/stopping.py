"""When to stop drawing samples: one seam for every rule, the learned plans of the router included.

A rule is shown the samples drawn so far, in launch order, and says how many more to draw now; 0 stops. Rules hold
settings only and never look at the order in which samples ended: short answers end first, and would vote first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .base import Candidate, Request, Usage
from .errors import ConfigError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a stop rule is shown.

    candidates : the samples so far, in launch order, those that failed or were cut off included.
    groups     : for each, which answer it gave: equal numbers mean equivalent answers, numbered 0, 1, ... by first
                 appearance; None = no answer.
    weights    : for each, what its vote weighs, >= 0 (1 in a plain vote).
    planned    : most samples that may be drawn in all.
    usage, seconds : spent so far.
    """

    request: Request
    candidates: tuple[Candidate, ...]
    groups: tuple[int | None, ...]
    weights: tuple[float, ...]
    planned: int
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


@runtime_checkable
class StopRule(Protocol):
    """Decides after every wave. Holds settings only."""

    @property
    def name(self) -> str:
        """Short and stable; part of the strategy's name."""
        ...

    def more(self, seen: Seen) -> int:
        """How many more samples to draw now, at most `planned - len(candidates)`; 0 = stop. Asked first with none."""
        ...


# ── how many at once ────────────────────────────────────────────────────────────────────────────────────────


class _InWaves:
    """A rule that draws in waves and is asked whether to stop after each.

    wave     : samples of one wave, >= 1; the first is of this size in any case.
    doubling : each further wave draws as many as were drawn so far (4, 8, 16, 32 in all), for fewer rounds of waiting.
    """

    _kind: str
    _wave = 4

    def __init__(self, *, wave: int | None = None, doubling: bool = False) -> None:
        self.wave = self._wave if wave is None else wave
        self.doubling = doubling
        if self.wave < 1:
            raise ConfigError(f"wave={wave!r}: a wave draws at least 1 sample")

    def __repr__(self) -> str:
        return f"<stop rule {self.name}>"

    @property
    def name(self) -> str:
        """For instance "beta", "beta_0.9", "beta_w8", "beta_doubling"; settings that are not the usual ones show."""
        waves = [f"w{self.wave}"] if self.wave != self._wave else []
        return "_".join([self._kind, *self._settings(), *waves, *(["doubling"] if self.doubling else [])])

    def more(self, seen: Seen) -> int:
        """See StopRule."""
        drawn = len(seen.candidates)
        if drawn >= seen.planned or (drawn and self._settled(seen)):
            return 0
        wave = max(drawn, 1) if self.doubling and drawn else self.wave
        return min(wave, seen.planned - drawn)

    def _settings(self) -> list[str]:
        return []

    def _settled(self, seen: Seen) -> bool:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes of the samples so far.

    weights : of each answer, by its group number.   counts : votes of each that weigh more than nothing.
    """

    weights: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, groups: Sequence[int | None], weights: Sequence[float]) -> "Tally":
        """Add up the votes; those without an answer abstain. Sums are exact to the last bit, whatever the order."""
        votes: list[list[float]] = [[] for _ in range(1 + max((g for g in groups if g is not None), default=-1))]
        for group, weight in zip(groups, weights, strict=True):
            if group is not None:
                votes[group].append(weight)
        return cls(tuple(math.fsum(v) for v in votes), tuple(sum(w > 0 for w in v) for v in votes))

    @property
    def leader(self) -> int | None:
        """The answer that weighs most; of equals the one whose first sample was launched first. None = no vote."""
        return max(range(len(self.weights)), key=lambda g: self.weights[g], default=None)


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────


class Fixed:
    """Draw all that were planned, at once."""

    name = "fixed"

    def __repr__(self) -> str:
        return "<stop rule fixed>"

    def more(self, seen: Seen) -> int:
        """See StopRule."""
        return seen.planned - len(seen.candidates)


class Beta(_InWaves):
    """Stop when the leading answer would very likely stay ahead of the second, were drawing to go on for ever.

        P = 1 - I_1/2(v1 + 1, v2 + 1) = 2^-(n + 1) sum_{k <= v1} C(n + 1, k) >= threshold      with n = v1 + v2

    v1, v2 are the votes of the two leading answers (v2 = 0 where there is one). Exact in integers. Four equal
    answers suffice for .95 (P = .969). In a weighted vote v1 counts the votes of the answer that weighs most, and v2
    the most votes of any other, those that weigh something. Abstentions do not count.

    threshold : in (0.5, 1). In waves of 4, .8 stops at three votes of the first four already: of a vote of 32 on 600
                prompts of the embedded tasks it saved 60 % of the tokens, where .95 saved 52 %, at 0.4 points less
                accuracy (interval 0.8 less to none), where .95 lost nothing (benchmarks/vote_stopping.py).
    scattered : give up on a hopeless vote: stop also once so many samples have an answer, and no two the same one;
                None = never. Most of what a vote costs goes to prompts without any agreement.
    Source: Adaptive-Consistency, Aggarwal et al. 2023 (2305.11860), section 3.2, the Beta criterion.
    """

    _kind = "beta"

    def __init__(
        self,
        threshold: float = 0.95,
        *,
        scattered: int | None = None,
        wave: int | None = None,
        doubling: bool = False,
    ) -> None:
        super().__init__(wave=wave, doubling=doubling)
        if scattered is not None and scattered < 2:
            raise ConfigError(f"scattered={scattered!r}: it takes at least 2 samples to disagree, as in 'scattered=16'")
        self.scattered = scattered
        if not 0.5 < threshold < 1:
            raise ConfigError(f"threshold={threshold!r}: the Beta rule's must lie between 0.5 and 1, as in 'beta:0.95'")
        self.threshold = threshold

    def _settings(self) -> list[str]:
        threshold = [] if self.threshold == 0.95 else [f"{self.threshold:g}"]
        return threshold if self.scattered is None else [*threshold, f"scattered_{self.scattered}"]

    def _settled(self, seen: Seen) -> bool:
        tally = Tally.of(seen.groups, seen.weights)
        leader = tally.leader
        if leader is None:
            return False
        if self.scattered is not None and len(tally.counts) >= self.scattered and self._all_differ(seen.groups):
            return True
        others = [count for group, count in enumerate(tally.counts) if group != leader]
        return stays_ahead(tally.counts[leader], max(others, default=0), self.threshold)

    @staticmethod
    def _all_differ(groups: Sequence[int | None]) -> bool:
        given = [g for g in groups if g is not None]
        return len(given) == len(set(given))


def stays_ahead(first: int, second: int, threshold: float) -> bool:
    """Whether 1 - I_1/2(first + 1, second + 1) >= threshold, decided in integers; see Beta.

    >>> [stays_ahead(v, 0, 0.95) for v in (3, 4)]
    [False, True]
    """
    tosses = first + second + 1
    below, term = 0, 1  # term = C(tosses, k)
    for k in range(first + 1):
        below += term
        term = term * (tosses - k) // (k + 1)
    numerator, denominator = threshold.as_integer_ratio()
    return below * denominator >= numerator << tosses


class Consensus(_InWaves):
    """Stop when the leading answer has at least `share` of all weight that was given.

    share : in (0.5, 1]. The first wave is the least that is drawn; 16 in the paper, as `wave=16`.
    Source: Fu et al. 2025, "Deep Think with Confidence" (2508.15260), section 3.2, adaptive sampling, share .95.
    """

    _kind = "consensus"

    def __init__(self, share: float = 0.95, *, wave: int | None = None, doubling: bool = False) -> None:
        super().__init__(wave=wave, doubling=doubling)
        if not 0.5 < share <= 1:
            raise ConfigError(f"share={share!r}: a consensus is more than half, at most 1, as in 'consensus:0.95'")
        self.share = share

    def _settings(self) -> list[str]:
        return [] if self.share == 0.95 else [f"{self.share:g}"]

    def _settled(self, seen: Seen) -> bool:
        weights = Tally.of(seen.groups, seen.weights).weights
        return bool(weights) and max(weights) > 0 and max(weights) >= self.share * math.fsum(weights) * (1 - 1e-12)


class ESC(_InWaves):
    """Stop when a window of samples is unanimous.

    window : samples of one window, >= 2: those drawn last, in launch order. One without an answer breaks it.
    wave   : the window's size where not given, as in the paper.
    Source: Li et al. 2024, "Escape Sky-high Cost" (2401.10480), section 3.
    """

    _kind = "esc"

    def __init__(self, window: int = 5, *, wave: int | None = None, doubling: bool = False) -> None:
        if window < 2:
            raise ConfigError(
                f"window={window!r}: one sample always agrees with itself; take at least 2, as in 'esc:5'"
            )
        self.window = self._wave = window
        super().__init__(wave=wave, doubling=doubling)

    def _settings(self) -> list[str]:
        return [] if self.window == 5 else [f"{self.window}"]

    def _settled(self, seen: Seen) -> bool:
        last = seen.groups[-self.window :]
        return len(last) == self.window and last[0] is not None and len(set(last)) == 1


class Exact(_InWaves):
    """Stop when nothing that may still be drawn can change the winner: never another answer than the full vote's.

        v1 > v2 + remaining       weighted:  W1 - W2 > remaining * largest

    An answer not seen yet counts as v2 = 0. Every remaining sample is taken to vote for the second.

    largest : most that one vote can weigh, > 0; 1 for plain votes and for weights by log-probability.
    """

    _kind = "exact"

    def __init__(self, *, largest: float = 1.0, wave: int | None = None, doubling: bool = False) -> None:
        super().__init__(wave=wave, doubling=doubling)
        if not (math.isfinite(largest) and largest > 0):
            raise ConfigError(f"largest={largest!r}: the most that a vote can weigh is a finite number above 0")
        self.largest = largest

    def _settings(self) -> list[str]:
        return [] if self.largest == 1.0 else [f"{self.largest:g}"]

    def _settled(self, seen: Seen) -> bool:
        weights = Tally.of(seen.groups, seen.weights).weights
        first, second = sorted([*weights, 0.0, 0.0], reverse=True)[:2]
        # Weights are floats: what rounding could turn is not settled.
        slack = 1e-9 * (first + second) if self.largest != 1.0 or not _whole(seen.weights) else 0.0
        return first - second - slack > (seen.planned - len(seen.candidates)) * self.largest


def _whole(weights: Sequence[float]) -> bool:
    return all(w in (0.0, 1.0) for w in weights)


class Accepted(_InWaves):
    """Stop at the first candidate, in launch order, whose score is at least `threshold`.

    threshold : in (0, 1]; 1 is what a sound verifier gives to an answer that it has proved right.
    """

    _kind = "until"

    def __init__(self, threshold: float = 1.0, *, wave: int | None = None, doubling: bool = False) -> None:
        super().__init__(wave=wave, doubling=doubling)
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold={threshold!r}: scores lie in [0, 1]; it must be above 0, as in 'accept:1.0'")
        self.threshold = threshold

    def _settings(self) -> list[str]:
        return [f"{float(self.threshold)!r}"]

    def _settled(self, seen: Seen) -> bool:
        return any(c.generation.complete and c.score is not None and c.score >= self.threshold for c in seen.candidates)


# ── rules by name ───────────────────────────────────────────────────────────────────────────────────────────

RULES = ("none", "beta", "esc", "exact", "consensus", "accept")
"""The names that `get_stop_rule` knows."""


def get_stop_rule(what: "str | StopRule | None") -> StopRule:
    """Make the stop rule of a name; a rule is returned as it is, None is "none".

        none            draw all           beta:0.95, beta    see Beta        esc:5, esc    see ESC
        exact           see Exact          accept:0.9, accept see Accepted
        consensus:0.95, consensus          see Consensus

    and behind a comma `wave=8`, `doubling`, and for beta `scattered=16`, as in "beta:0.9,wave=8" or "exact,doubling".
    Raises ConfigError for an unknown name, or a setting out of range.
    """
    if what is None:
        return Fixed()
    if not isinstance(what, str):
        if isinstance(what, StopRule):
            return what
        raise ConfigError(f"stop={what!r}: give a rule, or a name: {', '.join(RULES)}")
    rule, *options = (part.strip() for part in what.split(","))
    kind, colon, setting = rule.partition(":")
    if kind not in RULES or (colon and kind in ("none", "exact")) or (options and kind == "none"):
        raise ConfigError(f"stop={what!r} is not known{nearest(kind, RULES)}, as in 'beta:0.95' or 'esc:5,wave=10'")
    if kind == "none":
        return Fixed()
    waves: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if option == "doubling":
            waves["doubling"] = True
        elif key == "wave" or (key == "scattered" and kind == "beta"):
            waves[key] = _number(what, value, int)
        else:
            more = ", 'scattered=16'" if kind == "beta" else ""
            raise ConfigError(f"stop={what!r}: option {option!r} is not known; there are 'wave=4', 'doubling'{more}")
    if kind == "exact":
        return Exact(**waves)
    read: Callable[[str], Any] = int if kind == "esc" else float
    rules: dict[str, Callable[..., StopRule]] = {"beta": Beta, "esc": ESC, "accept": Accepted, "consensus": Consensus}
    return rules[kind](_number(what, setting, read), **waves) if colon else rules[kind](**waves)


def _number(what: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError:
        raise ConfigError(f"stop={what!r}: {text!r} is not a number, as in 'beta:0.95' or 'esc:5'") from None
