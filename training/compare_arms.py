"""What a comparison compares: the arms that are named, else those of a configuration, else a good default set."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..strategies import ArmSpec, StrategySpec
from ..strategies.errors import ConfigError, nearest
from .arm_words import parse_arm, words_of
from .prompt_sets import from_problems
from .workbench import AtHand

EVERYWHERE = (
    "single",
    "self-consistency n=4",
    "self-consistency n=16",
    "self-consistency n=16 stop=beta",
)
"""The arms of a comparison that names none. A strategy that a server cannot run is left out, and the table says why."""

WITH_INSTRUCTIONS = ("chain-of-thought", "refinement verifier=")
"""Beside EVERYWHERE for models that follow instructions, which the embedded ones do not."""

WITH_VERIFIER = (
    "best-of-n n=4",
    "best-of-n n=8",
    "best-of-n n=16",
    "best-of-n n=32",
    "best-of-n n=4 selection=weighted",
    "best-of-n n=16 selection=weighted",
    "best-of-n n=32 selection=weighted",
)
"""Where a verifier is named, or a reward model is there."""

WITH_REWARD_MODEL = (
    "beam width=4 branches=4",
    "beam width=4 branches=4 places=drawn",
    "dvts width=4 branches=4",
    "best-first",
    "rebase n=16",
    "particles n=16",
    "mcts samples=48",
    "ab-mcts samples=48",
)
"""Searches: where the verifier is a reward model, which can score partial solutions. They spend about as much as
best-of-N with N = 8 to 32, so that they can be compared with it."""

CASCADE = "cascade 'stages=self-consistency n=4 if agreement >= 0.75 else {}/single'"
"""Where several backends are compared: from each to the one after it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An arm of a comparison. `named` by the user: then it must work; a default one is left out where it does not."""

    label: str
    spec: ArmSpec
    named: bool = True

    @property
    def strategy(self) -> StrategySpec:
        """Without its backend."""
        return self.spec.strategy


def entries(
    at: AtHand, words: Sequence[str] = (), specs: Sequence[ArmSpec] = (), *, verifier: str | None = None
) -> list[Entry]:
    """The arms to compare: those in words, else those of a configuration, else the default ones on every backend.

    verifier : of strategies whose words name none. Default: tiny-prm for the embedded models, "best" elsewhere.
    Raises ConfigError for words that say nothing, and for an arm that stands there twice.
    """
    usual = {**at.usual, "verifier": verifier or at.verifier}
    chosen: list[tuple[ArmSpec, bool]] = []
    if words:
        for text in words:
            backend, strategy = parse_arm(text, usual)
            if backend is not None and backend not in at.backends:
                raise ConfigError(f"arm {text!r}: no backend is called {backend!r}{nearest(backend, at.backends)}")
            named = (backend,) if backend else at.chosen
            chosen += [(ArmSpec(backend=name, strategy=strategy), True) for name in named]
        chosen.sort(key=lambda pair: _place(pair[0].backend, at.chosen))
    elif specs:
        chosen = [(spec, True) for spec in specs]
    else:
        steps = at.scores_steps(str(usual["verifier"]))
        default = (
            *EVERYWHERE,
            *(WITH_INSTRUCTIONS if at.instructed else ()),
            *(WITH_VERIFIER if verifier or steps else ()),
            *(WITH_REWARD_MODEL if steps else ()),
        )
        for name in at.chosen:
            chosen += [(ArmSpec(backend=name, strategy=parse_arm(text, usual)[1]), False) for text in default]
        for name, after in itertools.pairwise(at.chosen):
            chosen.append((ArmSpec(backend=name, strategy=parse_arm(CASCADE.format(after), usual)[1]), False))
        chosen.sort(key=lambda pair: _place(pair[0].backend, at.chosen))
    for name in {verifier for spec, _ in chosen for verifier in spec.strategy.needs_verifiers}:
        if name not in at.verifiers:
            raise ConfigError(f"no verifier is called {name!r}{nearest(name, at.verifiers)}")
    labels = _labels([spec for spec, _ in chosen])
    return [Entry(label, spec, named) for label, (spec, named) in zip(labels, chosen, strict=True)]


def _place(backend: str, chosen: Sequence[str]) -> int:
    return chosen.index(backend) if backend in chosen else len(chosen)


def _labels(specs: Sequence[ArmSpec]) -> list[str]:
    """Arm names; the backend is left out where there is one, and settings are added where two names are the same."""
    one = len({spec.backend for spec in specs}) == 1
    names = [spec.strategy.name if one else spec.name for spec in specs]
    labels = []
    for spec, name in zip(specs, names, strict=True):
        alike = [other for other, its in zip(specs, names, strict=True) if its == name and other is not spec]
        if any(other == spec for other in alike):
            raise ConfigError(f"arm {name!r} ({words_of(spec.strategy)}) is given twice")
        differs = [
            setting
            for setting in spec.strategy.__struct_fields__
            if any(getattr(other.strategy, setting, None) != getattr(spec.strategy, setting) for other in alike)
        ]
        labels.append(" ".join([name, *(f"{s}={getattr(spec.strategy, s)}" for s in differs)]))
    return labels


def fresh_prompts(problems: int, seed: int, families: Sequence[str] = ()) -> pd.DataFrame:
    """Fresh problems of the embedded families (none or "all" = every one). Raises ConfigError for another name."""
    from .problems.families import FAMILIES, fresh_problems

    if problems < 1:
        raise ConfigError(f"problems={problems}: at least 1 is needed")
    chosen = [name for name in families if name != "all"]
    for name in chosen:
        if name not in FAMILIES:
            raise ConfigError(f"no family is called {name!r}{nearest(name, [*FAMILIES, 'all'])}")
    try:
        return from_problems(fresh_problems(problems, seed, None if len(chosen) < len(families) else chosen or None))
    except ValueError as exc:
        raise ConfigError(f"problems={problems}: {exc}") from exc
