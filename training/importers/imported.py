"""What every importer ends in: rows of one prompt and arm become howhard's prompts, outcomes and raw samples.

An importer knows its source's form and makes a frame of the fields below; here the frame is checked row by row and
split. Nothing is averaged, guessed or repaired unless it is asked for; what a reader should know is kept in `notes`.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...strategies.errors import TableError, nearest
from .. import tables
from ..log import Log

logger = logging.getLogger(__name__)

FIELDS: Mapping[str, str] = {
    "prompt": "text of the prompt, or a list of chat messages {role, content}",
    "prompt_id": "the table's own id; without one, a hash of the text",
    "group": "task, tenant or route; without one, the file's name",
    "time": "when it was asked",
    "reference": "the right answer",
    "cluster": "the problem, where several prompts pose one (in two languages)",
    "arm": "what answered: backend and strategy",
    "sample_index": "tells several raw samples of an arm on a prompt apart",
    "quality": "in [0, 1]",
    "draws": "graded draws behind the quality; null = 1",
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

_PROMPT_FIELDS = ("prompt_id", "text", "messages", "group", "time", "reference", "cluster")


@dataclass(frozen=True, slots=True)
class Imported:
    """A source split into howhard's tables, each validated; None where it has no such rows.

    notes : sentences that a reader of the figures should know.
    families : group -> family, where the source or its user knows siblings; a log keeps it.
    """

    prompts: pd.DataFrame
    outcomes: pd.DataFrame | None
    samples: pd.DataFrame | None
    notes: tuple[str, ...] = ()
    families: Mapping[str, str] = field(default_factory=dict)

    def write(self, log: Log) -> None:
        """Add everything to a log; what it holds already is left as it is."""
        log.append_prompts(self.prompts)
        if self.samples is not None:
            log.append_samples(self.samples)
        if self.outcomes is not None:
            log.append_outcomes(self.outcomes)
        held = log.notes()
        new = [note for note in self.notes if note not in held.get("imported", [])]
        log.note(
            imported=[*held.get("imported", []), *new], families={**held.get("families", {}), **dict(self.families)}
        )


def split_rows(
    where: str,
    frame: pd.DataFrame,
    *,
    group: str,
    notes: Collection[str] = (),
    families: Mapping[str, str] | None = None,
    average_samples: bool = False,
) -> Imported:
    """Check a frame of FIELDS, one row per prompt and arm (or raw sample), and split it.

    where : how errors call the source. group : of every prompt where the frame has no such column.
    average_samples : make an outcome of the mean of an arm's raw samples on a prompt, under the arm's name, with their
        number as `draws`; without it they become the samples table. Raw samples are the arms that have several sample
        indices on one prompt. Their `cost` is taken whole, the prompt's share included, and tokens are rounded.

    Raises TableError that names source, column, row (counted from 0) and value, for all that howhard.training.tables
    refuses, two rows of one prompt, arm and sample index among it.
    """
    told = list(notes)
    prompts, frame = _prompts(where, frame, group, told)
    rows = _checked(where, frame)
    indices = frame["sample_index"].tolist() if "sample_index" in frame else [0] * len(frame)
    raw_arms = _raw_arms(where, rows, indices)
    is_sample = [arm in raw_arms for arm in rows["arm"].tolist()]
    samples, outcomes = None, _where(rows, [not s for s in is_sample])
    if raw_arms and average_samples:
        outcomes = pd.concat([outcomes, _averaged(_where(rows, is_sample))], ignore_index=True)
        told.append(f"{where}: outcomes of {', '.join(sorted(raw_arms))} are means over their samples")
    elif raw_arms:
        raw = _where(rows, is_sample)
        told += _gaps(where, raw)
        samples = _samples(where, raw, [i for i, s in zip(indices, is_sample, strict=True) if s])
        told.append(
            f"{where}: {', '.join(sorted(raw_arms))} have several draws of a prompt and became raw samples; averaging "
            "them (--average-samples) makes them arms to learn from"
        )
    checked = None
    if len(outcomes):
        checked = naming(where, lambda: tables.validate_outcomes(outcomes))
    for note in told:
        logger.info("%s", note)
    return Imported(prompts, checked, samples, tuple(told), families or {})


def columns_of(where: str, there: Collection[str], mapping: Mapping[str, str], also: Mapping[str, str]) -> dict:
    """Find the column of each field that has one: field -> column.

    also : column names that are taken for a field when it is neither mapped nor there.

    Raises TableError for an unknown field, a column that is not there, or no column for a field that is needed.
    """
    for name, column in mapping.items():
        if name not in FIELDS:
            raise TableError(f"mapping {name}={column}: no field is called {name!r}{nearest(name, FIELDS)}")
        if column not in there:
            raise TableError(f"{where}: mapping {name}={column}: no such column{nearest(column, map(str, there))}")
    columns = {}
    for name in FIELDS:
        column = mapping.get(name, name if name in there else also.get(name))
        if column in there:
            columns[name] = column
    for name in ("prompt", "arm", "quality"):
        if name not in columns:
            raise TableError(
                f"{where}: no column {name!r}: name the one that holds it, as in --map {name}=COLUMN"
                f"{nearest(name, map(str, there))}"
            )
    return columns


def naming(where: str, check: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Run a check, and put the source's name before what it refuses."""
    try:
        return check()
    except TableError as exc:
        raise TableError(f"{where}: {exc}") from exc


def _prompts(where: str, frame: pd.DataFrame, group: str, notes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The prompts table, and the frame with a prompt id and a group in every row."""
    frame = frame.rename(columns={"prompt": "text"})
    texts = frame["text"].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TableError(
                f"{where}: column 'prompt', row {row}: {text!r}: no prompt. Drop the row, or give the text"
            )
    if "prompt_id" not in frame:
        ids = {text: tables.prompt_id(text) for text in set(texts)}
        frame["prompt_id"] = [ids[text] for text in texts]
    if "group" not in frame:
        frame["group"] = group
    held = frame.loc[:, [name for name in _PROMPT_FIELDS if name in frame]]
    first = pd.DataFrame(held).drop_duplicates("prompt_id").reset_index(drop=True)
    pairs = set(zip(held["prompt_id"].tolist(), held["text"].tolist(), strict=True))
    other = len(pairs) - len(first)
    if other:
        notes.append(f"{where}: {other} times a prompt has another text than at first; the first is kept")
    shared = len(first) - len(set(first["text"].tolist()))
    if shared:
        notes.append(f"{where}: {shared} prompts have the text of another one; they lie on one side of every split")
    checked = naming(where, lambda: tables.validate_prompts(tables.fill("prompts", first)))
    return checked, frame


def _checked(where: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Every row as an outcome, checked in the order of the source, so that errors name its rows."""
    names = [column.name for column in tables.OUTCOMES if column.name in frame]
    rows = frame.loc[:, names].assign(source="import")
    return naming(where, lambda: tables.validate("outcomes", tables.fill("outcomes", rows), unique=False))


def _raw_arms(where: str, rows: pd.DataFrame, indices: list[Any]) -> set[str]:
    """Arms with several sample indices on one prompt."""
    held: dict[tuple[str, str], dict[Any, int]] = {}
    for row, (prompt_id, arm, index) in enumerate(
        zip(rows["prompt_id"].tolist(), rows["arm"].tolist(), indices, strict=True)
    ):
        found = held.setdefault((prompt_id, arm), {})
        if index in found:
            raise TableError(
                f"{where}: rows {found[index]} and {row} have the same prompt, arm and sample "
                f"(prompt_id={prompt_id!r}, arm={arm!r}, sample_index={index!r}). Drop one of them, average repeated "
                "runs yourself, name the arms apart, or tell draws apart by a column sample_index"
            )
        found[index] = row
    return {arm for (_, arm), found in held.items() if len(found) > 1}


def _averaged(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = [c.name for c in tables.OUTCOMES if c.kind == "float" and c.name not in ("propensity", "draws")]
    by_arm = rows.groupby(["prompt_id", "group", "arm"], sort=False)
    means = pd.DataFrame(by_arm[numbers].mean()).assign(draws=by_arm.size().astype(float))
    return tables.fill("outcomes", means.reset_index().assign(source="import"))


def _samples(where: str, rows: pd.DataFrame, indices: list[Any]) -> pd.DataFrame:
    """Raw samples as they are: of the "backend" that the arm names, under unknown sampling parameters."""
    frame = pd.DataFrame(
        {
            "prompt_id": rows["prompt_id"].tolist(),
            "backend": [arm.removeprefix("sample/") for arm in rows["arm"].tolist()],
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
    return naming(where, lambda: tables.validate_samples(tables.fill("samples", frame)))


def _gaps(where: str, rows: pd.DataFrame) -> list[str]:
    """What samples without a cost or a count of tokens become; costs must be there for all of them or for none."""
    cost, tokens = (rows[name].isna().tolist() for name in ("cost", "completion_tokens"))
    if any(cost) and not all(cost):
        arm = rows["arm"].tolist()[cost.index(True)]
        raise TableError(
            f"{where}: arm {arm!r} can't be priced: {sum(cost)} of {len(cost)} raw samples have no cost, while others "
            "have one. Give it, or drop these rows"
        )
    notes = [f"{where}: no cost of a raw sample was logged: they stand with cost 0"] if all(cost) else []
    if any(tokens):
        notes.append(f"{where}: {sum(tokens)} of {len(tokens)} raw samples have no token count: they stand with 0")
    return notes


def _whole(numbers: list[float]) -> list[int]:
    return [0 if math.isnan(number) else round(number) for number in numbers]


def _where(frame: pd.DataFrame, mask: list[bool]) -> pd.DataFrame:
    return frame.iloc[[row for row, keep in enumerate(mask) if keep]].reset_index(drop=True)
