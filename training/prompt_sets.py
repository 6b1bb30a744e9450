"""Prompt sets: from a JSONL, CSV or parquet file, or from the generators, to a validated prompts table.

Nothing is drawn or graded here; errors name the file, the line (rows count from 1 in parquet) and the field.
"""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..strategies.base import Message, as_messages
from ..strategies.errors import InputError, TableError, nearest
from . import tables
from .graders import get_grader
from .problems.problem import Problem

logger = logging.getLogger(__name__)

FIELDS = ("prompt", "messages", "reference", "grader", "group", "id", "time", "cluster")
"""What is read from a file; other columns are left alone."""


def read_prompts(path: str | Path, *, grader: str | None = None, group: str | None = None) -> pd.DataFrame:
    """Read a prompt set, one prompt per line or row.

    prompt    : a string, or a list of chat messages {role, content} (JSON text of one in a column
        `messages`).
    reference : the right answer; a number becomes its text.
    grader    : see howhard.training.graders; the argument is for prompts that name none.
    group     : task, tenant or route; default: the argument, else the file's name.
    id        : the prompt's id in the log, instead of the hash of its text.
    time      : when it was asked, ISO 8601.
    cluster   : the problem, where several prompts pose one (in two languages); they stay together in every split.

    The same prompt twice is kept once, with a note in the log, when reference and grader agree, and is an
    error when they don't. Raises TableError for a file that cannot be read, an empty one, a wrong value, a
    prompt without a grader, and a reference missing where the grader needs one; InputError for a grader that
    isn't there.
    """
    if grader is not None:
        get_grader(grader).close()  # a wrong name is told even where every prompt names its own
    path = Path(path)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(f"{path}: {path.suffix or 'no ending'} is not a known kind of file: {', '.join(readers)}")
    rows: list[dict[str, Any]] = []
    try:
        for where, fields in reader(path):
            rows.append(_row(where, fields, grader, group or path.stem))
    except OSError as exc:
        raise TableError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except UnicodeDecodeError as exc:
        raise TableError(f"{path}: not UTF-8 ({exc.reason} at byte {exc.start}): convert the file") from exc
    if not rows:
        raise TableError(f"{path}: the file holds no prompt")
    return _table(rows)


def from_problems(problems: Iterable[Problem]) -> pd.DataFrame:
    """Make a prompts table of generated problems; the group is "family-level"."""
    rows = [
        {
            "where": f"problem {index}",
            "prompt_id": tables.prompt_id(problem.prompt),
            "text": problem.prompt,
            "group": f"{problem.family}-{problem.level}",
            "reference": problem.reference,
            "grader": problem.grader,
        }
        for index, problem in enumerate(problems)
    ]
    if not rows:
        raise InputError("no problem was given: generate at least one")
    return _table(rows)


def messages_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of a prompts row: its JSON where it has one, else its text as one user message."""
    stored = row["messages"]
    return as_messages(json.loads(stored) if isinstance(stored, str) else row["text"])


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    needs = {name: get_grader(name).needs_reference for name in {row["grader"] for row in rows}}
    kept: dict[str, dict[str, Any]] = {}
    repeated = 0
    for row in rows:
        if needs[row["grader"]] and row["reference"] is None:
            raise TableError(
                f"{row['where']}: field 'reference': grader {row['grader']!r} needs one and there is none"
                f"{row.get('hint', '')}"
            )
        first = kept.setdefault(row["prompt_id"], row)
        if first is row:
            continue
        for field in ("text", "messages", "reference", "grader"):
            if first.get(field) != row.get(field) and not (field == "text" and _same_id(first, row)):
                raise TableError(
                    f"{row['where']}: the same prompt stands at {first['where']}, with another {field} "
                    f"({first.get(field)!r} there, {row.get(field)!r} here): keep one of them"
                )
        repeated += 1
    if repeated:
        logger.warning("%d prompts stand there more than once and are kept once", repeated)
    by_text: dict[str, dict[str, Any]] = {}
    for row in kept.values():
        first = by_text.setdefault(row.get("hash", row["prompt_id"]), row)
        if first is not row:
            raise TableError(
                f"{row['where']}: field 'id': the prompt of {first['where']} again, under another id "
                f"({first['prompt_id']!r} there, {row['prompt_id']!r} here): keep one of them"
            )
    columns = [column.name for column in tables.PROMPTS]
    frame = pd.DataFrame([{name: row.get(name) for name in columns} for row in kept.values()])
    return tables.validate_prompts(frame)


def _same_id(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two texts differ only in what `prompt_id` folds."""
    return tables.prompt_id(first["text"]) == tables.prompt_id(second["text"])


def _row(where: str, fields: Mapping[str, Any], grader: str | None, group: str) -> dict[str, Any]:
    given = {name: value for name, value in fields.items() if name in FIELDS and not _blank(value)}
    unknown = [str(name) for name in fields if name not in FIELDS]
    source = "messages" if "messages" in given else "prompt"
    prompt = given.get(source)
    if prompt is None:
        raise TableError(f"{where}: field 'prompt' is missing or empty{_hint('prompt', unknown)}")
    if source == "messages" and isinstance(prompt, str):
        prompt = _json(where, "messages", prompt)
    if not isinstance(prompt, (str, list)):
        raise TableError(f"{where}: field {source!r} is {prompt!r}: give a string or a list of chat messages")
    try:
        messages = as_messages(prompt)
        identity = tables.prompt_id(prompt)
    except InputError as exc:
        raise TableError(f"{where}: field {source!r}: {exc}") from exc
    row = {
        "where": where,
        "hash": identity,
        "prompt_id": _text(where, "id", given.get("id")) or identity,
        "text": "\n".join(m.content for m in messages),
        "messages": None if isinstance(prompt, str) else _as_json(messages),
        "group": _text(where, "group", given.get("group")) or group,
        "time": given.get("time"),
        "cluster": _text(where, "cluster", given.get("cluster")),
        "reference": _text(where, "reference", given.get("reference")),
        "grader": _text(where, "grader", given.get("grader")) or grader,
        "hint": _hint("reference", unknown),
    }
    if row["grader"] is None:
        names = "exact, numeric, math-verify, regex, checker or package.module:function"
        raise TableError(f"{where}: field 'grader' is missing: add it, or give --grader ({names})")
    try:
        get_grader(row["grader"]).close()
    except InputError as exc:
        raise TableError(f"{where}: field 'grader': {exc}") from exc
    return row


def _hint(field: str, unknown: list[str]) -> str:
    guess = nearest(field, unknown)
    return guess if guess.startswith("; did you mean") else ""


def _blank(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and pd.isna(value))


def _text(where: str, field: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise TableError(f"{where}: field {field!r} is {value!r}: give a string")


def _json(where: str, field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise TableError(f"{where}: field {field!r} is not JSON: {exc}") from exc


def _as_json(messages: tuple[Message, ...]) -> str:
    return json.dumps([{"role": m.role, "content": m.content} for m in messages], ensure_ascii=False)


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as exc:
                raise TableError(f"{where}: not JSON: {exc}") from exc
            if not isinstance(fields, dict):
                raise TableError(f"{where}: each line must be a JSON object with a field 'prompt'")
            yield where, fields


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="more cells than columns")
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as exc:
                raise TableError(f"{path}:{number}: not CSV: {exc}") from exc
            if fields is None:
                return
            number = max(number, 2)  # the first call reads the header too
            if "more cells than columns" in fields:
                raise TableError(f"{path}:{number}: the line has more cells than the header: quote the commas")
            yield f"{path}:{number}", fields


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as exc:
        raise TableError(f"{path}: not parquet: {exc}") from exc
    for number, fields in enumerate(rows, start=1):
        time = fields.get("time")
        yield (
            f"{path}: row {number}",
            fields | ({"time": time.isoformat()} if hasattr(time, "isoformat") else {}),
        )
