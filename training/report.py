"""Evaluations for people: whether the router is worth having, then the tables that say why, and the plots.

Nothing is computed here; judge.py and its neighbours did that. What a reader wants first stands first: the verdicts,
then one table per split with everybody at each price of compute, then the details.
"""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .curves import Interval
from .evaluate import Skipped
from .flagging import Flagging
from .judge import AtPrice, Evaluation, Row, plain
from .printing import WIDTH, bracket, number, plus_minus, share, text_table
from .report_plots import PIXELS, plot_benefit, plot_calibration, plot_families, plot_plane
from .sanity import Sanity, Spread
from .worth import Line, summary, worth_having

__all__ = ["PIXELS", "Report", "evaluation_text", "summary_text"]

_SPLITS = {
    "prompt": "random prompts left out",
    "group": "whole families of prompts left out",
    "time": "later prompts, by what was learned from earlier ones",
    "holdout": "held-out prompts",
}
_ORDER = ("arm", "router", "baseline", "control", "oracle")


@dataclass(frozen=True, slots=True)
class Report:
    """Evaluations of one table under a title; what commands print."""

    title: str
    evaluations: Sequence[Evaluation | Skipped]

    @property
    def done(self) -> tuple[Evaluation, ...]:
        """The evaluations that could be had."""
        return tuple(e for e in self.evaluations if isinstance(e, Evaluation))

    def text(self, *, width: int = WIDTH, verdicts: bool = True) -> str:
        """The tables and sentences as plain text, at most `width` characters wide where arm names allow it.

        verdicts : begin with them; not where they stand above several reports, read together.
        """
        parts = [self.title, "=" * len(self.title)]
        if verdicts and (lines := summary([("", self.done)])):
            parts += ["", summary_text(lines, width=width)]
        for e in self.evaluations:
            parts += ["", _filled(_skipped(e), width) if isinstance(e, Skipped) else evaluation_text(e, width=width)]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "title": self.title,
            "evaluations": [e.to_dict() for e in self.evaluations],
            "verdicts": [plain(asdict(line)) for line in summary([("", self.done)])],
        }

    def plot(self, path: str | Path) -> Path:
        """Draw every evaluation's cost-quality plane into one PNG, a panel each; returns the path."""
        return plot_plane(self.done, path, title=self.title)

    def plots(self, path: str | Path) -> tuple[Path, ...]:
        """The plane, and beside it PATH-calibration, PATH-benefit and, where prompts are flagged, PATH-families.

        () where no evaluation was possible.
        """
        path = Path(path)
        if not self.done:
            return ()
        made = [self.plot(path)]
        for name, draw in (("calibration", plot_calibration), ("benefit", plot_benefit), ("families", plot_families)):
            drawn = draw(self.done, path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}"), title=self.title)
            if drawn is not None:
                made.append(drawn)
        return tuple(made)


# ── the verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────


def summary_text(lines: Sequence[Line], *, width: int = WIDTH) -> str:
    """Every comparison with the best fixed arm in one table, simultaneous intervals beside the single ones."""
    tables = len({line.table for line in lines}) > 1
    rows = [
        (
            " ".join(x for x in (line.table if tables else "", _SHORT[line.split], f"lambda {line.price:g}") if x),
            (bracket(line.gain, sign=True), bracket(line.together, sign=True), line.worth.short),
        )
        for line in lines
    ]
    m = len(lines)
    columns = ("gain over best fixed arm", f"all {m} together" if m > 1 else "", "worth having?")
    if m == 1:
        rows = [(name, (gain, "", mark)) for name, (gain, _, mark) in rows]
    told = [
        "Gain: of utility = quality - lambda * cost / (the dearest arm's mean cost), per prompt, over the best fixed "
        "arm AT that lambda on these very prompts.",
    ]
    if m > 1:
        told.append(
            f"Intervals: 95 % each; of the {m} comparisons read together, the right ones hold all at once with 95 % "
            "(max-t bootstrap), and the last column goes by those."
        )
    return "\n".join([text_table(columns, rows, width=width), *(_filled(t, width) for t in told)])


_SHORT = {"prompt": "prompts", "group": "families", "time": "time", "holdout": "held out"}


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluation_text(e: Evaluation, *, width: int = WIDTH) -> str:
    """One evaluation as text: heading, verdicts, the contest at each price, then the details."""
    head = (
        f"{_SPLITS[e.split]}: {e.n_prompts:,} prompts, {e.n_families:,} {'family' if e.n_families == 1 else 'families'}"
    )
    if e.folds > 1:
        head += f", {e.folds} folds"
    parts = [head, "-" * len(head)]
    parts += [_filled(f"At lambda {p.price:g}: {worth_having(e, p).sentence}.", width) for p in e.prices]
    for i in range(0, len(e.prices), 2):
        parts += ["", _contest(e.prices[i : i + 2], width)]
    if e.prices:
        by = "family" if e.split == "group" else "prompt"
        parts.append(
            _filled(
                f"Gain: over the best fixed arm of that lambda. Router ahead: its utility minus the row's, paired; "
                f"above 0 the router is better. Intervals: 95 %, bootstrap by {by}.",
                width,
            )
        )
        parts += [_filled(_at(p), width) for p in e.prices]
    if e.against is not None:
        parts += ["", *(_filled(t, width) for t in _against(e))]
    parts += ["", "With the value of a correct answer that was chosen on validation prompts:", _table(e, width)]
    parts += [_filled(t, width) for t in _sentences(e)]
    parts += ["", _calibration(e, width), *(_filled(t, width) for t in _forecasts(e))]
    for p in e.prices[-1:]:
        if p.flagging is not None:
            parts += ["", *(_filled(t, width) for t in _flags(e, p, p.flagging))]
            parts += _families(p.flagging, width) if e.split == "group" else []
    if e.sanity is not None and any(x is not None for x in (e.sanity.shuffled, e.sanity.refits, e.sanity.folds)):
        parts += ["", *(_filled(t, width) for t in _sane(e.sanity))]
    parts += [_filled(f"Note: {note}.", width) for note in e.notes]
    return "\n".join(parts)


def _contest(prices: Sequence[AtPrice], width: int) -> str:
    """Every contender at one or two prices, side by side."""
    columns, names = [], {s.name: s.kind for p in prices for s in p.standings}
    for p in prices:
        columns += [
            f"quality, {p.price:g}",
            f"cost, {p.price:g}",
            f"gain, lambda {p.price:g}",
            f"router ahead, {p.price:g}",
        ]
    rows = []
    for name in names:
        cells = []
        for p in prices:
            s = p.standing(name)
            ahead = "" if s is p.router else bracket(s.ahead, sign=True)
            cells += [share(s.quality), share(s.cost), bracket(s.gain, sign=True), ahead]
        best = [f"{p.price:g}" for p in prices if p.best_arm == name]
        rows.append((f"{name} *" if best else name, cells))
    kinds = list(names.values())
    rules = [i for i, (a, b) in enumerate(itertools.pairwise(kinds)) if a != b]
    spare = [c for c in columns if c.startswith(("cost", "quality"))][::-1]
    return text_table(columns, rows, width=width, spare=spare, rules_after=rules)


def _at(p: AtPrice) -> str:
    true_gap = ""
    if p.true_oracle_gap is not None:
        surely = p.standing("oracle (true probabilities)").gain.low > 0
        true_gap = f", of true probabilities {bracket(p.true_oracle_gap) if surely else 'none, it gains nothing sure'}"
    errors = ", ".join(f"x {f:g} {bracket(i, sign=True)}" for f, i in p.cost_errors.items())
    return (
        f"At lambda {p.price:g} (a correct answer is worth {number(p.value)}): over the fixed arm that was best on the "
        f"training prompts {bracket(p.over_fallback, sign=True)}, over the mix of fixed arms at equal cost "
        f"{bracket(p.over_hull, sign=True)}; share of the gap to the oracle closed: peeking "
        f"{bracket(p.oracle_gap)}{true_gap}; gain where costs turn out {errors}; the fallback arm stood in on "
        f"{100 * p.fallback_share:.0f} % of the prompts."
    )


def _against(e: Evaluation) -> list[str]:
    a = e.against
    assert a is not None
    left = f" ({a.missing:,} prompts that its file lacks are left out)" if a.missing else ""
    told = [f"Against {a.name}, on {a.n:,} prompts{left}, router minus {a.name}:"]
    told += [
        f"  lambda {d.price:g}: quality {bracket(d.quality, sign=True)}, cost {plus_minus(d.cost)}, utility "
        f"{bracket(d.utility, sign=True)}; the same arm on {100 * d.agree:.0f} %."
        for d in a.prices
    ]
    return told


def _table(e: Evaluation, width: int) -> str:
    """The rows as a table; where it is too wide, AIQ and then the ratio of costs are left out, and no figure is cut."""
    columns: dict[str, Callable[[Row], str]] = {
        "quality": lambda r: bracket(r.quality),
        "cost": lambda r: plus_minus(r.cost),
        "x best": lambda r: number(r.cost_ratio.mean),
        "tokens": lambda r: "" if r.tokens is None else plus_minus(r.tokens),
        "seconds": lambda r: "" if r.latency is None else plus_minus(r.latency),
        "over the mix": lambda r: bracket(r.over_hull, sign=True),
        "AIQ": lambda r: "" if r.aiq is None else share(r.aiq.mean),
    }
    rows = sorted(e.rows, key=lambda r: _ORDER.index(r.kind))
    return text_table(
        list(columns),
        [(f"{r.name} *" if r.name == e.best_arm else r.name, [cell(r) for cell in columns.values()]) for r in rows],
        width=width,
        spare=("AIQ", "x best"),
        rules_after=[
            i for i, (row, after) in enumerate(itertools.pairwise(rows))
            if after.kind != row.kind and row.kind in ("arm", "router", "baseline")
        ],
    )  # fmt: skip


def _sentences(e: Evaluation) -> list[str]:
    router = e.router
    by = "family" if e.split == "group" else "prompt"
    rival = e.cost_below_hull.mean
    mix = f"the mix that is as good costs {number(1 / rival)} times as much" if rival > 0 else "no mix is as good"
    true_gap = e.true_oracle_gap
    beside = "" if true_gap is None else f"; to the oracle of true probabilities {bracket(true_gap)}"
    matched = e.cost_at_quality
    reach = (
        f"at the best fixed arm's quality it costs {bracket(matched)} times as much, at that arm's cost it is better "
        f"by {bracket(e.quality_at_cost, sign=True)}"
        if matched.mean == matched.mean
        else "it does not reach the best fixed arm's quality"
    )
    return [
        f"* the best fixed arm. Intervals: 95 %, paired bootstrap by {by}. Cost is in {_unit(e.unit)}.",
        f"Router against the best fixed arm: quality {bracket(router.over_best, sign=True)} at "
        f"{bracket(router.cost_ratio)} of its cost.",
        f"Router over the mix of fixed arms at equal cost: {bracket(router.over_hull, sign=True)}; {mix}.",
        f"Along the router's curve: AIQ above the mix's by {bracket(e.router_aiq_over_hull, sign=True)}; {reach}.",
        f"At {number(e.value)} for a correct answer, share of the utility from the best fixed arm to the peeking "
        f"oracle: {bracket(e.oracle_gap)}{beside}.",
        f"Picks: {_picks(router)}.",
        f"The guard held the fallback arm on {100 * e.fallback_share:.0f} % of the prompts.",
    ]


# ── how good the estimates are ───────────────────────────────────────────────────────────────────────────────────


def _calibration(e: Evaluation, width: int) -> str:
    columns = ("calibration error", "of a perfect forecaster", "", "slope of its benefit")
    rows = []
    for arm in e.forecasting.arms:
        slope = e.forecasting.benefit.arms.get(arm.arm)
        told = "in its range" if arm.in_order else "ABOVE its range"
        cells = (share(arm.error), f"{share(arm.perfect.low)} to {share(arm.perfect.high)}", told)
        rows.append((arm.arm, (*cells, "" if slope is None else bracket(slope))))
    return "Calibration of the router's estimates, by arm:\n" + text_table(columns, rows, width=width)


def _forecasts(e: Evaluation) -> list[str]:
    f, slope = e.forecasting, e.forecasting.benefit.slope
    outside = [a.arm for a in f.arms if not a.in_order]
    judged = f"{len(outside)} of {len(f.arms)} arms above it" if outside else "every arm within it"
    if slope is None:
        held = "it predicts no differences between prompts, so there is no slope"
    else:
        held = f"slope of realised on predicted benefit {bracket(slope)}, " + (
            "1 is inside" if slope.low <= 1 <= slope.high else "overconfident" if slope.high < 1 else "too cautious"
        )
    alone = "; that range takes prompts for independent, which those of a family are not" if e.split == "group" else ""
    return [
        f"Range: 95 % of tables of as many prompts whose forecaster is perfect ({judged}{alone}).",
        f"Estimates: Brier skill {bracket(f.brier_skill)}, of the differences between arms "
        f"{bracket(f.benefit_skill)}; {held}.",
    ]


# ── flags of unfamiliar prompts ──────────────────────────────────────────────────────────────────────────────────


def _flags(e: Evaluation, p: AtPrice, f: Flagging) -> list[str]:
    false = " (all false alarms: no family is new here)" if e.split in ("prompt", "holdout") else ""
    return [
        f"Unfamiliar prompts flagged: {_percent(f.share)}{false}. Gain at lambda {p.price:g} with the flag "
        f"{bracket(f.with_flag, sign=True)}, without {bracket(f.without, sign=True)}; the flag adds "
        f"{bracket(f.net, sign=True)}."
    ]


def _families(f: Flagging, width: int, most: int = 24) -> list[str]:
    """A line per family where the flag changed anything, the largest effects first."""
    effect = sorted(f.families, key=lambda x: -abs(x.with_flag - x.without) * x.n)
    shown = [x for x in effect if x.with_flag != x.without][:most]
    if not shown:
        return []
    rows = [(x.family, (f"{x.n:,}", f"{100 * x.share:.0f} %", _signed(x.with_flag), _signed(x.without))) for x in shown]
    table = text_table(("prompts", "flagged", "gain with the flag", "without"), rows, width=width)
    left = len(f.families) - len(shown)
    return [table, *([f"({left} more families, where the flag changes little or nothing)"] if left else [])]


# ── sanity ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _sane(s: Sanity) -> list[str]:
    told = []
    if s.shuffled is not None:
        worst = any(i.low > 0 for _, i in s.shuffled)
        found = "; ".join(f"lambda {p:g} {bracket(i, sign=True)}" for p, i in s.shuffled)
        told.append(
            f"Outcomes dealt out at random, where nothing can be had: {found}"
            f"{': SOMETHING IS WRONG, a gain was found in noise' if worst else ''}."
        )
    if s.refits is not None:
        told.append(f"Refitted with {len(s.refits[0].means)} seeds: {_spreads(s.refits)}.")
    if s.folds is not None:
        told.append(f"Over {len(s.folds[0].means)} fold seeds: {_spreads(s.folds)}.")
        for x in s.folds:
            ahead = ", ".join(f"{name} {bracket(i, sign=True)}" for name, i in x.ahead.items())
            if ahead:
                told.append(f"  ahead at lambda {x.price:g}, mean over the seeds: {ahead}.")
    return told


def _spreads(found: Sequence[Spread]) -> str:
    return "; ".join(
        f"lambda {x.price:g} gain {bracket(x.gain, sign=True)}, seeds from {_signed(min(x.means))} to "
        f"{_signed(max(x.means))}" + ("" if x.sd is None else f" (sd {share(x.sd)})")
        for x in found
    )


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ")


def _signed(x: float) -> str:
    text = share(x)
    return f"+{text}" if x == x and float(text) > 0 else text


def _percent(i: Interval) -> str:
    return f"{100 * i.mean:.1f} % [{100 * i.low:.1f}, {100 * i.high:.1f}]"


def _skipped(e: Skipped) -> str:
    return f"{_SPLITS[e.split]}: not possible, {e.reason}."


def _picks(row: Row) -> str:
    ranked = sorted(row.shares.items(), key=lambda s: -s[1])
    return ", ".join(f"{arm} {100 * share:.0f} %" for arm, share in ranked)


def _unit(unit: str) -> str:
    return "the unit of the table" if unit == "cost" else unit
