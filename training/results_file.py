"""A JSONL file of results that can be killed at any time and gone on with: one JSON object a line, appended.

Each row carries a `key`; a key is written once. Nothing here knows what a result is.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ..strategies.errors import TableError, WorldError


class ResultsFile:
    """Opens the file for appending, making it and its folder where they are missing, and reads what it holds.

    A last line that a kill cut short is dropped. Only one process at a time may have it open.
    Raises TableError for a line that is no result, WorldError while another process has the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: dict[str, dict[str, Any]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("a+b")
        except OSError as exc:
            raise TableError(f"{self.path}: cannot be written ({exc.strerror or exc})") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._file.close()
            raise WorldError(f"{self.path} is being written by another process: wait, or name another file") from exc
        try:
            for row in self._read():
                self.rows[row["key"]] = row
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                row = json.loads(line)
            except ValueError as exc:
                raise TableError(f"{self.path}:{number}: not JSON: {exc}. Name another file.") from exc
            if not isinstance(row, dict) or not isinstance(row.get("key"), str):
                raise TableError(f"{self.path}:{number}: not a line that howhard wrote. Name another file.")
            yield row
        self._file.truncate(whole)

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a row, which is safe from a kill of this process from then on. Raises WorldError for a full disk."""
        whole = {"key": key, **row}
        try:
            self._file.write(json.dumps(whole, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n")
            self._file.flush()
        except OSError as exc:
            raise WorldError(f"{self.path}: cannot be written ({exc.strerror or exc})") from exc
        self.rows[key] = whole

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
