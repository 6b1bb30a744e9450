"""MLflow's runs: one per collection, one per training, with their tables as parquet. The registry is registry.py's.

The store is SQLite unless a setting or MLFLOW_TRACKING_URI says otherwise; nothing global is set, so a program that
embeds howhard keeps its own MLflow settings. A router is registered as the plain directory that it is: no pickle,
no model flavour. MLflow is imported inside the calls (1.5 s); a new store takes MLflow 6 to 9 s to make.
"""

import contextlib
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pandas as pd

from ..strategies import ArmSpec
from ..strategies.errors import ConfigError, InputError, TableError, WorldError
from . import tables
from .collect import assemble
from .log import Log

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "howhard"
_KIND = "howhard.kind"  # the tag that tells our runs from others in an experiment
_NOISY = ("alembic", "mlflow", "sqlalchemy")


def resolve_uri(uri: str | None = None) -> str:
    """The tracking URI: the argument, else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def ui_command(uri: str | None = None) -> str:
    """The command that shows the store in a browser."""
    return f"mlflow ui --backend-store-uri {resolve_uri(uri)}"


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def log_collection(
    log: Log, *, uri: str | None = None, experiment: str | None = None, config: object = None, name: str | None = None
) -> str:
    """Record a log as one run and return the run's id; a log that is continued goes on in the same run.

    Dataset input: the prompts. Parameters: the configuration (any msgspec or builtin structure), flattened.
    Metrics: counts, what was spent, and per arm quality, cost and latency. Artifacts: the three tables as parquet
    and the log's manifest, from which `log_from_runs` makes the log again.

    experiment : default: that of the configuration, else "howhard".

    Raises WorldError when the store cannot be reached or written.
    """
    settings = {} if config is None else msgspec.to_builtins(config)
    chosen = str(experiment or settings.get("tracking", {}).get("experiment") or EXPERIMENT)
    uri = resolve_uri(uri)
    prompts = log.prompts()
    held = {table: frame for table in tables.COLUMNS if not (frame := getattr(log, table)()).empty}
    with store(uri) as client:
        run_id = _continued(client, log, uri) or _new_run(client, uri, chosen, "collection", name or log.path.name)
        log.note(mlflow={"uri": uri, "run_id": run_id})
        _log_values(client, run_id, _flat(settings), _collection_metrics(log, held))
        if not prompts.empty:
            _log_input(client, run_id, prompts, str(log.path), log.path.name, "collection")
        with tempfile.TemporaryDirectory(prefix="howhard-") as folder:
            for table in held:
                log.export(table, Path(folder) / f"{table}.parquet")
            Path(folder, "manifest.json").write_text(json.dumps(log.manifest()), encoding="utf-8")
            client.log_artifacts(run_id, folder, "tables")
        client.set_terminated(run_id)
    return run_id


def log_training(
    router: str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float | None] | None = None,
    outcomes: pd.DataFrame | None = None,
    source: str = "",
    files: Sequence[str | Path] = (),
    frames: Mapping[str, pd.DataFrame] | None = None,
    parents: Sequence[str] = (),
    uri: str | None = None,
    experiment: str = EXPERIMENT,
    name: str | None = None,
    kind: Literal["training", "promotion"] = "training",
) -> str:
    """Record a training as one run and return the run's id; the router directory becomes the artifact "router".

    Tags say what the router's manifest says of its origin: router_version, data_version (hash of what was learned from)
    and code_version (howhard's, with the git commit where there is one).

    params   : nested values are flattened with dots. metrics : null and not finite ones are left out.
    outcomes : what was learned from, logged as dataset input; source : where it lies.
    files    : plots and reports, logged as they are. frames : name -> table, logged as parquet.
    parents  : ids of the collection runs that the outcomes came from, kept as a tag.

    Raises InputError when the router directory is not there, WorldError when the store cannot be written.
    """
    router = Path(router)
    if not (router / "manifest.json").is_file():
        raise InputError(f"{router} holds no router: train writes one before it is logged")
    manifest = json.loads((router / "manifest.json").read_text(encoding="utf-8"))
    uri = resolve_uri(uri)
    with store(uri) as client:
        run_id = _new_run(client, uri, experiment, kind, name or router.name)
        for tag, value in (
            ("router_version", manifest.get("router_version")),
            ("data_version", manifest.get("training", {}).get("data_version")),
            ("code_version", manifest.get("howhard_version")),
        ):
            if value:
                client.set_tag(run_id, f"howhard.{tag}", value)
        if parents:
            client.set_tag(run_id, "howhard.collections", ",".join(parents))
        _log_values(client, run_id, _flat(params or {}), dict(metrics or {}))
        if outcomes is not None:
            _log_input(client, run_id, outcomes, source or str(router), Path(source).name or "outcomes", "training")
        client.log_artifacts(run_id, str(router), "router")
        for file in files:
            client.log_artifact(run_id, str(file))
        with tempfile.TemporaryDirectory(prefix="howhard-") as folder:
            for frame_name, frame in (frames or {}).items():
                frame.to_parquet(Path(folder) / f"{frame_name}.parquet")
            client.log_artifacts(run_id, folder, "tables")
        client.set_terminated(run_id)
    return run_id


def collection_runs(experiment: str = EXPERIMENT, *, uri: str | None = None) -> list[str]:
    """Ids of an experiment's collection runs, oldest first. Raises TableError when there is none."""
    uri = resolve_uri(uri)
    with store(uri) as client:
        found = client.get_experiment_by_name(experiment)
        runs = []
        if found is not None:
            wanted = f"tags.`{_KIND}` = 'collection'"
            page = client.search_runs([found.experiment_id], wanted, order_by=["attributes.start_time ASC"])
            while True:
                runs += [run.info.run_id for run in page]
                if not page.token:
                    break
                page = client.search_runs(
                    [found.experiment_id], wanted, order_by=["attributes.start_time ASC"], page_token=page.token
                )
    if not runs:
        raise TableError(
            f"MLflow at {without_password(uri)}: experiment {experiment!r} has no collection: run `howhard collect`"
        )
    return runs


def log_from_runs(
    directory: str | Path,
    *,
    runs: Sequence[str] = (),
    experiment: str | None = None,
    uri: str | None = None,
) -> Log:
    """Make a log directory from the tables of collection runs: the named ones, or all of an experiment.

    Rows that several runs hold are kept once. Arms and verifiers are those of all runs together; where two runs say
    different things under one name, the later run counts.

    Raises InputError when neither runs nor an experiment are named, TableError for a run that is not there or holds
    no tables.
    """
    uri = resolve_uri(uri)
    if not runs and experiment is None:
        raise InputError("name the runs, or an experiment, to load tables from")
    chosen = list(runs) or collection_runs(experiment or EXPERIMENT, uri=uri)
    log = Log(directory)
    notes: dict[str, Any] = {}
    for run_id in chosen:
        with store(uri) as client, tempfile.TemporaryDirectory(prefix="howhard-") as folder:
            found = _downloaded(client, uri, run_id, folder)
            manifest = json.loads((found / "manifest.json").read_text(encoding="utf-8"))
            tables.check_version(manifest.get("schema_version"), f"MLflow run {run_id}")
            for table in tables.COLUMNS:
                if (found / f"{table}.parquet").exists():
                    log.append(table, getattr(Log.open(found / f"{table}.parquet"), table)())
        _merge(notes, manifest.get("notes", {}))
    log.note(**notes)
    log.close()
    return log


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def store(uri: str) -> "Iterator[MlflowClient]":
    """A client for one piece of work: silent, and with MLflow's exceptions translated.

    Raises ConfigError when MLflow is not installed.
    """
    # MLflow's own usage statistics, progress bars and minutes of retries; a user's setting stands.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    with _silence():
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as exc:
            raise ConfigError("MLflow is not installed: pip install 'howhard[train]'") from exc
    with _silence():  # once more: importing MLflow sets the levels of its loggers
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, OSError) as exc:
            message = str(getattr(exc, "message", exc)).rstrip(".")
            raise WorldError(
                f"MLflow at {without_password(uri)}: {message}. "
                "--tracking-uri or MLFLOW_TRACKING_URI names another store."
            ) from exc


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the chatter of MLflow, SQLAlchemy and Alembic (migrations, deprecations) away from the user."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def without_password(uri: str) -> str:
    """The URI without the password that it may hold."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


def _new_run(client: "MlflowClient", uri: str, experiment: str, kind: str, name: str) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        # Beside the database, wherever `mlflow ui` or the next program is started.
        beside = None
        if uri.startswith("sqlite:///"):
            beside = Path(uri.removeprefix("sqlite:///")).resolve().parent.joinpath("mlartifacts").as_uri()
        experiment_id = client.create_experiment(experiment, artifact_location=beside)
    elif found.lifecycle_stage == "deleted":
        raise ConfigError(f"MLflow experiment {experiment!r} was deleted: restore it, or name another one")
    else:
        experiment_id = found.experiment_id
    run = client.create_run(experiment_id, run_name=name, tags={_KIND: kind})
    return run.info.run_id


def _continued(client: "MlflowClient", log: Log, uri: str) -> str | None:
    """The run that an earlier part of this collection went into, if it is still there."""
    from mlflow.exceptions import MlflowException

    kept = log.notes().get("mlflow", {})
    if kept.get("uri") != uri:
        return None
    try:
        run = client.get_run(kept["run_id"])
    except MlflowException:
        return None
    return kept["run_id"] if run.info.lifecycle_stage == "active" else None


def _log_values(
    client: "MlflowClient", run_id: str, params: Mapping[str, str], metrics: Mapping[str, float | None]
) -> None:
    """Log parameters (those that the run has already keep their first value) and the finite metrics."""
    known = client.get_run(run_id).data.params
    for key, value in params.items():
        if key not in known:
            client.log_param(run_id, key, value)
    for key, value in metrics.items():
        if value is not None and math.isfinite(value):
            client.log_metric(run_id, _metric_name(key), float(value))


def _metric_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./: " else "_" for c in name)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names: {"collect": {"samples": 16}} -> {"collect.samples": "16"}."""
    if isinstance(value, Mapping):
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        items = list(enumerate(value))
    else:
        return {_metric_name(prefix): str(value)[:6000]}
    flat: dict[str, str] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _collection_metrics(log: Log, held: Mapping[str, pd.DataFrame]) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {f"{table}": float(len(frame)) for table, frame in held.items()}
    if "samples" in held:
        samples = held["samples"]
        metrics["failed_samples"] = float(samples["finish_reason"].tolist().count("error"))
        metrics["completion_tokens"] = float(sum(samples["completion_tokens"].tolist()))
    if "samples" in held or "outcomes" in held:
        outcomes = assemble(log)
        by_arm: dict[str, list[int]] = {}
        for row, arm in enumerate(outcomes["arm"].tolist()):
            by_arm.setdefault(arm, []).append(row)
        for measure in ("quality", "cost", "latency_s"):
            values = outcomes[measure].to_numpy(dtype=float)
            for arm, rows in by_arm.items():
                measured = values[rows][~np.isnan(values[rows])]
                metrics[f"{measure}/{arm}"] = float(measured.mean()) if len(measured) else None
    return metrics


def _log_input(client: "MlflowClient", run_id: str, frame: pd.DataFrame, source: str, name: str, context: str) -> None:
    import mlflow.data
    from mlflow.entities import DatasetInput, InputTag

    dataset = mlflow.data.from_pandas(frame, source=source, name=name)  # type: ignore[attr-defined]
    entry = DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])
    client.log_inputs(run_id, datasets=[entry])


def _downloaded(client: "MlflowClient", uri: str, run_id: str, folder: str) -> Path:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as exc:
        raise TableError(
            f"MLflow at {without_password(uri)} has no run {run_id!r}: see `{ui_command(without_password(uri))}`"
        ) from exc
    if not any(entry.path == "tables/manifest.json" for entry in client.list_artifacts(run_id, "tables")):
        raise TableError(f"MLflow run {run_id} holds no collection: name a run that `howhard collect` made")
    return Path(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="tables", dst_path=folder, tracking_uri=uri)
    )


def _merge(notes: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add another run's notes: arms by name, mappings by key, all else replaced; `mlflow` stays behind."""
    for key, value in more.items():
        held = notes.get(key)
        if key == "mlflow":
            continue
        if key == "arms":
            arms = {arm.name: arm for arm in msgspec.convert([*(held or []), *value], list[ArmSpec])}
            notes[key] = msgspec.to_builtins(list(arms.values()))
        elif isinstance(held, dict) and isinstance(value, dict):
            notes[key] = held | value
        elif isinstance(held, list) and isinstance(value, list):
            notes[key] = held + [entry for entry in value if entry not in held]
        else:
            notes[key] = value
