"""From a trained router to the champion, and back: load both sides, have them judged, and move the registry's aliases.

What is fair and what is better is promote.py's, what is written where is registry.py's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..router.predictor import Predictor
from ..router.router import Router
from ..router.sources import read_source
from ..strategies.errors import ArtifactError, InputError, TableError
from . import registry
from .holdout import Holdout
from .matrix import OutcomeMatrix
from .promote import Contender, Verdict, judge
from .tracking import resolve_uri

_FORCE = "`howhard promote --force` promotes it all the same, and leaves a mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What became of a router that was proposed as champion.

    version  : its own in the registry. previous : whose place it took; None where it took none.
    forced   : whether it is champion against the verdict.
    plans    : whether it has plans, which no verdict is about.
    """

    verdict: Verdict
    version: str
    previous: str | None
    forced: bool
    plans: bool = False

    @property
    def promoted(self) -> bool:
        """Whether it is the champion now."""
        return self.verdict.promote or self.forced

    def text(self) -> str:
        """For people: what it is now and why, and what to do where it was not promoted."""
        v, name = self.verdict, f"{registry.MODEL} version {self.version}"
        before = f"is the champion (before: {self.previous or 'none'})"
        if self.forced:
            lines = [f"promoted by force: {name} {before}, though", f"  {v.reason}"]
        elif v.promote:
            lines = [f"promoted: {name} {before}", f"  {v.reason}"]
        else:
            lines = [f"not promoted: {name} is the challenger", f"  {v.reason}", f"  {v.remedy}", f"  {_FORCE}"]
        if v.holdout is not None:
            lines.append(f"  holdout {v.holdout.version}, {len(v.holdout):,} prompts")
        if self.plans:
            lines.append("  judged by the arms that it chooses from the prompt alone; its plans were not part of it")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        facts = {
            "promoted": self.promoted, "forced": self.forced, "model_version": self.version, "plans": self.plans,
        }  # fmt: skip
        return {**self.verdict.to_dict(), **facts, "previous": self.previous}


def contender(source: str | Path, *, uri: str | None = None) -> Contender:
    """Load a router, with the files that tell what it was trained on. Raises what Router.load raises."""
    manifest, files, origin = read_source(source, tracking_uri=uri)
    router = Router(manifest, Predictor.from_artifact(manifest, files), source=origin)
    return Contender(router=router, files=files, source=origin, plans=bool(manifest.plans))


def champion_holdout(uri: str) -> Holdout | None:
    """The prompts that the champion was judged on, which no challenger may learn from; None where there are none."""
    version = registry.version_of(registry.CHAMPION, uri=uri)
    return None if version is None else registry.holdout_of(version, uri=uri)


def kept_out(held: np.ndarray, matrix: OutcomeMatrix, fixed: Holdout | None) -> np.ndarray:
    """Prompts to keep out of training, bool (n,): those held out, the champion's holdout, and what asks the same."""
    if fixed is not None:
        held = held | fixed.within(matrix)
    clusters = np.asarray(matrix.clusters, dtype=str)
    return np.isin(clusters, clusters[held])


def propose(
    candidate: Contender,
    table: OutcomeMatrix,
    register: Callable[[], str],
    *,
    uri: str,
    force: str | None = None,
    seed: int = 0,
) -> Proposed:
    """Judge a candidate against the present champion, and make it champion or challenger.

    register : makes it a version of the registry (called once, after the verdict).
    force    : why it is promoted whatever the verdict; None = the verdict counts.
    """
    verdict = _verdict(candidate, table, uri=uri, seed=seed)
    version = register()
    if not verdict.promote and force is None:
        registry.challenge(version, verdict.reason, uri=uri)
        return Proposed(verdict=verdict, version=version, previous=None, forced=False, plans=candidate.plans)
    forced = None if verdict.promote else force
    holdout = verdict.holdout or _unseen(candidate, table)
    previous = registry.crown(version, verdict.reason, holdout=holdout, forced=forced, uri=uri)
    return Proposed(
        verdict=verdict, version=version, previous=previous, forced=forced is not None, plans=candidate.plans
    )


def _verdict(candidate: Contender, table: OutcomeMatrix, *, uri: str, seed: int) -> Verdict:
    version = registry.version_of(registry.CHAMPION, uri=uri)
    if version is None:
        return judge(candidate, None, table, seed=seed)
    try:
        present = contender(f"models:/{registry.MODEL}/{version}", uri=uri)
        fixed = registry.holdout_of(version, uri=uri)
    except (ArtifactError, TableError) as exc:
        reason = f"the champion, version {version}, cannot be read: {exc}"
        return Verdict(promote=False, reason=reason, remedy="compare the two by hand", n_prompts=0)
    return judge(candidate, replace(present, holdout=fixed), table, seed=seed)


def _unseen(candidate: Contender, table: OutcomeMatrix) -> Holdout | None:
    saw = candidate.saw(table)
    return None if saw is None or saw.all() else Holdout.of(table.rows(~saw))


def registered_version(source: str) -> str | None:
    """The version that a `Contender.source` names, None for a directory.

    Raises InputError for a model of another name.
    """
    if not source.startswith("models:"):
        return None
    name, _, version = source.removeprefix("models:/").rpartition("/")
    if name != registry.MODEL:
        raise InputError(
            f"{source} is not a version of {registry.MODEL}: give models:/{registry.MODEL}@challenger, "
            f"models:/{registry.MODEL}/VERSION, or a router directory"
        )
    return version


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """Which router serves again."""

    done: registry.RolledBack
    tracking_uri: str

    def text(self) -> str:
        """For people."""
        d = self.done
        gone = f" (deleted since, and passed over: {', '.join(d.passed_over)})" if d.passed_over else ""
        return (
            f"rolled back: {registry.MODEL} version {d.to_version} is the champion again, "
            f"version {d.from_version} is not{gone}\n"
            f"what serves models:/{registry.MODEL}@{registry.CHAMPION} takes it when it is loaded next"
        )

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        d = self.done
        return {"from": d.from_version, "to": d.to_version, "passed_over": list(d.passed_over)}


def rollback(why: str = "", *, tracking_uri: str | None = None) -> RollbackReport:
    """Make the champion before the present one champion again. Raises InputError when there is none."""
    uri = resolve_uri(tracking_uri)
    return RollbackReport(registry.rollback(why or "no reason given", uri=uri), uri)
