"""Bring in outcomes that somebody else logged: one door, which knows a source by its form.

    table.csv, .parquet, .jsonl      a long table (a row per prompt and arm), RouterBench's wide one, or one of the
                                     published tables that have a recipe
    FOLDER                           howhard's own tables as parquet: prompts, and outcomes or samples
    sqlite:///FILE?table=NAME        a table of a database that SQLAlchemy knows (postgresql://..., --table NAME)
    traces:/EXPERIMENT               MLflow's traces with their assessments
    datasets:/RUN_ID[/NAME]          a data set that an MLflow run logged as input
    runs:/RUN_ID                     the tables of a collection that `howhard collect` logged in MLflow

Readers are in howhard.training.importers, a module each; what they make is checked in one place, `split_rows`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..strategies.errors import InputError, TableError, nearest
from .importers.imported import FIELDS, Imported
from .importers.long import import_frame, import_table, read_file
from .importers.own_tables import import_folder
from .importers.published import import_published, is_published
from .importers.routerbench import import_wide, is_wide
from .importers.sql import import_sql, is_url

__all__ = ["FIELDS", "Imported", "import_source", "import_table", "read_table"]


def import_source(
    source: str,
    mapping: Mapping[str, str] | None = None,
    *,
    table: str | None = None,
    average_samples: bool = False,
    without: Collection[str] = (),
    families: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
) -> Imported:
    """Read any source but `runs:/` (see `howhard.training.tracking.log_from_runs`).

    mapping : field -> column; of traces field -> assessment or tag. table : of a database.
    average_samples : see `split_rows`. without : arms to leave out.
    families : group -> family, kept with the log for splits by group.

    Raises InputError for an option that does not fit the source, TableError for what can't be read or learned from:
    an arm whose cost was never logged while others' were among it.
    """
    mapping = dict(mapping or {})
    scheme, slash, rest = source.partition(":/")
    if table is not None and not is_url(source):
        raise InputError(f"--table is for databases, as sqlite:///FILE; {source} is none")
    if is_url(source):
        got = import_sql(source, table, mapping, average_samples=average_samples)
    elif slash and scheme == "traces":
        from .importers.mlflow_traces import import_traces

        got = import_traces(rest.lstrip("/"), mapping, uri=tracking_uri, average_samples=average_samples)
    elif slash and scheme == "datasets":
        from .importers.mlflow_data import import_dataset

        run_id, _, name = rest.lstrip("/").partition("/")
        got = import_dataset(run_id, name or None, mapping, uri=tracking_uri, average_samples=average_samples)
    elif slash and "/" not in scheme and not Path(source).exists():
        raise InputError(f"{source}: no source begins with {scheme}:/{nearest(scheme, ('traces', 'datasets', 'runs'))}")
    elif Path(source).is_dir():
        if (Path(source) / "manifest.json").exists():
            raise InputError(f"{source} is a log already: train, evaluate and data read it as it is")
        got = import_folder(Path(source))
    else:
        got = read_table(Path(source), mapping, average_samples=average_samples)
    got = _without(source, got, without)
    _refuse_unpriced(source, got)
    return replace(got, families={**got.families, **(families or {})})


def read_table(path: Path, mapping: Mapping[str, str] | None = None, *, average_samples: bool = False) -> Imported:
    """Read a table from a file, in whichever of the known forms it is: see the module.

    A mapping says that it is a long one. Raises TableError; see `import_table`.
    """
    raw = read_file(path)
    where, columns = str(path), [str(name) for name in raw.columns]
    if not mapping and is_published(raw):
        return import_published(where, raw, group=path.stem, average_samples=average_samples)
    if not mapping and is_wide(columns):
        return import_wide(where, raw, group=path.stem)
    return import_frame(where, raw, mapping or {}, group=path.stem, average_samples=average_samples)


def _without(source: str, got: Imported, arms: Collection[str]) -> Imported:
    """The same without these arms, and without the prompts that no other has."""
    if not arms:
        return got
    there = set() if got.outcomes is None else set(got.outcomes["arm"].tolist())
    for arm in arms:
        if arm not in there:
            raise TableError(f"{source}: no outcome of arm {arm!r} to leave out{nearest(arm, there)}")
    outcomes = got.outcomes
    assert outcomes is not None
    kept = outcomes.loc[[arm not in arms for arm in outcomes["arm"].tolist()]].reset_index(drop=True)
    if kept.empty and got.samples is None:
        raise TableError(f"{source}: without {', '.join(arms)} no outcome is left")
    asked = set(kept["prompt_id"].tolist()) | (set() if got.samples is None else set(got.samples["prompt_id"].tolist()))
    prompts = got.prompts.loc[[i in asked for i in got.prompts["prompt_id"].tolist()]].reset_index(drop=True)
    return replace(got, outcomes=None if kept.empty else kept, prompts=prompts)


def _refuse_unpriced(source: str, got: Imported) -> None:
    if got.outcomes is None:
        return
    arms = got.outcomes["arm"].to_numpy(dtype=str)
    unpriced = np.isnan(got.outcomes["cost"].to_numpy(dtype=float))
    if unpriced.all():
        return
    for arm in dict.fromkeys(arms[unpriced].tolist()):
        mine = arms == arm
        gaps, rows = int(unpriced[mine].sum()), int(mine.sum())
        why = "its cost was never logged" if gaps == rows else f"{gaps} of its {rows} rows have no cost"
        raise TableError(
            f"{source}: arm {arm!r} can't be priced: {why}, while others have one. Give the cost, or leave the arm out "
            f"with --without {arm}"
        )
