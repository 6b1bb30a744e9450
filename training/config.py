"""The one TOML file of howhard's commands: backends, verifiers, arms, how to collect, the objective.

It is read whole and checked whole before any work is done: an unknown key is an error with the nearest right
name, never ignored. What a field means stands at the field; `howhard config` prints a commented example.
"""

import dataclasses
import re
import tomllib
import types
import typing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..router.encoder import EncoderSpec
from ..router.objective import Objective
from ..strategies import ArmSpec, BackendSpec, VerifierSpec
from ..strategies.errors import ConfigError, nearest
from .settings_table import from_table

if TYPE_CHECKING:
    from .fit import FitSettings
    from .plans.menus import PlanOptions


class CollectConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How outcomes are collected.

    samples         : samples per prompt and backend, drawn once; any best-of-N or vote up to it is derived.
    temperature, top_p, max_tokens : how they are drawn. Arms that don't set their own take these, so that
                      what is derived from the samples is what the arm would have done.
    confidence_of   : log each sample's confidence (DeepConf's), over so many most likely tokens; 0 = don't. A server
                      sends them all: vLLM 20 at most by default. Samples that are in the log already stay without.
    seed            : of the draws; None = not reproducible.
    latency_prompts : on so many prompts every arm is run alone, one at a time, to measure its latency.
    concurrency     : calls in flight at once.
    """

    samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    confidence_of: int = 0
    seed: int | None = 0
    latency_prompts: int = 16
    concurrency: int = 64

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("latency_prompts", "confidence_of"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


_DEFAULTS = CollectConfig()


class TrackingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where MLflow keeps runs and models. `uri` None: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""

    uri: str | None = None
    experiment: str = "howhard"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration.

    currency  : what prices are in; without any price the unit is one completion token.
    backends  : name -> where its texts come from.
    verifiers : name -> what scores candidates at run time.
    arms      : what the router chooses among.
    fit       : how a router is trained, keys as in fit.FitSettings; read by `fit_settings`.
    plan      : what its plans are learned for, keys as in plans.menus.PlanOptions; read by `plan_options`.
    """

    backends: dict[str, BackendSpec]
    arms: list[ArmSpec]
    currency: str = "completion tokens of the reference backend"
    verifiers: dict[str, VerifierSpec] = {}
    collect: CollectConfig = CollectConfig()
    tracking: TrackingConfig = TrackingConfig()
    objective: Objective | None = None
    fit: dict[str, Any] = {}
    plan: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.backends:
            raise ValueError("no backend is configured: add a [backends.NAME] table")
        if not self.arms:
            raise ValueError("no arm is configured: add an [[arms]] table")
        for name, spec in self.verifiers.items():
            for backend in spec.needs_backends:
                if backend not in self.backends:
                    raise ValueError(f"verifier {name!r} asks backend {backend!r}{nearest(backend, self.backends)}")
            for other in spec.needs_verifiers:
                if other not in self.verifiers:
                    raise ValueError(f"verifier {name!r} wants verifier {other!r}{nearest(other, self.verifiers)}")
        for arm in self.arms:
            if arm.backend not in self.backends:
                raise ValueError(f"arm {arm.name!r} wants backend {arm.backend!r}{nearest(arm.backend, self.backends)}")
            for verifier in arm.strategy.needs_verifiers:
                if verifier not in self.verifiers:
                    raise ValueError(f"arm {arm.name!r} wants verifier {verifier!r}{nearest(verifier, self.verifiers)}")
            for backend in arm.strategy.needs_backends:
                if backend not in self.backends:
                    raise ValueError(f"arm {arm.name!r} wants backend {backend!r}{nearest(backend, self.backends)}")
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two arms are called {name!r}: their settings must differ in what the name shows")


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What training takes from a configuration: a file for it alone need not name any backend or arm."""

    fit: dict[str, Any] = {}
    plan: dict[str, Any] | None = None
    objective: Objective | None = None
    tracking: TrackingConfig = TrackingConfig()


def load_config(path: str | Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigError that names the file, the field, the value and the remedy.
    """
    return parse_config(_read(Path(path)), source=str(path))


def load_train_config(path: str | Path) -> TrainConfig:
    """Read what training takes from a configuration file, and check all of the file.

    Raises ConfigError as `load_config` does.
    """
    table = _parsed(_read(Path(path)), str(path))
    if "backends" not in table and "arms" not in table:
        return _converted(table, TrainConfig, str(path))
    whole = _checked(table, str(path))
    return TrainConfig(fit=whole.fit, plan=whole.plan, objective=whole.objective, tracking=whole.tracking)


def parse_config(text: str, *, source: str = "configuration") -> Config:
    """Check a configuration given as TOML text; `source` is what errors call it."""
    return _checked(_parsed(text, source), source)


def fit_settings(table: dict[str, Any], *, encoder: str | None = None, **changes: Any) -> "FitSettings":
    """How a router is trained, from a [fit] table; `changes` are settings that were given beside it and count first.

    encoder : name or directory of the model that gives embeddings; without one the component "encoder" of the table is
              passed over.

    Raises ConfigError for an unknown key or a value that is not possible, and where the components given beside the
    table name "encoder" but no model is named.
    """
    from .fit import FitSettings

    given = {**table, **{name: value for name, value in changes.items() if value is not None}}
    settings = from_table(FitSettings, given, "fit")
    features = settings.features
    if encoder is not None:
        spec = EncoderSpec() if features.encoder is None else features.encoder
        features = msgspec.structs.replace(features, encoder=msgspec.structs.replace(spec, model=encoder))
    if features.encoder is None and "encoder" in (changes.get("components") or ()):
        raise ConfigError(
            "components name 'encoder', but no model that embeds prompts is named: "
            "give --encoder, for instance all-MiniLM-L6-v2, or leave 'encoder' out"
        )
    return dataclasses.replace(settings, features=features)


def plan_options(table: dict[str, Any]) -> "PlanOptions":
    """What a plan is learned for, from a [plan] table. Raises ConfigError as `fit_settings`."""
    from .plans.menus import PlanOptions

    return from_table(PlanOptions, table, "plan")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); give --config the path of a TOML file") from exc


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source}: not valid TOML: {exc}") from exc


def embedded_config() -> Config:
    """The configuration that quickstart works with (training/data/quickstart.toml): copy it for your own."""
    text = files("howhard.training").joinpath("data/quickstart.toml").read_text(encoding="utf-8")
    return parse_config(text, source="quickstart.toml")


def _checked(table: dict, source: str) -> Config:
    _pass_on_sampling(table)
    return _converted(table, Config, source)


C = TypeVar("C", Config, TrainConfig)


def _converted(table: dict, kind: type[C], source: str) -> C:
    try:
        made = msgspec.convert(table, kind)
    except (msgspec.ValidationError, ConfigError) as exc:
        raise ConfigError(f"{source}: {_explain(str(exc), table)}") from exc
    try:
        if made.fit:
            fit_settings(made.fit)
        if made.plan:
            plan_options(made.plan)
    except ConfigError as exc:
        raise ConfigError(f"{source}: {exc}") from exc
    return made


def _pass_on_sampling(table: dict) -> None:
    """Give the sampling settings of [collect], its defaults included, to every arm that does not set its own."""
    collect, arms = table.get("collect", {}), table.get("arms")
    if not isinstance(collect, dict) or not isinstance(arms, list):
        return
    for arm in arms:
        strategy = arm.get("strategy") if isinstance(arm, dict) else None
        if isinstance(strategy, dict):
            for name in ("temperature", "top_p", "max_tokens"):
                strategy.setdefault(name, collect.get(name, getattr(_DEFAULTS, name)))


def _explain(message: str, table: dict) -> str:
    """Add the value that was found, and the nearest right name of what is unknown, to msgspec's message."""
    where = re.search(r" - at `\$?\.?(?P<path>.*)`$", message)
    path = _with_name(where["path"], table) if where else ""
    unknown = re.search(r"unknown field `(?P<name>[^`]+)`", message)
    if unknown:
        name = unknown["name"]
        full = _locate(table, name, path)
        return f"unknown setting {full!r}{nearest(name, _fields_at(path, table))}"
    bare = message[: where.start()] if where else message
    tag = re.search(r"Invalid value '(?P<value>.*)'", bare)
    if tag and path.endswith(".kind"):
        bare += nearest(tag["value"], _tags_at(path.removesuffix(".kind"), table))
    choice = re.search(r"Invalid enum value '(?P<value>.*)'", bare)
    if choice:
        bare += nearest(choice["value"], {v for kind in _kinds_at(path, table) for v in typing.get_args(kind)})
    shown = re.sub(r"\[([^\]\d][^\]]*)\]", r".\1", path.replace("[*]", ""))
    return f"{shown}: {bare}" if path else bare


def _with_name(path: str, table: dict) -> str:
    """Put the name of the backend or verifier that is wrong where msgspec's path says "[...]"."""
    key, unnamed, rest = path.partition("[...]")
    entries = table.get(key)
    if unnamed and isinstance(entries, dict):
        kind = typing.get_args(typing.get_type_hints(Config)[key])[-1]
        for name, entry in entries.items():
            try:
                msgspec.convert(entry, kind)
            except (msgspec.ValidationError, ConfigError):
                return f"{key}[{name}]{rest}" if re.fullmatch(r"[^\].]+", name) else f"{key}[*]{rest}"
    return path.replace("[...]", "[*]")


def _locate(table: object, name: str, path: str) -> str:
    """Name the table that holds the unknown field, with the keys that msgspec left out."""
    found = _walk(table, path.split(".") if path else [], name, [])
    return ".".join([*(found or ([path] if path else [])), name]).replace(".[", "[")


def _walk(node: object, parts: list[str], name: str, trail: list[str]) -> list[str] | None:
    """Follow msgspec's path through the data, trying every key where it says none."""
    if not parts:
        return trail if isinstance(node, dict) and name in node else None
    part, rest = parts[0], parts[1:]
    key, _, index = part.partition("[")
    if key and not (isinstance(node, dict) and key in node):
        return None
    node = node[key] if key else node  # type: ignore[index]
    label = [*trail, key] if key else trail
    if not index:
        return _walk(node, rest, name, label)
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    wanted = index.rstrip("]")
    for entry, value in entries:
        if wanted not in ("*", str(entry)):
            continue
        step = f"[{entry}]" if isinstance(node, list) else str(entry)
        found = _walk(value, rest, name, [*label, step])
        if found:
            return found
    return None


def _fields_at(path: str, table: dict) -> set[str]:
    """The field names that are allowed where msgspec met an unknown one."""
    return {f for kind in _kinds_at(path, table) for f in getattr(kind, "__struct_fields__", ())}


def _tags_at(path: str, table: dict) -> set[str]:
    """The values of `kind` that are allowed where msgspec met an unknown one."""
    return {str(kind.__struct_config__.tag) for kind in _kinds_at(path, table)}


def _kinds_at(path: str, table: dict) -> list:
    """The types that may stand at a path of msgspec's; where the data there says its kind, that one."""
    kind: object = Config
    node: object = table
    for part in path.split(".") if path else []:
        key, _, index = part.partition("[")
        if key:
            kinds = [k for k in _apt(kind, node) if key in getattr(k, "__struct_fields__", ())]
            if not kinds:
                return []
            kind = typing.get_type_hints(kinds[0])[key]
            node = node.get(key) if isinstance(node, dict) else None
        if index:
            kind = [argument for argument in typing.get_args(kind) if argument is not ...][-1]
            node = _entry(node, index.rstrip("]"))
    return _apt(kind, node)


def _entry(node: object, index: str) -> object:
    if isinstance(node, list):
        return node[int(index)] if index.isdigit() and int(index) < len(node) else None
    return node.get(index) if isinstance(node, dict) else None


def _apt(kind: object, node: object) -> list:
    """Members of a union that have the data's tag; all of them where none has."""
    members = _members(kind)
    tag = node.get("kind") if isinstance(node, dict) else None
    tagged = [m for m in members if tag is not None and getattr(m, "__struct_config__", None) is not None]
    return [m for m in tagged if m.__struct_config__.tag == tag] or members


def _members(kind: object) -> list:
    """A union's members, or the kind alone."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return list(typing.get_args(kind)) if union else [kind]


def for_server(url: str, model: str, *, api_key_env: str | None = None, samples: int = 16) -> Config:
    """The configuration that a URL and a model name stand for: one backend, single pass, votes of up to `samples`."""
    backend = {"kind": "vllm", "url": url, "model": model}
    if api_key_env:
        backend["api_key_env"] = api_key_env
    votes = [{"kind": "best_of_n", "n": n, "verifier": "vote"} for n in (4, 8, 16, 32, 64) if n <= samples]
    table = {
        "backends": {"server": backend},
        "verifiers": {"vote": {"kind": "vote"}},
        "arms": [{"backend": "server", "strategy": s} for s in ({"kind": "single"}, *votes)],
        "collect": {"samples": samples},
    }
    return _checked(table, f"--url {url} --model {model}")


EXAMPLE = """\
# howhard.toml: what howhard's commands work with. An unknown key is an error.

currency = "USD"                      # of all prices; leave out, and every price, to count completion tokens

[backends.small]                      # the name that arms and tables show
kind = "vllm"                         # a vLLM server, or any OpenAI-compatible one
url = "http://127.0.0.1:8000/v1"
model = "Qwen/Qwen2.5-1.5B-Instruct"
# api_key_env = "SMALL_API_KEY"       # the variable that holds the key; the key itself never stands in a file
prices = { prompt = 2e-8, completion = 8e-8 }    # per token

[backends.large]
kind = "vllm"
url = "http://127.0.0.1:8001/v1"
model = "Qwen/Qwen2.5-14B-Instruct"
prices = { prompt = 2e-7, completion = 8e-7 }

[verifiers.vote]                      # agreement of the samples; also: exact_check, reward_model, first_of
kind = "vote"

[[arms]]
backend = "small"
strategy = { kind = "single" }

[[arms]]
backend = "small"
strategy = { kind = "best_of_n", n = 8, verifier = "vote" }

[[arms]]
backend = "large"
strategy = { kind = "single" }

[collect]
samples = 16                          # per prompt and backend, drawn once; arms up to 16 are derived
temperature = 0.8
max_tokens = 1024
# confidence_of = 20                  # log how sure the model was of each sample, over so many most likely tokens
latency_prompts = 16                  # every arm is run alone on so many prompts, for its latency

# [fit]                               # howhard train --config howhard.toml; these are the defaults
# components = ["text", "encoder", "neighbours", "joint_trees"]   # also: two_parameter, cells, trees, trees_per_arm
# folds = 4                           # as many members, each blind to one fold: their spread says how sure they are
# split = "prompt"                    # "group": for a router that will meet prompts of other kinds
# tolerance = 0.01                    # quality that may be given up against the best fixed arm
# seed = 0
# trees = { rounds = 25, leaves = 31 }
# guard = { strange_share = 0.05 }    # largest share of familiar prompts that may be taken for strange ones
#                                     # an encoder too: [fit.features.encoder] model = "all-MiniLM-L6-v2"

# [plan]                              # howhard train --plan learns what to do next from the samples so far
# stages = { small = [1, 2, 4, 8, 16], large = [1, 2, 4, 8] }     # the cheapest first; default: what the log holds
# searches = []                       # arms that may be run whole; default: the log's best tree searches
# verifier = "none"                   # votes alone; default: that of the log's best-of-N arms
# give_up = false                     # whether a request may be answered with nothing
# settings = { rounds = 40, values = [1.0, 1000.0] }              # values in costs of one sample of the first backend

[tracking]
uri = "sqlite:///mlflow.db"
experiment = "howhard"
"""
