"""The analysis of plans for people: what was compared, by how much the plan is ahead, what it saves at equal quality.

Nothing is computed here; analysis.py did that.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curves import Interval
from ..printing import bracket, number, share, text_table
from .analysis import Analysis, By, Saved

COLUMNS = 108
"""Width of the text, where names allow it."""


@dataclass(frozen=True, slots=True)
class PlansReport:
    """What `howhard plans` prints. plots : pictures that were drawn."""

    analysis: Analysis
    plots: tuple[Path, ...] = ()

    def text(self, *, width: int = COLUMNS) -> str:
        """Tables and sentences as plain text."""
        a = self.analysis
        shown = _some(a.values, 4)
        title = f"Plans on {a.name}: {a.menu}"
        parts = [title, "=" * len(title), *_filled(_about(a), width), ""]
        parts += _filled([f"* {line}" for line in verdicts(a)], width)
        for two in (shown[:2], shown[2:]):
            if two:
                parts += ["", _standings(a, two, width)]
        parts += _filled(
            [
                "Behind commas: the value of a correct answer, in units. Ahead: the plan's utility (quality - cost / "
                f"value) minus the row's, paired; above 0 the plan is better. Intervals: 95 %, bootstrap by "
                f"{'family' if a.split == 'group' else 'prompt'}."
            ],
            width,
        )
        for by in _measures(a):
            parts += [
                "",
                f"{_SAVED[by]} at equal quality, by the value of a correct answer:",
                _savings(a, by, shown, width),
            ]
        parts += _filled(
            [
                "Saved: what the plan spends less than a rival needs for as good answers; a rival mixes its own points "
                "where that helps it. >: the rival never has that quality; what its best takes is counted instead."
            ],
            width,
        )
        if a.as_good:
            parts += ["", "What the plan needs for the quality of so many samples at once:", _arms(a, width)]
        if a.gap:
            told = ", ".join(f"{number(v)}: {_percent(a.gap[v])}" for v in shown if v in a.gap)
            parts += [
                "",
                *_filled([f"Share of the gap from the {a.gap_from} to the ceiling closed, by value: {told}."], width),
            ]
        if a.waiting:
            parts += ["", "Waiting, in seconds of a request as its tokens foretell them:", _waiting(a, shown, width)]
        parts += [
            "",
            *_filled([f"Note: {note}." for note in a.notes], width),
            *(f"plot: {path}" for path in self.plots),
        ]
        return "\n".join(parts).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.analysis.to_dict(), "verdicts": verdicts(self.analysis), "plots": [str(p) for p in self.plots]}


# ── the verdicts ────────────────────────────────────────────────────────────────────────────────────────────


def verdicts(a: Analysis) -> list[str]:
    """What is to be read first: how often the plan is surely ahead of each rival, and the most that it surely saves."""
    told = []
    for name in dict.fromkeys(s.name for s in a.standings if s.ahead is not None and s.kind not in ("ceiling", "plan")):
        ahead = [s.ahead for s in a.standings if s.name == name and s.ahead is not None]
        better, worse = sum(i.low > 0 for i in ahead), sum(i.high < 0 for i in ahead)
        by: By = _measures(a)[0]
        saved = max((s for s in a.savings(name, by)), key=lambda s: s.share.low)
        text = f"{name}: surely ahead at {better} of {len(ahead)} values, surely behind at {worse}"
        if saved.share.low > 0:
            text += f"; saves up to {_percent(saved.share)} of its {by}, at quality {share(saved.quality)}"
        told.append(f"{text}.")
    return told


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────

_SAVED = {"cost": "Cost saved", "tokens": "Tokens saved"}


def _measures(a: Analysis) -> tuple[By, ...]:
    """Tokens of one backend count alike; where there are two, cost comes first."""
    return ("cost", "tokens") if a.n_legs > 1 else ("tokens",)


def _about(a: Analysis) -> list[str]:
    split = "whole families left out" if a.split == "group" else "prompts left out"
    families = f"{a.n_families} {'family' if a.n_families == 1 else 'families'}"
    left = f" ({a.left_out:,} that lack samples are left out)" if a.left_out else ""
    proves = "proves answers" if a.sound else "does not prove all answers"
    judge = "votes alone" if a.verifier is None else f"verifier {a.verifier}, which {proves}"
    return [
        f"{a.n_prompts:,} prompts{left} of {families}, {a.folds} folds, {split}; {judge}. Everything was learned and "
        "tuned on the other folds' prompts, and is judged by replay on these.",
        f"Unit of cost: one sample of the first backend with its prompt, {number(a.unit)} in the log's currency "
        f"({a.currency}).",
    ]


def _standings(a: Analysis, values: Sequence[float], width: int) -> str:
    columns, rows = [], []
    for v in values:
        columns += [f"quality, {number(v)}", f"cost, {number(v)}", f"plan ahead, {number(v)}"]
    names = dict.fromkeys(s.name for s in a.standings)
    for name in names:
        cells = []
        for v in values:
            s = a.standing(name, v)
            cells += [
                share(s.quality.mean),
                number(s.cost.mean),
                "" if s.ahead is None else bracket(s.ahead, sign=True),
            ]
        rows.append((name, cells))
    return text_table(columns, rows, width=width, rules_after=(0,))


def _savings(a: Analysis, by: By, values: Sequence[float], width: int) -> str:
    def cell(s: Saved) -> str:
        return f"{'' if s.reached else '> '}{_percent(s.share)}"

    rows = []
    for name in dict.fromkeys(s.rival for s in a.saved):
        found = {s.value: s for s in a.savings(name, by)}
        rows.append((name, [cell(found[v]) for v in values]))
    return text_table([f"value {number(v)}" for v in values], rows, width=width)


def _arms(a: Analysis, width: int) -> str:
    def cell(i: Interval, spent: float) -> str:
        return "never as good" if i.mean != i.mean and spent > 0 else _percent(i)

    rows = [
        (
            x.arm,
            (
                share(x.quality),
                number(x.cost),
                cell(x.cost_share, x.cost),
                number(x.tokens),
                cell(x.tokens_share, x.tokens),
            ),
        )
        for x in a.as_good
    ]
    return text_table(("quality", "cost", "the plan's share", "tokens", "its share of these"), rows, width=width)


def _waiting(a: Analysis, values: Sequence[float], width: int) -> str:
    rows = [
        (f"{w.name}, value {number(w.value)}", (share(w.quality), number(w.cost), number(w.p50), number(w.p95)))
        for v in values for w in a.waiting if w.value == v
    ]  # fmt: skip
    return text_table(("quality", "cost", "p50", "p95"), rows, width=width)


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────


def _some(values: Sequence[float], most: int) -> tuple[float, ...]:
    """At most so many of the values, spread evenly, neither end where there are more."""
    if len(values) <= most:
        return tuple(values)
    step = len(values) / most
    return tuple(values[int(step * (i + 0.5))] for i in range(most))


def _percent(i: Interval) -> str:
    if i.mean != i.mean:
        return "n/a"
    return f"{100 * i.mean:.0f} % [{100 * i.low:.0f}, {100 * i.high:.0f}]"


def _filled(lines: Sequence[str], width: int) -> list[str]:
    return [textwrap.fill(line, width, subsequent_indent="  ") for line in lines]
