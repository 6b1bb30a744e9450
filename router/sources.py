"""Where a router is loaded from: a directory, one that ships with howhard, or MLflow's model registry.

Only a "models:" address imports MLflow, inside the call; a service that loads a directory runs without it.
"""

import re
import tempfile
from pathlib import Path

from ..strategies.errors import ArtifactError, ConfigError
from .artifact import Manifest, read_artifact

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def read_source(source: str | Path, *, tracking_uri: str | None = None) -> tuple[Manifest, dict[str, bytes], str]:
    """Read a router; return its manifest, its files, and where it came from, an alias resolved to its
    version.

    source : a directory; a shipped router ("router-quickstart" or "models/router-quickstart", taken where
             there is no such directory); or "models:/NAME@ALIAS" or "models:/NAME/VERSION".

    Raises ArtifactError for what is not there or not whole, ConfigError where MLflow is needed and missing.
    """
    text = str(source)
    if text.startswith("models:"):
        return _from_registry(text, tracking_uri)
    path = Path(source)
    if not path.is_dir():
        path = _shipped(text) or path
    manifest, files = read_artifact(path)
    return manifest, files, str(path)


def _shipped(text: str) -> Path | None:
    from ..models import path as shipped_path

    name = text.removeprefix("models/")
    if "/" in name or not name:
        return None
    try:
        return shipped_path(name)
    except FileNotFoundError:
        return None


def _from_registry(address: str, tracking_uri: str | None) -> tuple[Manifest, dict[str, bytes], str]:
    match = _REGISTERED.fullmatch(address)
    if match is None:
        raise ArtifactError(
            f"{address!r} is not an address of a registered router: write models:/howhard-router@champion "
            "or models:/howhard-router/3"
        )
    try:
        import mlflow
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException
    except ImportError as exc:
        raise ConfigError(
            f"{address} lies in MLflow, which is not installed: pip install 'howhard[train]', or load a directory"
        ) from exc
    uri = tracking_uri or mlflow.get_tracking_uri()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=tracking_uri)
        version = match["version"]
        if version is None:
            # Resolved once: the alias may move while this process runs, the router does not.
            version = client.get_model_version_by_alias(match["name"], match["alias"]).version
        fixed = f"models:/{match['name']}/{version}"
        # By the version's own address: a "models:" one would be looked up in whatever registry MLflow is set to.
        lies_at = client.get_model_version_download_uri(match["name"], str(version))
        with tempfile.TemporaryDirectory(prefix="howhard-") as folder:
            path = mlflow.artifacts.download_artifacts(artifact_uri=lies_at, dst_path=folder, tracking_uri=tracking_uri)
            manifest, files = read_artifact(path)
    except MlflowException as exc:
        raise ArtifactError(
            f"{address} was not found in MLflow at {uri}: {str(exc.message).rstrip('.')}. `howhard promote` sets the "
            "champion; MLFLOW_TRACKING_URI says where to look"
        ) from exc
    return manifest, files, fixed
