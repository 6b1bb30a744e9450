"""What a comparison comes to: figures per arm with intervals, and who is better at equal tokens.

All intervals come from one set of bootstrap draws over prompts, so that all is paired. Which arm is better at EQUAL
tokens is said against the curve of best-of-N, and of votes, over N: interpolated between its points in the logarithm
of tokens. Nothing here runs anything; that is compare.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from ..strategies import BestOfNSpec
from ..strategies.self_consistency import SelfConsistencySpec
from .arm_words import words_of
from .compare_arms import Entry
from .curves import Interval, interval, resampling_weights

DRAWS = 2000
"""Bootstrap draws of every interval."""

DIALS = ("n", "samples", "thinking_tokens")
"""Settings that buy quality with tokens: arms that differ in one of them alone are points of one curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An arm's accuracy less that of a curve over N at equal tokens.

    difference : None where nothing can be said: `why` is "beyond" (it spends more than the curve's largest N),
                 "below" (less than its smallest), or "on it".
    """

    curve: str
    difference: Interval | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm. Figures are means per prompt, over all seeds.

    tokens       : what was computed: prompt, completion and verifier tokens without those of the prompt that a cache
                   had; but the prompt itself always counts once, whoever had it read before.
    latency      : 50 % and 95 % quantiles of seconds, each run alone; None = not measured.
    times_single : cost against that of the first single pass; None where there is none.
    over_single  : difference of accuracies to the single pass of the same backend, at whatever cost.
    """

    label: str
    words: str
    backend: str
    accuracy: Interval
    tokens: Interval
    completion_tokens: Interval
    prompt_tokens: float
    cached_tokens: float
    verifier_tokens: float
    cost: Interval
    calls: float
    latency: tuple[float, float] | None
    times_single: float | None
    over_single: Interval | None
    over_best_of_n: Against | None
    over_vote: Against | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A whole comparison.

    curves    : arms that differ in one dial alone: a name, and the labels of its points, fewest tokens first.
    n_prompts : prompts that the figures are of: those that every arm answered with at least one same seed.
    left_out  : label -> why an arm is not in the table.
    incomplete: prompts for which an arm's result is missing.
    """

    title: str
    currency: str
    rows: tuple[Row, ...]
    curves: Mapping[str, tuple[str, ...]]
    n_prompts: int
    n_seeds: int
    n_alone: int
    incomplete: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    ran: int = 0
    seconds: float = 0.0
    log: Path | None = None


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────


def computed_prompts(prompt: np.ndarray, cached: np.ndarray, backends: Sequence[str]) -> np.ndarray:
    """Prompt tokens that no cache had, but the prompt itself at least once: who asked first is chance.

    prompt, cached : float (arms, prompts). Returns the same shape. The prompt's own length is taken to be the least
    that any arm of the backend read of it.
    """
    own = np.empty_like(prompt)
    for backend in set(backends):
        rows = [i for i, b in enumerate(backends) if b == backend]
        own[rows] = prompt[rows].min(axis=0)
    return np.maximum(prompt - cached, own)


def at_equal_tokens(
    tokens: np.ndarray, quality: np.ndarray, curve_tokens: np.ndarray, curve_quality: np.ndarray
) -> np.ndarray:
    """Quality less that of a curve at the same tokens.

        quality - interpolation of the curve's (log tokens, quality) at log tokens

    tokens, quality             : float (draws,).
    curve_tokens, curve_quality : float (draws, points), the points in any order; > 0. Outside of its points the curve
                                  goes on flat, so the caller decides whether there is anything to say there.
    Returns float (draws,).
    """
    order = np.argsort(curve_tokens, axis=1)
    x = np.log(np.take_along_axis(curve_tokens, order, axis=1))
    y = np.take_along_axis(curve_quality, order, axis=1)
    at = [np.interp(np.log(t), own_x, own_y) for t, own_x, own_y in zip(tokens, x, y, strict=True)]
    return quality - np.array(at)


class Analysis:
    """Makes rows of figures; all intervals come from one set of bootstrap draws, so that all is paired.

    figures   : name (quality, cost, calls, and the fields of Usage) -> float (arms, prompts), means over
                seeds, all finite.
    latencies : arm's place -> seconds of its runs alone.
    """

    def __init__(
        self, arms: Sequence[Entry], figures: Mapping[str, np.ndarray], latencies: Mapping[int, Sequence[float]]
    ) -> None:
        self.arms, self.latencies = arms, latencies
        self.figures = dict(figures)
        read = computed_prompts(
            figures["prompt_tokens"], figures["cached_tokens"], [entry.spec.backend for entry in arms]
        )
        self.figures["tokens"] = read + figures["completion_tokens"] + figures["verifier_tokens"]
        n_prompts = figures["quality"].shape[1]
        weights = resampling_weights(np.arange(n_prompts), draws=DRAWS, seed=0).astype(float)
        self.mean = {name: values.mean(axis=1) for name, values in self.figures.items()}
        self.drawn = {name: weights @ values.T for name, values in self.figures.items()}
        self.singles = {
            backend: next((i for i, e in enumerate(arms) if e.spec.backend == backend and _kind(e) == "single"), None)
            for backend in {e.spec.backend for e in arms}
        }
        self.curves = self._curves()

    def rows(self) -> tuple[Row, ...]:
        """One row per arm, in their order."""
        return tuple(self._row(i, entry) for i, entry in enumerate(self.arms))

    def named_curves(self) -> dict[str, tuple[str, ...]]:
        """See Comparison.curves."""
        return {c.name: tuple(self.arms[i].label for i in c.points) for c in self.curves}

    def _interval(self, name: str, arm: int) -> Interval:
        return interval(self.mean[name][arm], self.drawn[name][:, arm])

    def _row(self, i: int, entry: Entry) -> Row:
        single = self.singles[entry.spec.backend]
        base = next((self.singles[e.spec.backend] for e in self.arms if self.singles[e.spec.backend] is not None), None)
        seconds = self.latencies.get(i) or []
        cost, quality = self.mean["cost"], self.mean["quality"]
        return Row(
            label=entry.label,
            words=words_of(entry.strategy),
            backend=entry.spec.backend,
            accuracy=self._interval("quality", i),
            tokens=self._interval("tokens", i),
            completion_tokens=self._interval("completion_tokens", i),
            prompt_tokens=float(self.mean["prompt_tokens"][i]),
            cached_tokens=float(self.mean["cached_tokens"][i]),
            verifier_tokens=float(self.mean["verifier_tokens"][i]),
            cost=self._interval("cost", i),
            calls=float(self.mean["calls"][i]),
            latency=(float(np.percentile(seconds, 50)), float(np.percentile(seconds, 95))) if seconds else None,
            times_single=float(cost[i] / cost[base]) if base is not None and cost[base] > 0 else None,
            over_single=None
            if single in (None, i)
            else interval(quality[i] - quality[single], self.drawn["quality"][:, i] - self.drawn["quality"][:, single]),
            over_best_of_n=self._against(i, "best-of-N"),
            over_vote=self._against(i, "vote"),
        )

    def _against(self, i: int, sort: str) -> Against | None:
        """Compare with the curve of that sort on the same backend: of the same verifier, else the first.

        Tokens of several models do not add up to anything that could be equal: such an arm is not compared so.
        """
        entry = self.arms[i]
        if entry.strategy.needs_backends:
            return None
        rivals = [c for c in self.curves if c.sort == sort and c.backend == entry.spec.backend]
        if not rivals:
            return None
        own = getattr(entry.strategy, "verifier", None)
        curve = next((c for c in rivals if c.verifier == own), rivals[0])
        points = list(curve.points)
        if i in points:
            return Against(curve=curve.name, difference=None, why="on it")
        tokens, quality = self.mean["tokens"], self.mean["quality"]
        if not min(tokens[points]) <= tokens[i] <= max(tokens[points]):
            return Against(
                curve=curve.name, difference=None, why="beyond" if tokens[i] > max(tokens[points]) else "below"
            )
        found = at_equal_tokens(tokens[[i]], quality[[i]], tokens[points][None], quality[points][None])
        draws = at_equal_tokens(
            self.drawn["tokens"][:, i],
            self.drawn["quality"][:, i],
            self.drawn["tokens"][:, points],
            self.drawn["quality"][:, points],
        )
        return Against(curve=curve.name, difference=interval(found[0], draws))

    def _curves(self) -> list["_Curve"]:
        """Arms that differ in nothing but one dial, two at least; where the dial is N, the single pass is N = 1.

        The chance of a right answer bends down in log N, so a straight line between two points far apart would lie
        below the curve, and flatter what is compared with it.
        """
        families: dict[str, list[int]] = {}
        for dial in DIALS:
            for i, entry in enumerate(self.arms):
                if getattr(entry.strategy, dial, None) is not None:
                    same = {**msgspec.to_builtins(entry.strategy), dial: None}
                    families.setdefault(json.dumps([dial, entry.spec.backend, same]), []).append(i)
        curves = []
        for members in families.values():
            if len(members) < 2:
                continue
            members.sort(key=lambda i: self.mean["tokens"][i])
            first = self.arms[members[0]]
            sort = _sort(first)
            single = self.singles[first.spec.backend] if sort is not None else None
            points = (*(() if single is None else (single,)), *members)
            curves.append(
                _Curve(
                    name=" - ".join((self.arms[points[0]].label, self.arms[points[-1]].label)),
                    sort=sort,
                    backend=first.spec.backend,
                    verifier=getattr(first.strategy, "verifier", None),
                    points=points,
                )
            )
        return curves


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    name: str
    sort: str | None
    backend: str
    verifier: str | None
    points: tuple[int, ...]


def _kind(entry: Entry) -> str:
    return str(type(entry.strategy).__struct_config__.tag)


def _sort(entry: Entry) -> str | None:
    """Which reference curve an arm may be a point of: one that draws all N, and best-of-N proper or a vote."""
    strategy = entry.strategy
    if getattr(strategy, "stop", "none") != "none":
        return None
    if isinstance(strategy, SelfConsistencySpec):
        return None if strategy.online else "vote"
    if isinstance(strategy, BestOfNSpec) and strategy.selection in ("best", "weighted"):
        return "vote" if strategy.selection == "weighted" or strategy.verifier == "vote" else "best-of-N"
    return None
