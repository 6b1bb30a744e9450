"""Bring in outcomes that somebody else logged: any long table, one row per prompt and arm (or sample).

The columns are mapped to howhard's, checked row by row, and split into prompts, outcomes and raw samples. Nothing is
averaged, guessed or repaired unless it is asked for; what a reader should know is kept in `notes`.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ..strategies.errors import TableError, nearest
from . import tables
from .log import Log

logger = logging.getLogger(__name__)

FIELDS: Mapping[str, str] = {
    "prompt": "text of the prompt",
    "prompt_id": "the table's own id; without one, a hash of the text",
    "group": "task, tenant or route; without one, the file's name",
    "time": "when it was asked",
    "reference": "the right answer",
    "arm": "what answered: backend and strategy",
    "sample_index": "tells several raw samples of an arm on a prompt apart",
    "quality": "in [0, 1]",
    "prompt_tokens": "",
    "cached_tokens": "",
    "completion_tokens": "",
    "verifier_tokens": "",
    "calls": "",
    "cost": "null where it was not logged",
    "latency_s": "seconds; null where it was not measured",
    "propensity": "chance with which the arm was chosen",
    "answer": "what was answered",
}
"""What a column can be mapped to. Columns of these names need no mapping; `prompt`, `arm` and `quality` are needed."""

ALSO: Mapping[str, str] = {"quality": "correct", "reference": "gold"}
"""Column names that are taken for a field when it is neither mapped nor there."""

_PROMPT_FIELDS = ("prompt_id", "text", "group", "time", "reference")


@dataclass(frozen=True, slots=True)
class Imported:
    """A table split into howhard's three, each validated; None where it has no such rows.

    notes : sentences that a reader of the figures should know.
    """

    prompts: pd.DataFrame
    outcomes: pd.DataFrame | None
    samples: pd.DataFrame | None
    notes: tuple[str, ...]

    def write(self, log: Log) -> None:
        """Add everything to a log; what it holds already is left as it is."""
        log.append_prompts(self.prompts)
        if self.samples is not None:
            log.append_samples(self.samples)
        if self.outcomes is not None:
            log.append_outcomes(self.outcomes)
        log.note(imported=[*log.notes().get("imported", []), *self.notes])


def import_table(
    path: str | Path, mapping: Mapping[str, str] | None = None, *, average_samples: bool = False
) -> Imported:
    """Read a CSV or parquet table.

    mapping : field -> column, for columns whose names are not the fields' (FIELDS).
    average_samples : make an outcome of the mean of an arm's raw samples on a prompt, under the arm's name;
        without it they become the samples table. Raw samples are the arms that have several sample indices on
        one prompt. Their `cost` is taken whole, the prompt's share included, and tokens are rounded.

    Raises TableError that names file, column, row (counted from 0) and value: for an unknown field, a column that
    is not there, and all that howhard.training.tables refuses, negative token counts among it.
    """
    path = Path(path)
    raw = _read(path)
    columns = _mapped(path, list(raw.columns), mapping or {})
    frame = pd.DataFrame({field: _cells(field, raw[column].tolist()) for field, column in columns.items()})
    notes = _estimates(raw)
    prompts, frame = _prompts(path, frame, notes)
    rows = _checked(path, frame)
    indices = frame["sample_index"].tolist() if "sample_index" in frame else [0] * len(frame)
    raw_arms = _raw_arms(rows, indices)
    is_sample = [arm in raw_arms for arm in rows["arm"].tolist()]
    samples, outcomes = None, _where(rows, [not s for s in is_sample])
    if raw_arms and average_samples:
        outcomes = pd.concat([outcomes, _averaged(_where(rows, is_sample))], ignore_index=True)
        notes.append(f"{path.name}: outcomes of {', '.join(sorted(raw_arms))} are means over their samples")
    elif raw_arms:
        samples = _samples(path, _where(rows, is_sample), [i for i, s in zip(indices, is_sample, strict=True) if s])
    checked = None
    if len(outcomes):
        checked = _naming(path, lambda: tables.validate_outcomes(outcomes))
    for note in notes:
        logger.info("%s", note)
    return Imported(prompts, checked, samples, tuple(notes))


def _read(path: Path) -> pd.DataFrame:
    # Only an empty cell of a CSV is null: "None" and "NA" are answers that models give.
    csv = partial(pd.read_csv, keep_default_na=False, na_values=[""])
    readers = {".csv": csv, ".parquet": pd.read_parquet}
    reader = readers.get(path.suffix.lower())
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


def _cells(field: str, cells: list[Any]) -> list[Any]:
    """Numbers in a column of names ("prompt 7") become their text, as they stood in the file."""
    if field not in ("prompt_id", "group", "arm", "reference", "answer"):
        return cells
    return [str(c) if isinstance(c, int | float) and not isinstance(c, bool) and c == c else c for c in cells]


def _mapped(path: Path, there: list[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Find the column of each field that has one."""
    for field, column in mapping.items():
        if field not in FIELDS:
            raise TableError(f"mapping {field}={column}: no field is called {field!r}{nearest(field, FIELDS)}")
        if column not in there:
            raise TableError(f"{path}: mapping {field}={column}: no such column{nearest(column, map(str, there))}")
    columns = {}
    for field in FIELDS:
        column = mapping.get(field, field if field in there else ALSO.get(field))
        if column in there:
            columns[field] = column
    for field in ("prompt", "arm", "quality"):
        if field not in columns:
            raise TableError(
                f"{path}: no column {field!r}: name the one that holds it, as in --map {field}=COLUMN"
                f"{nearest(field, map(str, there))}"
            )
    return columns


def _estimates(raw: pd.DataFrame) -> list[str]:
    notes = []
    words = {"tokens_estimated": "tokens are", "cost_estimated": "costs are"}
    for column in words:
        if column in raw.columns:
            share = sum(map(bool, raw[column].tolist())) / len(raw)
            if share > 0:
                notes.append(f"{words[column]} estimates in {share:.0%} of the rows, as the table says")
    return notes


def _prompts(path: Path, frame: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The prompts table, and the frame with a prompt id and a group in every row."""
    frame = frame.rename(columns={"prompt": "text"})
    if "prompt_id" not in frame:
        bad = [row for row, text in enumerate(frame["text"].tolist()) if not isinstance(text, str) or not text.strip()]
        if bad:
            raise TableError(f"{path}: column 'prompt', row {bad[0]}: {frame['text'].tolist()[bad[0]]!r}: no prompt")
        ids = {text: tables.prompt_id(text) for text in set(frame["text"].tolist())}
        frame["prompt_id"] = [ids[text] for text in frame["text"].tolist()]
    if "group" not in frame:
        frame["group"] = path.stem
    held = frame.loc[:, [name for name in _PROMPT_FIELDS if name in frame]]
    first = pd.DataFrame(held).drop_duplicates("prompt_id").reset_index(drop=True)
    pairs = set(zip(held["prompt_id"].tolist(), held["text"].tolist(), strict=True))
    other = len(pairs) - len(first)
    if other:
        notes.append(f"{path.name}: {other} times a prompt has another text than at first; the first is kept")
    shared = len(first) - len(set(first["text"].tolist()))
    if shared:
        notes.append(
            f"{path.name}: {shared} prompts have the text of another one; they may fall on two sides of a split"
        )
    checked = _naming(path, lambda: tables.validate_prompts(tables.fill("prompts", first)))
    return checked, frame


def _checked(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Every row as an outcome, checked in the order of the file, so that errors name its rows."""
    names = [column.name for column in tables.OUTCOMES if column.name in frame]
    rows = frame.loc[:, names].assign(source="import")
    return _naming(path, lambda: tables.validate("outcomes", tables.fill("outcomes", rows), unique=False))


def _raw_arms(rows: pd.DataFrame, indices: list[Any]) -> set[str]:
    held: dict[tuple[str, str], set[Any]] = {}
    for prompt_id, arm, index in zip(rows["prompt_id"].tolist(), rows["arm"].tolist(), indices, strict=True):
        held.setdefault((prompt_id, arm), set()).add(index)
    return {arm for (_, arm), found in held.items() if len(found) > 1}


def _averaged(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = [c.name for c in tables.OUTCOMES if c.kind == "float" and c.name not in ("propensity", "draws")]
    by_arm = rows.groupby(["prompt_id", "group", "arm"], sort=False)
    means = pd.DataFrame(by_arm[numbers].mean()).assign(draws=by_arm.size().astype(float))
    return tables.fill("outcomes", means.reset_index().assign(source="import"))


def _samples(path: Path, rows: pd.DataFrame, indices: list[Any]) -> pd.DataFrame:
    """Raw samples as they are: of the "backend" that the arm names, under unknown sampling parameters."""
    frame = pd.DataFrame(
        {
            "prompt_id": rows["prompt_id"].tolist(),
            "backend": [arm.partition("/")[2] or arm for arm in rows["arm"].tolist()],
            "fingerprint": "",
            "params": "{}",
            "sample_index": indices,
            "text": "",
            "answer": rows["answer"].tolist(),
            "extractor": "import",
            "quality": rows["quality"].tolist(),
            "finish_reason": "stop",
            "prompt_tokens": _whole(rows["prompt_tokens"].tolist()),
            "completion_tokens": _whole(rows["completion_tokens"].tolist()),
            "cost": [0.0 if math.isnan(cost) else cost for cost in rows["cost"].tolist()],
        }
    )
    return _naming(path, lambda: tables.validate_samples(tables.fill("samples", frame)))


def _whole(numbers: list[float]) -> list[int]:
    return [0 if math.isnan(number) else round(number) for number in numbers]


def _where(frame: pd.DataFrame, mask: list[bool]) -> pd.DataFrame:
    return frame.iloc[[row for row, keep in enumerate(mask) if keep]].reset_index(drop=True)


def _naming(path: Path, check: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Run a check, and put the file's name before what it refuses."""
    try:
        return check()
    except TableError as exc:
        raise TableError(f"{path}: {exc}") from exc
