"""Backends, verifiers and arms as data: what configurations, router manifests and logs say, and how to open
it.

    {"backend": "small", "strategy": {"kind": "best_of_n", "n": 8, "verifier": "best"}}

A spec checks itself when it is built or read. Reading one opens nothing: weights, clients and the modules
that need PyTorch or aiohttp are touched only by `open_backend` and `open_verifiers`.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from .base import Arm, Backend, Prices, SamplingParams, Strategy, Verifier
from .best_of_n import BestOfN, best_of_n_name
from .errors import ConfigError, nearest
from .single import SinglePass
from .tree_search import TreeSearch
from .verifiers.exact import ExactCheck
from .verifiers.first_of import FirstOf
from .verifiers.reward_model import AGGREGATES, Aggregate, RewardModel
from .verifiers.vote import Vote


class SpecError(ConfigError, ValueError):
    """A spec is out of range. Also a ValueError, so that msgspec adds where in the file it stands."""


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise SpecError(message)


# ── prices and backends ─────────────────────────────────────────────────────────────────────────────────────


class PricesSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices per single token, in the one currency of all prices; `cached` None = as any prompt token."""

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached"):
            value = getattr(self, name)
            _demand(
                value is None or (math.isfinite(value) and value >= 0),
                f"prices.{name}={value!r}: a price is a finite number >= 0, per token",
            )


COMPLETION_TOKENS = Prices(prompt=0.0, completion=1.0)
"""The prices of a backend without any: cost then counts completion tokens."""


class LocalSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="local"):
    """An embedded model in this process.

    model  : a directory, or the name of a model that ships ("tiny-small").
    device : a torch device.
    """

    model: str
    prices: PricesSpec | None = None
    device: str = "cpu"
    max_batch: int = 256

    def __post_init__(self) -> None:
        _demand(bool(self.model), "model is empty: give a directory or the name of a model that ships")
        _demand(self.max_batch >= 1, f"max_batch={self.max_batch!r}: it must be at least 1")


class VLLMSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="vllm"):
    """A model on a vLLM server. What the settings mean stands at VLLMBackend.

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

    def __post_init__(self) -> None:
        _demand(
            self.url.startswith(("http://", "https://")),
            f"url={self.url!r}: it must begin with http:// or https://, such as http://127.0.0.1:8000/v1",
        )
        _demand(bool(self.model), "model is empty: give the name under which the server serves it")
        for name in ("timeout_s", "connect_timeout_s"):
            value = getattr(self, name)
            _demand(
                math.isfinite(value) and value > 0,
                f"{name}={value!r}: it must be a finite number of seconds above 0",
            )
        _demand(self.retries >= 0, f"retries={self.retries!r}: it must not be negative")
        _demand(self.max_concurrency >= 1, f"max_concurrency={self.max_concurrency!r}: it must be at least 1")


BackendSpec = LocalSpec | VLLMSpec


def open_backend(name: str, spec: BackendSpec) -> Backend:
    """Open a backend under a name. A vLLM server is not contacted yet.

    Raises ConfigError for a model that isn't there, a missing API key, or a missing extra.
    """
    _demand(bool(name) and "/" not in name, f"backend name {name!r}: it must be non-empty, without a slash")
    prices = _prices(spec.prices)
    if isinstance(spec, LocalSpec):
        try:
            from .backends.local import LocalBackend
        except ImportError as exc:
            raise ConfigError(_missing_extra(f"backend {name!r}", exc)) from exc
        return LocalBackend(name, spec.model, prices=prices, device=spec.device, max_batch=spec.max_batch)
    from .backends.vllm import VLLMBackend

    return VLLMBackend(
        name,
        url=spec.url,
        model=spec.model,
        prices=prices,
        api_key_env=spec.api_key_env,
        timeout_s=spec.timeout_s,
        connect_timeout_s=spec.connect_timeout_s,
        retries=spec.retries,
        max_concurrency=spec.max_concurrency,
        fingerprint=spec.fingerprint,
    )


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


def _prices(spec: PricesSpec | Prices | None) -> Prices:
    if spec is None:
        return COMPLETION_TOKENS
    return Prices(prompt=spec.prompt, completion=spec.completion, cached=spec.cached)


def _missing_extra(what: str, exc: ImportError) -> str:
    return f"{what} needs {exc.name or exc}, which is not installed: pip install 'howhard[local]'"


# ── verifiers ───────────────────────────────────────────────────────────────────────────────────────────────


class ExactCheckSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="exact_check"
):
    """The exact checks that ship: Countdown, path in a graph."""


class VoteSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="vote"):
    """Agreement of the samples."""


class RewardModelSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="reward_model",
):
    """An embedded process reward model.

    aggregate : how step scores become one: "last", "min", "product" or "mean".
    prices    : of the tokens it reads (`prompt`); None = they count as much as tokens drawn.
    """

    model: str = "tiny-prm"
    aggregate: Aggregate = "last"
    prices: PricesSpec | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        _demand(bool(self.model), "model is empty: give a directory or the name of a model that ships")
        _demand(
            self.aggregate in AGGREGATES,
            f"aggregate={self.aggregate!r}{nearest(str(self.aggregate), AGGREGATES)}",
        )


class FirstOfSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="first_of"
):
    """Other verifiers by name; the first that can judge a request does."""

    verifiers: tuple[str, ...]

    def __post_init__(self) -> None:
        _demand(len(self.verifiers) > 0, "verifiers is empty: name at least one verifier")


VerifierSpec = ExactCheckSpec | VoteSpec | RewardModelSpec | FirstOfSpec


def open_verifiers(specs: Mapping[str, VerifierSpec]) -> dict[str, Verifier]:
    """Open all verifiers of a configuration; each is called as its key says.

    Raises ConfigError for a first_of that names an unknown verifier or, by whatever way, itself, for a model
    that isn't there, or a missing extra.
    """
    opened: dict[str, Verifier] = {}

    def open_one(name: str, asked_by: tuple[str, ...]) -> Verifier:
        if name in asked_by:
            raise ConfigError(f"verifier {name!r} is made of itself: {' -> '.join((*asked_by, name))}")
        if name not in specs:
            raise ConfigError(f"verifier {asked_by[-1]!r} names verifier {name!r}{nearest(name, specs)}")
        if name not in opened:
            spec = specs[name]
            if isinstance(spec, FirstOfSpec):
                members = [open_one(member, (*asked_by, name)) for member in spec.verifiers]
                opened[name] = FirstOf(name, members)
            else:
                opened[name] = _open_verifier(name, spec)
        return opened[name]

    return {name: open_one(name, ()) for name in specs}


def _open_verifier(name: str, spec: VerifierSpec) -> Verifier:
    if isinstance(spec, ExactCheckSpec):
        return ExactCheck(name=name)
    if isinstance(spec, VoteSpec):
        return Vote(name=name)
    assert isinstance(spec, RewardModelSpec)
    prices = Prices(prompt=1.0, completion=0.0) if spec.prices is None else _prices(spec.prices)
    try:
        return RewardModel(spec.model, prices=prices, aggregate=spec.aggregate, device=spec.device, name=name)
    except ImportError as exc:
        raise ConfigError(_missing_extra(f"verifier {name!r}", exc)) from exc


# ── strategies and arms ─────────────────────────────────────────────────────────────────────────────────────


class _Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts are drawn; see SamplingParams. `max_tokens` bounds one whole answer."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        try:
            self.params()
        except ConfigError as exc:
            raise SpecError(str(exc)) from exc

    def params(self) -> SamplingParams:
        """The same as SamplingParams."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class SingleSpec(_Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="single"):
    """One sample."""

    @property
    def name(self) -> str:
        """As SinglePass.name."""
        return "single"


class BestOfNSpec(_Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="best_of_n"):
    """`n` samples and the name of the verifier that chooses; the default one is called "best"."""

    n: int
    verifier: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        _demand(self.n >= 1, f"n={self.n!r}: best-of-N draws at least 1 sample")
        _demand(self.n == 1 or self.temperature > 0, "temperature=0 would draw the same sample n times")

    @property
    def name(self) -> str:
        """As BestOfN.name."""
        return best_of_n_name(self.n, self.verifier)


class TreeSearchSpec(
    _Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="tree_search"
):
    """A beam over steps; see TreeSearch for each setting."""

    width: int
    branches: int
    verifier: str = "best"
    step_end: str = "\n"
    step_tokens: int = 64
    max_steps: int = 32
    token_budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "branches", "step_tokens", "max_steps", "token_budget"):
            value = getattr(self, name)
            _demand(value is None or value >= 1, f"{name}={value!r}: it must be at least 1")
        _demand(bool(self.step_end), "step_end is empty: give the text that ends a step")
        _demand(
            self.width * self.branches == 1 or self.temperature > 0,
            "temperature=0 would draw the same step again and again: set it above 0",
        )

    @property
    def name(self) -> str:
        """As TreeSearch.name."""
        return f"beam_{self.width}x{self.branches}"


StrategySpec = SingleSpec | BestOfNSpec | TreeSearchSpec


class ArmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy on a backend, which is named."""

    backend: str
    strategy: StrategySpec

    @property
    def name(self) -> str:
        """As Arm.name: "small/best_of_8"."""
        return f"{self.backend}/{self.strategy.name}"


def build_strategy(spec: StrategySpec, verifiers: Mapping[str, Verifier], *, seed: int | None = None) -> Strategy:
    """Build a strategy that draws with `seed` (None = not reproducible).

    Raises ConfigError for a verifier that is not among `verifiers`.
    """
    params = spec.params().but(seed=seed)
    if isinstance(spec, SingleSpec):
        return SinglePass(params)
    if spec.verifier not in verifiers:
        raise ConfigError(f"{spec.name} wants verifier {spec.verifier!r}{nearest(spec.verifier, verifiers)}")
    verifier = verifiers[spec.verifier]
    if isinstance(spec, BestOfNSpec):
        return BestOfN(n=spec.n, verifier=verifier, params=params)
    return TreeSearch(
        width=spec.width,
        branches=spec.branches,
        verifier=verifier,
        params=params,
        step_end=spec.step_end,
        step_tokens=spec.step_tokens,
        max_steps=spec.max_steps,
        token_budget=spec.token_budget,
    )


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
        arm = build_strategy(spec.strategy, verifiers, seed=seed).on(backends[spec.backend])
        if arm.name in arms:
            raise ConfigError(
                f"two arms are called {arm.name!r}: a log could not tell them apart; rename one's backend"
            )
        arms[arm.name] = arm
    return arms
