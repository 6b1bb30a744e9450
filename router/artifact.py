"""A router on disk: one directory with a manifest, and the files whose checksums the manifest holds.

    manifest.json      what the router is, and the size and sha256 of every other file
    prompts.npz        a key of every training prompt (howhard.training.provenance); not needed to decide
    all others         what predictor.py puts together: LightGBM text models, arrays

Nothing here is pickled, and nothing that is read is run. A checksum shows damage and slips; it does not show
who wrote a file, so load routers from places that you trust. A manifest never says WHERE prompts are sent: it
names backends, and addresses and keys come from the caller's own configuration.
"""

import hashlib
import io
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies import ArmSpec, VerifierSpec
from ..strategies.base import Prices
from ..strategies.errors import ArtifactError, HowhardError
from .features import FeatureSpec
from .objective import Objective
from .plan_facts import PlanFacts
from .policy import PolicySpec, UtilityPolicy

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
MAX_FILE_BYTES = 64 * 2**20
MAX_FILES = 64
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and checksum (hex) of one file of the artifact."""

    sha256: str
    bytes: int


class BackendFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backend was when the router was trained: never where it is.

    kind        : "local", "vllm", ...; a local one can be opened from `model` alone.
    fingerprint : of weights, template and tokenizer; another one means that the estimates may be off.
    """

    kind: str
    model: str
    fingerprint: str
    prices: Prices


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the router was trained on and how well it did on held-out prompts.

    dataset      : in a few words. data_version : hash of the outcomes that were learned from, "" = not known.
    values       : lowest and highest value of a correct answer at which the decisions were looked at on validation
                   prompts; None = not known. Beyond them nobody has checked what the router does.
    """

    n_prompts: int
    dataset: str
    data_version: str = ""
    values: tuple[float, float] | None = None
    metrics: dict[str, float] = {}

    def __post_init__(self) -> None:
        if self.values is not None and not 0 <= self.values[0] <= self.values[1] < math.inf:
            raise ArtifactError(f"training.values={self.values!r}: they must be a lowest and a highest value, >= 0")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a router but its arrays.

    router_version : hash of all the rest but `created`; write_artifact fills it in, as it does `files`.
    howhard_version : of what trained it, with the git commit where it ran from a checkout.
    arms           : names, in the order of every array; `specs[i]` says how to run arms[i], None where the
                     arm came from an imported table and cannot be run here.
    reference      : arm whose expected failure is called difficulty; `fallback` the arm taken when in doubt.
    currency       : unit of every cost, from the price book ("completion tokens of small" without one).
    quantiles      : of the latencies in predictor.npz, () where none were measured.
    plans          : what decides in flight, the best first, each needing fewer signals of the backends than the one
                     before; () = every request is served by the arm that its prompt alone decides on.
    """

    schema_version: int = SCHEMA_VERSION
    router_version: str = ""
    created: str
    howhard_version: str
    features: FeatureSpec
    arms: tuple[str, ...]
    specs: tuple[ArmSpec | None, ...]
    backends: dict[str, BackendFacts] = {}
    verifiers: dict[str, VerifierSpec] = {}
    reference: str
    fallback: str
    objective: Objective
    policy: PolicySpec = UtilityPolicy()
    currency: str
    quantiles: tuple[float, ...] = ()
    training: TrainingFacts
    plans: tuple[PlanFacts, ...] = ()
    files: dict[str, FileEntry] = {}

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ArtifactError(f"arms={self.arms!r}: a router has at least one arm, and each name once")
        if len(self.specs) != len(self.arms):
            raise ArtifactError(f"specs has {len(self.specs)} entries for {len(self.arms)} arms")
        for field in ("reference", "fallback"):
            if getattr(self, field) not in self.arms:
                raise ArtifactError(f"{field}={getattr(self, field)!r} is not one of the arms {self.arms!r}")
        q = self.quantiles
        if list(q) != sorted(set(q)) or not all(0 < x < 1 for x in q):
            raise ArtifactError(f"quantiles={q!r}: they must ascend inside (0, 1)")

    def asked_by(self, verifiers: Iterable[str], given: Collection[str]) -> tuple[str, ...]:
        """Names of all backends that verifiers ask, or those that they are made of.

        given : verifiers that were handed over: what they ask is known to whoever made them.
        """
        names: list[str] = []
        waiting, seen = [*verifiers], set(given)
        while waiting:
            verifier = waiting.pop(0)
            if verifier not in seen and verifier in self.verifiers:
                seen.add(verifier)
                names += self.verifiers[verifier].needs_backends
                waiting += self.verifiers[verifier].needs_verifiers
        return tuple(dict.fromkeys(names))


def write_artifact(directory: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a router directory whole or not at all; return the manifest with files and router_version filled
    in.

    The directory must not exist yet, or be empty: a router is never changed in place. Raises ArtifactError
    else.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} exists and is not an empty directory: write the router to a new one")
    for name, content in files.items():
        _check_name(name)
        if len(content) > MAX_FILE_BYTES:
            raise ArtifactError(f"{name} has {len(content)} bytes: an artifact's file has at most {MAX_FILE_BYTES}")
    if len(files) > MAX_FILES:
        raise ArtifactError(f"{len(files)} files: an artifact has at most {MAX_FILES}")
    entries = {n: FileEntry(sha256=_sha256(c), bytes=len(c)) for n, c in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=entries, router_version="")
    # Through JSON and back: 1 becomes 1.0 where a float is due, and the hash is that of what will be read.
    manifest = msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest)
    _check_arms(manifest)
    manifest = msgspec.structs.replace(manifest, router_version=_version_of(msgspec.to_builtins(manifest)))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        for name, content in files.items():
            _write(temporary / name, content)
        _write(temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def read_artifact(directory: str | Path) -> tuple[Manifest, dict[str, bytes]]:
    """Read a router directory and check every byte of it: sizes, checksums, schema, and that nothing is
    missing.

    Files that the manifest does not name are ignored. Raises ArtifactError that says what to do.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ArtifactError(f"no router at {root}: it is not a directory. Train one with `howhard train`")
    if not (root / MANIFEST).is_file():
        raise ArtifactError(f"no router at {root}: it has no {MANIFEST}. Train one with `howhard train`")
    manifest = _parse(_read(root / MANIFEST, MAX_FILE_BYTES), root)
    if len(manifest.files) > MAX_FILES:
        raise ArtifactError(f"{root / MANIFEST} names {len(manifest.files)} files: at most {MAX_FILES} are read")
    contents = {}
    for name, entry in manifest.files.items():
        _check_name(name)
        if entry.bytes > MAX_FILE_BYTES:
            raise ArtifactError(
                f"{root / name}: the manifest says {entry.bytes} bytes, at most {MAX_FILE_BYTES} are read"
            )
        if not (root / name).is_file():
            raise ArtifactError(f"{root / name} is missing: copy the whole router directory again, or train it anew")
        content = _read(root / name, entry.bytes)
        if len(content) != entry.bytes or _sha256(content) != entry.sha256:
            raise ArtifactError(
                f"{root / name} is damaged or was changed after it was written (not the manifest's sha256). "
                "Copy the router again from where it was trained, or train it anew"
            )
        contents[name] = content
    return manifest, contents


def pack_arrays(**arrays: NDArray[Any]) -> bytes:
    """Pack arrays as an uncompressed npz, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            one = io.BytesIO()
            np.lib.format.write_array(one, np.asanyarray(array), allow_pickle=False)
            # A fixed date: np.savez stamps the hour, and the router's version would change with it.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), one.getvalue())
    return buffer.getvalue()


def unpack_arrays(content: bytes, *, what: str) -> dict[str, NDArray[Any]]:
    """Read what `pack_arrays` wrote. Raises ArtifactError for anything else (objects, compression, ...)."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > len(content) for m in members):
                raise ValueError("an array is compressed, or longer than the file")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as exc:
        raise ArtifactError(f"{what} is not a file of plain arrays ({exc}): train the router anew") from exc


def _array(content: bytes) -> NDArray[Any]:
    """Parse one .npy; its header is checked against the bytes that are there before any memory is taken."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another format version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    body = content[stream.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError("an array of objects, or of another size than its header says")
    return np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _parse(content: bytes, root: Path) -> Manifest:
    where = root / MANIFEST
    try:
        raw = msgspec.json.decode(content)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ArtifactError(_other_schema(where, version, raw))
        manifest = msgspec.convert(raw, Manifest)
        _check_arms(manifest)
        if manifest.router_version != _version_of(raw):
            raise ArtifactError(
                f"{where} was changed after it was written: its router_version is not the hash of its content. "
                "Copy the router again from where it was trained, or train it anew"
            )
        return manifest
    except msgspec.ValidationError as exc:
        raise ArtifactError(f"{where} cannot be read by this howhard: {exc}. Train the router anew") from exc
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"{where} is damaged: {exc}. Copy the router again, or train it anew") from exc
    except ArtifactError:
        raise
    except HowhardError as exc:
        raise ArtifactError(f"{where} holds an impossible value: {exc}") from exc


def _other_schema(where: Path, version: object, raw: object) -> str:
    """What to do about a manifest of another schema: an older one's features are no longer computed."""
    said = raw.get("howhard_version") if isinstance(raw, dict) else None
    writer = f"howhard {said}" if isinstance(said, str) and said else "an unknown howhard"
    found = f"{where} has schema_version {version!r}, written by {writer}; this howhard reads {SCHEMA_VERSION}"
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"{found}. Update howhard: pip install --upgrade howhard"
    return f"{found}. Train it anew from the same log (`howhard train LOG`), or install the version that wrote it"


def _check_arms(manifest: Manifest) -> None:
    for name, spec in zip(manifest.arms, manifest.specs, strict=True):
        if spec is None:
            continue
        if spec.name != name:
            raise ArtifactError(f"arm {name!r} has the spec of {spec.name!r}: arms and specs are not in one order")
        for backend in (spec.backend, *spec.strategy.needs_backends):
            if backend not in manifest.backends:
                raise ArtifactError(f"arm {name!r} wants backend {backend!r}, of which the manifest says nothing")
        for verifier in spec.strategy.needs_verifiers:
            if verifier not in manifest.verifiers:
                raise ArtifactError(f"arm {name!r} wants verifier {verifier!r}, of which the manifest says nothing")
    for i, plan in enumerate(manifest.plans, 1):
        menu = plan.menu
        for leg in menu.legs:
            if leg.backend not in manifest.backends:
                raise ArtifactError(f"plan {i} draws from backend {leg.backend!r}, of which the manifest says nothing")
        if menu.verifier is not None and menu.verifier not in manifest.verifiers:
            raise ArtifactError(f"plan {i} wants verifier {menu.verifier!r}, of which the manifest says nothing")
        runnable = [a for a, spec in zip(manifest.arms, manifest.specs, strict=True) if spec is not None]
        for search in menu.searches:
            if search not in runnable:
                raise ArtifactError(f"plan {i} runs search {search!r}, which is not an arm that can be run")


def _version_of(content: Mapping[str, Any]) -> str:
    """Hash what the manifest says, as it is written: a later howhard, whose specs have more settings, agrees."""
    rest = {name: value for name, value in content.items() if name not in ("router_version", "created")}
    return _sha256(msgspec.json.encode(rest, order="deterministic"))[:16]


def _check_name(name: str) -> None:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise ArtifactError(f"{name!r} is not a name for a file of a router directory")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
