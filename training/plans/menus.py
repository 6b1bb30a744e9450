"""What a log lets a plan do: its menu, the signals in its samples, and how long a wave takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd

from ...router.plan import Leg, Menu
from ...router.plan_facts import MAX_SAMPLES
from ...strategies import ArmSpec, BestOfNSpec, SingleSpec, VerifierSpec, VoteSpec
from ...strategies.errors import ConfigError, TableError, nearest
from ...strategies.search.engine import SearchFields
from ..derive import leaves_of
from ..dial import ENOUGH
from .learn import PlanSettings
from .trajectories import SampleLog

NO_VERIFIER = "none"
"""In the table [plan]: votes alone, whatever the log holds."""

_COVERED = 0.5  # share of the prompts that must have samples of a backend for it to be a leg
_MOST_SEARCHES = 2
_FEWEST_TIMED = 6  # timed runs of a backend from which on its seconds are told


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan is learned for: the table [plan] of a configuration.

    stages   : backend -> numbers of samples, the cheapest backend first; None = 1, 2, 4, 8, ... as far as the log's
               samples go for ENOUGH of its prompts, of every backend that was sampled.
    searches : arms that may be run whole; None = tree searches of the first backend that the log has runs of, those
               two at most that are worth their cost on average.
    verifier : judges the samples; None = that of the log's best-of-N arms, "none" = votes alone.
    give_up, ahead : see Menu.
    settings : how it is learned.
    """

    stages: dict[str, tuple[int, ...]] | None = None
    searches: tuple[str, ...] | None = None
    verifier: str | None = None
    give_up: bool = False
    ahead: int = 2
    settings: PlanSettings = field(default_factory=PlanSettings)


def menu_of(
    samples: pd.DataFrame,
    outcomes: pd.DataFrame,
    arms: Sequence[ArmSpec],
    verifiers: Mapping[str, VerifierSpec],
    options: PlanOptions | None = None,
) -> Menu:
    """The menu that a log's samples and runs allow.

    samples, outcomes : validated tables, derived outcomes included, so that searches can be held against other arms.
    arms, verifiers : those that the log was collected with.

    Raises TableError where there are no collected samples, and ConfigError for a backend, search or verifier of the
    options that is not there.
    """
    options = options or PlanOptions()
    legs = _legs(samples, options.stages)
    if options.searches is None:
        searches = _searches(outcomes, arms, legs[0].backend)
    else:
        searches = options.searches
        for name in searches:
            if name not in set(outcomes["arm"]):
                raise ConfigError(
                    f"plan.searches: the log has no runs of {name!r}{nearest(name, set(outcomes['arm'].tolist()))}"
                )
    return Menu(
        legs=legs,
        searches=searches,
        verifier=_verifier(arms, verifiers, options.verifier),
        give_up=options.give_up,
        ahead=options.ahead,
    )


def _legs(samples: pd.DataFrame, stages: Mapping[str, tuple[int, ...]] | None) -> tuple[Leg, ...]:
    usable = samples["origin"].eq("collect").to_numpy(bool) & samples["finish_reason"].ne("error").to_numpy(bool)
    if not usable.any():
        raise TableError("samples: no row of origin 'collect' came to an end: a plan is learned from collected samples")
    backends, prompts, params = (
        np.array(samples[c].tolist(), dtype=str)[usable] for c in ("backend", "prompt_id", "params")
    )
    cost = (samples["cost"].to_numpy(float) + samples["prompt_cost"].to_numpy(float))[usable]
    everyone = len(np.unique(prompts))
    found: list[tuple[float, Leg]] = []
    for backend in np.unique(backends).tolist():
        own = backends == backend
        usual, number = np.unique(params[own], return_counts=True)
        drawn = str(usual[number.argmax()])
        own &= params == drawn
        counts = np.unique(prompts[own], return_counts=True)[1]
        if backend not in stages if stages is not None else len(counts) < _COVERED * everyone:
            continue
        most = min(int(np.quantile(counts, 1.0 - ENOUGH, method="lower")), MAX_SAMPLES)
        doubling = tuple(sorted({*(2**i for i in range(most.bit_length())), most}))
        settings = msgspec.json.decode(drawn)
        leg = Leg(
            backend=backend,
            stages=doubling if stages is None else stages[backend],
            **{name: settings[name] for name in ("temperature", "top_p", "max_tokens") if name in settings},
        )
        found.append((float(cost[own].mean()), leg))
    if stages is None:
        return tuple(leg for _, leg in sorted(found, key=lambda pair: pair[0]))
    by_name = {leg.backend: leg for _, leg in found}
    for backend in stages:
        if backend not in by_name:
            known = set(backends.tolist())
            raise ConfigError(f"plan.stages: the log has no samples of {backend!r}{nearest(backend, known)}")
    return tuple(by_name[backend] for backend in stages)


def _searches(outcomes: pd.DataFrame, arms: Sequence[ArmSpec], backend: str) -> tuple[str, ...]:
    """Searches of a backend that none of its arms beats in mean quality and mean cost; two at most, cheapest first."""
    own = {arm.name: arm for arm in arms if arm.backend == backend}
    names, prompts = (np.array(outcomes[c].tolist(), dtype=str) for c in ("arm", "prompt_id"))
    cost, quality = (outcomes[c].to_numpy(float, na_value=np.nan) for c in ("cost", "quality"))
    everyone = len(set(prompts.tolist()))
    worth: dict[str, tuple[float, float]] = {}
    for name in sorted(own):
        mine = names == name
        if len(set(prompts[mine].tolist())) >= ENOUGH * everyone and not np.isnan(cost[mine]).any():
            worth[name] = float(cost[mine].mean()), float(quality[mine].mean())
    frontier = [
        name for name, (dear, good) in worth.items()
        if isinstance(own[name].strategy, SearchFields)
        and not any(c <= dear and q >= good and (c, q) != (dear, good) for c, q in worth.values())
    ]  # fmt: skip
    best = sorted(frontier, key=lambda name: -worth[name][1])[:_MOST_SEARCHES]
    return tuple(sorted(best, key=lambda name: worth[name][0]))


def _verifier(arms: Sequence[ArmSpec], verifiers: Mapping[str, VerifierSpec], asked: str | None) -> str | None:
    if asked == NO_VERIFIER:
        return None
    if asked is not None:
        if asked not in verifiers:
            raise ConfigError(
                f"plan.verifier: the log knows no {asked!r}{nearest(asked, set(verifiers))}; {NO_VERIFIER!r} is votes "
                "alone"
            )
        if isinstance(verifiers[asked], VoteSpec):
            return None
        if _votes(asked, verifiers):
            raise ConfigError(
                f"plan.verifier: {asked!r} asks a vote, whose scores compare within one call alone: name one of its "
                f"other verifiers, or {NO_VERIFIER!r}"
            )
        return asked
    used = [arm.strategy.verifier for arm in arms if isinstance(arm.strategy, BestOfNSpec)]
    judging = [name for name in used if name in verifiers and not _votes(name, verifiers)]
    return max(dict.fromkeys(judging), key=judging.count, default=None)


def _votes(name: str, verifiers: Mapping[str, VerifierSpec]) -> bool:
    """Whether a verifier is a vote, or may come to one."""
    return any(is_vote for _, is_vote in leaves_of("the plan", name, verifiers))


# ── how long a wave takes ───────────────────────────────────────────────────────────────────────────────────


def wave_seconds(
    log: SampleLog, outcomes: pd.DataFrame, arms: Sequence[ArmSpec]
) -> tuple[tuple[float, float, float] | None, ...]:
    """Per leg (a, b, c) >= 0: a wave takes a + b * longest sample's tokens + c * all its tokens, in seconds.

    Least squares on the log's timed runs of the leg's single passes and plain best-of-N or vote arms, which are one
    wave each. Runs say how many tokens they drew in all; how much longer than the mean the longest of n is, the samples
    of the log say. None for a leg that was not timed.
    """
    from scipy.optimize import nnls

    names = np.array(outcomes["arm"].tolist(), dtype=str)
    taken, counted = (outcomes[c].to_numpy(float, na_value=np.nan) for c in ("latency_s", "completion_tokens"))
    known = np.isfinite(taken) & np.isfinite(counted)
    found: list[tuple[float, float, float] | None] = []
    for leg, samples in zip(log.menu.legs, log.legs, strict=True):
        waves = {arm.name: _wave(arm) for arm in arms if arm.backend == leg.backend}
        drawn = {name: n for name, n in waves.items() if n is not None}
        own = np.flatnonzero(known & np.isin(names, list(drawn)))
        if len(own) < _FEWEST_TIMED:
            found.append(None)
            continue
        n = np.array([drawn[name] for name in names[own].tolist()], dtype=float)
        tokens, seconds = counted[own], taken[own]
        longer = {int(k): _longest_over_mean(samples.draws.tokens, int(k)) for k in np.unique(n)}
        longest = tokens / n * np.array([longer[int(k)] for k in n])
        solved = nnls(np.stack([np.ones(len(n)), longest, tokens], axis=1), seconds)[0]
        found.append((float(solved[0]), float(solved[1]), float(solved[2])))
    return tuple(found)


def _wave(arm: ArmSpec) -> int | None:
    """How many samples an arm draws in its one wave; None for an arm of another kind."""
    strategy = arm.strategy
    if isinstance(strategy, BestOfNSpec):
        return strategy.n if strategy.stop == "none" else None
    return 1 if isinstance(strategy, SingleSpec) else None


def _longest_over_mean(tokens: np.ndarray, n: int) -> float:
    """Mean over prompts of the longest of n samples, as they lie in the log, over their mean."""
    n = min(n, tokens.shape[1])
    blocks = tokens[:, : tokens.shape[1] // n * n].reshape(len(tokens), -1, n)
    return float((blocks.max(axis=2) / np.maximum(blocks.mean(axis=2), 1e-9)).mean())
