"""A comparison for people: the table of this field with intervals, and accuracy against tokens as a PNG.

Nothing is computed here; compare_figures.py did that.
"""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .compare_figures import Against, Comparison, Row
from .curves import Interval
from .printing import WIDTH, bracket, name_points, number, plus_minus, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 1100, 720
WHOLE = 160
"""Width that every column fits in, where nobody's terminal is narrower."""
_COLOURS = ("#1f5fbf", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#555555")


@dataclass(frozen=True, slots=True)
class CompareReport:
    """What `howhard compare` prints."""

    comparison: Comparison
    plot: Path | None = None

    def text(self, *, width: int | None = None) -> str:
        """The table and what must be known about it.

        width : the table leaves columns out to keep it; None = the terminal's, where there is one.
        """
        c = self.comparison
        if width is None:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WHOLE
        told = [*_sentences(c), *_left_out(c)]
        parts = [c.title, "=" * len(c.title), "", _table(c, width)]
        fill = textwrap.TextWrapper(min(width, WIDTH), subsequent_indent="  ", break_on_hyphens=False).fill
        parts += [fill(line) for line in told]
        parts += [f"{what}: {path}" for what, path in (("plot", self.plot), ("log", c.log)) if path is not None]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; figures that are not numbers are null."""
        c = self.comparison
        plain = msgspec.to_builtins({name: getattr(c, name) for name in c.__slots__ if name != "log"}, enc_hook=str)
        return _finite(
            {**plain, "log": None if c.log is None else str(c.log), "plot": str(self.plot) if self.plot else None}
        )


def _finite(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and node != node else node


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(c: Comparison, width: int) -> str:
    columns = (
        "accuracy",
        "tokens",
        "drawn",
        "cost",
        "x single",
        "calls",
        "p50 s",
        "p95 s",
        "over best-of-N",
        "over votes",
    )
    rows = [
        (
            r.label,
            [
                bracket(r.accuracy),
                plus_minus(r.tokens),
                plus_minus(r.completion_tokens),
                plus_minus(r.cost),
                "" if r.times_single is None else number(r.times_single),
                number(r.calls),
                "" if r.latency is None else number(r.latency[0]),
                "" if r.latency is None else number(r.latency[1]),
                _against(r.over_best_of_n),
                _against(r.over_vote),
            ],
        )
        for r in c.rows
    ]
    rules = [i for i, (r, after) in enumerate(zip(c.rows, c.rows[1:], strict=False)) if r.backend != after.backend]
    return text_table(columns, rows, width=width, spare=("calls", "drawn", "x single"), rules_after=rules)


def _against(against: Against | None) -> str:
    if against is None:
        return ""
    return against.why if against.difference is None else bracket(against.difference, sign=True)


def _sentences(c: Comparison) -> list[str]:
    told = [
        f"{_prompts(c)}, the same for every arm. Intervals: 95 %, paired bootstrap by prompt. Tokens, per prompt: "
        "what was computed: read (the prompt once, and what no cache had), drawn, and the verifier's; `drawn` those of "
        f"completions alone. Cost in {c.currency}; "
        "x single: against the first single pass."
    ]
    if any(r.latency is not None for r in c.rows):
        told.append(
            f"p50, p95: seconds of each arm alone, one request at a time after a warm-up, on {c.n_alone} of the "
            "prompts; they had been served before, so a server that caches prompts reads them faster than new ones."
        )
    compared = [against for r in c.rows for against in (r.over_best_of_n, r.over_vote) if against is not None]
    if compared:
        told.append(
            "over: accuracy less that of best-of-N, or of votes, at EQUAL tokens: the curve over N, interpolated in "
            "log tokens between the arms marked `on it`, of the same backend and, where there is one, with the same "
            "verifier (which weighs the votes)."
        )
    if any(against.why == "beyond" for against in compared):
        told[-1] += " `beyond`: it spends more than the largest N, so nothing is said."
    if c.incomplete:
        told.append(f"{c.incomplete:,} prompts lack a result of some arm and seed; such a pair counts for no arm.")
    told += [f"Failed: {problem}" for problem in c.problems if not any(problem in why for why in c.left_out.values())]
    if c.ran:
        told.append(f"{c.ran:,} runs in {c.seconds:.0f} s; what the log held already was not run again.")
    return told


def _left_out(c: Comparison) -> list[str]:
    """Which arms are not in the table, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for label, why in c.left_out.items():
        by_reason.setdefault(why, []).append(label)
    return [f"Left out: {', '.join(labels)}: {why}" for why, labels in by_reason.items()]


def _prompts(c: Comparison) -> str:
    return f"{c.n_prompts:,} prompt{'s'[: c.n_prompts != 1]}, {c.n_seeds} seed{'s'[: c.n_seeds != 1]}"


# ── the plot ─────────────────────────────────────────────────────────────────────────────────────────────────────


def plot(c: Comparison, path: str | Path) -> Path:
    """Draw accuracy against tokens per prompt on a logarithmic axis, with intervals; returns the path.

    Each arm is named at its point; arms that differ in N alone are joined by a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    backends = list(dict.fromkeys(r.backend for r in c.rows))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(backends)}
    _draw(axis, c, colours)
    figure.suptitle(c.title, fontsize=12)
    canvas.draw()
    figure.set_layout_engine("none")  # labels are placed on the final axes, so nothing may move after this
    name_points(
        axis,
        [(_name(r, backends), r.tokens.mean, r.accuracy.mean) for r in c.rows],
        canvas.get_renderer(),
        colours=[colours[r.backend] for r in c.rows],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _draw(axis: "Axes", c: Comparison, colours: Mapping[str, str]) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    by_label = {r.label: r for r in c.rows}
    axis.set_xscale("log")
    for labels in c.curves.values():
        points = [by_label[label] for label in labels]
        axis.plot(
            [r.tokens.mean for r in points],
            [r.accuracy.mean for r in points],
            color=colours[points[-1].backend],
            lw=1.4,
            alpha=0.6,
            zorder=2,
        )
    shown: set[str] = set()
    for r in c.rows:
        axis.errorbar(
            [r.tokens.mean],
            [r.accuracy.mean],
            yerr=_around(r.accuracy),
            fmt="s" if _single(r) else "o",
            color=colours[r.backend],
            ms=6,
            ecolor=to_rgba(colours[r.backend], 0.3),
            elinewidth=0.8,
            zorder=5,
            markeredgecolor="white",
            markeredgewidth=0.7,
            label=None if r.backend in shown or len(colours) == 1 else r.backend,
        )
        shown.add(r.backend)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("tokens computed per prompt: read, drawn and the verifier's (log scale)")
    axis.set_ylabel("accuracy")
    axis.set_title(f"{_prompts(c)}; bars: 95 %", fontsize=9, loc="left")
    axis.grid(alpha=0.25, which="major")
    axis.margins(x=0.12, y=0.1)
    if len(colours) > 1:
        axis.legend(loc="lower right", fontsize=8, frameon=False)


def _name(r: Row, backends: Sequence[str]) -> str:
    """The label; which backend it is its colour says where there are several."""
    return r.label.removeprefix(f"{r.backend}/") if len(backends) > 1 else r.label


def _single(r: Row) -> bool:
    return r.words.split()[0] == "single"


def _around(i: Interval) -> list[list[float]]:
    return [[max(i.mean - i.low, 0)], [max(i.high - i.mean, 0)]]
