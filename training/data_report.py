"""What a table of outcomes holds, before anything is learned from it: how much, of what, and what is amiss.

Everything here is counted, nothing is fitted. Warnings are sentences with a remedy; what a router makes of the data is
seen by `howhard evaluate` alone.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .families import Alike, alike_families
from .matrix import REFERENCE_UNIT, OutcomeMatrix
from .printing import WIDTH, number, share, text_table

if TYPE_CHECKING:
    import pandas as pd

    from .log import Log

FEW_OUTCOMES = 100
"""Outcomes below which an arm's own figures say little; arms of many outcomes lend it theirs."""

FEW_PROMPTS = 200
FEW_FAMILIES = 8
"""Families below which leaving them out says too little to be called passed or failed."""

LONG = 100_000
"""Characters of a prompt that is called long."""

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFacts:
    """What the table knows of one arm.

    outcomes, priced, timed, counted : rows with a quality, a cost, a latency, a count of tokens.
    quality, cost, tokens, latency : means over the rows that have them, NaN without any. draws : median per outcome.
    wins : share of the prompts with two arms or more on which this one is the best at some value of a correct answer,
        as logged; NaN where it never stands beside another arm.
    """

    name: str
    outcomes: int
    priced: int
    timed: int
    counted: int
    quality: float
    cost: float
    tokens: float
    latency: float
    draws: float
    wins: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """Of a log's samples: how many, cut off by the token limit, failed, and drawn live (which are not learned from)."""

    samples: int
    truncated: int
    failed: int
    live: int
    per_prompt: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What a table holds.

    groups, families : name -> prompts. groups_of : family -> its groups.
    clusters : prompts that ask the same thing count once. clustered : prompts that have such a twin.
    arms_per_prompt : number of arms -> prompts that have outcomes of so many.
    propensities : outcomes with a logged chance of their arm.
    span : first and last time, as ISO 8601; None without any.
    untimed : prompts without a time. alike : families that read alike without sharing a name.
    """

    name: str
    unit: str
    prompts: int
    groups: dict[str, int]
    families: dict[str, int]
    groups_of: dict[str, tuple[str, ...]]
    clusters: int
    clustered: int
    arms: tuple[ArmFacts, ...]
    arms_per_prompt: dict[int, int]
    outcomes: int
    propensities: int
    span: tuple[str, str] | None
    untimed: int
    characters: tuple[int, int]
    samples: SampleFacts | None
    alike: tuple[Alike, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> float:
        """Share of the cells (prompt, arm) without an outcome."""
        return 1 - self.outcomes / (self.prompts * len(self.arms))

    def lines(self) -> list[str]:
        """In short: what there is in one line, and the warnings."""
        coverage = "every arm on every prompt" if self.missing == 0 else f"{self.missing:.0%} of the cells are empty"
        head = (
            f"{self.name}: {self.prompts:,} prompts ({self.clusters:,} that are not alike), {len(self.families)} "
            f"families, {len(self.arms)} arms, {self.outcomes:,} outcomes, {coverage}"
        )
        return [head, *(f"Warning: {warning}." for warning in self.warnings)]

    def short(self) -> str:
        """For people, in a few lines: see `lines`."""
        return "\n".join(map(_wrapped, self.lines()))

    def text(self) -> str:
        """For people."""
        head, *warnings = self.lines()
        parts = [head, "", self._arms_table(), ""]
        parts += self._about_prompts()
        parts += self._about_rows()
        parts += [f"Note: {note}." for note in self.notes]
        parts += ["", *(warnings or ["No warning."])]
        return "\n".join(part if "\n" in part else _wrapped(part) for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """For programs; what is not known is null."""
        plain = asdict(self)
        plain["arms"] = [{k: None if v != v else v for k, v in arm.items()} for arm in plain["arms"]]
        plain["arms_per_prompt"] = {str(k): v for k, v in self.arms_per_prompt.items()}
        return {**plain, "missing": self.missing}

    def _arms_table(self) -> str:
        cost = "cost" if self.unit == "cost" else f"cost ({self.unit})"
        columns = ("outcomes", "draws", "quality", cost, "tokens", "seconds", "timed", "ever best")
        rows = [
            (
                arm.name,
                (
                    f"{arm.outcomes:,}",
                    number(arm.draws),
                    share(arm.quality),
                    number(arm.cost),
                    number(arm.tokens),
                    number(arm.latency),
                    f"{arm.timed:,}",
                    "n/a" if arm.wins != arm.wins else f"{arm.wins:.0%}",
                ),
            )
            for arm in self.arms
        ]
        return text_table(columns, rows, spare=("timed", "draws", "tokens"))

    def _about_prompts(self) -> list[str]:
        parts = []
        sizes = sorted(self.families.items(), key=lambda pair: -pair[1])
        shown = [f"{name or '(none)'} {n:,}{self._siblings(name)}" for name, n in sizes[:_SHOWN]]
        more = f", and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
        parts.append(f"Families of {len(self.groups)} groups: {', '.join(shown)}{more}.")
        if self.clustered:
            parts.append(
                f"{self.clustered:,} prompts have a twin; twins lie on one side of every split, none is left out."
            )
        median, longest = self.characters
        parts.append(f"Prompts have {median:,} characters in the middle, {longest:,} at most.")
        if self.span is not None:
            known = f", {self.untimed:,} prompts have no time" if self.untimed else ""
            parts.append(f"Asked from {self.span[0]} to {self.span[1]}{known}.")
        return parts

    def _siblings(self, family: str) -> str:
        groups = self.groups_of[family]
        return f" ({len(groups)} groups)" if len(groups) > 1 else ""

    def _about_rows(self) -> list[str]:
        if len(self.arms_per_prompt) > 1:
            counts = ", ".join(f"{k} on {n:,}" for k, n in sorted(self.arms_per_prompt.items()))
            parts = [f"Arms per prompt: {counts}."]
        else:
            parts = [f"Every prompt has {next(iter(self.arms_per_prompt))} of the {len(self.arms)} arms."]
        if self.propensities:
            parts.append(f"{self.propensities:,} outcomes say with what chance their arm was chosen.")
        if self.samples is not None:
            s = self.samples
            low, high = s.per_prompt
            parts.append(
                f"{s.samples:,} samples, {low if low == high else f'{low} to {high}'} per prompt and backend: "
                f"{s.truncated:,} cut off by the token limit, {s.failed:,} failed, {s.live:,} drawn live."
            )
        return parts


def data_report(
    name: str,
    matrix: OutcomeMatrix,
    outcomes: "pd.DataFrame",
    *,
    log: "Log | None" = None,
    notes: Sequence[str] = (),
) -> DataReport:
    """Count what a table holds, and say what is amiss.

    outcomes : the long table that the matrix was made of. log : where it comes from one, for its samples.
    """
    run = ~np.isnan(matrix.quality)
    per_prompt = Counter(run.sum(axis=1).tolist())
    sizes = Counter(matrix.clusters)
    groups_of: dict[str, set[str]] = {}
    for group, family in zip(matrix.groups, matrix.families, strict=True):
        groups_of.setdefault(family, set()).add(group)
    known = matrix.times[~np.isnat(matrix.times)]
    lengths = np.array([len(text) for text in matrix.texts])
    propensities = 0
    if "propensity" in outcomes:
        propensities = sum(outcomes["propensity"].notna().tolist())
    report = DataReport(
        name=name,
        unit=matrix.unit,
        prompts=len(matrix),
        groups=dict(Counter(matrix.groups)),
        families=dict(Counter(matrix.families)),
        groups_of={family: tuple(sorted(groups)) for family, groups in groups_of.items()},
        clusters=len(sizes),
        clustered=sum(n for n in sizes.values() if n > 1),
        arms=_arms(matrix, run),
        arms_per_prompt=dict(sorted(per_prompt.items())),
        outcomes=int(run.sum()),
        propensities=propensities,
        span=(_iso(known.min()), _iso(known.max())) if len(known) else None,
        untimed=int(np.isnat(matrix.times).sum()),
        characters=(int(np.median(lengths)), int(lengths.max())),
        samples=None if log is None else _samples(log),
        alike=alike_families(matrix.families, matrix.texts),
        notes=tuple(notes),
    )
    return _with_warnings(report, matrix, lengths)


def wins(quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Whether an arm is the best of its prompt at some value v >= 0 of a correct answer: bool (n, a).

    The best maximises v * quality - cost over the arms with both; of arms with equal figures all win. An arm wins at
    the values from the steepest slope to worse arms up to the flattest to better ones.

    quality, cost : float (n, a), NaN where not run.
    """
    n, a = quality.shape
    won = np.zeros((n, a), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(a):
            better = quality - quality[:, [j]]
            dearer = cost - cost[:, [j]]
            slope = dearer / better
            least = np.where(better < 0, slope, 0.0)
            most = np.where(better > 0, slope, np.inf)
            undercut = ((better == 0) & (dearer < 0)).any(axis=1)
            low = np.maximum(np.nanmax(np.nan_to_num(least, nan=0.0), axis=1), 0.0)
            high = np.nanmin(np.nan_to_num(most, nan=np.inf, posinf=np.inf), axis=1)
            run = ~np.isnan(quality[:, j]) & ~np.isnan(cost[:, j])
            won[:, j] = run & ~undercut & (low <= high)
    return won


def _arms(matrix: OutcomeMatrix, run: np.ndarray) -> tuple[ArmFacts, ...]:
    beside = run & (run.sum(axis=1) > 1)[:, None]
    won = wins(matrix.quality, matrix.cost)
    facts = []
    for j, name in enumerate(matrix.arms):
        shared = beside[:, j]
        facts.append(
            ArmFacts(
                name=name,
                outcomes=int(run[:, j].sum()),
                priced=_known(matrix.cost[:, j]),
                timed=_known(matrix.latency[:, j]),
                counted=_known(matrix.tokens[:, j]),
                quality=_mean(matrix.quality[:, j]),
                cost=_mean(matrix.cost[:, j]),
                tokens=_mean(matrix.tokens[:, j]),
                latency=_mean(matrix.latency[:, j]),
                draws=float(np.nanmedian(matrix.draws[:, j])),
                wins=float(won[shared, j].mean()) if shared.any() else float("nan"),
            )
        )
    return tuple(facts)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _known(values: np.ndarray) -> int:
    return int((~np.isnan(values)).sum())


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if _known(values) else float("nan")


def _iso(time: np.datetime64) -> str:
    return f"{time.astype('datetime64[s]')}Z"


def _samples(log: "Log") -> SampleFacts | None:
    samples = log.samples()
    if samples.empty:
        return None
    live = samples["origin"].eq("live").to_numpy(dtype=bool)
    reasons = samples["finish_reason"].to_numpy(dtype=str)
    collected = samples.loc[~live]
    counts = Counter(
        zip(*(collected[c].tolist() for c in ("prompt_id", "backend", "params")), strict=True)
    )  # fmt: skip
    return SampleFacts(
        samples=len(samples),
        truncated=int((reasons == "length").sum()),
        failed=int((reasons == "error").sum()),
        live=int(live.sum()),
        per_prompt=(min(counts.values(), default=0), max(counts.values(), default=0)),
    )


# ── what is amiss ────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_warnings(report: DataReport, matrix: OutcomeMatrix, lengths: np.ndarray) -> DataReport:
    found = [
        *_about_arms(report, matrix),
        *_about_coverage(report),
        *_about_splits(report),
        *_about_samples(report.samples),
    ]
    long = int((lengths > LONG).sum())
    if long:
        found.append(
            f"{long} prompts have more than {LONG:,} characters: see that they are prompts, not whole documents"
        )
    return replace(report, warnings=tuple(found))


def _about_arms(report: DataReport, matrix: OutcomeMatrix) -> list[str]:
    found = []
    if len(report.arms) == 1:
        found.append(
            f"{report.arms[0].name!r} is the only arm: there is nothing to choose. Log outcomes of another one"
        )
    if np.nanmin(matrix.quality) == np.nanmax(matrix.quality):
        found.append(
            f"every outcome has the quality {share(float(np.nanmin(matrix.quality)))}: nothing tells arms or prompts "
            "apart. Check the grader, or add harder and easier prompts"
        )
    few = [arm for arm in report.arms if arm.outcomes < FEW_OUTCOMES <= report.prompts]
    if few:
        named = ", ".join(f"{arm.name} ({arm.outcomes})" for arm in few)
        found.append(f"few outcomes of {named}: log {FEW_OUTCOMES} or more of each, what is said of them is uncertain")
    never = [arm.name for arm in report.arms if arm.wins == 0]
    if never:
        found.append(
            f"never the best on any prompt, at any value of a correct answer: {', '.join(never)}. Leave them out "
            "(--without when importing): they cost training time and noise"
        )
    untimed = [arm.name for arm in report.arms if arm.timed == 0]
    if untimed:
        named = "any arm" if len(untimed) == len(report.arms) else ", ".join(untimed)
        found.append(f"no latency of {named} was measured: deadlines and the price of a second can't be kept for it")
    if report.unit == REFERENCE_UNIT:
        found.append("no cost was logged: completion tokens stand for it, as if a token cost the same everywhere")
    return found


def _about_coverage(report: DataReport) -> list[str]:
    found = []
    alone = report.arms_per_prompt.get(1, 0)
    if len(report.arms) > 1 and alone:
        whose = f"{alone:,} of {report.prompts:,} prompts have one arm only"
        if alone == report.prompts:
            found.append(f"{whose}: no two arms stand side by side, so evaluation can't pair them. Run a few on both")
        if not report.propensities and alone > 0.01 * report.prompts:
            found.append(
                f"{whose} and nothing says with what chance it was chosen: where harder prompts went to stronger arms, "
                "their figures mislead. Log the propensity, or try arms at random on a share of the prompts"
            )
    if report.prompts < FEW_PROMPTS:
        found.append(f"{report.prompts} prompts are few: intervals will be wide. {FEW_PROMPTS} and more say something")
    return found


def _about_splits(report: DataReport) -> list[str]:
    found = []
    count = len(report.families)
    if count < FEW_FAMILIES:
        found.append(
            f"{count} {'family' if count == 1 else 'families'} of prompts: too few to see what a router does on tasks "
            "that it never saw. Give the prompts a group column that tells tasks apart"
        )
    name, most = max(report.families.items(), key=lambda pair: pair[1])
    if count > 1 and most > report.prompts / 2:
        found.append(f"family {name!r} holds {most / report.prompts:.0%} of the prompts: figures are mostly its own")
    if report.alike:
        pairs = "; ".join(f"{pair.one} and {pair.other} ({pair.likeness:.2f})" for pair in report.alike[:_SHOWN])
        found.append(
            f"families that read alike: {pairs}. Where they are siblings, name one family for both in a file for "
            "--families, or what is learned of one is tested on the other"
        )
    if report.clusters < 0.9 * report.prompts:
        found.append(
            f"{report.prompts:,} prompts are {report.clusters:,} different ones: figures are as certain as those let "
            "them be"
        )
    return found


def _about_samples(samples: SampleFacts | None) -> list[str]:
    if samples is None:
        return []
    found = []
    if samples.truncated > 0.05 * samples.samples:
        found.append(
            f"{samples.truncated / samples.samples:.0%} of the samples were cut off by the token limit and count as "
            "wrong: raise max_tokens where that is not what you serve"
        )
    if samples.failed > 0.01 * samples.samples:
        found.append(f"{samples.failed / samples.samples:.0%} of the samples failed: run `howhard collect` again")
    if samples.live:
        found.append(
            f"{samples.live:,} samples were drawn live and are not learned from: their draws stopped when they "
            "succeeded. Collect for learning"
        )
    return found
