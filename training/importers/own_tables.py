"""howhard's own tables outside a log: parquet files that `Log.export` wrote, or tables of a database."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...strategies.errors import TableError
from .. import tables
from ..log import Log
from .imported import Imported, naming

NAMES = ("prompts", "outcomes", "samples")


def is_own(name: str, columns: list[str]) -> bool:
    """Whether a table of these columns is howhard's `name`: it has all columns that may not be null or left out."""
    needed = {c.name for c in tables.COLUMNS[name] if not c.nullable}
    optional = {"cached_tokens", "cost", "prompt_cost", "origin", "verdicts", "verifier_tokens"}
    known = {c.name for c in tables.COLUMNS[name]}
    return needed - optional <= set(columns) <= known


def import_folder(folder: Path) -> Imported:
    """Read prompts.parquet with outcomes.parquet or samples.parquet, as `Log.export` writes them.

    Raises TableError for a folder without them, another schema version, or a bad row.
    """
    there = {name: folder / f"{name}.parquet" for name in NAMES if (folder / f"{name}.parquet").is_file()}
    if "prompts" not in there or len(there) < 2:
        raise TableError(
            f"{folder}: neither a log directory nor a folder with prompts.parquet and outcomes.parquet or "
            "samples.parquet: name one of them, or a single table"
        )
    return import_own(str(folder), {name: getattr(Log.open(path), name)() for name, path in there.items()})


def import_own(where: str, frames: Mapping[str, pd.DataFrame]) -> Imported:
    """Check howhard's own tables, by name; verdicts may be JSON text, as a database holds them.

    Raises TableError that names table, column, row and value, and for rows whose prompt is not among the prompts.
    """
    held = {
        name: naming(where, lambda name=name, frame=frame: tables.validate(name, tables.fill(name, _parsed(frame))))
        for name, frame in frames.items()
    }
    if "prompts" not in held or len(held) < 2:
        raise TableError(f"{where}: prompts and outcomes or samples are needed, there are {', '.join(held) or 'none'}")
    known = set(held["prompts"]["prompt_id"].tolist())
    for name in ("outcomes", "samples"):
        ids = held[name]["prompt_id"].tolist() if name in held else []
        for row, prompt_id in enumerate(ids):
            if prompt_id not in known:
                raise TableError(
                    f"{where}: {name}: column 'prompt_id', row {row}: {prompt_id!r}: no prompt has this id. Add it to "
                    "the prompts table, or drop the row"
                )
    return Imported(held["prompts"], held.get("outcomes"), held.get("samples"))


def _parsed(frame: pd.DataFrame) -> pd.DataFrame:
    if "verdicts" not in frame:
        return frame
    cells = pd.Series([_verdicts(cell) for cell in frame["verdicts"].tolist()], dtype=object)
    return frame.assign(verdicts=cells)


def _verdicts(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return cell  # refused, and named, by the check of the table
