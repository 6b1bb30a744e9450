"""Settings as a dataclass, from a table of a TOML file: every key is checked, and a wrong one gets the nearest right.

Configurations are msgspec structs, which check themselves; what the library's own settings are (FitSettings and what
it is made of) are dataclasses, and are read here.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ..strategies.errors import ConfigError, nearest

T = TypeVar("T")


def from_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make settings of a dataclass from plain values; a table inside becomes the dataclass or struct that is due.

    where : dotted name of the table, for messages: "fit", "fit.trees".

    Raises ConfigError for an unknown key, a value of another type, or one that the settings themselves refuse.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: it must be a table of settings, not {table!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in table.items():
        at = f"{where}.{name}"
        if name not in names:
            raise ConfigError(f"unknown setting {at!r}{nearest(name, names)}")
        inner = hints[name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            given[name] = from_table(inner, value, at)
            continue
        try:
            given[name] = msgspec.convert(value, inner)
        except (msgspec.ValidationError, ConfigError) as exc:
            raise ConfigError(f"{at}: {exc}") from exc
    try:
        return kind(**given)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
