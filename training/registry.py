"""MLflow's registry of routers: who is the champion, who was before, and what is written on each of them.

A router is registered as the plain directory that it is: no pickle, no model flavour. What a version was judged on,
by whom and why it was made champion stands in its tags; the order of the champions in a tag of the model, so that
`rollback` finds its way back. Who deserves to be champion is promote.py's business.
"""

import getpass
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..strategies.errors import InputError, TableError
from .holdout import Holdout
from .tracking import resolve_uri, store, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "howhard-router"
"""The registered model."""

CHAMPION, CHALLENGER = "champion", "challenger"
"""Its aliases: the router that serves, and the last one that did not take its place."""

_TAG = "howhard."
_CHAMPIONS = f"{_TAG}champions"  # of the model: the versions that were champion, oldest first, the present one last
_KEPT = 200  # champions remembered: a tag is at most 5,000 characters long


def register_router(run_id: str, *, uri: str | None = None, name: str = MODEL) -> str:
    """Register the router of a training run as a new version of the model; returns the version.

    Its source is the run's artifact directory "router": `models:/howhard-router/VERSION` downloads plain files.
    Raises TableError for a run without a router.
    """
    from mlflow.exceptions import MlflowException

    with store(resolve_uri(uri)) as client:
        run = client.get_run(run_id)
        if not any(entry.path == "router" for entry in client.list_artifacts(run_id)):
            raise TableError(f"MLflow run {run_id} has no artifact 'router': log it with log_training first")
        try:
            client.create_registered_model(name)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(name, source=f"{run.info.artifact_uri}/router", run_id=run_id)
    return str(version.version)


def version_of(alias: str, *, uri: str | None = None, name: str = MODEL) -> str | None:
    """The version that bears an alias, None when none does (or nothing was ever registered)."""
    with store(resolve_uri(uri)) as client:
        return _version_of(client, name, alias)


def champions(*, uri: str | None = None, name: str = MODEL) -> tuple[str, ...]:
    """The versions that were champion, oldest first, the present one last; () when there is none."""
    with store(resolve_uri(uri)) as client:
        return tuple(_champions(client, name))


def holdout_of(version: str, *, uri: str | None = None, name: str = MODEL) -> Holdout | None:
    """The prompts that a version was judged on; None where that was not recorded.

    Raises TableError where what was recorded is gone or is not what the version's tag says.
    """
    import mlflow.artifacts

    uri = resolve_uri(uri)
    with store(uri) as client, tempfile.TemporaryDirectory(prefix="howhard-") as folder:
        tags = client.get_model_version(name, version).tags
        run_id, hash_ = tags.get(f"{_TAG}holdout_run"), tags.get(f"{_TAG}holdout")
        if run_id is None or hash_ is None:
            return None
        path = f"tables/{_holdout_file(hash_)}"
        held = {entry.path for entry in client.list_artifacts(run_id, "tables")}
        lost = f"the holdout of {name} version {version}, in MLflow run {run_id} at {without_password(uri)},"
        if path not in held:
            raise TableError(f"{lost} is gone: promote with --force, which records a new one")
        found = Holdout.of_frame(
            pd.read_parquet(
                mlflow.artifacts.download_artifacts(
                    run_id=run_id, artifact_path=path, dst_path=folder, tracking_uri=uri
                )
            )
        )
    if found.version != hash_:
        raise TableError(f"{lost} is not the one that its tag {hash_} names: promote with --force")
    return found


def crown(
    version: str,
    reason: str,
    *,
    holdout: Holdout | None,
    forced: str | None = None,
    uri: str | None = None,
    name: str = MODEL,
) -> str | None:
    """Make a version the champion, and write on it why, when, by whom, and whose place it took; returns that version.

    holdout : recorded with it, for later contests. forced : why it was promoted against the verdict; None = it was not.
    """
    with store(resolve_uri(uri)) as client:
        line = _champions(client, name)
        before = line[-1] if line else None
        _write(client, name, version, {"promoted": _signature(), "verdict": reason, "previous": before or "none"})
        if forced is not None:
            _write(client, name, version, {"forced": f"{forced} ({_signature()})"})
        if holdout is not None:
            _record_holdout(client, name, version, holdout)
        _remember(client, name, [*line, version])
        client.set_registered_model_alias(name, CHAMPION, version)
        if _version_of(client, name, CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    return before


def challenge(version: str, reason: str, *, uri: str | None = None, name: str = MODEL) -> None:
    """Give a version that did not take the champion's place the alias "challenger", and write the reason on it."""
    with store(resolve_uri(uri)) as client:
        _write(client, name, version, {"verdict": reason})
        client.set_registered_model_alias(name, CHALLENGER, version)


@dataclass(frozen=True, slots=True)
class RolledBack:
    """From which version to which; `passed_over` are earlier champions that are no longer registered."""

    from_version: str
    to_version: str
    passed_over: tuple[str, ...]


def rollback(why: str, *, uri: str | None = None, name: str = MODEL) -> RolledBack:
    """Make the champion before the present one champion again, and write that on the one that had to go.

    Raises InputError when there is no champion, or none before it.
    """
    from mlflow.exceptions import MlflowException

    uri = resolve_uri(uri)
    with store(uri) as client:
        line = _champions(client, name)
        if not line:
            raise InputError(
                f"MLflow at {without_password(uri)}: {name} has no champion to roll back: `howhard promote` makes one"
            )
        *earlier, present = line
        passed_over = []
        while earlier:
            try:
                client.get_model_version(name, earlier[-1])
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                passed_over.append(earlier.pop())
                continue
            break
        if not earlier:
            gone = f" ({', '.join(passed_over)} were deleted)" if passed_over else ""
            raise InputError(
                f"version {present} of {name} is the first champion{gone}: there is none before it to go back to"
            )
        _remember(client, name, earlier)
        client.set_registered_model_alias(name, CHAMPION, earlier[-1])
        _write(client, name, present, {"rolled_back": f"to version {earlier[-1]}: {why} ({_signature()})"})
    return RolledBack(present, earlier[-1], tuple(passed_over))


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _version_of(client: "MlflowClient", name: str, alias: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as exc:
        if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _champions(client: "MlflowClient", name: str) -> list[str]:
    """The champions in order. One that was made by hand, by moving the alias in MLflow, counts as the newest."""
    present = _version_of(client, name, CHAMPION)
    if present is None:
        return []
    line = client.get_registered_model(name).tags.get(_CHAMPIONS, "").split()
    return line if line and line[-1] == present else [*line, present]


def _remember(client: "MlflowClient", name: str, line: list[str]) -> None:
    client.set_registered_model_tag(name, _CHAMPIONS, " ".join(line[-_KEPT:]))


def _holdout_file(hash_: str) -> str:
    return f"holdout-{hash_}.parquet"


def _record_holdout(client: "MlflowClient", name: str, version: str, holdout: Holdout) -> None:
    """Put the holdout's keys beside the version's run, and their hash and number on the version."""
    run_id = client.get_model_version(name, version).run_id
    if run_id is None:
        raise TableError(f"{name} version {version} came from no MLflow run: promote its directory instead")
    with tempfile.TemporaryDirectory(prefix="howhard-") as folder:
        path = Path(folder) / _holdout_file(holdout.version)
        holdout.frame().to_parquet(path)
        client.log_artifact(run_id, str(path), "tables")
    tags = {"holdout": holdout.version, "holdout_prompts": str(len(holdout)), "holdout_run": run_id}
    _write(client, name, version, tags)


def _write(client: "MlflowClient", name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, f"{_TAG}{key}", value)


def _signature() -> str:
    """When, and by whom."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in some containers
        who = "an unnamed user"
    return f"{datetime.now(UTC).isoformat(timespec='seconds')} by {who}"
