"""Names of strategies: short, stable, and telling differently set ones apart, so that a log can.

What differs from the usual shows in a name. How texts are drawn (temperature, top_p, max_tokens) does not: two arms
that differ in that alone are refused by `specs.build_arms`.
"""

import functools
import hashlib
import inspect
from collections.abc import Mapping

from .base import Verifier

DEFAULT_VERIFIER = "best"
"""A verifier of this name is the default one: it does not show in a strategy's name."""

_REWARD_MODELS = ("prm", "tiny-prm")  # the usual ones of searches: beams that are named in routers and logs have them


def by_verifier(verifier: Verifier, *, usual: tuple[str, ...] = (DEFAULT_VERIFIER,)) -> list[str]:
    """The part of a name that says who judges: "by_tests"; none for the verifiers that are usual."""
    return [] if verifier.name in usual else [f"by_{verifier.name}"]


def by_step_verifier(verifier: Verifier) -> list[str]:
    """The same where steps are judged: the embedded reward model is usual too."""
    return by_verifier(verifier, usual=(DEFAULT_VERIFIER, *_REWARD_MODELS))


def unusual(strategy: object, of: type, *settings: str) -> list[str]:
    """The parts of a name for those settings that differ from their defaults in `of`, the class that takes them.

    Numbers and words as they are ("spread_0.1", "online"), texts and functions, which may be long, by six hex digits
    of their hash.
    """
    usual = _defaults(of)
    return [_shown(name, value) for name in settings if (value := getattr(strategy, name)) != usual[name]]


@functools.cache
def _defaults(of: type) -> Mapping[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(of).parameters.items()}


def _shown(name: str, value: object) -> str:
    if value is True:
        return name
    if value is None or isinstance(value, (bool, int, float)):
        return f"{name}_{'none' if value is None else value}"
    if isinstance(value, list):
        value = tuple(value)
    if callable(value):
        value = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return f"{name}_{hashlib.sha256(repr(value).encode()).hexdigest()[:6]}"
