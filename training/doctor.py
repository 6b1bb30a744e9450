"""Check an installation and its backends, and say what to switch on."""

import asyncio
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import msgspec

from ..strategies import open_backend
from ..strategies.backends.vllm import Capabilities, VLLMBackend
from ..strategies.base import Backend, Prefix, SamplingParams, as_messages
from ..strategies.errors import HowhardError
from .config import Config

PARTS = {
    "train": ("lightgbm", "mlflow", "pandas", "pyarrow", "scikit-learn", "matplotlib", "math-verify"),
    "local": ("torch", "safetensors", "tokenizers"),
}
"""Extra -> the distributions that it brings."""


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """What was found of one backend. `capabilities` is None for an embedded model; `error` None where it works."""

    name: str
    kind: str
    model: str
    fingerprint: str
    error: str | None = None
    capabilities: Capabilities | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """What was found of the installation and of every configured backend."""

    python: str
    versions: dict[str, str | None]
    backends: tuple[BackendHealth, ...]

    @property
    def well(self) -> bool:
        """Whether every configured backend works."""
        return all(backend.error is None for backend in self.backends)

    def text(self) -> str:
        """For people."""
        lines = [f"howhard {self.versions['howhard']}, Python {self.python}"]
        for extra, names in PARTS.items():
            missing = [name for name in names if self.versions[name] is None]
            found = ", ".join(f"{name} {self.versions[name]}" for name in names if self.versions[name])
            lines.append(f"  {extra}: {found or 'nothing'}")
            if missing:
                lines.append(f"    missing {', '.join(missing)}: pip install 'howhard[{extra}]'")
        for backend in self.backends:
            lines += ["", f"backend {backend.name}: {backend.model} ({backend.kind})"]
            lines += [f"  {line}" for line in _lines(backend)]
        if not self.backends:
            lines += ["", "no backend was named: give --url and --model, or --config, to have it checked"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return msgspec.to_builtins({"well": self.well, **{f: getattr(self, f) for f in self.__slots__}})


def _lines(backend: BackendHealth) -> list[str]:
    if backend.error is not None:
        lines = [f"does not work: {backend.error}"]
    else:
        lines = [f"works, fingerprint {backend.fingerprint}"]
    found = backend.capabilities
    if found is not None and found.reachable:
        offers = ("logprobs", "token_ids", "usage", "cached_tokens", "metrics")
        lines.append("  ".join(f"{offer} {'yes' if getattr(found, offer) else 'no'}" for offer in offers))
        lines.append(f"version {found.version or 'unknown'}, context {found.context or 'unknown'} tokens")
        lines += [f"advice: {line}" for line in found.advice]
    return lines


def examine(config: Config | None) -> Health:
    """Look at the installation, and draw one token from every backend of the configuration."""
    versions = {name: _version(name) for name in ("howhard", *(n for names in PARTS.values() for n in names))}
    backends = () if config is None else asyncio.run(_examine_all(config))
    return Health(platform.python_version(), versions, backends)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


async def _examine_all(config: Config) -> tuple[BackendHealth, ...]:
    return tuple([await _examine(name, spec) for name, spec in config.backends.items()])


async def _examine(name: str, spec: Any) -> BackendHealth:
    kind = str(spec.__struct_config__.tag)
    try:
        backend = open_backend(name, spec)
    except HowhardError as exc:
        return BackendHealth(name, kind, spec.model, "", error=str(exc))
    try:
        found = await backend.probe() if isinstance(backend, VLLMBackend) else None
        error = found.error if found is not None else await _try(backend)
        return BackendHealth(name, kind, spec.model, backend.fingerprint, error, found)
    finally:
        await backend.close()


async def _try(backend: Backend) -> str | None:
    batch = backend.generate([Prefix(as_messages("Hello"))], n=1, params=SamplingParams(max_tokens=1))
    [[generation]] = await batch.all()
    return generation.error
