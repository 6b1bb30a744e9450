"""Recipes for the published tables that howhard is measured on (`../shared/data`): what not to trust, what is one.

They are long tables, each of one or several data sets named in the column `dataset`. A recipe leaves out arms that
would mislead, with the reason in a note; says how many draws stand behind means and derived arms; and joins the same
problem in two languages.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .imported import Imported
from .long import import_frame

_MARKS = {"dataset", "group", "prompt_id", "prompt", "arm", "sample_index", "correct", "tokens_estimated", "source"}


@dataclass(frozen=True, slots=True)
class _Recipe:
    """left_out : arm (or "arm/*") -> why. family : of the groups. problem : prompt id -> problem, None = by text."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    family: Mapping[str, str] = field(default_factory=dict)
    problem: Callable[[str], str] | None = None
    notes: tuple[str, ...] = ()


def _after_colon(prompt_id: str) -> str:
    return prompt_id.partition(":")[2]


def _whole(prompt_id: str) -> str:
    return prompt_id


_FIRST = {"single_s0/*": "it is the first sample alone; single/* is the mean of all"}
_RUN2 = {"single_run2/gpt-4": "it is single/gpt-4 run again"}
_HUMANEVAL = {"humaneval_py": "humaneval", "humaneval_rs": "humaneval"}
_MBPP = {"mbpp_py": "mbpp", "mbpp_rs": "mbpp"}
_UNPRICED = "its cost was never logged, so it can't be priced"

RECIPES: Mapping[str, _Recipe] = {
    "bbh_codex": _Recipe(
        notes=(
            "BIG-Bench-Hard is never to be in training corpora of language models: keep its canary line with any copy",
            "its prompt tokens and costs tell the task (the few-shot prompt's length): never make features of them",
        )
    ),
    "agents_humaneval_py": _Recipe(
        left_out={"single/gpt-3.5-turbo": "its 25.6 % on HumanEval are a format failure", **_RUN2},
        family=_HUMANEVAL,
        problem=_after_colon,
    ),
    "agents_humaneval_rs": _Recipe(family=_HUMANEVAL, problem=_after_colon),
    "agents_mbpp_py": _Recipe(left_out=_RUN2, family=_MBPP, problem=_after_colon),
    "agents_mbpp_rs": _Recipe(family=_MBPP, problem=_after_colon),
    "agents_leetcode_hard_py": _Recipe(problem=_after_colon),
    "humaneval_codegen16b": _Recipe(left_out=_FIRST, family={"humaneval": "humaneval"}, problem=_whole),
    "gsm8k_openai": _Recipe(),
    "pot_gsm8k": _Recipe(),
    "pot_svamp": _Recipe(),
    "pot_aqua": _Recipe(),
    "game24": _Recipe(left_out=_FIRST),
    "crosswords5x5": _Recipe(
        left_out={"tree_search_dfs_prune/gpt-4": _UNPRICED, "tree_search_dfs_no_prune/gpt-4": _UNPRICED}
    ),
}
"""By the table's column `dataset`."""


def is_published(raw: pd.DataFrame) -> bool:
    """Whether a table is one of those that have a recipe."""
    return set(raw.columns) >= _MARKS and set(raw["dataset"].tolist()) <= set(RECIPES)


def import_published(where: str, raw: pd.DataFrame, *, group: str, average_samples: bool = False) -> Imported:
    """Read one of the tables by its recipe.

    average_samples : leave the raw samples out where `single/*` is their mean already; without it they become the
        samples table.
    """
    notes: list[str] = []
    frame = raw.assign(draws=_draws(raw))
    frame = _left_out(frame, notes)
    if average_samples:
        is_sample = frame["arm"].astype(str).str.startswith("sample/")
        frame = frame.loc[~is_sample]
    frame = frame.reset_index(drop=True)
    recipes = {name: RECIPES[name] for name in dict.fromkeys(raw["dataset"].tolist())}
    if any(recipe.problem for recipe in recipes.values()):
        pairs = zip(frame["dataset"].tolist(), frame["prompt_id"].tolist(), strict=True)
        frame["cluster"] = [None if (of := RECIPES[name].problem) is None else of(i) for name, i in pairs]
    notes += [note for recipe in recipes.values() for note in recipe.notes]
    families = {group: family for recipe in recipes.values() for group, family in recipe.family.items()}
    return import_frame(where, frame, {}, group=group, notes=notes, families=families)


def _left_out(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    reasons = [_reason(name, arm) for name, arm in zip(frame["dataset"].tolist(), frame["arm"].tolist(), strict=True)]
    gone = pd.DataFrame({"dataset": frame["dataset"].tolist(), "arm": frame["arm"].tolist(), "why": reasons})
    counted = gone.loc[gone["why"] != ""].groupby(["dataset", "arm", "why"], sort=False).size()
    for (name, arm, why), count in counted.items():  # type: ignore[misc]
        notes.append(f"{arm} of {name} is left out ({count} rows): {why}")
    return frame.loc[[why == "" for why in reasons]]


def _reason(dataset: str, arm: str) -> str:
    left_out = RECIPES[dataset].left_out
    return left_out.get(arm) or left_out.get(f"{arm.partition('/')[0]}/*", "")


def _draws(raw: pd.DataFrame) -> list[float | None]:
    """Graded draws behind each row: of a mean over m samples m, of an arm of k derived from them m / k."""
    is_sample = raw["arm"].astype(str).str.startswith("sample/")
    held: dict[tuple[str, str], int] = {}
    tails: dict[str, set[str]] = {}
    for prompt_id, arm in zip(raw["prompt_id"][is_sample].tolist(), raw["arm"][is_sample].tolist(), strict=True):
        tail = arm.partition("/")[2]
        held[prompt_id, tail] = held.get((prompt_id, tail), 0) + 1
        tails.setdefault(prompt_id, set()).add(tail)
    draws: list[float | None] = []
    for prompt_id, arm in zip(raw["prompt_id"].tolist(), raw["arm"].tolist(), strict=True):
        kind, _, tail = arm.partition("/")
        k = 1 if kind == "single" else _size(kind)
        of: Any = tails.get(prompt_id, set())
        # An arm is named after its verifier where there is one kind of sample only.
        m = held.get((prompt_id, tail if tail in of or len(of) != 1 else next(iter(of))))
        draws.append(None if k is None or m is None else max(m / k, 1.0))
    return draws


def _size(kind: str) -> int | None:
    found = re.fullmatch(r"(?:best_of|sc)_(\d+)", kind)
    return int(found.group(1)) if found else None
