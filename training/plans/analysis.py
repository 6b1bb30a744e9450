"""Plans against everything that they must beat, on prompts that neither made nor selected them.

Every entrant plays every fold (contest.py, rivals.py), at each of several values of a correct answer: that gives its
curve of quality over cost. Families of fixed ways are asked at many values. All figures share one set of bootstrap
weights, by prompt (those that ask the same thing together), or by family where whole families were left out, so that
every difference is paired.

Two questions are asked of the curves. At a value: by how much is the plan's utility ahead? And at equal quality: what
does a rival spend to be as good as the plan is? Between its points a rival may mix them (the upper hull), recomputed in
every bootstrap draw; where it is never as good, it is counted with its best quality and what that takes, so that what
is said to be saved is the least.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ...strategies.errors import ConfigError
from ..curves import Interval, PairedMeans, hull_cost, interval, ratio, resampling_weights
from ..folds import Split
from ..judge import plain
from ..threads import one_thread
from .contest import Fold, PlanData, folds_of
from .outcome import Outcome
from .rivals import Rival, standard_rivals

VALUES = tuple(float(v) for v in np.geomspace(3, 1000, 8).round(1))
"""Values of a correct answer at which plans are judged, in mean costs of one sample of the first backend."""

CLOSE = 41
"""Values at which families of fixed ways are asked, from a third of the least to a hundred times the greatest, where
nothing counts but quality: what a rival spends to be as good as a plan must be looked for that far."""

_PLAYING = "learning plans, replaying"

StageProgress = Callable[[str, int, int], None]
By = Literal["cost", "tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What an entrant came to, per prompt and value.

    values  : (V,), in units, ascending; `at` are the places of the analysis' own values among them.
    quality, cost, tokens : (V, n), the judged prompts in the log's order; cost in units.
    seconds : (len(at), n, deals), NaN where not timed.
    """

    name: str
    kind: str
    values: np.ndarray
    at: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray

    def utility(self) -> np.ndarray:
        """(len(at), n), quality less cost over value."""
        return self.quality[self.at] - self.cost[self.at] / self.values[self.at, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An entrant at one value: means, and what the plan is ahead of it (utility, paired; None for the plan itself)."""

    name: str
    kind: str
    value: float
    quality: Interval
    cost: Interval
    tokens: Interval
    ahead: Interval | None
    seconds: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What the plan saves of what a rival spends at the plan's own quality.

    value   : at which the plan stands.   by : cost (units) or tokens.   own, rival : spent per prompt.
    share   : 1 - own / rival.   reached : whether the rival ever has the plan's quality; else its best is taken.
    """

    rival: str
    value: float
    by: By
    quality: float
    own: float
    needs: float
    share: Interval
    reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForAsGood:
    """What the plan's curve needs for a fixed arm's quality, as a share of what that takes; NaN: it never has it."""

    arm: str
    quality: float
    cost: float
    tokens: float
    cost_share: Interval
    tokens_share: Interval


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long answers take, beside what they give: an entrant at a value; p50, p95 of the seconds of all runs."""

    name: str
    value: float
    quality: float
    cost: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything that a report prints or draws.

    menu     : in words.   unit : mean cost of one sample of the first backend, in `currency`.
    standings : of every entrant but single arms, at every value, the plan first.
    saved    : at equal quality, of every rival at every value, by cost and by tokens.
    as_good  : of every single arm.   gap : value -> share of the utility from `gap_from` (the tuned cap, or the best
    fixed samples) to the ceiling that the plan closes, where there surely is one; {} without a ceiling.
    waiting  : () where the log is not timed.
    """

    name: str
    menu: str
    split: str
    n_prompts: int
    left_out: int
    n_families: int
    folds: int
    n_legs: int
    sound: bool
    verifier: str | None
    currency: str
    unit: float
    values: tuple[float, ...]
    standings: tuple[Standing, ...]
    saved: tuple[Saved, ...]
    as_good: tuple[ForAsGood, ...]
    gap: dict[float, Interval]
    gap_from: str
    waiting: tuple[Waiting, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    curves: Mapping[str, Curve] = field(repr=False, compare=False)
    means: PairedMeans = field(repr=False, compare=False)

    def standing(self, name: str, value: float) -> Standing:
        """Raises KeyError where there is none."""
        for s in self.standings:
            if s.name == name and s.value == value:
                return s
        raise KeyError((name, value))

    def savings(self, rival: str, by: By = "cost") -> tuple[Saved, ...]:
        """At every value."""
        return tuple(s for s in self.saved if s.rival == rival and s.by == by)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; per-prompt arrays are left out, each curve's means are told."""
        told = {
            f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("curves", "means", "gap")
        }  # fmt: skip
        for name in ("standings", "saved", "as_good", "waiting"):
            told[name] = [asdict(x) for x in told[name]]
        told["gap"] = {str(v): asdict(i) for v, i in self.gap.items()}
        told["curves"] = {
            c.name: {
                "kind": c.kind,
                "values": c.values.tolist(),
                **{f: getattr(c, f).mean(axis=1).tolist() for f in ("quality", "cost", "tokens")},
            }
            for c in self.curves.values()
        }
        return plain(told)


# ── playing ─────────────────────────────────────────────────────────────────────────────────────────────────


def play(
    data: PlanData,
    folds: Sequence[Fold],
    rivals: Sequence[Rival],
    values: Sequence[float] = VALUES,
    *,
    progress: StageProgress | None = None,
) -> dict[str, Curve]:
    """The curves of all entrants, by name. Raises ConfigError for two of one name, or a value out of range."""
    names = [r.name for r in rivals]
    if len(set(names)) < len(names):
        raise ConfigError(f"rivals: two are called {max(names, key=names.count)!r}")
    values = checked_values(values)
    close = np.unique(np.concatenate([values, np.geomspace(values[0] / 3, values[-1] * 100, CLOSE)]))
    parts: dict[str, list[list[Outcome]]] = {name: [] for name in names}
    total, done = len(folds) * (len(rivals) + 1), 0
    with one_thread():
        for fold in folds:
            _ = fold.plan  # what takes long first, and by itself
            done += 1
            if progress is not None:
                progress(_PLAYING, done, total)
            for rival in rivals:
                asked = close if rival.quick else np.array(values)
                parts[rival.name].append(rival.play(fold, (asked * data.unit).tolist()))
                done += 1
                if progress is not None:
                    progress(_PLAYING, done, total)
    return {r.name: _curve(data, folds, r, parts[r.name], np.array(values), close) for r in rivals}


def checked_values(values: Sequence[float]) -> tuple[float, ...]:
    """Values of a correct answer, ascending. Raises ConfigError for one out of range, or none."""
    ascending = tuple(sorted({float(v) for v in values}))
    if not ascending or not (np.isfinite(ascending).all() and ascending[0] > 0):
        raise ConfigError(f"values={ascending!r}: give finite numbers above 0, in mean costs of one sample")
    return ascending


def _curve(
    data: PlanData,
    folds: Sequence[Fold],
    rival: Rival,
    parts: Sequence[Sequence[Outcome]],
    values: np.ndarray,
    close: np.ndarray,
) -> Curve:
    asked = close if rival.quick else values
    at = np.searchsorted(asked, values)
    judged = np.sort(np.concatenate([fold.test for fold in folds]))
    place = np.full(len(data), -1)
    place[judged] = np.arange(len(judged))
    n = len(judged)

    def whole(name: str, scale: float = 1.0) -> np.ndarray:
        out = np.full((len(asked), n), np.nan)
        for fold, part in zip(folds, parts, strict=True):
            out[:, place[fold.test]] = np.stack([getattr(o, name) for o in part]) * scale
        return out

    deals = parts[0][0].seconds.shape[1]
    seconds = np.full((len(at), n, deals), np.nan, dtype=np.float32)
    for fold, part in zip(folds, parts, strict=True):
        seconds[:, place[fold.test]] = np.stack([part[i].seconds for i in at])
    return Curve(
        rival.name, rival.kind, asked, at, whole("quality"), whole("cost", 1 / data.unit), whole("tokens"), seconds
    )


# ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────


def analyse(
    data: PlanData,
    rivals: Sequence[Rival] | None = None,
    values: Sequence[float] = VALUES,
    *,
    split: Split = "prompt",
    folds: int = 3,
    seed: int = 0,
    draws: int = 1000,
    ready: Sequence[Fold] | None = None,
    notes: Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Analysis:
    """Cross-fit, let all play, and judge; the first rival of kind "plan" is the one that all are held against.

    rivals : None = everything that makes sense on this log (`standard_rivals`).   values : in units, see VALUES.
    ready  : folds made by `folds_of` before.

    Raises TableError where there are too few prompts, or families to leave out, and ConfigError as `play` does.
    """
    started = time.perf_counter()
    rivals = standard_rivals(data) if rivals is None else rivals
    if not any(r.kind == "plan" for r in rivals):
        raise ConfigError("rivals: none of kind 'plan' is among them, so there is nothing to hold them against")
    if ready is None:
        move = None if progress is None else lambda done, of: progress("fitting routers", done, of)
        ready = folds_of(data, split=split, folds=folds, seed=seed, progress=move)
    curves = play(data, ready, rivals, values, progress=progress)
    judged = np.sort(np.concatenate([fold.test for fold in ready]))
    matrix = data.matrix.rows(judged)
    units = np.asarray(matrix.families if split == "group" else matrix.clusters, dtype=str)
    means = PairedMeans(resampling_weights(units, draws=draws, seed=seed))
    judge = _Judge(curves, means, give_up=data.log.menu.give_up)
    gap_from, gap = judge.gap()
    return Analysis(
        name=data.name,
        menu=data.log.menu.words,
        split=split,
        n_prompts=len(matrix),
        left_out=data.log.left_out,
        n_families=len(set(matrix.families)),
        folds=len(ready),
        n_legs=len(data.log.menu.legs),
        sound=data.sound,
        verifier=data.log.menu.verifier,
        currency=matrix.unit,
        unit=data.unit,
        values=tuple(judge.plan.values[judge.plan.at].tolist()),
        standings=judge.standings(),
        saved=judge.saved(),
        as_good=judge.as_good(),
        gap=gap,
        gap_from=gap_from,
        waiting=judge.waiting(),
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
        curves=curves,
        means=means,
    )


class _Judge:
    """Curves, with the means of every point and their bootstrap draws."""

    def __init__(self, curves: Mapping[str, Curve], means: PairedMeans, *, give_up: bool) -> None:
        self.curves, self.means, self.give_up = curves, means, give_up
        self.plan = next(c for c in curves.values() if c.kind == "plan")
        self._points = {name: self._of(curve) for name, curve in curves.items()}

    def _of(self, curve: Curve) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means (P,) and draws (draws, P): at the analysis' values, and of all different points of the curve."""
        found = {}
        for name in ("quality", "cost", "tokens"):
            found[name] = self.means.of(getattr(curve, name).T)
        keep = np.unique(np.stack([found["quality"][0], found["cost"][0]]), axis=1, return_index=True)[1]
        alone = {f"{name} points": (mean[keep], drawn[:, keep]) for name, (mean, drawn) in found.items()}
        if self.give_up:  # whoever may give up may do so with some prompts, unseen
            alone = {
                name: (np.append(mean, 0.0), np.pad(drawn, ((0, 0), (0, 1)))) for name, (mean, drawn) in alone.items()
            }
        return {**{name: (mean[curve.at], drawn[:, curve.at]) for name, (mean, drawn) in found.items()}, **alone}

    def standings(self) -> tuple[Standing, ...]:
        ours, found = self.plan.utility(), []
        for curve in self.curves.values():
            if curve.kind in _ASIDE:
                continue
            utility, points = curve.utility(), self._points[curve.name]
            for i, value in enumerate(self.plan.values[self.plan.at].tolist()):
                seconds = curve.seconds[i]
                timed = not np.isnan(seconds).any()
                found.append(
                    Standing(
                        name=curve.name,
                        kind=curve.kind,
                        value=value,
                        **{f: interval(points[f][0][i], points[f][1][:, i]) for f in ("quality", "cost", "tokens")},
                        ahead=None if curve is self.plan else self.means.interval(ours[i] - utility[i]),
                        seconds=(float(np.median(seconds)), float(np.percentile(seconds, 95))) if timed else None,
                    )
                )
        return tuple(found)

    def saved(self) -> tuple[Saved, ...]:
        ours, found = self._points[self.plan.name], []
        values = self.plan.values[self.plan.at].tolist()
        for curve in self.curves.values():
            if curve is self.plan or curve.kind in _ASIDE:
                continue
            theirs = self._points[curve.name]
            quality, quality_drawn = theirs["quality points"]
            for by in ("cost", "tokens"):
                spent, spent_drawn = theirs[f"{by} points"]
                for i, value in enumerate(values):
                    at, at_drawn = ours["quality"][0][i], ours["quality"][1][:, i]
                    own, own_drawn = ours[by][0][i], ours[by][1][:, i]
                    needs, reached = _needs(spent, quality, at)
                    needs_drawn, _ = _needs(spent_drawn, quality_drawn, at_drawn)
                    share = interval(1 - ratio(own, needs), 1 - ratio(own_drawn, needs_drawn))
                    found.append(
                        Saved(
                            rival=curve.name, value=value, by=by, quality=float(at), own=float(own),
                            needs=float(needs), share=share, reached=bool(reached),
                        )
                    )  # fmt: skip
        return tuple(found)

    def as_good(self) -> tuple[ForAsGood, ...]:
        ours, found = self._points[self.plan.name], []
        for curve in self.curves.values():
            if curve.kind != "arm":
                continue
            theirs = self._points[curve.name]
            (quality, quality_drawn), share = theirs["quality"], {}
            for by in ("cost", "tokens"):
                needs = hull_cost(ours[f"{by} points"][0], ours["quality points"][0], quality[0])
                drawn = hull_cost(ours[f"{by} points"][1], ours["quality points"][1], quality_drawn[:, 0])
                spent, spent_drawn = theirs[by]
                shares = ratio(drawn, spent_drawn[:, 0])
                known = shares[~np.isnan(shares)]
                # In some draws the plan may never be as good: they count as the dearest of the others, at the least.
                worst = np.where(np.isnan(shares), known.max(), shares) if len(known) else known
                share[by] = interval(ratio(needs, spent[0]), worst)
            found.append(
                ForAsGood(
                    arm=curve.name, quality=float(quality[0]), cost=float(theirs["cost"][0][0]),
                    tokens=float(theirs["tokens"][0][0]), cost_share=share["cost"], tokens_share=share["tokens"],
                )
            )  # fmt: skip
        return tuple(found)

    def gap(self) -> tuple[str, dict[float, Interval]]:
        top = next((c for c in self.curves.values() if c.kind == "ceiling"), None)
        low = next((c for kind in ("cap", "fixed") for c in self.curves.values() if c.kind == kind), None)
        if top is None or low is None:
            return "", {}
        found = {}
        for i, value in enumerate(self.plan.values[self.plan.at].tolist()):
            ours, theirs, most = (c.utility()[i] for c in (self.plan, low, top))
            if self.means.interval(most - theirs).low > 0:  # else there is no gap to speak of
                found[value] = self.means.ratio(ours - theirs, most - theirs)
        return low.name, found

    def waiting(self) -> tuple[Waiting, ...]:
        """At every value: the plans, the cap, and the cheapest single arm, all in one batch, as good as the plan."""
        if np.isnan(self.plan.seconds).any():
            return ()
        arms = [c for c in self.curves.values() if c.kind == "arm"]
        found = []
        for i, value in enumerate(self.plan.values[self.plan.at].tolist()):
            some = [c for c in self.curves.values() if c.kind in ("plan", "waiting", "cap")]
            target = self.plan.quality[self.plan.at[i]].mean()
            enough = [c for c in arms if c.quality[0].mean() >= target]
            batch = min(enough, key=lambda c: c.cost[0].mean(), default=None)
            named = [(c.name, c) for c in some]
            if batch is not None:
                named.append((f"{batch.name}, one batch as good", batch))
            for name, curve in named:
                quality, cost = curve.quality[curve.at[i]].mean(), curve.cost[curve.at[i]].mean()
                told = (float(x) for x in (quality, cost, *np.percentile(curve.seconds[i], [50, 95])))
                found.append(Waiting(name, value, *told))
        return tuple(found)


_ASIDE = ("arm", "waiting")
"""Kinds that stand in tables of their own."""


def _needs(spent: np.ndarray, quality: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a curve (..., P) spends for quality `at` (...), and whether it has it; if not, what its best takes."""
    best = quality.max(axis=-1)
    reached = best >= at
    return hull_cost(spent, quality, np.minimum(at, best)), reached
