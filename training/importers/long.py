"""Any long table - CSV, parquet or JSON lines, one row per prompt and arm (or sample) - through a column mapping."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...strategies.base import as_messages
from ...strategies.errors import InputError, TableError
from .. import tables
from .imported import Imported, columns_of, split_rows

ALSO: Mapping[str, str] = {"quality": "correct", "reference": "gold"}
"""Column names that are taken for a field when it is neither mapped nor there."""


def import_table(
    path: str | Path, mapping: Mapping[str, str] | None = None, *, average_samples: bool = False
) -> Imported:
    """Read a long table from a file.

    mapping : field -> column, for columns whose names are not the fields' (FIELDS).
    average_samples : see `split_rows`.

    Raises TableError that names file, column, row (counted from 0) and value: for an unknown field, a column that
    is not there, and all that `split_rows` refuses.
    """
    path = Path(path)
    return import_frame(str(path), read_file(path), mapping or {}, group=path.stem, average_samples=average_samples)


def import_frame(
    where: str,
    raw: pd.DataFrame,
    mapping: Mapping[str, str],
    *,
    group: str,
    notes: Sequence[str] = (),
    families: Mapping[str, str] | None = None,
    average_samples: bool = False,
) -> Imported:
    """The same of a table that was read already; `where` is how errors call it."""
    if raw.empty:
        raise TableError(f"{where}: the table is empty")
    columns = columns_of(where, list(raw.columns), mapping, ALSO)
    frame = pd.DataFrame({field: _cells(field, raw[column].tolist()) for field, column in columns.items()})
    frame = _chats_as_text(where, frame)
    told = [*_estimates(raw), *notes]
    return split_rows(
        where, frame, group=group, notes=told, families=families, average_samples=average_samples
    )  # fmt: skip


def read_file(path: Path) -> pd.DataFrame:
    """The table in a file, as it stands there. Raises TableError for a file that is none."""
    # Only an empty cell of a CSV is null: "None" and "NA" are answers that models give.
    csv = partial(pd.read_csv, keep_default_na=False, na_values=[""])
    readers = {".csv": csv, ".parquet": pd.read_parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader = readers.get(path.suffix.lower())
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise TableError(
            f"{path}: pickles are never opened here, they can run any code. Where you trust the file, turn it into "
            "parquet yourself: pandas.read_pickle(...).to_parquet(...)"
        )
    if reader is None:
        raise TableError(f"{path}: {path.suffix or 'no ending'} is not a known kind of table: {', '.join(readers)}")
    try:
        raw = reader(path)
    except OSError as exc:
        raise TableError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # what pandas and pyarrow raise for broken files descends from it
        raise TableError(f"{path}: not {path.suffix.lower()[1:]}: {exc}") from exc
    if raw.empty:
        raise TableError(f"{path}: the table is empty")
    return raw


def _json_lines(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as exc:
                raise TableError(f"{path}: line {number} is not JSON: {exc}") from exc
            if not isinstance(row, dict):
                raise TableError(f"{path}: line {number} is not a JSON object with a field per column")
            rows.append(row)
    # As objects: pandas would turn whole numbers beside a null into floats, and so 7 into "7.0".
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _cells(field: str, cells: list[Any]) -> list[Any]:
    """Numbers in a column of names ("prompt 7") become their text, as they stood in the file."""
    if field not in ("prompt_id", "group", "arm", "reference", "answer", "cluster"):
        return cells
    return [str(c) if isinstance(c, int | float) and not isinstance(c, bool) and c == c else c for c in cells]


def _chats_as_text(where: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Prompts that are lists of chat messages, as text and messages, with ids that know the roles."""
    prompts = [list(p) if hasattr(p, "tolist") else p for p in frame["prompt"].tolist()]
    if not any(isinstance(prompt, list) for prompt in prompts):
        return frame
    texts, stored, ids = [], [], []
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, list):
            texts.append(prompt)
            stored.append(None)
            ids.append(tables.prompt_id(prompt) if isinstance(prompt, str) and prompt.strip() else None)
            continue
        try:
            text, messages, identity = as_stored(prompt)
        except InputError as exc:
            raise TableError(f"{where}: column 'prompt', row {row}: {exc}") from exc
        texts.append(text)
        stored.append(messages)
        ids.append(identity)
    frame = frame.assign(prompt=texts, messages=pd.Series(stored, dtype=object))
    return frame if "prompt_id" in frame else frame.assign(prompt_id=ids)


def as_stored(prompt: list[Any]) -> tuple[str, str, str]:
    """A chat as the prompts table keeps it: text, messages as JSON, id. Raises InputError for one that is none."""
    messages = as_messages(prompt)
    kept = json.dumps([{"role": m.role, "content": m.content} for m in messages], ensure_ascii=False)
    return "\n".join(m.content for m in messages), kept, tables.prompt_id(messages)


def _estimates(raw: pd.DataFrame) -> list[str]:
    notes = []
    words = {"tokens_estimated": "tokens are", "cost_estimated": "costs are"}
    for column in words:
        if column in raw.columns:
            share = sum(map(bool, raw[column].tolist())) / len(raw)
            if share > 0:
                notes.append(f"{words[column]} estimates in {share:.0%} of the rows, as the table says")
    return notes
