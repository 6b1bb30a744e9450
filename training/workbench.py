"""What a command has at hand: backends and verifiers by name, from a configuration and from what ships.

The embedded models and verifiers are always there under their names; those of a configuration come first where the
names are the same. Nothing is opened before it is used, so that a vote loads no reward model.
"""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec

from ..strategies import ArmSpec, Backend, BackendSpec, LocalSpec, VerifierSpec, open_backend
from ..strategies.base import Arm
from ..strategies.catalogue import VERIFIERS
from ..strategies.errors import ConfigError, nearest
from ..strategies.naming import DEFAULT_VERIFIER
from ..strategies.specs import OpenedVerifiers, build_arms, check_prices
from ..strategies.verifiers.first_of import FirstOfSpec
from .config import Config, embedded_config

EMBEDDED = {"tiny-small": "small", "tiny-large": "large"}
"""Embedded backend -> what the quickstart's configuration, which has its prices, calls it."""


@dataclass(frozen=True, slots=True)
class AtHand:
    """What can be named, as specs.

    chosen  : the backends that the command works on, one at least.
    usual   : settings that strategies take where nothing else is said.
    verifier : of strategies that need one where none is named: tiny-prm for the embedded models, whose texts alone it
               knows, "best" for others.
    instructed : whether the chosen models follow instructions; the embedded ones do not.
    currency : of costs.
    """

    backends: Mapping[str, BackendSpec]
    verifiers: Mapping[str, VerifierSpec]
    chosen: tuple[str, ...]
    usual: Mapping[str, object] = field(default_factory=dict)
    verifier: str = DEFAULT_VERIFIER
    instructed: bool = True
    currency: str = "completion tokens"

    def but(self, usual: Mapping[str, object]) -> "AtHand":
        """The same with other usual settings."""
        return dataclasses.replace(self, usual={**self.usual, **usual})

    def scores_steps(self, verifier: str) -> bool:
        """Whether a verifier, or one that it is made of, is a reward model, which can score partial solutions."""
        spec = self.verifiers.get(verifier)
        tag = "" if spec is None else str(spec.__struct_config__.tag)
        return "reward" in tag or any(self.scores_steps(v) for v in getattr(spec, "verifiers", ()))


def at_hand(config: Config | None, names: Sequence[str] = (), *, one: bool = False) -> AtHand:
    """Gather what a configuration and the package offer, and choose backends among it by name.

    names : backends to work on; none = all of the configuration, or tiny-small without one.
    one   : refuse more than one where none was named.
    Raises ConfigError for a name that is nobody's.
    """
    embedded = embedded_config()
    backends: dict[str, BackendSpec] = {name: embedded.backends[known] for name, known in EMBEDDED.items()}
    own = {} if config is None else config.backends
    everything = backends | own
    chosen = tuple(dict.fromkeys(names)) or tuple(own) or ("tiny-small",)
    for name in chosen:
        if name not in everything:
            raise ConfigError(f"no backend is called {name!r}{nearest(name, everything)}")
    if one and len(chosen) > 1:
        raise ConfigError(f"several backends are configured: choose one with --backend: {', '.join(chosen)}")
    local = all(isinstance(everything[name], LocalSpec) for name in chosen)
    draws = embedded.collect if config is None else config.collect
    return AtHand(
        backends=everything,
        verifiers=_plain_verifiers()
        | _embedded_verifiers(embedded, local)
        | ({} if config is None else config.verifiers),
        chosen=chosen,
        usual={"temperature": draws.temperature, "top_p": draws.top_p, "max_tokens": draws.max_tokens},
        verifier="tiny-prm" if local else DEFAULT_VERIFIER,
        instructed=not local,
        currency=embedded.currency if config is None else config.currency,
    )


def _plain_verifiers() -> dict[str, VerifierSpec]:
    """Every verifier that needs no setting, under its kind: "vote", "exact-check"."""
    plain: dict[str, VerifierSpec] = {}
    for spec in VERIFIERS:
        if not any(field.required for field in msgspec.structs.fields(spec)):
            plain[str(spec.__struct_config__.tag).replace("_", "-")] = spec()
    return plain


def _embedded_verifiers(embedded: Config, local: bool) -> dict[str, VerifierSpec]:
    """The names that the README uses. "best" trusts tiny-prm only with the texts it knows: those of its siblings."""
    check, prm, vote = (embedded.verifiers[name] for name in ("check", "prm", "vote"))
    named: dict[str, VerifierSpec] = {"check": check, "tiny-prm": prm, "prm": prm, "vote": vote}
    named[DEFAULT_VERIFIER] = FirstOfSpec(verifiers=("check", "tiny-prm" if local else "vote"))
    return named


class _OpenedBackends(Mapping[str, Backend]):
    """Backends by name, each opened when it is first looked up. `opened`: those so far."""

    def __init__(self, specs: Mapping[str, BackendSpec]) -> None:
        self.opened: dict[str, Backend] = {}
        self._specs = specs

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __getitem__(self, name: str) -> Backend:
        if name not in self.opened:
            self.opened[name] = open_backend(name, self._specs[name])
        return self.opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


class Workbench:
    """Opens what is at hand when it is first asked for, and closes it at the end of an `async with`."""

    def __init__(self, at: AtHand) -> None:
        self.at = at
        self.backends = _OpenedBackends(at.backends)
        self.verifiers = OpenedVerifiers(at.verifiers, self.backends)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thing in (*self.verifiers.opened.values(), *self.backends.opened.values()):
            close = getattr(thing, "close", None)
            closing = close() if callable(close) else None
            if inspect.isawaitable(closing):
                await closing

    def arm(self, spec: ArmSpec, *, seed: int | None = None) -> Arm:
        """Build an arm that draws with `seed`; opens what it needs. Raises ConfigError for what isn't there."""
        if spec.backend not in self.backends:
            raise ConfigError(f"no backend is called {spec.backend!r}{nearest(spec.backend, self.backends)}")
        needed = (spec.backend, *spec.strategy.needs_backends)
        check_prices({name: self.at.backends[name] for name in needed if name in self.at.backends})
        return build_arms([spec], self.backends, self.verifiers, seed=seed)[spec.name]

    def identity(self, spec: ArmSpec) -> str:
        """16 hex digits of all that decides what the arm does: results under equal ones may stand together.

        The settings, the verifiers that are named in them or in each other, and of every backend its model,
        fingerprint and prices; not its address. Open the arm, and `check`, before asking: a server says only then
        what it serves.
        """
        told: dict[str, object] = {}
        waiting = [spec.backend, *_texts(msgspec.to_builtins(spec.strategy))]
        while waiting:
            name = waiting.pop()
            if name in told:
                continue
            if name in self.at.verifiers:
                told[name] = msgspec.to_builtins(self.at.verifiers[name])
                waiting += _texts(told[name])
            elif name in self.at.backends and name in self.backends.opened:
                backend = self.backends[name]
                told[name] = [self.at.backends[name].model, backend.fingerprint, dataclasses.asdict(backend.prices)]
        text = json.dumps([spec.backend, msgspec.to_builtins(spec.strategy), told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    async def check(self) -> None:
        """Ask every server that was opened whether it is there and serves its model; raises as its `check`."""
        for backend in self.backends.opened.values():
            check = getattr(backend, "check", None)
            if check is not None:
                await check()


def _texts(node: object) -> Iterator[str]:
    """Every string in plain data: among them are the names of verifiers and backends."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)
