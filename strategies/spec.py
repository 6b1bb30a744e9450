"""What every description of a strategy or a verifier has in common: sampling settings, checks, how it is opened.

A spec is data: it stands in configurations, router manifests and logs. Each strategy and each verifier keeps its
own beside itself, in its file; `catalogue.py` lists them, and `specs.py` opens whole configurations.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from .base import Backend, Batch, Candidate, Prefix, Prices, Request, SamplingParams, Strategy, Verdicts, Verifier
from .errors import BackendError, ConfigError, VerifierError, nearest


class SpecError(ConfigError, ValueError):
    """A spec is out of range. Also a ValueError, so that msgspec adds where in the file it stands."""


def demand(holds: bool, message: str) -> None:
    """Raise SpecError with the message unless it holds."""
    if not holds:
        raise SpecError(message)


@contextlib.contextmanager
def restated() -> Iterator[None]:
    """Raise as SpecError what a class says of the settings that a spec holds for it."""
    try:
        yield
    except SpecError:
        raise
    except ConfigError as exc:
        raise SpecError(str(exc)) from exc


class PricesSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices per single token, in the one currency of all prices; `cached` None = as any prompt token."""

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        with restated():
            prices_of(self)


COMPLETION_TOKENS = Prices(prompt=0.0, completion=1.0)
"""The prices of a backend without any: cost then counts completion tokens."""


def prices_of(spec: PricesSpec | None, without: Prices = COMPLETION_TOKENS) -> Prices:
    """Return the prices that a spec gives, or `without`."""
    return without if spec is None else Prices(prompt=spec.prompt, completion=spec.completion, cached=spec.cached)


@dataclass(frozen=True, slots=True)
class Parts:
    """What specs are built from: opened verifiers and backends by name, and the seed that all draws take.

    Looking up a name that isn't there raises ConfigError with the nearest right one.
    """

    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    backends: Mapping[str, Backend] = field(default_factory=dict)
    seed: int | None = None

    def verifier(self, name: str, *, asked_by: str) -> Verifier:
        """Return the verifier of that name."""
        if name not in self.verifiers:
            raise ConfigError(f"{asked_by} wants verifier {name!r}{nearest(name, self.verifiers)}")
        return self.verifiers[name]

    def backend(self, name: str, *, asked_by: str) -> Backend:
        """Return the backend of that name."""
        if name not in self.backends:
            raise ConfigError(f"{asked_by} wants backend {name!r}{nearest(name, self.backends)}")
        return self.backends[name]


Named = TypeVar("Named")


class _Anything(Mapping[str, Named]):
    """Has a stand-in under every name, and remembers what it was asked for."""

    def __init__(self, stand_in: Callable[[str], Named]) -> None:
        self.asked: dict[str, Named] = {}
        self._stand_in = stand_in

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Named:
        return self.asked.setdefault(name, self._stand_in(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.asked)

    def __len__(self) -> int:
        return len(self.asked)


class _Unopened:
    """Stands for a verifier while a spec is checked."""

    sound = False

    def __init__(self, name: str) -> None:
        self.name = name

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        raise VerifierError(f"verifier {self.name!r} was not opened")


class _Closed:
    """Stands for a backend while a spec is checked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prices = COMPLETION_TOKENS
        self.fingerprint = ""
        self.context: int | None = None

    def generate(self, prefixes: Sequence[Prefix], *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        raise BackendError(f"backend {self.name!r} was not opened")

    async def close(self) -> None:
        pass


class StrategyFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every strategy's spec has: how texts are drawn (see SamplingParams; `max_tokens` bounds a whole answer).

    A spec gives every setting a default, so that its kind alone describes a strategy; and it is checked, when it is
    built or read, by building the strategy that it describes.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        with restated():
            self._described()

    def params(self, seed: int | None = None) -> SamplingParams:
        """The sampling settings."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=seed)

    def build(self, parts: Parts) -> Strategy:
        """Build the strategy. Raises ConfigError for a setting out of range, or a part that isn't there."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """As the strategy's name."""
        return self._described()[0].name

    @property
    def needs_verifiers(self) -> tuple[str, ...]:
        """Names of the verifiers that it is built from."""
        return self._described()[1]

    @property
    def needs_backends(self) -> tuple[str, ...]:
        """Names of the backends that it is built from, beside the one that it runs on."""
        return self._described()[2]

    def _described(self) -> tuple[Strategy, tuple[str, ...], tuple[str, ...]]:
        """Build the strategy of stand-ins; return it with the names of the verifiers and backends that it asked for."""
        verifiers: _Anything[Verifier] = _Anything(_Unopened)
        backends: _Anything[Backend] = _Anything(_Closed)
        return self.build(Parts(verifiers, backends)), tuple(verifiers), tuple(backends)


class VerifierFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every verifier's spec has in common: how it is opened, under a name, and what it asks."""

    @property
    def needs_backends(self) -> tuple[str, ...]:
        """Names of the backends that it asks; none, unless a model judges by writing."""
        return ()

    @property
    def needs_verifiers(self) -> tuple[str, ...]:
        """Names of the verifiers that it is made of; none, unless it hands requests on."""
        return ()

    def open(self, name: str, parts: Parts) -> Verifier:
        """Open the verifier. Raises ConfigError for what isn't there, ImportError for a missing extra."""
        raise NotImplementedError
