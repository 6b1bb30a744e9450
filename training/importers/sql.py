"""A table of SQLite, Postgres, or any database that SQLAlchemy knows; it is only ever read.

A single table is read as a long one; a database that holds howhard's own tables (prompts with outcomes or samples,
under these names) is read whole.
"""

import decimal
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...strategies.errors import ConfigError, InputError, TableError, WorldError, nearest
from .imported import Imported
from .long import import_frame
from .own_tables import NAMES, import_own, is_own

if TYPE_CHECKING:
    from sqlalchemy import Connection


def is_url(source: str) -> bool:
    """Whether a source is the URL of a database, as `sqlite:///file.db` or `postgresql+psycopg://host/name`."""
    return re.match(r"(sqlite|postgres(ql)?|mysql|mariadb|oracle|mssql|duckdb)(\+\w+)?:/", source) is not None


def import_sql(
    url: str, table: str | None = None, mapping: Mapping[str, str] | None = None, *, average_samples: bool = False
) -> Imported:
    """Read one table (`table`, or `?table=NAME` at the end of the URL; SCHEMA.NAME too), or howhard's own tables.

    Raises ConfigError for a driver that is not installed, TableError for a table that is not there or a bad row,
    WorldError for a database that cannot be read.
    """
    url, named = _without_table(url)
    table = table or named
    with _reading(url) as connection:
        shown = _shown(url)
        there = _tables(connection)
        if table is None:
            own = {name: _rows(connection, name) for name in NAMES if name in there}
            if own and all(is_own(name, list(frame.columns)) for name, frame in own.items()):
                return import_own(shown, own)
            raise InputError(f"{shown}: which table? Give --table; there are {', '.join(there) or 'none'}")
        if table not in there:
            raise TableError(f"{shown} has no table {table!r}{nearest(table, there)}")
        frame = _rows(connection, table)
    return import_frame(
        f"{shown}, table {table}", frame, mapping or {}, group=table, average_samples=average_samples
    )  # fmt: skip


def _without_table(url: str) -> tuple[str, str | None]:
    found = re.search(r"[?&]table=([^&]+)", url)
    if found is None:
        return url, None
    rest = url[: found.start()] + url[found.end() :]
    return (rest if "?" in rest else rest.replace("&", "?", 1)), found.group(1)


@contextmanager
def _reading(url: str) -> "Iterator[Connection]":
    """A connection that cannot write, where the database knows such."""
    try:
        import sqlalchemy as sa
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
    except ImportError as exc:
        raise ConfigError("SQLAlchemy is not installed: pip install 'howhard[train]'") from exc
    try:
        engine = sa.create_engine(_read_only(sa.make_url(url)))
    except (ImportError, NoSuchModuleError) as exc:
        raise ConfigError(f"{_shown(url)}: its driver is not installed: {exc}. pip install it") from exc
    except ArgumentError as exc:
        raise InputError(f"{_shown(url)}: not the URL of a database: {exc}") from exc
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            yield connection
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or exc).splitlines()[0]
        raise WorldError(f"{_shown(url)}: cannot be read: {reason}") from exc
    finally:
        engine.dispose()


def _read_only(url: Any) -> Any:
    """SQLite would make a file that is not there, and could write to one that is."""
    if url.get_backend_name() != "sqlite":
        return url
    path = url.database or ""
    if not Path(path).is_file():
        raise TableError(f"sqlite:///{path}: there is no such file")
    return url.set(database=f"file:{path}", query={"mode": "ro", "uri": "true"})


def _tables(connection: "Connection") -> list[str]:
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    found = [*inspector.get_table_names(), *inspector.get_view_names()]
    default = inspector.default_schema_name
    if connection.dialect.name != "sqlite":
        for schema in inspector.get_schema_names():
            if schema not in (default, "information_schema"):
                found += [f"{schema}.{name}" for name in inspector.get_table_names(schema)]
    return found


def _rows(connection: "Connection", table: str) -> pd.DataFrame:
    import sqlalchemy as sa

    schema, dot, name = table.rpartition(".")
    held = sa.Table(name, sa.MetaData(), schema=schema if dot else None, autoload_with=connection)
    result = connection.execute(sa.select(held))
    names = list(result.keys())
    columns: list[list[Any]] = [[] for _ in names]
    for row in result:
        for cells, cell in zip(columns, row, strict=True):
            cells.append(_plain(cell))
    # As objects, so that a whole number beside a null stays one.
    return pd.DataFrame({n: pd.Series(cells, dtype=object) for n, cells in zip(names, columns, strict=True)})


def _plain(cell: Any) -> Any:
    """A cell as the checks know it: Postgres gives Decimal for numeric, and ids as UUID."""
    if isinstance(cell, decimal.Decimal):
        return float(cell)
    return str(cell) if isinstance(cell, uuid.UUID) else cell


def _shown(url: str) -> str:
    """The URL without the password that it may hold."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
