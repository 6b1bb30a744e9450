"""Arms in words: "best-of-n n=16 verifier=tiny-prm" on a command line is a strategy's spec, checked like any other.

Words are looked up in the catalogue of strategies and typed by the fields of its specs, so a strategy that is added
there can be given here without a line of code. An unknown word is an error with the nearest right one.
"""

import shlex
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..strategies.catalogue import STRATEGIES, StrategySpec
from ..strategies.errors import ConfigError, nearest
from ..strategies.spec import StrategyFields

KINDS: dict[str, Any] = {str(spec.__struct_config__.tag).replace("_", "-"): spec for spec in STRATEGIES}
"""Word on the command line -> the spec that it stands for: "best-of-n" -> BestOfNSpec."""

ALSO = {"beam": "tree-search"}
"""Further words for them."""


def parse_arm(text: str, usual: Mapping[str, object] | None = None) -> tuple[str | None, StrategySpec]:
    """Read an arm: "[BACKEND/]KIND [SETTING=VALUE ...]", quoted as in a shell. Returns the backend named, and the spec.

    Stages of a cascade are arms too: "cascade 'stages=self-consistency n=5 if agreement >= 0.8 else large/single'".

    usual : settings of those strategies that have them, where the words give no other.
    Raises ConfigError for words that say nothing.
    >>> parse_arm("large/best-of-n n=4")[0]
    'large'
    """
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise ConfigError(f"arm {text!r}: {exc}") from exc
    if not words:
        raise ConfigError("an arm is empty: write a strategy and its settings, such as 'best-of-n n=16'")
    backend, slash, kind = words[0].rpartition("/")
    if slash and not (backend and kind):
        raise ConfigError(f"arm {text!r}: write BACKEND/STRATEGY, such as 'large/single'")
    try:
        return backend or None, strategy_spec(kind, assignments(words[1:]), usual)
    except ConfigError as exc:
        raise ConfigError(f"arm {text!r}: {exc}") from exc


def assignments(words: list[str]) -> dict[str, str]:
    """Read "name=value" words. Raises ConfigError for one of another form, or a name that stands there twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if not (name and equals):
            raise ConfigError(f"{word!r}: write SETTING=VALUE, such as n=16")
        if name in found:
            raise ConfigError(f"{name!r} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


def strategy_spec(kind: str, settings: Mapping[str, object], usual: Mapping[str, object] | None = None) -> StrategySpec:
    """Make the spec of a kind, with its settings as text (or already of their type).

    usual : as in `parse_arm`; a setting that is None by default, and so not in use, stays so.
    Raises ConfigError for an unknown kind or setting, a value of another type, and one out of range.
    """
    word = kind.replace("_", "-")
    spec = KINDS.get(ALSO.get(word, word))
    if spec is None:
        raise ConfigError(
            f"no strategy is called {kind!r}{_guess(kind, (*KINDS, *ALSO))} The strategies: {', '.join(KINDS)}"
        )
    fields = {field.name: field.type for field in msgspec.structs.fields(spec)}
    in_use = {field.name for field in msgspec.structs.fields(spec) if field.default is not None}
    for name in settings:
        if name not in fields:
            others = [word for word, other in KINDS.items() if name in other.__struct_fields__]
            hint = f"; strategies with one: {', '.join(others)}." if others else _guess(name, fields)
            raise ConfigError(f"{kind} has no setting {name!r}{hint} Its settings: {', '.join(fields)}")
    given = {name: value for name, value in (usual or {}).items() if name in in_use} | dict(settings)
    if "stages" in fields and isinstance(given.get("stages"), str) and not str(given["stages"]).startswith("["):
        own = {name: given[name] for name in (*StrategyFields.__struct_fields__, "verifier") if name in given}
        given["stages"] = _stages(str(given["stages"]), {**(usual or {}), **own})
    return spec(**{name: _typed(name, value, fields[name]) for name, value in given.items()})


def words_of(spec: StrategySpec) -> str:
    """The words that `parse_arm` reads as this spec: its kind, and what differs from the defaults."""
    kind: Any = type(spec)
    given: dict[str, Any] = {}
    for name in spec.__struct_fields__:
        if getattr(spec, name) != getattr(kind(**given), name):  # a default may follow from settings before it
            given[name] = getattr(spec, name)
    words = [str(kind.__struct_config__.tag).replace("_", "-")]
    for name, value in given.items():
        plain = msgspec.to_builtins(value)
        bare = isinstance(plain, str) and plain.isprintable() and not plain.startswith('"')
        words.append(shlex.quote(f"{name}={plain if bare else msgspec.json.encode(plain).decode()}"))
    return " ".join(words)


def _guess(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or a full stop where nothing is near: the whole list follows anyway."""
    guess = nearest(word, known)
    return guess if guess.startswith("; did you mean") else "."


def _stages(text: str, usual: Mapping[str, object] | None) -> list[dict[str, object]]:
    """Read "ARM if RULE else ARM if RULE else ARM": each stage's answer is taken if the rule accepts it.

    usual : settings of the cascade, which are those of its stages where these give no other.
    """
    stages: list[dict[str, object]] = []
    for stage in text.split(" else "):
        arm, _, rule = stage.partition(" if ")
        backend, strategy = parse_arm(arm, usual)
        stages.append({"strategy": msgspec.to_builtins(strategy), "backend": backend, "accept": rule.strip() or None})
    return stages


def _typed(name: str, value: object, kind: Any) -> object:
    r"""Read a value of a field's type: as it stands, as JSON, or as a list with commas.

    A value in double quotes is JSON first of all, so that a line break can be written as "\n".
    """
    readings: list[object] = [value]
    if isinstance(value, str):
        try:
            readings.append(msgspec.json.decode(value))
        except msgspec.DecodeError:
            readings.append([part.strip() for part in value.split(",")])
        if value.startswith('"'):
            readings.reverse()
    problem: Exception | None = None
    for reading in readings:
        try:
            return msgspec.convert(reading, kind, strict=False)
        except msgspec.ValidationError as exc:
            problem = problem or exc
    if typing.get_origin(kind) is typing.Literal:
        raise ConfigError(f"{name}={value!r} is not known{nearest(str(value), typing.get_args(kind))}") from problem
    raise ConfigError(f"{name}={value!r}: {problem}") from problem
