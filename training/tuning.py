"""Search the settings of a fit for those that predict the differences between arms best, with Optuna.

What is minimised is the error out of fold, on the training prompts alone: the very predictions that a fit calibrates
on, so test prompts play no part. The settings that one starts from are the first trial, and are kept unless another's
error is lower by more than its own standard error, paired by prompt: the best of many noisy trials flatters itself.

A search can be stopped at any time (Ctrl-C, a budget of seconds) and gives the best so far; with a journal file the
same call goes on where it stood, and ends where it would have ended without the stop.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..router.features import Features
from ..strategies import ArmSpec, VerifierSpec
from ..strategies.errors import ConfigError
from .fit import FitSettings, features_of, fit
from .matrix import OutcomeMatrix
from .provenance import data_version

if TYPE_CHECKING:
    import optuna

Progress = Callable[[int, int], None]
Errors = Callable[[FitSettings], np.ndarray]
"""From settings to the error on every prompt, (n,)."""

STARTERS = 8
"""Trials drawn at random before the search looks at the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """A number among the settings, and where it is looked for.

    path  : "joint_trees.leaves" is FitSettings.joint_trees.leaves.
    low, high : both tried; in between evenly in the logarithm.
    whole : whole numbers only.
    """

    path: str
    low: float
    high: float
    whole: bool = False

    def suggest(self, trial: "optuna.Trial") -> Any:
        """A value for this trial."""
        if self.whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=True)
        return trial.suggest_float(self.path, self.low, self.high, log=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting that is a tuple of names, as "text+trees", and which ones are tried."""

    path: str
    options: tuple[str, ...]

    def suggest(self, trial: "optuna.Trial") -> Any:
        """One of the options, as a tuple."""
        return tuple(trial.suggest_categorical(self.path, self.options).split("+"))


Space = tuple[Dial | Choice, ...]

SPACE: Space = (
    Choice(
        path="components",
        options=(
            "text+encoder+neighbours+joint_trees",
            "text+encoder+joint_trees",
            "text+encoder+neighbours",
            "text+encoder+neighbours+cells+two_parameter+joint_trees",
        ),
    ),
    Dial(path="joint_trees.rounds", low=8, high=40, whole=True),
    Dial(path="joint_trees.learning_rate", low=0.05, high=0.5),
    Dial(path="joint_trees.leaves", low=4, high=63, whole=True),
    Dial(path="joint_trees.min_rows", low=5, high=200, whole=True),
    Dial(path="joint_trees.l2", low=0.1, high=100),
    Dial(path="joint_trees.column_share", low=0.1, high=1.0),
)
"""What is searched. Rounds stay within 40: with four members that is 160 trees, each walked once for all arms, which a
decision has time for. "encoder" is passed over where prompts are not embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Settings that were tried.

    error : mean over prompts; 1 = as bad as the arms' means. values : path -> value, where the space reaches.
    """

    number: int
    error: float
    seconds: float
    values: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The settings to fit with, and how they were found.

    settings : those of the best trial, or the ones started from where no trial was surely better.
    trials   : all that were completed, in order; the first is of the settings started from.
    gain     : error of the first trial minus that of the best; gain_se : its standard error, paired by prompt.
    stopped_because : why there are fewer trials than were asked for; "" where there are not.
    """

    settings: FitSettings
    trials: tuple[Trial, ...]
    gain: float
    gain_se: float
    stopped_because: str = ""

    @property
    def best(self) -> Trial:
        """The trial of the lowest error; of equal ones the first."""
        return min(self.trials, key=lambda t: t.error)

    @property
    def changed(self) -> bool:
        """Whether a trial was surely better than the settings started from."""
        return self.gain > self.gain_se

    def text(self, *, most: int = 8) -> str:
        """For people: the best trials, and what was made of them."""
        first, best = self.trials[0], self.best
        lines = [f"{'trial':>5}  {'error':>7}  {'s':>5}  settings (error 1 = as bad as the arms' means)"]
        for t in sorted(self.trials, key=lambda t: t.error)[:most]:
            values = ", ".join(f"{p}={_shown(v)}" for p, v in t.values.items()) or "as given"
            lines.append(f"{t.number:>5}  {t.error:7.4f}  {t.seconds:5.1f}  {values}")
        gained = f"trial {best.number} lowers the error of differences from {first.error:.4f} to {best.error:.4f}"
        spread = f"by {self.gain:.4f}, standard error {self.gain_se:.4f}"
        if best is first:
            lines.append(f"{len(self.trials)} trials: none is better than the settings given, which are kept")
        elif self.changed:
            lines.append(f"{len(self.trials)} trials: {gained} ({spread}); its settings are taken")
        else:
            lines.append(f"{len(self.trials)} trials: {gained}, which is not sure ({spread}); those given are kept")
        if self.stopped_because:
            lines.append(f"stopped: {self.stopped_because}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "trials": [dataclasses.asdict(t) for t in self.trials],
            "gain": self.gain,
            "gain_se": self.gain_se,
            "changed": self.changed,
            "stopped_because": self.stopped_because,
            "settings": msgspec.to_builtins(self.settings),
        }


def tune(
    matrix: OutcomeMatrix,
    settings: FitSettings | None = None,
    *,
    trials: int = 30,
    seconds: float | None = None,
    seed: int = 0,
    specs: Mapping[str, ArmSpec | None] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    features: Features | None = None,
    space: Space = SPACE,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find settings whose fit predicts the differences between arms best, out of fold.

    trials   : at most so many, the settings given included; those in the journal count.
    seconds  : no trial is begun after so many.
    features : of the prompts, where the caller has them already; the space must then leave settings.features alone.
    journal  : file that every trial is written to. The same data, settings, space and seed go on from it; others begin
               a search of their own in it.
    progress : called with the trials so far and their number.

    Raises ConfigError for no trial at all, or a space that does not fit the settings; TableError as `fit` does.
    """
    settings = settings or FitSettings()
    x = features_of(matrix.texts, settings.features) if features is None else features
    # By random prompts, families matter to a fit for its guard alone, and learning the guard takes most of its time.
    plain = matrix if settings.split == "group" else dataclasses.replace(matrix, families=("",) * len(matrix))

    def errors(tried: FitSettings) -> np.ndarray:
        fitted = fit(plain, settings=tried, specs=specs, verifiers=verifiers, features=x)
        return difference_errors(fitted.validation.quality, matrix)

    return search(
        errors,
        settings,
        about=data_version(matrix),
        trials=trials,
        seconds=seconds,
        seed=seed,
        space=space,
        journal=journal,
        progress=progress,
    )


def difference_errors(quality: np.ndarray, matrix: OutcomeMatrix) -> np.ndarray:
    """Squared error of the predicted differences between arms on every prompt, over its mean for the arms' means: (n,).

        sum_a (e_a - mean of e over the prompt's arms)^2,      e = predicted - observed

    which is the mean over pairs of arms of their squared error, times a constant. NaN for a prompt with the outcome of
    one arm; where most prompts are of that kind, errors are of the outcomes themselves.
    """
    known = ~np.isnan(matrix.quality)
    of_pairs = (known.sum(axis=1) > 1).mean() > 0.5

    def errors(predicted: np.ndarray) -> np.ndarray:
        residual = np.where(known, predicted - np.nan_to_num(matrix.quality), 0.0)
        if of_pairs:
            residual -= known * residual.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        total = (residual**2).sum(axis=1)
        return np.where(known.sum(axis=1) > int(of_pairs), total, np.nan)

    yardstick = float(np.nanmean(errors(np.broadcast_to(matrix.arm_quality, quality.shape))))
    return errors(quality) / (yardstick or 1.0)


def search(
    errors: Errors,
    settings: FitSettings,
    *,
    about: str,
    trials: int,
    seconds: float | None = None,
    seed: int = 0,
    space: Space = SPACE,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """`tune` for any error: `errors` maps settings to the error on every prompt (n,), NaN where it has none.

    about : of the data, so that a journal's trials are taken up for the same data only.
    """
    if trials < 1:
        raise ConfigError(f"trials={trials}: at least 1 is needed, which is that of the settings given")
    for dial in space:
        _at(settings, dial.path)
    started = time.monotonic()
    stopped = ""
    with _study(_name_of(about, settings, space, seed), journal) as (study, optuna):
        start_errors = np.empty(0)
        if len(_completed(study)) < trials:
            began = time.perf_counter()
            start_errors = errors(settings)
            if not _completed(study):
                _record(study, optuna, float(np.nanmean(start_errors)), time.perf_counter() - began)
        try:
            while (done := len(_completed(study))) < trials:
                if progress is not None:
                    progress(done, trials)
                if seconds is not None and time.monotonic() - started >= seconds:
                    stopped = f"{seconds:g} s were over"
                    break
                # Seeded by how many trials there are: a search that was stopped draws what it would have drawn.
                study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + done, n_startup_trials=STARTERS)
                trial = study.ask()
                try:
                    tried = _tried(settings, space, trial)
                    began = time.perf_counter()
                    found = errors(tried)
                except BaseException:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    raise
                difference = start_errors - found
                difference = difference[~np.isnan(difference)]
                trial.set_user_attr("gain_se", float(difference.std() / max(1.0, np.sqrt(len(difference)))))
                trial.set_user_attr("seconds", time.perf_counter() - began)
                study.tell(trial, float(np.nanmean(found)))
        except KeyboardInterrupt:
            stopped = "interrupted"
        kept = _completed(study)
    if progress is not None:
        progress(len(kept), trials)
    best = min(kept, key=lambda t: t.value)
    gain, gain_se = float(kept[0].value - best.value), float(best.user_attrs["gain_se"])
    return Tuned(
        settings=_with(settings, _values(best, space)) if gain > gain_se else settings,
        trials=tuple(
            Trial(number=i, error=float(t.value), seconds=float(t.user_attrs["seconds"]), values=_values(t, space))
            for i, t in enumerate(kept)
        ),
        gain=gain,
        gain_se=gain_se,
        stopped_because=stopped,
    )


@contextmanager
def _study(name: str, journal: Path | None) -> Iterator[tuple[Any, Any]]:
    """The study of that name, in the journal or in memory; Optuna's talk about it is kept quiet."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = None
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str(journal)))
        yield optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True), optuna
    finally:
        optuna.logging.set_verbosity(level)


def _record(study: Any, optuna: Any, error: float, seconds: float) -> None:
    """Add the trial of the settings given; it has no values, since they need not lie in the space."""
    study.add_trial(optuna.trial.create_trial(value=error, user_attrs={"gain_se": 0.0, "seconds": seconds}))


def _completed(study: Any) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]


def _tried(settings: FitSettings, space: Space, trial: Any) -> FitSettings:
    return _with(settings, {dial.path: dial.suggest(trial) for dial in space})


def _values(trial: Any, space: Space) -> dict[str, Any]:
    """The settings of a trial, path -> value."""
    found = {}
    for dial in space:
        if dial.path in trial.params:
            value = trial.params[dial.path]
            found[dial.path] = tuple(value.split("+")) if isinstance(dial, Choice) else value
    return found


def _at(settings: Any, path: str) -> Any:
    """The value at a path. Raises ConfigError where there is none."""
    value = settings
    for name in path.split("."):
        if not hasattr(value, name):
            raise ConfigError(f"the space reaches for {path!r}: the settings of a fit have no {name!r} there")
        value = getattr(value, name)
    return value


def _with(settings: Any, values: Mapping[str, Any]) -> Any:
    """The settings with other values at some paths."""
    changes: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    changes |= {name: _with(getattr(settings, name), inner) for name, inner in deeper.items()}
    if isinstance(settings, msgspec.Struct):
        return msgspec.structs.replace(settings, **changes)
    return dataclasses.replace(settings, **changes)


def _name_of(about: str, settings: FitSettings, space: Sequence[Dial | Choice], seed: int) -> str:
    """The same for the same search, another for any other."""
    said = [about, msgspec.to_builtins(settings), [[type(d).__name__, dataclasses.asdict(d)] for d in space], seed]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
