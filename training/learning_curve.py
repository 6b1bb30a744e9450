"""How much does a router gain by how many outcomes were logged, and in what form?

Routers are fitted on parts of a table and paid on prompts that none of them saw, with the same prompts held out for
every part of a round:

    full    : every arm on each of so many prompts
    sparse  : one or two arms per prompt, drawn at random, at equal numbers of outcomes
    new arm : the other arms on all prompts, and one arm added with a few outcomes

A round has its own prompts held out and its own parts; figures are means over rounds with their spread. The first
round is made whole, the others as far as time reaches, so a curve can be stopped and holds what was seen so far.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..router.features import Features
from ..router.objective import Objective
from ..strategies import ArmSpec, VerifierSpec
from ..strategies.errors import ConfigError, TableError
from .fit import FitSettings, features_of, fit
from .folds import fold_of
from .judge import LAMBDAS, fixed_at, price_of
from .matrix import OutcomeMatrix

Progress = Callable[[int, int], None]

FULL = "all arms per prompt"
ONE = "one arm per prompt"
TWO = "two arms per prompt"
FEWEST = 50
"""Prompts of the smallest part."""
POOL = 0.64
"""Share of the prompts in the largest part; a third is held out."""
NEW_ARM_OUTCOMES = (50, 100, 200)
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean over rounds, and its 95 % interval by Student's t; NaN ends where there was one round."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value per round."""
        n, mean = len(values), float(np.mean(values))
        if n < 2:
            return cls(mean=mean, low=float("nan"), high=float("nan"))
        t = T_975[min(n - 2, len(T_975) - 1)]
        half = t * float(np.std(values, ddof=1)) / n**0.5
        return cls(mean=mean, low=mean - half, high=mean + half)

    def __str__(self) -> str:
        ends = "" if np.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.mean:+.3f}{ends}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A router fitted on a part of the outcomes.

    kind     : FULL, ONE, TWO, or "new arm: NAME".
    outcomes : of all arms that it learned from; for a new arm, of that arm alone.
    gains    : at each of the curve's lambdas: utility above the best fixed arm of the prompts held out, in quality.
    skill    : share of the variance of differences between arms that its predictions explain; below 0 = worse than
               the arms' means.
    rounds   : that this point was fitted in.
    """

    kind: str
    outcomes: int
    gains: tuple[Spread, ...]
    skill: Spread
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Points by kind and number of outcomes, and what they are in.

    lambdas : prices of compute: utility = quality - lambda * cost / the dearest arm's mean cost.
    new_arm : the arm that was held back in the points of that kind; None where there are none.
    """

    name: str
    points: tuple[Point, ...]
    lambdas: tuple[float, ...]
    n_prompts: int
    n_held_out: int
    arms: tuple[str, ...]
    new_arm: str | None
    rounds: int
    seconds: float
    stopped_because: str = ""

    def of(self, kind: str) -> tuple[Point, ...]:
        """The points of a kind, by rising number of outcomes."""
        return tuple(sorted((p for p in self.points if p.kind == kind), key=lambda p: p.outcomes))

    @property
    def kinds(self) -> tuple[str, ...]:
        """In the order of their first points."""
        return tuple(dict.fromkeys(p.kind for p in self.points))

    def text(self) -> str:
        """For people."""
        columns = [f"gain at lambda {x:g}" for x in self.lambdas]
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        lines = [
            f"{self.name}: {self.n_prompts:,} prompts, {len(self.arms)} arms; each router is paid on "
            f"{self.n_held_out:,} prompts held out, {rounds}, {self.seconds:.0f} s",
            "",
        ]
        for kind in self.kinds:
            new = self.new_arm is not None and kind.startswith("new arm")
            lines.append(f"{kind}, beside full logs of the others" if new else kind)
            lines.append(
                f"{'its outcomes' if new else 'outcomes':>14}" + "".join(f"{c:>26}" for c in [*columns, "skill"])
            )
            for p in self.of(kind):
                cells = [*(str(g) for g in p.gains), str(p.skill)]
                fewer = "" if p.rounds == self.rounds else f"   ({p.rounds} of {self.rounds} rounds)"
                lines.append(f"{p.outcomes:>14,}" + "".join(f"{c:>26}" for c in cells) + fewer)
            lines.append("")
        lines.append(
            "gain: utility above the best fixed arm of the same prompts, in quality; skill: share of the variance of "
            "differences between arms that is explained. Intervals are over rounds."
        )
        if self.stopped_because:
            lines.append(f"stopped: {self.stopped_because}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""

        def plain(spread: Spread) -> dict[str, float | None]:
            return {k: None if np.isnan(v) else v for k, v in dataclasses.asdict(spread).items()}

        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found["points"] = [
            {
                "kind": p.kind,
                "outcomes": p.outcomes,
                "gains": [plain(g) for g in p.gains],
                "skill": plain(p.skill),
                "rounds": p.rounds,
            }
            for p in self.points
        ]
        return found

    def plot(self, path: Path) -> None:
        """Draw the gains over the outcomes, a panel for each lambda."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        figure = Figure(figsize=(5.2 * len(self.lambdas), 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        panels = np.atleast_1d(figure.subplots(1, len(self.lambdas)))
        for i, (panel, price) in enumerate(zip(panels, self.lambdas, strict=True)):
            for j, kind in enumerate(self.kinds):
                points = self.of(kind)
                x = np.array([p.outcomes for p in points], dtype=float) * (
                    1 + 0.02 * j
                )  # so that bars do not hide bars
                y = np.array([[p.gains[i].mean, p.gains[i].low, p.gains[i].high] for p in points])
                reach = np.nan_to_num(np.abs(y[:, 1:] - y[:, :1]).T)
                style = "--" if kind.startswith("new arm") else "-"
                panel.errorbar(x, y[:, 0], yerr=reach, marker="o", markersize=4, capsize=2, linestyle=style, label=kind)
            panel.axhline(0, color="grey", linewidth=0.8)
            panel.set_xscale("log")
            ticks = sorted({p.outcomes for p in self.points})
            kept = [t for k, t in enumerate(ticks) if not k or t > 1.4 * ticks[k - 1]]
            panel.xaxis.set_major_locator(FixedLocator(kept))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            panel.tick_params(axis="x", labelrotation=45)
            panel.set_xlabel("outcomes logged" + (" (of the new arm, where dashed)" if self.new_arm else ""))
            panel.set_title(f"lambda {price:g}", fontsize=10)
        panels[0].set_ylabel("utility above the best fixed arm")
        panels[0].legend(fontsize=8)
        figure.suptitle(f"{self.name}: what a router gains by the outcomes it learned from", fontsize=11)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)


def learning_curve(
    matrix: OutcomeMatrix,
    *,
    name: str = "outcomes",
    rounds: int = 5,
    seconds: float | None = 100.0,
    settings: FitSettings | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    new_arm: str | None = None,
    specs: Mapping[str, ArmSpec | None] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    features: Features | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LearningCurve:
    """Fit routers on growing parts of a table, and pay them on prompts held out at random.

    rounds  : each with a third of the prompts held out, one of three folds; after three the prompts are dealt anew.
    seconds : no fit is begun after so many, but those of the first round, which is made whole; then small parts come
              before large ones. None = no limit.
    new_arm : which arm is held back; None = the dearest one where there are three arms or more, since of two arms one
              alone is no router.
    features : of the prompts, where the caller has them already.

    Prompts that lack an arm's outcome are left out: parts are compared at equal outcomes. Ctrl-C ends the curve with
    the points seen. Raises ConfigError for an arm that is not there or no round; TableError for too few prompts.
    """
    if rounds < 1:
        raise ConfigError(f"rounds={rounds}: at least 1 is needed")
    if not lambdas or min(lambdas) <= 0:
        raise ConfigError(f"lambdas={tuple(lambdas)}: at least one is needed, and each above 0")
    started = time.monotonic()
    settings = settings or FitSettings()
    keep = np.asarray(~np.isnan(matrix.quality).any(axis=1))
    if keep.sum() < 3 * FEWEST:
        raise TableError(
            f"{int(keep.sum())} prompts have outcomes of all arms: a learning curve needs {3 * FEWEST} or more"
        )
    x = features_of(matrix.texts, settings.features) if features is None else features
    # By families a fit only learns what to make of prompts unlike the log, of which there are none here.
    whole, x = dataclasses.replace(matrix, families=("",) * len(matrix)).rows(keep), x[keep]
    arm = _new_arm(whole, new_arm)
    seen: dict[tuple[str, int], list[tuple[np.ndarray, float]]] = {}
    stopped, done = "", 0
    plan = list(_parts(whole, arm, seed=seed, fold=0))
    first = len(plan)
    others = [part for r in range(1, rounds) for part in _parts(whole, arm, seed=seed + r // 3, fold=r % 3)]
    plan += sorted(others, key=lambda part: len(part.learn))  # small parts vary most, and cost least
    try:
        for part in plan:
            if done >= first and seconds is not None and time.monotonic() - started >= seconds:
                stopped = f"{seconds:g} s were over; give more time or fewer rounds"
                break
            log = _only(whole.rows(part.learn), part.ran)
            fitted = fit(log, settings=settings, specs=specs, verifiers=verifiers, features=x[part.learn])
            outcome = _paid(whole.rows(part.held), fitted.predict(whole.rows(part.held), x[part.held]), fitted, lambdas)
            seen.setdefault((part.kind, part.outcomes), []).append(outcome)
            done += 1
            if progress is not None:
                progress(done, len(plan))
    except KeyboardInterrupt:
        if not seen:
            raise
        stopped = "interrupted"
    points = tuple(
        Point(
            kind=kind,
            outcomes=outcomes,
            gains=tuple(Spread.of([gain[i] for gain, _ in found]) for i in range(len(lambdas))),
            skill=Spread.of([skill for _, skill in found]),
            rounds=len(found),
        )
        for (kind, outcomes), found in seen.items()
    )
    return LearningCurve(
        name=name,
        points=points,
        lambdas=tuple(lambdas),
        n_prompts=len(whole),
        n_held_out=len(plan[0].held),
        arms=whole.arms,
        new_arm=None if arm is None else whole.arms[arm],
        rounds=max(p.rounds for p in points),
        seconds=time.monotonic() - started,
        stopped_because=stopped,
    )


# ── parts of a table ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """The prompts (positions) to learn from, which arms (n, a) were run on each, and the prompts that are paid on."""

    kind: str
    outcomes: int
    learn: np.ndarray
    ran: np.ndarray
    held: np.ndarray


def _parts(matrix: OutcomeMatrix, new_arm: int | None, *, seed: int, fold: int) -> Iterator[_Part]:
    """The parts of one round, the small ones first."""
    a = len(matrix.arms)
    dealt = fold_of(matrix.families, split="prompt", folds=3, seed=seed, clusters=matrix.clusters)
    rng = np.random.default_rng([seed, fold])
    held, pool = np.flatnonzero(dealt == fold), rng.permutation(np.flatnonzero(dealt != fold))
    order = np.argsort(rng.random((len(pool), a)), axis=1)  # of each prompt, its arms as they come

    def part(kind: str, n: int, per_prompt: int) -> _Part:
        return _Part(kind=kind, outcomes=n * per_prompt, learn=pool[:n], ran=order[:n] < per_prompt, held=held)

    # Folds differ by a cluster's size; the largest part is the same in every round.
    pool = pool[: int(POOL * len(matrix))]
    order = order[: len(pool)]
    sizes = _sizes(len(pool))
    for n in sizes:
        yield part(FULL, n, a)
        for kind, per_prompt in ((ONE, 1), (TWO, 2)):
            prompts = n * a // per_prompt
            if per_prompt < a and prompts <= len(pool):
                yield part(kind, prompts, per_prompt)
    if new_arm is None:
        return
    kind = f"new arm: {matrix.arms[new_arm]}"
    every = np.ones((len(pool), a), dtype=bool)
    for n in (*(k for k in NEW_ARM_OUTCOMES if k < len(pool)), len(pool)):
        ran = every.copy()
        ran[n:, new_arm] = False
        yield _Part(kind=kind, outcomes=n, learn=pool, ran=ran, held=held)


def _sizes(most: int) -> list[int]:
    """Numbers of prompts, twice as many each time and all in the end; the last doubling is left out if it is near."""
    sizes = [FEWEST]
    while 2 * sizes[-1] <= 0.75 * most:
        sizes.append(2 * sizes[-1])
    return [*sizes, most]


def _only(matrix: OutcomeMatrix, ran: np.ndarray) -> OutcomeMatrix:
    """The table as if only these arms (n, a) had been run."""
    arrays = {
        name: np.where(ran, getattr(matrix, name), np.nan) for name in ("quality", "cost", "tokens", "latency", "draws")
    }
    return dataclasses.replace(matrix, **arrays)


def _new_arm(matrix: OutcomeMatrix, name: str | None) -> int | None:
    if name is not None:
        return matrix.arms.index(matrix.columns([name]).arms[0])
    return int(np.argmax(matrix.arm_cost)) if len(matrix.arms) > 2 else None


def _paid(held: OutcomeMatrix, estimates: Any, fitted: Any, lambdas: Sequence[float]) -> tuple[np.ndarray, float]:
    """Gains (lambdas,) above the best fixed arm of the prompts held out, and the skill of predicted differences."""
    gains, at, dearest = [], np.arange(len(held)), float(held.arm_cost.max())
    fixed = fixed_at(held, lambdas).mean(axis=1)
    for price, best in zip(lambdas, fixed, strict=True):
        objective = Objective(value=price_of(held, price), on_infeasible="fallback")
        picks = fitted.policy.choose(estimates, objective).index
        gains.append((held.quality[at, picks] - price / dearest * held.cost[at, picks]).mean() - best)

    def differences(quality: np.ndarray) -> np.ndarray:
        return quality - quality.mean(axis=1, keepdims=True)

    true = differences(held.quality)
    spread = ((true - true.mean(axis=0)) ** 2).sum()
    skill = 1 - ((differences(estimates.quality) - true) ** 2).sum() / spread if spread > 0 else 0.0
    return np.array(gains), float(skill)
