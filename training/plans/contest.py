"""What a contest of plans needs: a samples log made ready, and its prompts dealt so that none judges what it taught.

The prompts are dealt into folds. Of each fold the others teach: a router is fitted to them (its estimates of them are
out of fold), a plan is learned, and every rival is tuned; the fold's own prompts are only ever replayed on. The arms of
the router are the fixed plans that look at nothing: each stage drawn at once, and each search.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...router.estimates import Estimates
from ...router.features import Features
from ...router.plan import FixedPlan, Menu, prompt_features
from ...strategies import ArmSpec, BestOfNSpec, SingleSpec, VerifierSpec
from ...strategies.errors import ConfigError, TableError
from ..families import family_of
from ..fit import FitSettings, Fitted, features_of, fit
from ..folds import Split, fold_of, sides
from ..matrix import OutcomeMatrix
from ..threads import one_thread
from .fit_plan import FittedPlan, Seconds, fit_plan, unit_of
from .ladders import Ladder
from .learn import PlanSettings
from .outcome import Outcome
from .replay import ByFixedPlan, replay
from .runs import Runs
from .trajectories import SampleLog, read_samples

Progress = Callable[[int, int], None]

INNER = 4
"""Folds of the training prompts: members of the router and of the plan, each blind to one."""

DEALS = 4
"""Orders in which the samples of each judged prompt are dealt; together they weigh as one prompt."""


# ── the log, ready ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class PlanData:
    """A samples log as a contest needs it: n prompts.

    log      : the samples.   matrix : (n, a) outcomes of the arms, each as replayed, rows as in the log.
    arms     : arm -> the fixed plan that it is.   specs : arm -> ArmSpec, of those that are not searches.
    features : of the prompts.   seconds : per leg, see PlanFacts.   unit : mean cost of one sample of the first leg.
    sound    : whether the verifier proves the right answers of all prompts, see `proves_all`.
    """

    name: str
    log: SampleLog
    matrix: OutcomeMatrix
    arms: Mapping[str, FixedPlan]
    specs: Mapping[str, ArmSpec | None]
    verifiers: Mapping[str, VerifierSpec]
    features: Features
    seconds: Seconds
    unit: float
    sound: bool

    def __len__(self) -> int:
        return len(self.log)

    @classmethod
    def of(
        cls,
        samples: pd.DataFrame,
        outcomes: pd.DataFrame,
        prompts: pd.DataFrame,
        menu: Menu,
        *,
        name: str = "log",
        verifiers: Mapping[str, VerifierSpec] | None = None,
        families: Mapping[str, str] | None = None,
        sound: Sequence[str] = (),
        price_ratio: float | None = None,
        seconds: Seconds | None = None,
        fit_settings: FitSettings | None = None,
        seed: int = 0,
    ) -> "PlanData":
        """Read a log's tables for a menu.

        families    : group -> family, over what the groups' names say.   sound : see read_samples.
        price_ratio : see `repriced`; None = the prices logged.   seconds : per leg; None = never timed.

        Raises TableError for what read_samples does not take, and ConfigError for a ratio out of range.
        """
        if price_ratio is not None:
            samples = repriced(samples, menu, price_ratio)
        log = read_samples(samples, outcomes, menu, verifiers, sound=sound)
        return cls.of_log(
            log,
            prompts,
            name=name,
            verifiers=verifiers,
            families=families,
            seconds=seconds,
            fit_settings=fit_settings,
            seed=seed,
        )

    @classmethod
    def of_log(
        cls,
        log: SampleLog,
        prompts: pd.DataFrame,
        *,
        name: str = "log",
        verifiers: Mapping[str, VerifierSpec] | None = None,
        families: Mapping[str, str] | None = None,
        seconds: Seconds | None = None,
        fit_settings: FitSettings | None = None,
        seed: int = 0,
    ) -> "PlanData":
        """Make samples that have been read ready; prompts : their table, as OutcomeMatrix.of takes it."""
        seconds = (None,) * len(log.menu.legs) if seconds is None else seconds
        matrix, arms, specs = _arms(log, prompts, families or {}, verifiers or {}, seconds, seed)
        return cls(
            name=name,
            log=log,
            matrix=matrix,
            arms=arms,
            specs=specs,
            verifiers=dict(verifiers or {}),
            features=features_of(matrix.texts, (fit_settings or FitSettings()).features),
            seconds=seconds,
            unit=unit_of(log),
            sound=proves_all(log),
        )


def proves_all(log: SampleLog) -> bool:
    """Whether a sound verifier judged every prompt: some answers are proven, all other complete ones were refused.

    Where one proves the answers of some prompts, and others are judged by one that may err, or by votes, this is False:
    who draws until an answer is proven would never stop there.
    """
    draws = [leg.draws for leg in log.legs]
    left = (d.complete & ~d.proven & ~(d.score == 0.0) for d in draws)  # not judged, or taken for right without proof
    return any(d.proven.any() for d in draws) and not any(open_.any() for open_ in left)


def repriced(samples: pd.DataFrame, menu: Menu, ratio: float) -> pd.DataFrame:
    """The samples at other prices: a token of each later leg costs `ratio` times what one of the first leg does.

    Prices of prompts move along with those of completions; those of verifiers stay.
    """
    if not (np.isfinite(ratio) and ratio > 0):
        raise ConfigError(f"price ratio {ratio!r}: it must be a finite number above 0, for instance 10")
    if len(menu.legs) < 2:
        raise ConfigError("a price ratio is between backends: name two, as in --backend small --backend large")
    table = samples.copy()
    backend, tokens = table["backend"].to_numpy(str), table["completion_tokens"].to_numpy(float)
    price: list[float] = []
    for leg in menu.legs:
        mine = (backend == leg.backend) & (tokens > 0)
        if not mine.any():
            raise TableError(f"legs: the log has no samples of {leg.backend!r} to be priced")
        price.append(float(table["cost"].to_numpy(float)[mine].sum() / tokens[mine].sum()))
    if min(price) <= 0:
        raise TableError("prices: a backend of the log costs nothing, so there is no ratio to change")
    for leg, own in zip(menu.legs[1:], price[1:], strict=True):
        mine = backend == leg.backend
        for column in ("cost", "prompt_cost"):
            table.loc[mine, column] = table.loc[mine, column] * (ratio * price[0] / own)
    return table


def _arm_stages(stages: Sequence[int]) -> tuple[int, ...]:
    """Stages that are arms of the router: with many, those that are powers of two, and the last."""
    return tuple(k for k in stages if k & (k - 1) == 0 or k == stages[-1])


def _arms(
    log: SampleLog,
    prompts: pd.DataFrame,
    families: Mapping[str, str],
    verifiers: Mapping[str, VerifierSpec],
    seconds: Seconds,
    seed: int,
) -> tuple[OutcomeMatrix, dict[str, FixedPlan], dict[str, ArmSpec | None]]:
    """Every stage drawn at once, and every search, as arms of a table."""
    n = len(log)
    runs = Runs(log, np.zeros((n, 0)), np.ones(n, dtype=bool), deals=2 * DEALS, seed=seed, seconds=seconds)
    arms: dict[str, FixedPlan] = {}
    specs: dict[str, ArmSpec | None] = {}
    columns: dict[str, tuple[Outcome, int]] = {}
    for i, leg in enumerate(log.menu.legs):
        how: dict[str, Any] = {"temperature": leg.temperature, "top_p": leg.top_p, "max_tokens": leg.max_tokens}
        for k in _arm_stages(leg.stages):
            several = BestOfNSpec(n=k, verifier=log.menu.verifier or "vote", **how)
            spec = ArmSpec(backend=leg.backend, strategy=SingleSpec(**how) if k == 1 else several)
            plan = FixedPlan(legs=((i, (k,)),), settled=2.0)
            arms[spec.name], specs[spec.name] = plan, spec
            drawn = log.legs[i].draws.k
            replayed = Outcome.of(replay(runs, ByFixedPlan(plan)))
            if k == 1:  # all samples tell, not only the first ones of the deals
                columns[spec.name] = replace(replayed, quality=log.legs[i].quality.mean(axis=1)), drawn
            else:
                columns[spec.name] = replayed, max(min(runs.deals, drawn // k), 1)
    for s, name in enumerate(log.menu.searches):
        arms[name], specs[name] = FixedPlan(search=s), None
        columns[name] = Outcome.of(replay(runs, ByFixedPlan(arms[name]))), 1
    table = pd.DataFrame(
        {
            "prompt_id": list(log.prompt_ids) * len(columns),
            "arm": np.repeat(list(columns), n),
            "quality": np.concatenate([o.quality for o, _ in columns.values()]),
            "cost": np.concatenate([o.cost for o, _ in columns.values()]),
            "completion_tokens": np.concatenate([o.tokens for o, _ in columns.values()]),
            "verifier_tokens": 0.0,
            "latency_s": np.concatenate([o.seconds.mean(axis=1) for o, _ in columns.values()]),
            "draws": np.repeat([drawn for _, drawn in columns.values()], n),
        }
    )
    matrix = OutcomeMatrix.of(table, prompts, families=lambda group: families.get(group, family_of(group)))
    place = {i: row for row, i in enumerate(matrix.prompt_ids)}
    return matrix.rows(np.array([place[i] for i in log.prompt_ids])), arms, specs


# ── the folds ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Fold:
    """Some prompts to judge on, and what was learned from the others.

    data      : of all prompts.   train, test : positions in it.   inner : (len(train),) folds of the training prompts.
    fitted    : the router; `fitted.validation` are its estimates of the training prompts, out of fold.
    estimates : its estimates of the test prompts.   runs : of the test prompts.
    settings  : of the plan.
    """

    data: PlanData
    train: np.ndarray
    test: np.ndarray
    inner: np.ndarray
    fitted: Fitted
    estimates: Estimates
    runs: Runs
    settings: PlanSettings
    _played: dict[FixedPlan, Outcome] = field(default_factory=dict)
    _ladders: dict[tuple[int, bool], Ladder] = field(default_factory=dict)

    @cached_property
    def plan(self) -> FittedPlan:
        """The plan that the training prompts teach; its `runs` are theirs."""
        return self.fit_plan(self.settings)

    def fit_plan(self, settings: PlanSettings, progress: Progress | None = None) -> FittedPlan:
        """Learn a plan from the training prompts with other settings."""
        matrix = self.data.matrix
        return fit_plan(
            self.data.log.rows(self.train),
            self.fitted.validation,
            self.inner,
            families=[matrix.families[i] for i in self.train],
            seconds=self.data.seconds,
            settings=settings,
            needs=self.data.log.signals,
            progress=progress,
        )

    @cached_property
    def trained(self) -> dict[FixedPlan, Outcome]:
        """What every fixed plan came to on the training prompts."""
        return {p: Outcome.of(r) for p, r in zip(self.plan.plan.facts.fixed, self.plan.fixed, strict=True)}

    def played(self, plan: FixedPlan) -> Outcome:
        """What a fixed plan comes to on the test prompts."""
        if plan not in self._played:
            self._played[plan] = Outcome.of(replay(self.runs, ByFixedPlan(plan)))
        return self._played[plan]

    def ladder(self, leg: int, *, trained: bool) -> Ladder:
        """The samples of a leg, of the training prompts' runs or of the test prompts'."""
        if (leg, trained) not in self._ladders:
            self._ladders[leg, trained] = Ladder(self.plan.runs if trained else self.runs, leg)
        return self._ladders[leg, trained]


def folds_of(
    data: PlanData,
    *,
    split: Split = "prompt",
    folds: int = 3,
    seed: int = 0,
    deals: int = DEALS,
    plan_settings: PlanSettings | None = None,
    fit_settings: FitSettings | None = None,
    progress: Progress | None = None,
) -> tuple[Fold, ...]:
    """Deal the prompts out, and fit a router without each fold.

    split : "prompt" deals prompts at random, those that ask the same thing together; "group" whole families. The inner
            folds are by prompt in both, as a router that is to be served has them.

    Raises TableError where there are too few prompts or families.
    """
    matrix = data.matrix
    fold = fold_of(matrix.families, split=split, folds=folds, seed=seed, clusters=matrix.clusters)
    made = []
    pairs = list(sides(fold, split))
    for i, (learn, judge) in enumerate(pairs):
        train, test = np.flatnonzero(learn), np.flatnonzero(judge)
        made.append(
            fold_on(data, train, test, seed=seed, deals=deals, plan_settings=plan_settings, fit_settings=fit_settings)
        )
        if progress is not None:
            progress(i + 1, len(pairs))
    return tuple(made)


def fold_on(
    data: PlanData,
    train: np.ndarray,
    test: np.ndarray,
    *,
    seed: int = 0,
    deals: int = DEALS,
    plan_settings: PlanSettings | None = None,
    fit_settings: FitSettings | None = None,
) -> Fold:
    """Fit a router to the prompts at `train`, and make those at `test` ready to judge on."""
    learned = data.matrix.rows(train)
    fitted = fit(
        learned,
        settings=fit_settings or FitSettings(seed=seed),
        specs=data.specs,
        verifiers=data.verifiers,
        features=data.features[train],
    )
    inner = fold_of(learned.families, split="prompt", folds=INNER, seed=seed, clusters=learned.clusters)
    with one_thread():
        estimates = fitted.predict(data.matrix.rows(test), data.features[test])
    familiar = np.ones(len(test), dtype=bool) if estimates.familiar is None else estimates.familiar
    runs = Runs(
        data.log.rows(test),
        prompt_features(estimates),
        familiar,
        deals=deals,
        seed=seed + 1000,
        seconds=data.seconds,
    )
    return Fold(data, train, test, inner, fitted, estimates, runs, plan_settings or PlanSettings(seed=seed))
