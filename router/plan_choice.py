"""Which of a router's plans can be used with the backends and verifiers that there are, and why others can't."""

import warnings
from collections.abc import Mapping

from ..strategies import BackendSpec, OpenAISpec
from ..strategies.answers import EXTRACTOR
from ..strategies.base import Backend, Verifier
from ..strategies.running import gives_confidence, gives_logprobs
from ..strategies.spec import prices_of
from .artifact import Manifest
from .flight import FLIGHT_VERSION
from .plan import Plan, plan_name
from .plan_facts import PlanFacts

Backends = Mapping[str, Backend | BackendSpec]
_WORDS = {"logprobs": "log-probabilities", "confidence": "confidences of tokens"}


class PlanWarning(UserWarning):
    """A plan of the router cannot be used here; the message says why, and what is used instead."""


def usable_plan(
    manifest: Manifest,
    files: Mapping[str, bytes],
    backends: Backends,
    verifiers: Mapping[str, Verifier],
    *,
    stacklevel: int,
) -> Plan | None:
    """Read the first plan whose signals the backends give; PlanWarning where that isn't the first, None where none is.

    backends, verifiers : those that were handed over. What is not handed over is taken to be as it was in training.
    stacklevel : of the warning, as seen from here.

    Raises ArtifactError for a plan that is damaged.
    """
    several, amiss = len(manifest.plans), []
    for i, facts in enumerate(manifest.plans):
        why = _why_not(facts, manifest, backends, verifiers)
        if why is None:
            if amiss:
                needs = " and ".join(_WORDS[n] for n in facts.needs)
                with_ = f"which needs {needs}" if needs else "without such signals"
                used = f"plan {i + 1}, {with_}, is used"
                warnings.warn(f"{'; '.join(amiss)}; {used}", PlanWarning, stacklevel=stacklevel + 1)
            return Plan.of(facts, files, manifest.arms, plan_name(i))
        amiss.append(f"plan {i + 1} of {several} cannot be used: {why}")
    if amiss:
        message = f"{'; '.join(amiss)}; no plan is used, prompts alone decide"
        warnings.warn(message, PlanWarning, stacklevel=stacklevel + 1)
    return None


def _why_not(facts: PlanFacts, manifest: Manifest, backends: Backends, verifiers: Mapping[str, Verifier]) -> str | None:
    for what, found, ours in (
        ("answers", facts.extractor, EXTRACTOR),
        ("what samples show", facts.flight, FLIGHT_VERSION),
    ):
        if found != ours:
            return (
                f"this howhard reads {what} differently ({ours}) than when the plan was learned ({found}): train anew "
                "from the same log"
            )
    for leg in facts.menu.legs:
        for signal in facts.needs:
            backend = backends.get(leg.backend)
            if backend is not None and not _gives(backend, signal):
                return f"backend {leg.backend!r} gives no {_WORDS[signal]}, which it needs"
    name = facts.menu.verifier
    if name is None or name in verifiers or not backends:
        return None
    for needed in manifest.asked_by([name], verifiers):
        known = manifest.backends.get(needed)
        if needed not in backends and (known is None or known.kind != "local"):
            return f"its verifier {name!r} asks backend {needed!r}, which was not handed over"
    return None


def _gives(backend: Backend | BackendSpec, signal: str) -> bool:
    """Whether a backend, or the one that its spec opens, tells a signal."""
    if isinstance(backend, OpenAISpec):
        return backend.logprobs and (signal == "logprobs" or backend.max_logprobs > 0)
    if isinstance(backend, BackendSpec):
        return True  # local models and vLLM tell both
    return gives_logprobs(backend) if signal == "logprobs" else gives_confidence(backend)


def check_prices(plan: Plan, manifest: Manifest, backends: Backends) -> str | None:
    """What is amiss where a leg's backend has other prices than the plan's costs were learned at; None = nothing."""
    other = []
    for leg in plan.facts.menu.legs:
        backend = backends.get(leg.backend)
        if backend is None:
            continue
        prices = prices_of(backend.prices) if isinstance(backend, BackendSpec) else backend.prices
        due = manifest.backends[leg.backend].prices
        if prices != due:
            other.append(f"{leg.backend!r} at {prices} instead of {due}")
    if not other:
        return None
    return (
        f"the plan's costs were learned at other prices ({'; '.join(other)}): they no longer hold, so it may draw too "
        "much or too little. Hand the backends over at those prices, or train anew"
    )
