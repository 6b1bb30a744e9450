"""What `howhard plans` does: from a log's directory to a report."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import pandas as pd

from ...strategies import ArmSpec, VerifierSpec
from ...strategies.errors import ConfigError, InputError, nearest
from ..collect import assemble
from ..log import Log
from ..progress import bars
from ..threads import one_thread
from .analysis import VALUES, analyse, checked_values
from .analysis_plots import plot_curves
from .analysis_report import PlansReport
from .ceiling import Ceiling
from .contest import PlanData, folds_of, repriced
from .menus import PlanOptions, menu_of, wave_seconds
from .rivals import standard_rivals
from .trajectories import read_samples

VOTES = "votes"


def plans(
    path: Path,
    *,
    verifier: str | None = None,
    backends: Sequence[str] = (),
    stages: Sequence[int] = (),
    give_up: bool = False,
    groups: Sequence[str] = (),
    split: str = "prompt",
    price_ratio: float | None = None,
    folds: int = 3,
    values: Sequence[float] = VALUES,
    plot: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> PlansReport:
    """Hold plans against everything that they must beat, on a samples log.

    verifier : of the log, "votes" or "none" = votes alone; None = that of the log's best-of-N arms.   backends : of the
    log, the cheapest first; () = all.   stages : for every backend, as far as its samples go; () = 1, 2, 4, ...
    groups : only those whose names begin so.   split : "prompt" or "group".   price_ratio : see `repriced`.
    values : see VALUES.

    Raises ConfigError and TableError for what the log does not have, before anything is fitted.
    """
    if split not in ("prompt", "group"):
        raise ConfigError(f"split={split!r}: it must be prompt or group{nearest(split, ('prompt', 'group'))}")
    if folds < 2:
        raise ConfigError(f"folds={folds}: at least 2 are needed, so that some prompts are left out")
    values = checked_values(values)
    if not path.is_dir():
        raise InputError(f"{path} is no log directory: plans are learned from logged samples (howhard collect)")
    log = Log.open(path)
    notes = log.notes()
    arms = msgspec.convert(notes.get("arms", []), list[ArmSpec])
    verifiers = msgspec.convert(notes.get("verifiers", {}), dict[str, VerifierSpec])
    samples, outcomes, prompts = log.samples(), log.outcomes(), log.prompts()
    if groups:
        prompts = _only(prompts, groups)
        kept = prompts["prompt_id"].tolist()
        samples = samples.loc[samples["prompt_id"].isin(kept)].reset_index(drop=True)
        outcomes = outcomes.loc[outcomes["prompt_id"].isin(kept)].reset_index(drop=True)
    options = PlanOptions(verifier="none" if verifier == VOTES else verifier, give_up=give_up)
    menu = menu_of(samples, assemble(log, arms or None, verifiers) if arms else outcomes, arms, verifiers, options)
    legs = {leg.backend: leg for leg in menu.legs}
    for name in backends:
        if name not in legs:
            raise ConfigError(f"--backend {name!r}: the log has no samples of it{nearest(name, set(legs))}")
    chosen = [legs[name] for name in backends] if backends else list(menu.legs)
    if stages:
        deepest = max(leg.stages[-1] for leg in chosen)
        if max(stages) > deepest:
            raise ConfigError(f"--stages {max(stages)}: the log goes to {deepest} samples: end there, or collect more")
        chosen = [msgspec.structs.replace(leg, stages=_stages(stages, leg.stages[-1])) for leg in chosen]
    if list(chosen) != list(menu.legs):
        menu = msgspec.structs.replace(menu, legs=tuple(chosen), searches=menu.searches if not backends else ())
    told = []
    if price_ratio is not None:
        samples = repriced(samples, menu, price_ratio)
        told.append(f"a token of the later backend costs {price_ratio:g} times one of the first")
    read = read_samples(samples, outcomes, menu, verifiers)
    with bars(quiet=quiet) as progress, one_thread():
        data = PlanData.of_log(
            read,
            prompts,
            name=path.name,
            verifiers=verifiers,
            families=notes.get("families", {}),
            seconds=wave_seconds(read, outcomes, arms),
            seed=seed,
        )
        rivals = [*standard_rivals(data), *([Ceiling()] if data.sound else [])]
        made = folds_of(data, split=split, folds=folds, seed=seed, progress=partial(progress, "fitting routers"))  # type: ignore[arg-type]
        found = analyse(data, rivals, values, split=split, seed=seed, ready=made, notes=told, progress=progress)  # type: ignore[arg-type]
    return PlansReport(found, () if plot is None else (plot_curves(found, plot),))


def _only(prompts: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The prompts of the groups whose names begin with one of these. Raises ConfigError for one that begins none."""
    names = prompts["group"].fillna("").astype(str)
    for group in groups:
        if not names.str.startswith(group).any():
            raise ConfigError(f"--group {group!r}: no group of the log begins so{nearest(group, set(names))}")
    return prompts.loc[names.str.startswith(tuple(groups))].reset_index(drop=True)


def _stages(asked: Sequence[int], most: int) -> tuple[int, ...]:
    kept = tuple(sorted({k for k in asked if 1 <= k <= most}))
    if not kept:
        raise ConfigError(f"--stages {','.join(map(str, asked))}: none of them lies in 1..{most}, which the log has")
    return kept
