"""Backends, verifiers and arms as data: what configurations, router manifests and logs say, and how to open
it.

    {"backend": "small", "strategy": {"kind": "best_of_n", "n": 8, "verifier": "best"}}

A spec checks itself when it is built or read. Reading one opens nothing: weights, clients and the modules
that need PyTorch or aiohttp are touched only by `open_backend` and `open_verifiers`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from .base import Arm, Backend, Strategy, Verifier
from .catalogue import STRATEGIES, VERIFIERS, StrategySpec, VerifierSpec
from .errors import ConfigError, nearest
from .spec import Parts, PricesSpec, SpecError, demand, prices_of

# ── backends ─────────────────────────────────────────────────────────────────────────────────────


class LocalSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="local"):
    """An embedded model in this process.

    model  : a directory, or the name of a model that ships ("tiny-small").
    device : a torch device.
    max_batch, prefix_cache_mb : see LocalBackend.
    """

    model: str
    prices: PricesSpec | None = None
    device: str = "cpu"
    max_batch: int = 256
    prefix_cache_mb: float = 64.0

    def __post_init__(self) -> None:
        demand(self.prefix_cache_mb >= 0, f"prefix_cache_mb={self.prefix_cache_mb!r}: it must be 0 or more megabytes")
        demand(bool(self.model), "model is empty: give a directory or the name of a model that ships")
        demand(self.max_batch >= 1, f"max_batch={self.max_batch!r}: it must be at least 1")


class _ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What is to be said of any server. What the settings mean stands at VLLMBackend.

    api_key_env : the NAME of the environment variable that holds the key, never the key.
    """

    url: str
    model: str
    prices: PricesSpec | None = None
    api_key_env: str | None = None
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    retries: int = 1
    max_concurrency: int = 256
    fingerprint: str | None = None
    extra_body: dict[str, Any] = {}

    def __post_init__(self) -> None:
        demand(
            self.url.startswith(("http://", "https://")),
            f"url={self.url!r}: it must begin with http:// or https://, such as http://127.0.0.1:8000/v1",
        )
        demand(bool(self.model), "model is empty: give the name under which the server serves it")
        for name in ("timeout_s", "connect_timeout_s"):
            value = getattr(self, name)
            demand(
                math.isfinite(value) and value > 0,
                f"{name}={value!r}: it must be a finite number of seconds above 0",
            )
        demand(self.retries >= 0, f"retries={self.retries!r}: it must not be negative")
        demand(self.max_concurrency >= 1, f"max_concurrency={self.max_concurrency!r}: it must be at least 1")

    def settings(self) -> dict[str, Any]:
        """As keywords for the backend, but for its name and prices."""
        return {f: getattr(self, f) for f in self.__struct_fields__ if f != "prices"}


class VLLMSpec(_ServerSpec, frozen=True, kw_only=True, tag="vllm"):
    """A model on a vLLM server. What the settings mean stands at VLLMBackend.

    api_key_env : the NAME of the environment variable that holds the key, never the key.
    """

    thinking_budget: bool = False


class OpenAISpec(_ServerSpec, frozen=True, kw_only=True, tag="openai"):
    """A model on any OpenAI-compatible server. What the settings mean stands at OpenAIBackend and VLLMBackend.

    api_key_env : the NAME of the environment variable that holds the key, never the key.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    n_per_call: int | None = None
    logprobs: bool = True
    max_logprobs: int = 20
    usage_told: bool = True
    stop_told: bool = False
    continues: Literal["final_message", "prefix", "last_message"] | None = None
    template: dict[str, str] | None = None
    thinking_field: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        demand(
            self.n_per_call is None or self.n_per_call >= 1,
            f"n_per_call={self.n_per_call!r}: it must be at least 1, or left out for any number",
        )
        demand(self.max_logprobs >= 0, f"max_logprobs={self.max_logprobs!r}: it must be 0 or more")
        demand(
            self.template is None or self.continues is None,
            "continues and template are two ways to go on from a begun answer: give one of them",
        )


BackendSpec = LocalSpec | VLLMSpec | OpenAISpec


def open_backend(name: str, spec: BackendSpec) -> Backend:
    """Open a backend under a name. A server is not contacted yet.

    Raises ConfigError for a model that isn't there, a missing API key, or a missing extra.
    """
    demand(bool(name) and "/" not in name, f"backend name {name!r}: it must be non-empty, without a slash")
    prices = prices_of(spec.prices)
    if isinstance(spec, LocalSpec):
        try:
            from .backends.local import LocalBackend
        except ImportError as exc:
            raise ConfigError(_missing_extra(f"backend {name!r}", exc)) from exc
        return LocalBackend(
            name,
            spec.model,
            prices=prices,
            device=spec.device,
            max_batch=spec.max_batch,
            prefix_cache_mb=spec.prefix_cache_mb,
        )
    if isinstance(spec, OpenAISpec):
        from .backends.openai import OpenAIBackend

        return OpenAIBackend(name, prices=prices, **spec.settings())
    from .backends.vllm import VLLMBackend

    return VLLMBackend(name, prices=prices, **spec.settings())


def open_backends(specs: Mapping[str, BackendSpec]) -> dict[str, Backend]:
    """Open all backends of a configuration.

    Raises ConfigError as `open_backend`, and where some backends have prices and others have none.
    """
    check_prices(specs)
    return {name: open_backend(name, spec) for name, spec in specs.items()}


def check_prices(specs: Mapping[str, BackendSpec]) -> None:
    """Raise ConfigError where some backends have prices and others none: their costs would not compare."""
    without = sorted(name for name, spec in specs.items() if spec.prices is None)
    if without and len(without) < len(specs):
        raise ConfigError(
            f"backends {', '.join(without)} have no prices, but others have: give prices to all, or to none "
            "(cost then counts completion tokens)"
        )


def _missing_extra(what: str, exc: ImportError) -> str:
    return f"{what} needs {exc.name or exc}, which is not installed: pip install 'howhard[local]'"


# ── verifiers ───────────────────────────────────────────────────────────────────────────────────────────────


def open_verifiers(
    specs: Mapping[str, VerifierSpec], backends: Mapping[str, Backend] | None = None
) -> dict[str, Verifier]:
    """Open all verifiers of a configuration; each is called as its key says.

    backends : what verifiers that ask a model (a judge) may ask.

    Raises ConfigError for a verifier that names another one or a backend that is unknown or, by whatever way,
    itself, for a model that isn't there, or a missing extra.
    """
    return dict(OpenedVerifiers(specs, backends or {}))


class OpenedVerifiers(Mapping[str, Verifier]):
    """Verifiers by name, each opened when it is first looked up, after those that it is made of.

    opened : those so far; at first those that the caller has opened already.

    Looking one up raises as `open_verifiers`.
    """

    def __init__(
        self,
        specs: Mapping[str, VerifierSpec],
        backends: Mapping[str, Backend],
        opened: Mapping[str, Verifier] | None = None,
    ) -> None:
        self.opened: dict[str, Verifier] = dict(opened or {})
        self._specs = specs
        self._parts = Parts(self, backends)
        self._under_way: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __getitem__(self, name: str) -> Verifier:
        if name not in self.opened:
            if name in self._under_way:
                raise ConfigError(f"verifier {name!r} is made of itself: {' -> '.join((*self._under_way, name))}")
            self._under_way.append(name)
            try:
                self.opened[name] = self._specs[name].open(name, self._parts)
            except ImportError as exc:
                raise ConfigError(_missing_extra(f"verifier {name!r}", exc)) from exc
            finally:
                self._under_way.pop()
        return self.opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


# ── strategies and arms ─────────────────────────────────────────────────────────────────────────────────────


class ArmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy on a backend, which is named."""

    backend: str
    strategy: StrategySpec

    @property
    def name(self) -> str:
        """As Arm.name: "small/best_of_8"."""
        return f"{self.backend}/{self.strategy.name}"


def build_strategy(
    spec: StrategySpec,
    verifiers: Mapping[str, Verifier],
    *,
    backends: Mapping[str, Backend] | None = None,
    seed: int | None = None,
) -> Strategy:
    """Build a strategy that draws with `seed` (None = not reproducible).

    backends : what strategies with stages on further backends may use.

    Raises ConfigError for a verifier that is not among `verifiers`, or such a backend.
    """
    return spec.build(Parts(verifiers, backends or {}, seed))


def build_arms(
    specs: Sequence[ArmSpec],
    backends: Mapping[str, Backend],
    verifiers: Mapping[str, Verifier],
    *,
    seed: int | None = None,
) -> dict[str, Arm]:
    """Build arms by name, in order; all draw with `seed` (None = not reproducible).

    Raises ConfigError for an unknown backend or verifier, or for two arms of one name.
    """
    arms: dict[str, Arm] = {}
    for spec in specs:
        if spec.backend not in backends:
            raise ConfigError(f"arm {spec.name!r} wants backend {spec.backend!r}{nearest(spec.backend, backends)}")
        arm = build_strategy(spec.strategy, verifiers, backends=backends, seed=seed).on(backends[spec.backend])
        if arm.name in arms:
            raise ConfigError(
                f"two arms are called {arm.name!r}: a log could not tell them apart; rename one's backend"
            )
        arms[arm.name] = arm
    return arms


__all__ = [
    "STRATEGIES",
    "VERIFIERS",
    "ArmSpec",
    "BackendSpec",
    "LocalSpec",
    "OpenAISpec",
    "OpenedVerifiers",
    "PricesSpec",
    "SpecError",
    "StrategySpec",
    "VLLMSpec",
    "VerifierSpec",
    "build_arms",
    "build_strategy",
    "check_prices",
    "open_backend",
    "open_backends",
    "open_verifiers",
]
