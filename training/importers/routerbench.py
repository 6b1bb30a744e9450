"""RouterBench's wide format: a row per prompt, and three columns per model.

    sample_id, prompt, eval_name, MODEL, MODEL|model_response, MODEL|total_cost, ..., oracle_model_to_route_to

`MODEL` holds the quality, `MODEL|total_cost` dollars. RouterBench itself comes as a pickle, which nothing here opens:
whoever trusts it turns it into parquet. Source: Hu et al. 2024, "RouterBench" (2403.12031).
"""

import ast
from collections.abc import Sequence

import pandas as pd

from ...strategies.errors import TableError
from .imported import Imported, split_rows

_COST, _RESPONSE = "|total_cost", "|model_response"


def is_wide(columns: Sequence[str]) -> bool:
    """Whether a table is of this form."""
    return "prompt" in columns and bool(models_of(columns))


def models_of(columns: Sequence[str]) -> list[str]:
    """The models of a table of this form: columns that have a cost beside them."""
    return [name for name in columns if f"{name}{_COST}" in columns]


def import_wide(where: str, raw: pd.DataFrame, *, group: str) -> Imported:
    """Turn a wide table into outcomes, one per prompt and model that was run; a null quality means that it was not.

    Raises TableError naming column, row and value for a quality outside [0, 1], a negative cost, or a model without
    a cost column.
    """
    names = list(raw.columns)
    models = models_of(names)
    bare = [n.removesuffix(_RESPONSE) for n in names if n.endswith(_RESPONSE) and n.removesuffix(_RESPONSE) in names]
    unpriced = [name for name in bare if name not in models]
    if unpriced:
        raise TableError(
            f"{where}: model {unpriced[0]!r} has no column {unpriced[0] + _COST!r}: it can't be priced. Add the "
            "column, or drop the model's"
        )
    prompts, notes = _turns(raw["prompt"].tolist())
    shared = {
        "prompt_id": [str(i) for i in raw["sample_id"].tolist()] if "sample_id" in names else None,
        "group": raw["eval_name"].tolist() if "eval_name" in names else None,
    }
    parts = []
    for model in models:
        quality, cost = (_numbers(where, column, raw[column].tolist()) for column in (model, model + _COST))
        answer = raw[model + _RESPONSE].tolist() if model + _RESPONSE in names else [None] * len(raw)
        answer = [a if a is None or isinstance(a, str) or a != a else str(a) for a in answer]
        columns = {"prompt": prompts, "arm": model, "quality": quality, "cost": cost, "answer": answer}
        columns |= {name: cells for name, cells in shared.items() if cells is not None}
        part = pd.DataFrame(columns)
        parts.append(part.loc[part["quality"].notna()])
    frame = pd.concat(parts, ignore_index=True)
    if frame.empty:
        raise TableError(f"{where}: no model has a quality in any row")
    return split_rows(where, frame, group=group, notes=notes)


def _turns(prompts: list[object]) -> tuple[list[object], list[str]]:
    """Prompts as text. RouterBench writes a list of turns as Python does: "['first turn', 'second']"."""
    texts = [_joined(prompt) for prompt in prompts]
    changed = sum(text is not prompt for text, prompt in zip(texts, prompts, strict=True))
    note = f"{changed} prompts were lists of turns written as text, and became their turns joined by line breaks"
    return texts, [note] if changed else []


def _joined(prompt: object) -> object:
    if not (isinstance(prompt, str) and prompt.startswith("[") and prompt.endswith("]")):
        return prompt
    try:
        turns = ast.literal_eval(prompt)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return prompt
    whole = isinstance(turns, list) and bool(turns) and all(isinstance(turn, str) for turn in turns)
    return "\n".join(turns) if whole else prompt


def _numbers(where: str, column: str, cells: list[object]) -> list[float]:
    """A column of qualities or costs; null is NaN."""
    upper = None if column.endswith(_COST) else 1.0
    numbers = []
    for row, cell in enumerate(cells):
        try:
            number = float("nan") if cell is None or cell is pd.NA else float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise TableError(f"{where}: column {column!r}, row {row}: {cell!r}: a number is needed") from None
        if number < 0 or number == float("inf"):
            raise TableError(f"{where}: column {column!r}, row {row}: {cell!r}: not a finite number >= 0. Correct it")
        if upper is not None and number > upper:
            raise TableError(
                f"{where}: column {column!r}, row {row}: {cell!r}: a quality lies in [0, 1]. Scale the column"
            )
        numbers.append(number)
    return numbers
