"""The log directory: five tables as append-only parquet parts that survive a SIGKILL.

    LOG/manifest.json                    schema version, and notes of whoever collected
    LOG/prompts/part-000001.parquet      one file per append, never changed once it has its name
    LOG/samples/...  LOG/outcomes/...  LOG/runs/...  LOG/nodes/...

An append writes a temporary file, fsyncs it, renames it to its final name and fsyncs the folder; only then
does it return. So a row is acknowledged exactly when the call has returned, a kill at any moment leaves
either the whole part or a temporary file, which the next writer removes, and a rerun goes on from `done()`.
What rows mean is said in howhard.training.tables; how they come about in howhard.training.collect,
and, of what was served, in howhard.training.recording.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..strategies.errors import TableError, WorldError
from . import tables

logger = logging.getLogger(__name__)

Rows = pd.DataFrame | Iterable[Mapping[str, object]]

_PART = re.compile(r"part-(\d{6,})\.parquet")
_TEMPORARY = ".writing-"


class SampleKey(NamedTuple):
    """What tells two samples apart. `parent` is None for every sample that was drawn for the log."""

    prompt_id: str
    backend: str
    params: str
    sample_index: int
    origin: str = "collect"
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What a log already holds.

    samples : how often each sample was tried, and whether it succeeded (finish_reason is not "error").
    """

    prompts: frozenset[str]
    samples: Mapping[SampleKey, tuple[int, bool]]
    outcomes: frozenset[tuple[str, str]]

    def wants(self, key: SampleKey, *, attempts: int = 2) -> bool:
        """Whether this sample is still to be drawn: it is missing, or failed fewer than `attempts` times."""
        tried, succeeded = self.samples.get(key, (0, False))
        return not succeeded and tried < attempts


class Log:
    """A log directory, made if it is not there; `Log.open` opens one to read, or an exported file.

    Reading needs no lock and sees every part that was complete when it began. The first append takes the one
    writer's lock, held until `close()` (or the end of a `with`), and removes what a killed writer left
    half-written. Not for use by several threads at once.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open the log at `directory`, making it when it does not exist.

        Raises TableError for a directory that holds something else, or a log of another schema version.
        """
        self.path = Path(directory)
        if self.path.exists() and not self.path.is_dir():
            raise TableError(f"{self.path} is a file: a log to write to is a directory; read files with Log.open")
        manifest = self.path / "manifest.json"
        if not manifest.exists():
            if self.path.exists() and any(p.name != ".lock" for p in self.path.iterdir() if not _is_temporary(p)):
                raise TableError(f"{self.path} is not empty and holds no log: name a new directory, or an old log")
            self.path.mkdir(parents=True, exist_ok=True)
            _write_atomically(manifest, json.dumps({"schema_version": tables.SCHEMA_VERSION}).encode())
        self._file: tuple[str, pa.Table] | None = None
        self._lock: IO[str] | None = None
        self._index: _Index | None = None
        self._check_manifest()

    @classmethod
    def open(cls, path: str | Path) -> "Log":
        """Open an existing log directory, or a single table that `export` wrote, for reading.

        Raises TableError when there is nothing at `path`, or something that is not a log.
        """
        path = Path(path)
        if path.is_dir() and (path / "manifest.json").exists():
            return cls(path)
        if path.is_file():
            return cls._of_file(path)
        raise TableError(f"no log at {path}: give a directory that `howhard collect` wrote, or an exported table")

    @classmethod
    def _of_file(cls, path: Path) -> "Log":
        data = _read_part(path)
        metadata = {k.decode(): v.decode() for k, v in (data.schema.metadata or {}).items() if k[:8] == b"howhard."}
        tables.check_version(metadata.get("howhard.schema_version"), str(path))
        log = cls.__new__(cls)
        log.path, log._lock, log._index = path, None, None
        log._file = (metadata.get("howhard.table", ""), data)
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the writer's lock back. Reading goes on to work."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────

    def append_prompts(self, rows: Rows) -> int:
        """Add the prompts that the log does not hold yet; returns how many those are. See `append`."""
        return self.append("prompts", rows)

    def append_samples(self, rows: Rows) -> int:
        """Add samples. One that is there is skipped, unless it is there only as a failure. See `append`."""
        return self.append("samples", rows)

    def append_outcomes(self, rows: Rows) -> int:
        """Add the outcomes that the log does not hold yet; returns how many those are. See `append`."""
        return self.append("outcomes", rows)

    def lock(self) -> None:
        """Become the one writer now, not only at the first append.

        Raises WorldError when another process is writing to this log.
        """
        self._become_writer()

    def append(self, table: str, rows: Rows) -> int:
        """Write the rows that are new as one part and return how many they are; they are safe from then on.

        Columns that may be null can be left out. Raises TableError for a bad row (then nothing was written),
        and WorldError when another process is writing to this log.
        """
        frame = tables.fill(table, rows)
        if frame.empty:
            return 0
        frame = tables.validate(table, frame)
        self._become_writer()
        index = self._indexed()
        fresh = [index.is_new(table, key) for key in _keys(table, frame)]
        frame = frame.iloc[[row for row, new in enumerate(fresh) if new]].reset_index(drop=True)
        if not frame.empty:
            self._write_part(table, tables.to_arrow(table, frame))
            index.add(table, frame)
        return len(frame)

    def note(self, **notes: object) -> None:
        """Keep JSON values beside the tables (settings of a collection); a later note replaces an earlier."""
        self._become_writer()
        manifest = self.manifest()
        manifest.setdefault("notes", {}).update(notes)
        _write_atomically(self.path / "manifest.json", json.dumps(manifest, indent=1).encode())

    def compact(self) -> None:
        """Merge the parts of each table into one. A kill half-way leaves rows twice, which reading undoes."""
        self._become_writer()
        for table in tables.COLUMNS:
            parts = self._parts(table)
            if len(parts) > 1:
                self._write_part(table, tables.to_arrow(table, self._read(table, attempts=2)))
                for part in parts:
                    part.unlink()
                _sync_folder(self.path / table)
        self._index = None

    def export(self, table: str, path: str | Path) -> Path:
        """Write one table as a single parquet file that `Log.open` reads."""
        path = Path(path)
        data = tables.to_arrow(table, self._read(table))
        _write_parquet(path, data)
        return path

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────

    def prompts(self) -> pd.DataFrame:
        """The prompts, validated; a frame without rows when there are none."""
        return self._read("prompts")

    def samples(self) -> pd.DataFrame:
        """The samples, validated: of one that was tried again, the first success, else the last failure."""
        return self._read("samples")

    def outcomes(self) -> pd.DataFrame:
        """The outcomes that were run or imported, validated; `collect.assemble` derives more."""
        return self._read("outcomes")

    def runs(self) -> pd.DataFrame:
        """What strategies did live, a row per run, validated."""
        return self._read("runs")

    def nodes(self) -> pd.DataFrame:
        """The nodes of the live runs that searched, validated."""
        return self._read("nodes")

    def done(self) -> Done:
        """What the log holds, by key: what a rerun need not do again."""
        index = self._indexed()
        return Done(frozenset(index.prompts), dict(index.samples), frozenset(index.outcomes))

    def manifest(self) -> dict[str, Any]:
        """The manifest: `schema_version`, and `notes` where there are any."""
        if self._file is not None:
            return {"schema_version": tables.SCHEMA_VERSION}
        try:
            manifest = json.loads((self.path / "manifest.json").read_bytes())
        except ValueError as exc:
            raise TableError(f"{self.path / 'manifest.json'} is damaged: {exc}. Restore it from a copy.") from exc
        return manifest if isinstance(manifest, dict) else {}

    def notes(self) -> dict[str, Any]:
        """What `note` kept."""
        return self.manifest().get("notes", {})

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _check_manifest(self) -> None:
        tables.check_version(self.manifest().get("schema_version"), str(self.path))

    def _become_writer(self) -> None:
        if self._file is not None:
            raise TableError(f"{self.path} is an exported table, to be read only: write to a log directory")
        if self._lock is not None:
            return
        lock = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise WorldError(
                f"the log {self.path} is being written by another process (id {holder}): "
                f"wait until it ends, or collect into another directory"
            ) from exc
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        self._index = None  # another writer may have added parts since it was read
        for table in tables.COLUMNS:
            (self.path / table).mkdir(exist_ok=True)
        for leftover in [p for p in self.path.rglob(f"{_TEMPORARY}*") if p.is_file()]:
            logger.info("removing %s, which a killed writer left half-written", leftover)
            leftover.unlink()
        _sync_folder(self.path)

    def _parts(self, table: str) -> list[Path]:
        folder = self.path / table
        return sorted(p for p in folder.iterdir() if _PART.fullmatch(p.name)) if folder.is_dir() else []

    def _write_part(self, table: str, data: pa.Table) -> None:
        parts = self._parts(table)
        last = _PART.fullmatch(parts[-1].name) if parts else None
        number = int(last.group(1)) + 1 if last else 1
        _write_parquet(self.path / table / f"part-{number:06d}.parquet", data)

    def _raw(self, table: str) -> pd.DataFrame:
        if self._file is not None:
            name, data = self._file
            parts = [data] if name == table else []
        else:
            parts = [_read_part(path) for path in self._parts(table)]
        if not parts:
            return tables.from_arrow(table, tables.schema(table).empty_table())
        # Parts that an older howhard wrote lack the optional columns that came since: null there.
        return tables.from_arrow(table, pa.concat_tables(parts, promote_options="default"))

    def _read(self, table: str, *, attempts: int = 1) -> pd.DataFrame:
        """Read a table; `attempts` rows at most are kept of a sample that has only failed."""
        frame = self._raw(table)
        if frame.empty:
            return frame
        frame = tables.validate(table, frame, unique=False)
        rows: dict[object, list[int]] = {}
        failed = frame["finish_reason"].eq("error").tolist() if table == "samples" else [False] * len(frame)
        for row, key in enumerate(_keys(table, frame)):
            held = rows.setdefault(key, [])
            if held and not failed[held[-1]]:
                continue
            if not failed[row]:
                held.clear()
            held.append(row)
            del held[:-attempts]
        return frame.iloc[sorted(row for held in rows.values() for row in held)].reset_index(drop=True)

    def _indexed(self) -> "_Index":
        if self._index is None:
            self._index = _Index()
            for table in tables.COLUMNS:
                self._index.add(table, self._keys_on_disk(table))
        return self._index

    def _keys_on_disk(self, table: str) -> pd.DataFrame:
        columns = [*_key_columns(table), *(["finish_reason"] if table == "samples" else [])]
        if self._file is not None:
            return self._raw(table).loc[:, columns]
        parts = [_read_part(path, columns) for path in self._parts(table)]
        empty = tables.schema(table).empty_table().select(columns)
        return tables.from_arrow(table, pa.concat_tables([empty, *parts]))


class _Index:
    """The keys of a log, in memory."""

    def __init__(self) -> None:
        self.prompts: set[str] = set()
        self.samples: dict[SampleKey, tuple[int, bool]] = {}
        self.outcomes: set[tuple[str, str]] = set()
        self.runs: set[str] = set()
        self.nodes: set[tuple[str, int]] = set()

    def is_new(self, table: str, key: Any) -> bool:
        if table == "samples":
            return not self.samples.get(key, (0, False))[1]
        return key not in getattr(self, table)

    def add(self, table: str, frame: pd.DataFrame) -> None:
        keys = _keys(table, frame)
        if table != "samples":
            getattr(self, table).update(keys)
        else:
            for key, finish_reason in zip(keys, frame["finish_reason"].tolist(), strict=True):
                tried, succeeded = self.samples.get(key, (0, False))
                self.samples[key] = (tried + 1, succeeded or finish_reason != "error")


def _key_columns(table: str) -> list[str]:
    return [*tables.KEYS[table], *(["parent"] if table == "samples" else [])]


def _keys(table: str, frame: pd.DataFrame) -> list[Any]:
    columns = [frame[name].tolist() for name in _key_columns(table)]
    if len(columns) == 1:
        return columns[0]
    if table != "samples":
        return list(zip(*columns, strict=True))
    *most, parents = columns
    parents = [None if pd.isna(parent) else parent for parent in parents]
    return [SampleKey(*cells) for cells in zip(*most, parents, strict=True)]


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(_TEMPORARY)


def _read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns)
    except (pa.ArrowInvalid, OSError) as exc:
        raise TableError(f"{path} cannot be read as parquet: {exc}. Restore the file, or remove it.") from exc


def _write_parquet(path: Path, data: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, compression="zstd")
    _write_atomically(path, sink.getvalue().to_pybytes())


def _write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all, and on the disk when this returns."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
