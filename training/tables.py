"""The tables of what was logged - prompts, samples, outcomes, runs, nodes - and the checks that every row passes.

A table is a pandas DataFrame with exactly the columns named here; on disk it is parquet with a pyarrow schema
made from the same list. Nothing here reads or writes files: howhard.training.log keeps the tables,
howhard.training.importing brings in other people's.

In the frames strings are str (null: None or NaN, ask `pd.isna`), nullable whole numbers are pandas "Int32",
times are UTC timestamps, and `verdicts` is a list of dicts.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from ..strategies.base import Generation, Prices, Prompt, SamplingParams, as_messages
from ..strategies.confidence import WINDOW, groups
from ..strategies.errors import TableError, nearest

SCHEMA_VERSION = 1
"""Of all tables together; goes up when a column changes its name, type or meaning."""

VERDICT = pa.struct(
    [
        pa.field("verifier", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("prompt_cost", pa.float64(), nullable=False),
    ]
)
"""What a verifier made of a sample. `tokens` and `cost` are this sample's own; `prompt_tokens` and `prompt_cost` were
taken once for all samples that were judged in one call (0 where left out)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, whether null is allowed, and the range or the words that a value must keep.

    kind : "str", "int", "float", "bool", "time" or "verdicts".
    low, high : closed bounds of numbers; None = unbounded (NaN and infinity are never values).
    words : the only strings allowed; empty = any non-empty one (`blank` allows the empty one too).
    """

    name: str
    kind: Literal["str", "int", "float", "bool", "time", "verdicts"]
    meaning: str
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    blank: bool = False

    @property
    def arrow(self) -> pa.DataType:
        """The column's type on disk."""
        return {
            "str": pa.string(),
            "int": pa.int32(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "time": pa.timestamp("us", tz="UTC"),
            "verdicts": pa.list_(VERDICT),
        }[self.kind]


def _str(name: str, meaning: str, **options: Any) -> Column:
    return Column(name, "str", meaning, **options)


def _count(name: str, meaning: str, **options: Any) -> Column:
    return Column(name, "int", meaning, low=0, **options)


def _amount(name: str, meaning: str, **options: Any) -> Column:
    return Column(name, "float", meaning, low=0, **options)


def _share(name: str, meaning: str, **options: Any) -> Column:
    return Column(name, "float", meaning, low=0, high=1, **options)


PROMPTS: tuple[Column, ...] = (
    _str("prompt_id", "hash of the normalised text, see prompt_id()"),
    _str("text", "contents of all messages, joined by newlines"),
    _str("messages", "JSON list of {role, content}; null for a plain string prompt", nullable=True),
    _str("group", "task, tenant or route"),
    Column("time", "time", "when it was asked", nullable=True),
    _str("reference", "the right answer, while collecting", nullable=True, blank=True),
    _str("grader", "how an answer is judged against the reference", nullable=True),
    _str("cluster", "the problem, where several prompts pose one; null = its text says", nullable=True),
)

SAMPLES: tuple[Column, ...] = (
    _str("prompt_id", "of the prompts table"),
    _str("backend", "name of the backend that drew it"),
    _str("fingerprint", "of the backend's weights, template and tokenizer", blank=True),
    _str("params", "sampling parameters, JSON, see params_json()"),
    _count("sample_index", "0, 1, ... per prompt, backend and params"),
    _str("origin", "collect: drawn for the log; live: drawn while serving", words=("collect", "live")),
    _str("parent", "live: the run that drew it, of the runs table", nullable=True),
    _count("wave", "live: in which wave of the plan it was drawn", nullable=True),
    _count("planned_n", "live: how many the plan meant to draw", nullable=True),
    _str("stopped_because", "live: why the plan stopped", nullable=True),
    _str("text", "what was generated", blank=True),
    _str(
        "answer",
        "the extracted final answer; null where the sample is not complete",
        nullable=True,
        blank=True,
    ),
    _str("extractor", "name and version of what extracted the answer"),
    _share("quality", "the grader's judgement; null where it was not judged (failed samples)", nullable=True),
    Column("verdicts", "verdicts", "what each verifier made of it"),
    Column("mean_logprob", "float", "mean log-probability per token", nullable=True),
    _amount("confidence", "DeepConf's, of its least confident group of tokens; null = not asked for", nullable=True),
    _str("finish_reason", "only `stop` is a complete answer", words=("stop", "length", "cancelled", "error")),
    _count("prompt_tokens", "length of the prompt"),
    _count("cached_tokens", "those of them that the server had cached"),
    _count("completion_tokens", "drawn"),
    _amount("cost", "of this sample's completion tokens"),
    _amount("prompt_cost", "of the prompt, which n samples of one call share"),
    _amount("seconds", "from the call to the sample's last token, under the load of the collection", nullable=True),
)

OUTCOMES: tuple[Column, ...] = (
    _str("prompt_id", "of the prompts table"),
    _str("group", "task, tenant or route"),
    _str("arm", "backend/strategy"),
    _str("backend", "", nullable=True),
    _str("strategy", "", nullable=True),
    Column("n", "int", "samples that the arm draws", nullable=True, low=1),
    _share("quality", "the grader's judgement, or its expectation"),
    _amount("draws", "graded draws of the whole arm behind the quality; null = 1", nullable=True),
    _amount("prompt_tokens", "all prompt tokens of all calls; null = not logged", nullable=True),
    _amount("cached_tokens", "those of them that the server had cached", nullable=True),
    _amount("completion_tokens", "all tokens drawn; null = not logged", nullable=True),
    _amount("verifier_tokens", "read or written by verifiers", nullable=True),
    _amount("calls", "generate and score calls", nullable=True),
    _amount("cost", "verifiers included; null = not measured", nullable=True),
    _amount("latency_s", "of the arm running alone; null = not measured", nullable=True),
    Column("propensity", "float", "chance with which the arm was chosen", nullable=True, low=0, high=1),
    _str("source", "where the row comes from", words=("run", "derived", "import")),
    _str("answer", "what was answered", nullable=True, blank=True),
)

RUNS: tuple[Column, ...] = (
    _str("run_id", "of this run alone"),
    _str("prompt_id", "of the prompts table"),
    _str("arm", "backend/strategy"),
    _str("request_id", "what the caller called the request", nullable=True),
    Column("time", "time", "when the run had ended"),
    _str("answer", "what was answered; null = no sample was complete", nullable=True, blank=True),
    _share("quality", "a grader's judgement; null = not graded", nullable=True),
    _count("prompt_tokens", "all prompt tokens of all calls"),
    _count("cached_tokens", "those of them that the server had cached"),
    _count("completion_tokens", "all tokens drawn, those of losing samples too"),
    _count("verifier_tokens", "read or written by verifiers"),
    _count("calls", "generate and score calls"),
    _amount("cost", "verifiers included"),
    _amount("seconds", "from the request to the answer, under whatever load there was"),
    _str("stopped_because", "why it drew no more", blank=True),
)

NODES: tuple[Column, ...] = (
    _str("run_id", "of the runs table"),
    _str("prompt_id", "of the prompts table"),
    _str("arm", "backend/strategy"),
    _str("backend", "that drew the step"),
    _count("node", "0, 1, ... in one run"),
    _count("parent", "the node that it goes on from; null = the prompt", nullable=True),
    _count("depth", "steps from the prompt"),
    _str("text", "of this step alone", blank=True),
    _share("score", "the verifier's, of the way up to here; null = not judged", nullable=True),
    _count("copies", "samples that said the same and were merged into it"),
    _count("completion_tokens", "drawn for it"),
    Column("finished", "bool", "whether it ends a solution"),
    Column("kept", "bool", "whether the search went on from it, or held it as a solution"),
)

COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "prompts": PROMPTS,
    "samples": SAMPLES,
    "outcomes": OUTCOMES,
    "runs": RUNS,
    "nodes": NODES,
}

KEYS: Mapping[str, tuple[str, ...]] = {
    "prompts": ("prompt_id",),
    "samples": ("prompt_id", "backend", "params", "sample_index", "origin"),
    "outcomes": ("prompt_id", "arm"),
    "runs": ("run_id",),
    "nodes": ("run_id", "node"),
}
"""The columns that no two rows of a table share."""

_STRING = pd.Series(["a"]).dtype  # pandas 3: str; pandas 2: object

# A live sample has no index of its own: two requests with the same prompt both draw a sample 0.
_LIVE_KEY = (*KEYS["samples"], "parent")


def schema(table: str) -> pa.Schema:
    """The pyarrow schema of a table; its metadata carries the table's name and SCHEMA_VERSION."""
    fields = [pa.field(c.name, c.arrow, nullable=c.nullable) for c in COLUMNS[table]]
    metadata = {"howhard.table": table, "howhard.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata=metadata)


# ── identities ──────────────────────────────────────────────────────────────────────────────────────────────


def prompt_id(prompt: Prompt) -> str:
    r"""First 16 hex digits of the SHA-256 of the prompt: NFC, white space folded to single spaces, case kept.

    A string and a single user message of the same content are the same prompt; in any longer conversation the
    roles are hashed too.
    >>> prompt_id("What is 2 + 2?") == prompt_id("What  is\n2 + 2? ")
    True
    """
    messages = as_messages(prompt)
    if len(messages) == 1 and messages[0].role == "user":
        text = _folded(messages[0].content)
    else:
        text = json.dumps([[m.role, _folded(m.content)] for m in messages], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def params_json(params: SamplingParams) -> str:
    """The parameters that change what is drawn, as JSON with sorted keys (neither seed nor logprobs).

    >>> params_json(SamplingParams(temperature=0.8, max_tokens=64))
    '{"max_tokens": 64, "stop": [], "temperature": 0.8, "top_p": 1.0}'
    """
    fields = {
        "temperature": float(params.temperature),
        "top_p": float(params.top_p),
        "max_tokens": params.max_tokens,
        "stop": list(params.stop),
    }
    thinking = {"thinking_tokens": params.thinking_tokens, "reasoning_effort": params.reasoning_effort}
    return json.dumps(fields | {name: value for name, value in thinking.items() if value is not None}, sort_keys=True)


def drawn_cells(generation: Generation, prices: Prices) -> dict[str, Any]:
    """What a generation took, as columns of the samples table; its prompt's cost stands apart."""
    g = generation
    return {
        "mean_logprob": _finite(g.mean_logprob),
        "confidence": _finite(min(groups(g.confidences, WINDOW)) if g.confidences else None),
        "finish_reason": g.finish_reason,
        "prompt_tokens": g.prompt_tokens,
        "cached_tokens": g.cached_tokens,
        "completion_tokens": g.completion_tokens,
        "cost": prices.cost(prompt=0, completion=g.completion_tokens),
        "prompt_cost": prices.cost(prompt=g.prompt_tokens, completion=0, cached=g.cached_tokens),
        "seconds": g.seconds,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────


def validate_prompts(df: pd.DataFrame) -> pd.DataFrame:
    """Check a prompts table; see `validate`."""
    return validate("prompts", df)


def validate_samples(df: pd.DataFrame) -> pd.DataFrame:
    """Check a samples table; see `validate`. Live samples are told apart by their request (`parent`) too."""
    return validate("samples", df)


def validate_outcomes(df: pd.DataFrame) -> pd.DataFrame:
    """Check an outcomes table; see `validate`."""
    return validate("outcomes", df)


def validate(table: str, df: pd.DataFrame, *, unique: bool = True) -> pd.DataFrame:
    """Return a copy of `df` with the table's columns in order and of the right types, index 0..n-1.

    unique : also refuse two rows with the same key (KEYS).

    Raises TableError that names the column, the first bad row (counted from 0), its value, and a remedy: for
    an empty table, a missing, unknown or mistyped column, null or NaN where a value is needed, quality
    outside [0, 1], negative tokens or money, a word that is not one of those known, duplicate rows.
    """
    columns = COLUMNS[table]
    names = [c.name for c in columns]
    missing = [n for n in names if n not in df.columns]
    unknown = [str(n) for n in df.columns if n not in names]
    if missing:
        hint = nearest(missing[0], unknown) if unknown else ""
        raise TableError(
            f"{table}: column {missing[0]!r} is missing{hint}. Add it (null where it is not known: "
            f"howhard.training.tables.fill does that), or map another column to it with `howhard import`."
        )
    if unknown:
        raise TableError(f"{table}: column {unknown[0]!r} is unknown{nearest(unknown[0], names)}. Drop or rename it.")
    if len(df) == 0:
        raise TableError(f"{table}: the table is empty. Collect or import at least one row.")
    checked = pd.DataFrame({c.name: _checked(table, c, df[c.name].tolist()) for c in columns})
    if unique:
        _refuse_duplicates(table, checked)
    return checked


def fill(table: str, rows: "pd.DataFrame | Iterable[Mapping[str, object]]") -> pd.DataFrame:
    """Add the columns that are missing where a value is optional (null) or plainly zero, and nothing else.

    Samples get zero cached tokens and costs, no verdicts, and origin "collect"; outcomes zero cached tokens and
    verifier tokens.
    """
    df = pd.DataFrame(rows).copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    zero = {"cached_tokens": 0.0, "verifier_tokens": 0.0}
    if table == "samples":
        zero = {"cached_tokens": 0, "cost": 0.0, "prompt_cost": 0.0, "origin": "collect"}
    for column in COLUMNS[table]:
        if column.name in df.columns:
            continue
        if column.name in zero:
            df[column.name] = zero[column.name]
        elif column.kind == "verdicts":
            df[column.name] = pd.Series([[] for _ in range(len(df))], index=df.index, dtype=object)
        elif column.nullable:
            df[column.name] = pd.Series([None] * len(df), index=df.index, dtype=object)
    return df


def to_arrow(table: str, df: pd.DataFrame) -> pa.Table:
    """Turn a validated frame into a pyarrow table with the table's schema."""
    target = schema(table)
    # As lists: arrow asks a pandas 3.1 series of UTC times for `.values`, which warns.
    arrays = [pa.array(df[f.name].tolist(), type=f.type, from_pandas=True) for f in target]
    return pa.Table.from_arrays(arrays, schema=target)


def from_arrow(table: str, data: pa.Table) -> pd.DataFrame:
    """Turn a pyarrow table of the table's schema into a frame (not yet validated).

    An optional column that an older howhard did not write is null.
    """
    columns = {}
    for column in COLUMNS[table]:
        if column.name not in data.column_names:
            if column.nullable:
                columns[column.name] = pd.Series([None] * data.num_rows, dtype=object)
            continue
        array = data.column(column.name)
        if column.kind == "verdicts":
            columns[column.name] = pd.Series(array.to_pylist(), dtype=object)
        elif column.kind == "int":
            columns[column.name] = array.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
        else:
            columns[column.name] = array.to_pandas()
    for name in data.column_names:
        if name not in columns:
            columns[name] = data.column(name).to_pandas()
    return pd.DataFrame(columns)


def check_version(found: object, where: str) -> None:
    """Raise TableError, saying what to do, unless `found` is this release's SCHEMA_VERSION."""
    if str(found) == str(SCHEMA_VERSION):
        return
    if found is None:
        raise TableError(
            f"{where}: it names no schema version, so it is not a howhard log. Bring other tables in with "
            f"`howhard import`."
        )
    older = str(found).isdigit() and int(str(found)) < SCHEMA_VERSION
    remedy = "Collect anew, or import its tables with `howhard import`" if older else "Upgrade howhard to read it"
    raise TableError(f"{where}: schema version {found}, this release reads version {SCHEMA_VERSION}. {remedy}.")


def _checked(table: str, column: Column, cells: list[Any]) -> pd.Series:
    missing = np.array([_is_missing(cell) for cell in cells], dtype=bool)

    def refuse(bad: np.ndarray, why: str, remedy: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            shown = repr(cells[row])
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            because = why.replace("KIND", type(cells[row]).__name__)
            raise TableError(f"{table}: column {column.name!r}, row {row}: {shown}: {because}. {remedy}")

    if not column.nullable:
        refuse(missing, "a value is needed here", "Drop the row, or give the value.")
    check = {
        "str": _checked_words,
        "int": _checked_numbers,
        "float": _checked_numbers,
        "bool": _checked_bools,
        "time": _checked_times,
        "verdicts": _checked_verdicts,
    }[column.kind]
    return check(column, cells, missing, refuse)


_Refuse = Callable[[np.ndarray, str, str], None]
"""Raises TableError for the first True of a mask; a KIND in the sentence becomes the bad value's type."""


def _is_missing(cell: object) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


def _each(cells: list[Any], missing: np.ndarray, test: Callable[[Any], bool]) -> np.ndarray:
    """Where `test` holds, null cells left out."""
    pairs = zip(cells, missing.tolist(), strict=True)
    return np.array([not gone and test(cell) for cell, gone in pairs], dtype=bool)


def _checked_words(column: Column, cells: list[Any], missing: np.ndarray, refuse: _Refuse) -> pd.Series:
    not_text = _each(cells, missing, lambda cell: not isinstance(cell, str))
    refuse(not_text, "a string is needed, this is a KIND", "Convert the column to strings.")
    if column.words:
        unknown = _each(cells, missing, lambda cell: cell not in column.words)
        refuse(unknown, f"not one of {', '.join(column.words)}", "Rename the value.")
    elif not column.blank:
        remedy = "Give a value, or null." if column.nullable else "Give a value, or drop the row."
        refuse(_each(cells, missing, lambda cell: cell == ""), "the string is empty", remedy)
    return pd.Series([None if gone else c for c, gone in zip(cells, missing, strict=True)], dtype=_STRING)


def _checked_numbers(column: Column, cells: list[Any], missing: np.ndarray, refuse: _Refuse) -> pd.Series:
    not_number = _each(cells, missing, lambda cell: not _is_number(cell))
    remedy = "Convert the column to numbers, null where not known."
    refuse(not_number, "a number is needed, this is a KIND", remedy)
    numbers = np.array([math.nan if gone else float(c) for c, gone in zip(cells, missing, strict=True)])
    refuse(np.isinf(numbers), "infinity is not a value", "Drop the row, or correct it.")
    if column.low is not None and column.high is not None:
        remedy = "Scale the column (percentages / 100), or drop the row."
        outside = (numbers < column.low) | (numbers > column.high)
        refuse(outside, f"outside [{column.low:g}, {column.high:g}]", remedy)
    elif column.low is not None:
        remedy = "The source miscounted: drop such rows rather than averaging them."
        refuse(numbers < column.low, "negative" if column.low == 0 else f"below {column.low:g}", remedy)
    if column.kind == "float":
        return pd.Series(numbers)
    broken = (numbers != np.floor(numbers)) & ~missing
    refuse(broken, "not a whole number", "Round it, or map another column.")
    refuse(numbers > 2**31 - 1, "more than a 32-bit number holds", "Correct the row.")
    if column.nullable:
        return pd.Series(numbers).astype("Int32")
    return pd.Series(numbers.astype("int32"))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number, np.bool_))


def _checked_bools(column: Column, cells: list[Any], missing: np.ndarray, refuse: _Refuse) -> pd.Series:
    wrong = _each(cells, missing, lambda cell: not isinstance(cell, (bool, np.bool_)))
    refuse(wrong, "true or false is needed, this is a KIND", "Give a bool.")
    return pd.Series([bool(cell) for cell in cells], dtype=bool)


def _checked_times(column: Column, cells: list[Any], missing: np.ndarray, refuse: _Refuse) -> pd.Series:
    numbers = _each(cells, missing, _is_number)
    refuse(numbers, "a time is needed, this is a number", "Convert it with pandas.to_datetime(..., unit=...).")
    times = []
    for cell, gone in zip(cells, missing, strict=True):
        try:
            time = pd.NaT if gone else pd.Timestamp(cell)
        except (ValueError, TypeError):
            time = pd.NaT
        naive = isinstance(time, pd.Timestamp) and time.tzinfo is None
        times.append(time.tz_localize("UTC") if naive else time)
    not_time = np.array([time is pd.NaT for time in times], dtype=bool) & ~missing
    refuse(not_time, "not a time", "Write times in ISO 8601.")
    return pd.Series(pd.DatetimeIndex(pd.to_datetime(times, utc=True)).as_unit("us"))


def _checked_verdicts(column: Column, cells: list[Any], missing: np.ndarray, refuse: _Refuse) -> pd.Series:
    not_list = _each(cells, missing, lambda c: isinstance(c, (str, Mapping)) or not isinstance(c, _LISTS))
    why = "a list of verdicts {verifier, score, tokens, cost} is needed"
    refuse(not_list, why, "Give [] where nothing was verified.")
    wrong = [next((why for v in cell if (why := _wrong_with(v))), "") for cell in cells]
    bad = np.array([bool(why) for why in wrong], dtype=bool)
    refuse(bad, wrong[int(bad.argmax())], "Drop the verdict, or correct it.")
    return pd.Series([[_verdict(v) for v in cell] for cell in cells], dtype=object)


_LISTS = (Sequence, np.ndarray)


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    score = verdict["score"]
    return {
        "verifier": verdict["verifier"],
        "score": None if score is None else float(score),
        "tokens": int(verdict["tokens"]),
        "cost": float(verdict["cost"]),
        "prompt_tokens": int(verdict.get("prompt_tokens", 0)),
        "prompt_cost": float(verdict.get("prompt_cost", 0.0)),
    }


def _wrong_with(verdict: object) -> str:
    """What is wrong with a verdict, "" when nothing is."""
    if not isinstance(verdict, Mapping) or not _NEEDED <= set(verdict) <= _NEEDED | {"prompt_tokens", "prompt_cost"}:
        return "a verdict has the fields verifier, score, tokens, cost, and may have prompt_tokens, prompt_cost"
    score = verdict["score"]
    if not isinstance(verdict["verifier"], str) or not verdict["verifier"]:
        return "verifier must be a name"
    if score is not None and not (_is_number(score) and 0 <= score <= 1):
        return "score must be null or lie in [0, 1]"
    for name in ("tokens", "prompt_tokens"):
        tokens = verdict.get(name, 0)
        if not (_is_number(tokens) and tokens >= 0 and tokens == int(tokens)):
            return f"{name} must be a whole number >= 0"
    for name in ("cost", "prompt_cost"):
        cost = verdict.get(name, 0.0)
        if not (_is_number(cost) and 0 <= cost < math.inf):
            return f"{name} must be a finite number >= 0"
    return ""


_NEEDED = {"verifier", "score", "tokens", "cost"}


def _refuse_duplicates(table: str, df: pd.DataFrame) -> None:
    live = table == "samples" and "live" in df["origin"].tolist()
    names = _LIVE_KEY if live else KEYS[table]
    seen: dict[tuple[object, ...], int] = {}
    for row, cells in enumerate(zip(*(df[name].tolist() for name in names), strict=True)):
        key = tuple(None if _is_missing(cell) else cell for cell in cells)
        if key in seen:
            shown = ", ".join(f"{name}={cell!r}" for name, cell in zip(names, key, strict=True))
            raise TableError(f"{table}: rows {seen[key]} and {row} have the same key ({shown}). {_REMEDIES[table]}")
        seen[key] = row


_REMEDIES = {
    "outcomes": "An arm has one outcome per prompt: average repeated runs, or name the arms apart.",
    "samples": "Number the samples of a prompt, backend and params 0, 1, 2, ...",
    "prompts": "Keep one of them.",
    "runs": "Give every run an id of its own.",
    "nodes": "Number the nodes of a run 0, 1, 2, ...",
}
