"""MLflow runs: the tables of howhard's collections, and data sets that any run has logged as its input.

MLflow keeps of a data set where it came from, its digest and its columns, not its rows: they are read at that place
again, and compared with the digest where MLflow can make one of them.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...strategies.errors import TableError, nearest
from ..tracking import resolve_uri, store, without_password
from .imported import Imported
from .long import import_frame, read_file


def import_dataset(
    run_id: str,
    name: str | None = None,
    mapping: Mapping[str, str] | None = None,
    *,
    uri: str | None = None,
    average_samples: bool = False,
) -> Imported:
    """Read a data set that a run logged as input (`mlflow.log_input`) as a long table.

    name : of the data set; needed where the run has several.

    Raises TableError for a run or a data set that is not there, rows that MLflow can't find again (logged from code),
    and a bad row; WorldError when the store or the place of the rows can't be read.
    """
    from mlflow.exceptions import MlflowException

    uri = resolve_uri(uri)
    where = f"MLflow at {without_password(uri)}, run {run_id}"
    with store(uri) as client, tempfile.TemporaryDirectory(prefix="howhard-") as folder:
        import mlflow.data

        try:
            run = client.get_run(run_id)
        except MlflowException as exc:
            raise TableError(f"MLflow at {without_password(uri)} has no run {run_id!r}") from exc
        held = {entry.dataset.name: entry.dataset for entry in (run.inputs.dataset_inputs if run.inputs else [])}
        if not held:
            raise TableError(f"{where} has no data set among its inputs: log one with mlflow.log_input")
        if name is None and len(held) > 1:
            raise TableError(f"{where}: which data set? Add /NAME; there are {', '.join(held)}")
        chosen = name or next(iter(held))
        if chosen not in held:
            raise TableError(f"{where} has no data set {chosen!r}{nearest(chosen, held)}")
        where = f"{where}, data set {chosen}"
        source: Any = mlflow.data.get_source(held[chosen])
        try:
            path = Path(source.load(dst_path=folder) if hasattr(source, "uri") else source.load())
        except NotImplementedError as exc:
            raise TableError(
                f"{where}: it was made by code, and MLflow knows no place to read it at: log it with a source, as in "
                "mlflow.data.from_pandas(frame, source=PATH)"
            ) from exc
        frame = read_file(path)
        same = mlflow.data.from_pandas(frame).digest == held[chosen].digest  # type: ignore[attr-defined]
    notes = [] if same else [f"{where}: its rows are not those of the digest that was logged: they changed since then"]
    return import_frame(where, frame, mapping or {}, group=chosen, notes=notes, average_samples=average_samples)
