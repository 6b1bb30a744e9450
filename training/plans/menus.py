"""What a log lets a plan do: its menu, the signals in its samples, and how long a wave takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd

from ...router.plan import Leg, Menu
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
    table = samples.loc[usable]
    if table.empty:
        raise TableError("samples: no row of origin 'collect' came to an end: a plan is learned from collected samples")
    everyone = table["prompt_id"].nunique()
    found: list[tuple[float, Leg]] = []
    for backend, own in table.groupby("backend", sort=True):
        params = own.groupby("params")["prompt_id"].nunique().idxmax()
        own = own[own["params"].eq(params)]
        counts = own.groupby("prompt_id").size().to_numpy()
        most = int(np.quantile(counts, 1.0 - ENOUGH, method="lower"))
        if stages is None and len(counts) < _COVERED * everyone:
            continue
        if stages is not None and backend not in stages:
            continue
        drawn = msgspec.json.decode(str(params))
        usual = tuple(sorted({*(2**i for i in range(most.bit_length())), most}))
        leg = Leg(
            backend=str(backend),
            stages=usual if stages is None else stages[str(backend)],
            **{name: drawn[name] for name in ("temperature", "top_p", "max_tokens") if name in drawn},
        )
        found.append((float((own["cost"] + own["prompt_cost"]).mean()), leg))
    if stages is None:
        return tuple(leg for _, leg in sorted(found, key=lambda pair: pair[0]))
    by_name = {leg.backend: leg for _, leg in found}
    for backend in stages:
        if backend not in by_name:
            known = set(table["backend"].tolist())
            raise ConfigError(f"plan.stages: the log has no samples of {backend!r}{nearest(backend, known)}")
    return tuple(by_name[backend] for backend in stages)


def _searches(outcomes: pd.DataFrame, arms: Sequence[ArmSpec], backend: str) -> tuple[str, ...]:
    """Searches of a backend that none of its arms beats in mean quality and mean cost; two at most, cheapest first."""
    own = {arm.name: arm for arm in arms if arm.backend == backend}
    everyone = outcomes["prompt_id"].nunique()
    worth = {
        str(name): (float(rows["cost"].mean()), float(rows["quality"].mean()))
        for name, rows in outcomes[outcomes["arm"].isin(own)].groupby("arm", sort=True)
        if rows["cost"].notna().all() and rows["prompt_id"].nunique() >= ENOUGH * everyone
    }
    frontier = [
        name for name, (cost, quality) in worth.items()
        if isinstance(own[name].strategy, SearchFields)
        and not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in worth.values())
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

    timed = outcomes[outcomes["latency_s"].notna() & outcomes["completion_tokens"].notna()]
    found: list[tuple[float, float, float] | None] = []
    for leg, samples in zip(log.menu.legs, log.legs, strict=True):
        drawn = {arm.name: _wave(arm) for arm in arms if arm.backend == leg.backend}
        drawn = {name: n for name, n in drawn.items() if n is not None}
        own = timed[timed["arm"].isin(drawn)]
        if len(own) < _FEWEST_TIMED:
            found.append(None)
            continue
        n = np.array([drawn[name] for name in own["arm"].tolist()], dtype=float)
        tokens, seconds = own["completion_tokens"].to_numpy(float), own["latency_s"].to_numpy(float)
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
