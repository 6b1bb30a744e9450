"""Do plans that decide in flight hold what they should? Every aim beside its figure, on logs of samples.

On the embedded models' log, and on `codet` and `tot` of ../shared/data, plans are learned, replayed and held against
everything they must beat by `howhard plans`' own code (howhard.training.plans.analysis): cross-fitted, rivals tuned on
training prompts alone, intervals of 95 % by a bootstrap paired by prompt. What a part of the benchmark found is kept in
--out and not done again; delete its file to do it again. Writes plans.md, and everything as JSON to --out/plans.json.

    python benchmarks/plans.py --log .work/six/log/main --data ../shared/data --out .work/six/plans | tail -1 | jq

--parts : only these; --processes 2 : parts side by side, each on one core.

In `codet` and `tot` the verifier is an idealisation: the grader itself, which proves right answers and costs nothing.
For programs no such verifier exists; for the Game of 24 it does, since a formula can be checked.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import pandas as pd

from howhard.router.plan import Leg, Menu
from howhard.strategies import ArmSpec, ExactCheckSpec, VerifierSpec
from howhard.strategies.answers import EXTRACTOR
from howhard.training.folds import Split, fold_of
from howhard.training.importers.published import import_published
from howhard.training.log import Log
from howhard.training.plans.ablation import ABLATIONS
from howhard.training.plans.analysis import Analysis, analyse
from howhard.training.plans.analysis_report import PlansReport
from howhard.training.plans.ceiling import Ceiling
from howhard.training.plans.contest import Fold, PlanData, fold_on, folds_of
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.menus import PlanOptions, menu_of, wave_seconds
from howhard.training.plans.rivals import Learned, OfFixed, standard_rivals
from howhard.training.plans.shrinking import PROMPTS, SAMPLES, FewerPrompts, FewerSamples, cut

GRADER = "grader"
HOW: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 160}
"""How the embedded models' samples were drawn."""

FINE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Stages of one model alone: rivals may stop after any sample, and doubling would give much away."""

DEALS = 2
FOLDS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """Where things lie.   prompts : of the own log, at most so many, drawn at random; None = all."""

    log: Path
    data: Path
    out: Path
    prompts: int | None = None


# ── the data ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OwnLog:
    """The tables of the embedded models' log, and what it was collected with."""

    samples: pd.DataFrame
    outcomes: pd.DataFrame
    prompts: pd.DataFrame
    arms: tuple[ArmSpec, ...]
    verifiers: Mapping[str, VerifierSpec]

    @classmethod
    def read(cls, options: Options, *families: str) -> "OwnLog":
        """Read the tables; families : of the prompts to keep, none = all."""
        with Log.open(options.log) as log:
            notes, prompts = log.notes(), log.prompts()
            keep = prompts["group"].str.startswith(families or ("",))
            prompts = prompts.loc[keep].sample(frac=1.0, random_state=0)[: options.prompts].reset_index(drop=True)
            ids = prompts["prompt_id"].tolist()
            samples, outcomes = (
                t.loc[t["prompt_id"].isin(ids)].reset_index(drop=True) for t in (log.samples(), log.outcomes())
            )
        return cls(
            samples, outcomes, prompts,
            tuple(msgspec.convert(notes["arms"], list[ArmSpec])),
            msgspec.convert(notes["verifiers"], dict[str, VerifierSpec]),
        )  # fmt: skip

    def data(self, name: str, menu: Menu, **how: Any) -> PlanData:
        """Ready for a contest."""
        return PlanData.of(self.samples, self.outcomes, self.prompts, menu, name=name, verifiers=self.verifiers, **how)

    def small_then_large(self) -> Menu:
        """Both models, with the searches that the log has, judged by the exact check where there is one, else by the
        reward model.
        """
        stages = {"small": (1, 2, 4, 8, 16, 32), "large": (1, 2, 4, 8)}
        options = PlanOptions(stages=stages, verifier="best")
        return menu_of(self.samples, self.outcomes, self.arms, self.verifiers, options)


def graded_samples(samples: pd.DataFrame, *, completion: float, prompt: float, answers: bool) -> pd.DataFrame:
    """A published table's raw samples as a log's, every one judged by its grader.

    completion, prompt : price of a token; prompts are paid once per wave.   answers : whether the column `answer` is
    what was answered; else the samples have none.
    """
    verdict = {"verifier": GRADER, "tokens": 0, "cost": 0.0, "prompt_tokens": 0, "prompt_cost": 0.0}
    table = samples.assign(
        params=json.dumps(dict(HOW)),
        extractor=EXTRACTOR,
        verdicts=[[{**verdict, "score": float(q)}] for q in samples["quality"]],
        cost=samples["completion_tokens"].astype(float) * completion,
        prompt_cost=samples["prompt_tokens"].astype(float) * prompt,
    )
    return table if answers else table.assign(answer=None)


def published(options: Options, name: str, stages: Mapping[str, Sequence[int]], **how: Any) -> PlanData:
    """`codet` or `tot`, every sample judged by its grader.   stages : per backend."""
    raw = pd.read_parquet(options.data / name / "outcomes.parquet")
    if name == "tot":
        raw = raw.loc[raw["dataset"].eq("game24")]
    imported = import_published(name, raw, group=name)
    assert imported.samples is not None
    samples = graded_samples(imported.samples, **how)
    legs = tuple(Leg(backend=backend, stages=tuple(own), **HOW) for backend, own in stages.items())
    menu = Menu(legs=legs, verifier=GRADER, give_up=True)
    outcomes = pd.DataFrame({"arm": [], "prompt_id": [], "answer": [], "quality": [], "cost": []})
    return PlanData.of(samples, outcomes, imported.prompts, menu, name=name, verifiers={GRADER: ExactCheckSpec()})


BEST_FIXED = OfFixed("best static cascade", "cascade")
"""Of all fixed plans that of the highest utility on the training prompts; one of the standing rivals of two models."""


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(analysis: Analysis, **more: Any) -> dict[str, Any]:
    """A part's findings."""
    return {**analysis.to_dict(), "report": PlansReport(analysis).text(), **more}


def contest(
    data: PlanData, *more: Any, split: Split = "prompt", settings: PlanSettings | None = None
) -> dict[str, Any]:
    """The standing rivals, and more, on some data."""
    folds = folds_of(data, split=split, folds=FOLDS, deals=DEALS, plan_settings=settings)
    return told(analyse(data, [*standard_rivals(data), *more], split=split, ready=folds))


def sound_small(options: Options) -> dict[str, Any]:
    """The small model alone, with the exact check: cost and tokens are one thing."""
    own = OwnLog.read(options, "countdown", "path")
    menu = Menu(legs=(Leg(backend="small", stages=FINE, **HOW),), verifier="check", give_up=True)
    return contest(own.data("embedded models, small, exact check", menu), Ceiling(), Ceiling(as_menu=True))


def sound_both(options: Options) -> dict[str, Any]:
    """Both models, with the exact check."""
    own = OwnLog.read(options, "countdown", "path")
    legs = (Leg(backend="small", stages=FINE, **HOW), Leg(backend="large", stages=(1, 2, 4, 8, 16), **HOW))
    menu = Menu(legs=legs, verifier="check", give_up=True)
    return contest(own.data("embedded models, small and large, exact check", menu), Ceiling())


FEW = PlanSettings(deals=16)
"""For tables of a hundred prompts with a hundred samples each: more orders of the same samples."""


def codet(options: Options) -> dict[str, Any]:
    """A token of a completion is the unit of cost, so that tokens are what is saved."""
    stages = (*range(1, 13), 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 100)
    data = published(options, "codet", {"codegen-16b": stages}, completion=1.0, prompt=0.0, answers=False)
    return contest(data, Ceiling(), settings=FEW)


def tot(options: Options) -> dict[str, Any]:
    """Direct answers, then chains of thought, of GPT-4 at its prices (0.03 and 0.06 USD per 1,000 tokens)."""
    stages = {"io": (1, 2, 4, 8, 16, 32, 64, 100), "cot": (1, 2, 4, 8, 16, 32)}
    data = published(options, "tot", stages, completion=6e-5, prompt=3e-5, answers=True)
    return contest(data, Ceiling(), settings=FEW)


def votes(backend: str, most: int) -> Callable[[Options], dict[str, Any]]:
    """One model, votes alone, all families; most : samples that every prompt has of it."""

    def part(options: Options) -> dict[str, Any]:
        own = OwnLog.read(options)
        menu = Menu(legs=(Leg(backend=backend, stages=tuple(k for k in FINE if k <= most), **HOW),))
        return contest(own.data(f"embedded models, {backend}, votes alone", menu))

    return part


def at_ratio(ratio: float) -> Callable[[Options], dict[str, Any]]:
    """Small, then large, where a token of the large model costs so many times what one of the small does."""

    def part(options: Options) -> dict[str, Any]:
        own = OwnLog.read(options)
        return contest(own.data(f"embedded models, price ratio {ratio:g}", own.small_then_large(), price_ratio=ratio))

    return part


def families(options: Options) -> dict[str, Any]:
    """Whole families left out, at the logged prices."""
    own = OwnLog.read(options)
    return contest(own.data("embedded models, families left out", own.small_then_large()), split="group")


SECONDS = (3.0, 30.0, 300.0)
"""Prices of a second that are tried, in mean costs of a sample of the small model."""


def latency(options: Options) -> dict[str, Any]:
    """The small model, timed: waves against one batch, and what a price of time does."""
    own = OwnLog.read(options)
    menu = menu_of(
        own.samples, own.outcomes, own.arms, own.verifiers,
        PlanOptions(stages={"small": (1, 2, 4, 8, 16, 32)}, searches=(), verifier="best"),
    )  # fmt: skip
    seconds = wave_seconds(own.data("", menu).log, own.outcomes, own.arms)
    if any(s is None for s in seconds):
        return {"untimed": True}
    data = own.data("embedded models, small, timed", menu, seconds=seconds)
    folds = folds_of(data, folds=FOLDS, deals=DEALS)
    priced = [Learned(name=f"plan, a second costs {s:g}", kind="waiting", second=s) for s in SECONDS]
    return told(analyse(data, [*standard_rivals(data), *priced], ready=folds), shape=seconds)


def ablation(options: Options) -> dict[str, Any]:
    """Where the saving comes from, at the logged prices, judged on one fold's prompts."""
    own = OwnLog.read(options)
    data = own.data("embedded models, without some of what plans see", own.small_then_large())
    return told(analyse(data, [Learned(), *ABLATIONS, BEST_FIXED], ready=[first_fold(data)]))


def first_fold(data: PlanData) -> Fold:
    """A third of the prompts to judge on, and the others to learn from."""
    fold = fold_of(data.matrix.families, split="prompt", folds=FOLDS, seed=0, clusters=data.matrix.clusters)
    return fold_on(data, np.flatnonzero(fold != 0), np.flatnonzero(fold == 0), deals=DEALS)


def shrinking(options: Options) -> dict[str, Any]:
    """What is left with fewer samples or prompts, judged on one fold's prompts."""
    own = OwnLog.read(options)
    menu = own.small_then_large()
    data = own.data("embedded models, less to learn from", menu)
    kept = own.samples.loc[own.samples["prompt_id"].isin(list(data.log.prompt_ids))]
    fewer = OwnLog(kept, own.outcomes, own.prompts, own.arms, own.verifiers)
    fold = first_fold(data)
    few = [FewerSamples(fewer.data(f"{k} samples", cut(menu, k))) for k in SAMPLES if k < 32]
    some = [FewerPrompts(n) for n in PROMPTS if n <= len(fold.train)]
    return told(analyse(data, [Learned(), *few, *some, BEST_FIXED], ready=[fold]))


def learning(options: Options) -> dict[str, Any]:
    """How long learning takes from 2,000 prompts, in one process; meaningful on an idle machine only."""
    own = OwnLog.read(options)
    data = own.data("embedded models", own.small_then_large())
    prompts = np.random.default_rng(0).permutation(len(data))
    n = min(2000, len(data) - 100)
    started = time.perf_counter()
    fold = fold_on(data, np.sort(prompts[:n]), np.sort(prompts[n:]), deals=1)
    between = time.perf_counter()
    _ = fold.plan
    return {"prompts": n, "router_s": between - started, "plan_s": time.perf_counter() - between}


def step(options: Options) -> dict[str, Any]:
    """How long a step takes: benchmarks/plan_step.py; meaningful on an idle machine only."""
    script = Path(__file__).with_name("plan_step.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


PARTS: Mapping[str, Callable[[Options], dict[str, Any]]] = {
    "ratio-10": at_ratio(10),
    "ratio-3": at_ratio(3),
    "ratio-30": at_ratio(30),
    "families": families,
    "shrinking": shrinking,
    "ablation": ablation,
    "votes-small": votes("small", 32),
    "votes-large": votes("large", 16),
    "sound-small": sound_small,
    "sound-both": sound_both,
    "codet": codet,
    "tot": tot,
    "latency": latency,
}
"""The longest first."""

ALONE: Mapping[str, Callable[[Options], dict[str, Any]]] = {"learning": learning, "step": step}
"""Parts that time, and are run after the others, one by one."""


def measured(name: str, options: Options) -> str:
    """Do one part, and keep it."""
    started = time.perf_counter()
    found = {**PARTS, **ALONE}[name](options)
    found["took_s"] = round(time.perf_counter() - started, 1)
    (options.out / f"{name}.json").write_text(json.dumps(found, indent=1))
    return f"{name}: {found['took_s']:.0f} s"


# ── the aims ─────────────────────────────────────────────────────────────────────────────────────────────────────────

Part = dict[str, Any]


def figure(i: Mapping[str, Any], *, share: bool = False, signed: bool = False) -> str:
    """An interval for people; "-" where there is none."""
    if i["mean"] is None:
        return "-"
    one, low, high = (i[f] for f in ("mean", "low", "high"))
    if share:
        return f"{one:.0%} [{low:.0%}, {high:.0%}]"
    return f"{one:+.3f} [{low:+.3f}, {high:+.3f}]" if signed else f"{one:.3f} [{low:.3f}, {high:.3f}]"


def saved(part: Part, rival: str, by: str) -> list[dict[str, Any]]:
    """At every value, of what a rival spends at the plan's quality; not where it spends nothing."""
    rows = (s for s in part["saved"] if s["rival"] == rival and s["by"] == by)
    return [s for s in rows if None not in s["share"].values()]


def ahead(part: Part, rival: str) -> list[dict[str, Any]]:
    """At every value, of a rival's utility."""
    return [{"value": s["value"], "share": s["ahead"]} for s in part["standings"] if s["name"] == rival]


def verdict(reached: Sequence[bool], harmed: Sequence[bool] = ()) -> str:
    """Of an aim that is looked at at several values."""
    if not reached:
        return "not measured"
    if any(harmed):
        return f"**no** (behind at {sum(harmed)} of {len(harmed)} values)"
    if all(reached):
        return "yes"
    return f"at {sum(reached)} of {len(reached)} values" if any(reached) else "**no**"


def over_values(rows: Sequence[dict[str, Any]], *, share: bool = True) -> str:
    """What was found at every value."""
    return "; ".join(f"v {r['value']:g}: {figure(r['share'], share=share, signed=not share)}" for r in rows)


def aims(done: Mapping[str, Part]) -> list[tuple[str, str, str]]:
    """(aim, measured, reached) of every aim that the parts at hand say something about."""
    rows: list[tuple[str, str, str]] = []
    cap = "tuned early-stop cap"
    for name in ("sound-small", "sound-both", "codet", "tot"):
        part = done.get(name)
        if part is None:
            continue
        by = "cost" if name == "tot" else "tokens"  # there most of what a sample costs is its prompt
        found = saved(part, cap, by)
        rows.append(
            (
                f"{part['name']}: {by} saved at equal quality of the tuned early-stop cap, interval above 0",
                over_values(found),
                verdict([r["share"]["low"] > 0 for r in found], [r["share"]["high"] < 0 for r in found]),
            )
        )
        gap = [{"value": float(v), "share": i} for v, i in part["gap"].items() if None not in i.values()]
        own = name.startswith("sound")
        rows.append(
            (
                f"{part['name']}: share of the gap from the cap to the ceiling that is closed"
                + (", half or more at one value or more" if own else ""),
                over_values(gap),
                ("yes" if any(r["share"]["mean"] >= 0.5 for r in gap) else "**no**") if own else "shown",
            )
        )
    for name in ("votes-small", "votes-large"):
        part = done.get(name)
        if part is None:
            continue
        for rival, least in (("fixed samples", 0.4), ("Beta .95, waves of 4", 0.2), ("ESC-5", 0.2)):
            found = saved(part, rival, "tokens")
            rows.append(
                (
                    f"{part['name']}, {part['n_prompts']:,} prompts: tokens saved at equal accuracy of {rival}, "
                    f"{least:.0%} or more",
                    over_values(found),
                    verdict([r["share"]["mean"] >= least for r in found]),
                )
            )
    for name in ("ratio-3", "ratio-10", "ratio-30"):
        part = done.get(name)
        if part is None:
            continue
        for rival in ("best static cascade", "prompt-only routing"):
            found = ahead(part, rival)
            shares = {s["value"]: f"{s['share']['mean']:.0%}" for s in saved(part, rival, "cost")}
            rows.append(
                (
                    f"{part['name']}: ahead of {rival} in utility at every value (cost saved at equal quality in "
                    "brackets)",
                    "; ".join(
                        f"v {f['value']:g}: {figure(f['share'], signed=True)} ({shares.get(f['value'], '-')})"
                        for f in found
                    ),
                    verdict([f["share"]["low"] > 0 for f in found], [f["share"]["high"] < 0 for f in found]),
                )
            )
    if "ratio-10" in done:
        rows += [
            (
                "price ratio 10: the large model's best-of-4 accuracy at 40 % of its cost or less",
                f"{figure(arm['cost_share'], share=True)} of its cost, accuracy {arm['quality']:.3f}",
                "yes" if (arm["cost_share"]["mean"] or 1.0) <= 0.4 else "**no**",
            )
            for arm in done["ratio-10"]["as_good"]
            if arm["arm"].startswith("large/best_of_4")
        ]
    part = done.get("latency")
    if part is not None:
        rows.append(
            ("p95 of waves against one batch at equal accuracy, and what a price of time does", *_waiting(part))
        )
    part = done.get("families")
    if part is not None:
        found = ahead(part, BEST_FIXED.name)
        rows.append(
            (
                f"whole families left out ({part['n_families']} families): lower bound of the difference to the best "
                "fixed plan above -.01",
                over_values(found, share=False),
                verdict([f["share"]["low"] > -0.01 for f in found]),
            )
        )
    return rows + _times(done)


def _waiting(part: Part) -> tuple[str, str]:
    if part.get("untimed"):
        return "the log has no timed runs", "not measured"
    lines = []
    for value in part["values"]:
        rows = [w for w in part["waiting"] if w["value"] == value]
        plans = [w for w in rows if w["name"].startswith("plan")]
        batch = [w for w in rows if "one batch" in w["name"]]
        if batch:
            lines.append(
                f"v {value:g}: "
                + ", ".join(
                    f"{w['name']} {w['p95']:.2f} s (quality {w['quality']:.3f}, cost {w['cost']:.1f})"
                    for w in (*batch, *plans)
                )
            )
    return "; ".join(lines), "shown"


def _times(done: Mapping[str, Part]) -> list[tuple[str, str, str]]:
    rows = []
    if "step" in done:
        took = done["step"]["worst_p50_ms"]
        rows.append(
            (
                "a plan's step under 0.3 ms",
                f"{took:.2f} ms, median at the slowest place",
                "yes" if took < 0.3 else "**no**",
            )
        )
    if "learning" in done:
        part = done["learning"]
        rows.append(
            (
                f"learning from {part['prompts']:,} prompts x 32 samples x 2 models under 2 minutes on 2 cores",
                f"{part['plan_s']:.0f} s on one core, and {part['router_s']:.0f} s for the router that it reads",
                "yes" if part["plan_s"] + part["router_s"] < 120 else "**no**",
            )
        )
    return rows


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(done: Mapping[str, Part]) -> str:
    """plans.md."""
    lines = [
        "# What plans hold",
        "",
        "Made by `python benchmarks/plans.py`, whose docstring says how. v is the value of a correct answer in mean",
        "costs of one sample of the first model. Intervals: 95 %, paired bootstrap by prompt, or by family where",
        "families were left out. Every figure is of prompts that neither made nor selected the plan or its rivals.",
        "",
        "In codet and tot the verifier is the grader itself, an idealisation: for programs there is none such. The",
        "ceiling knows how often half of each run's samples succeed (training/plans/ceiling.py). There is none for",
        "votes.",
        "",
        "Not untouched: the settings of learning were chosen on half of the own log's prompts, which are judged here",
        "too, and codet's and tot's stages were made finer after a first look at their figures. A live run on two real",
        "models under vLLM is told in [plans_qwen.md](plans_qwen.md).",
        "",
        "## Aims",
        "",
        "| aim | measured | reached |",
        "| --- | --- | --- |",
        *(f"| {aim} | {found} | {reached} |" for aim, found, reached in aims(done)),
        "",
    ]
    for name, title in (
        ("ablation", "Where it comes from: the whole plan's utility less that of a plan without something"),
        ("shrinking", "How it shrinks: the whole plan's utility less that of one that was learned from less"),
    ):
        part = done.get(name)
        if part is not None:
            lines += [f"## {title}", "", *_differences(part), ""]
    lines += ["## Everything that `howhard plans` says", ""]
    for part in done.values():
        if "report" in part:
            lines += [f"<details><summary>{part['name']} ({part['took_s']:.0f} s)</summary>", ""]
            lines += ["```", part["report"], "```", "", "</details>", ""]
    return "\n".join(lines)


def _differences(part: Part) -> list[str]:
    values = part["values"]
    names = list(dict.fromkeys(s["name"] for s in part["standings"] if s["ahead"] is not None))
    lines = [f"| | {' | '.join(f'v {v:g}' for v in values)} |", "|" + " --- |" * (len(values) + 1)]
    for name in names:
        row = [figure(r["share"], signed=True) for r in ahead(part, name)]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="a samples log of the embedded models")
    parser.add_argument("--data", type=Path, required=True, help="folders NAME/outcomes.parquet")
    parser.add_argument("--out", type=Path, default=Path(".work/plans"), help="what is done already")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *ALONE], default=[*PARTS, *ALONE])
    parser.add_argument("--prompts", type=int, help="at most so many of the own log, for a quick look")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("plans.md"))
    asked = parser.parse_args()
    options = Options(asked.log, asked.data, asked.out, asked.prompts)
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in asked.parts if not (options.out / f"{name}.json").exists()]
    with ProcessPoolExecutor(asked.processes, max_tasks_per_child=1) as pool:
        under_way = {pool.submit(measured, name, options): name for name in PARTS if name in missing}
        for part in as_completed(under_way):
            error = part.exception()
            print(part.result() if error is None else f"{under_way[part]} failed: {error!r}", flush=True)
    for name in (n for n in ALONE if n in missing):
        print(measured(name, options), flush=True)
    kept = {name: options.out / f"{name}.json" for name in (*PARTS, *ALONE)}
    done = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    rows = aims(done)
    (options.out / "plans.json").write_text(
        json.dumps(
            {"aims": [dict(zip(("aim", "measured", "reached"), row, strict=True)) for row in rows], "parts": done}
        )
    )
    asked.page.write_text(page(done))
    for row in rows:
        print(" | ".join(row))
    print(
        json.dumps(
            {
                "benchmark": "plans",
                "aims": len(rows),
                "reached": sum(reached == "yes" for *_, reached in rows),
                "missed": [aim for aim, _, reached in rows if "**no**" in reached],
                "page": str(asked.page),
            }
        )
    )


if __name__ == "__main__":
    main()
