"""A decision, as callers, logs and people read it. How it is come to lives in policy.py."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from .objective import Objective


class Reason(StrEnum):
    """Why an arm was taken. `sentence` says it to people."""

    BEST_UTILITY = "best_utility"
    ONLY_FEASIBLE = "only_feasible"
    GUARDED = "guarded"
    UNFAMILIAR = "unfamiliar"
    EXPLORED = "explored"
    INFEASIBLE = "infeasible"
    EASY = "easy"
    MIDDLING = "middling"
    HARD = "hard"
    LIMITED = "limited"
    BACKEND_FAILED = "backend_failed"
    PROVEN = "proven"
    LIMITS_REACHED = "limits_reached"

    @property
    def sentence(self) -> str:
        """The reason as one sentence."""
        return _SENTENCES[self]

    @property
    def of_step(self) -> str:
        """The reason as one sentence about a plan's step, which chooses among actions instead of arms."""
        return _OF_STEPS.get(self, _SENTENCES[self])


_SENTENCES = {
    Reason.BEST_UTILITY: "Of the arms within the limits, its quality is worth most after cost and time.",
    Reason.ONLY_FEASIBLE: "It is the only arm that is open to choice and keeps the hard limits.",
    Reason.GUARDED: "Another arm looked better, but not surely enough to leave the fallback arm.",
    Reason.UNFAMILIAR: "The prompt is unlike the training prompts, so the best fixed arm serves it.",
    Reason.EXPLORED: "It was drawn at random among the arms within the limits, to keep learning.",
    Reason.INFEASIBLE: "No arm keeps the hard limits; the fallback arm was asked for in that case.",
    Reason.EASY: "The prompt looks easy: its difficulty is below the lower threshold.",
    Reason.MIDDLING: "The prompt looks middling: its difficulty lies between the thresholds.",
    Reason.HARD: "The prompt looks hard: its difficulty reaches the upper threshold.",
    Reason.LIMITED: "The arm for this difficulty breaks a hard limit; the nearest that keeps them was taken.",
    Reason.BACKEND_FAILED: "The first choice's backend failed before it answered; this arm is the next best.",
    Reason.PROVEN: "A sound verifier proved the answer in hand right.",
    Reason.LIMITS_REACHED: "Nothing more keeps the hard limits, so the answer in hand is the answer.",
}

_OF_STEPS = {
    Reason.BEST_UTILITY: "Of what may be done next within the limits, it is worth most after cost and time.",
    Reason.ONLY_FEASIBLE: "It is all that may be done next within the hard limits.",
    Reason.GUARDED: "Another way looked better, but not surely enough to leave the best fixed plan.",
    Reason.UNFAMILIAR: "The prompt is unlike the training prompts, so the best fixed plan serves it.",
    Reason.EXPLORED: "It was drawn at random among what may be done within the limits, to keep learning.",
    Reason.INFEASIBLE: "Nothing keeps the hard limits; the best fixed plan was asked for in that case.",
    Reason.BACKEND_FAILED: "A backend failed before it answered; this is the next best way.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the caller knows of a request beside its text.

    allowed       : names of the arms that may be chosen; None = all of them. With them an arm is chosen from the prompt
                    alone, also where the router has a plan: a plan draws from backends, and runs no arms but searches.
    group, tenant : travel into the decision, for logs; no policy of today looks at them.
    """

    group: str | None = None
    tenant: str | None = None
    allowed: Collection[str] | None = None


class ArmEstimate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was predicted of one arm.

    quality    : expected grader score, in [0, 1].
    benefit    : quality minus the fallback arm's; benefit_se its standard error.
    cost       : expected, in the price book's currency.
    tokens     : expected completion and verifier tokens; None = never logged.
    latency    : seconds at the objective's deadline quantile (the nearest known one); None = never measured.
    utility    : value * quality - cost - price_of_second * median seconds; None where time is priced but not
                 known.
    feasible   : whether it was open to choice: allowed, within the hard limits, and its backend can take the
                 prompt.
    """

    name: str
    quality: float
    benefit: float
    benefit_se: float
    cost: float
    latency: float | None
    utility: float | None
    feasible: bool
    tokens: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which arm serves a prompt, and why; or, where a plan serves it, what is done first.

    arm            : name of the arm chosen; a plan's first action, such as "small x4".
    arms           : what was predicted of every arm, in the router's order; of every first action: the quality of the
                     answer at the end, and cost and latency of the whole request, if the plan goes on from there.
    utility        : of the arm chosen, at this objective; None where time is priced but was not measured.
    propensity     : chance in (0, 1] with which this arm was chosen; 1 without exploration.
    difficulty     : 1 - predicted quality of the reference arm.
    fallback       : whether the arm stands in for one that could not be taken or did not convince.
    familiar       : whether the prompt is like those that the router was trained on.
    failed         : arms whose backend failed before this one was taken, in order.
    policy         : name, version and settings. router_version : content hash of the artifact.
    plan           : what the plan may do, "small 1-32, large 1-8, verifier check"; "" = an arm is chosen, and no plan.
    fixed_plan     : the best fixed plan at the objective, which `benefit` is over and `fallback` keeps to.
    """

    arm: str
    arms: tuple[ArmEstimate, ...]
    utility: float | None
    propensity: float
    reason: Reason
    fallback: bool
    difficulty: float
    objective: Objective
    policy: str
    router_version: str
    familiar: bool = True
    failed: tuple[str, ...] = ()
    context: Context | None = None
    plan: str = ""
    fixed_plan: str = ""

    @property
    def sentence(self) -> str:
        """The reason for people."""
        return self.reason.of_step if self.plan else self.reason.sentence

    @property
    def estimate(self) -> ArmEstimate:
        """What was predicted of the arm chosen."""
        return next(a for a in self.arms if a.name == self.arm)

    @property
    def quality(self) -> float:
        """Predicted quality of the arm chosen."""
        return self.estimate.quality

    @property
    def cost(self) -> float:
        """Predicted cost of the arm chosen."""
        return self.estimate.cost

    @property
    def latency(self) -> float | None:
        """Predicted latency of the arm chosen, in seconds at the deadline quantile."""
        return self.estimate.latency

    def __repr__(self) -> str:
        latency = "" if self.latency is None else f", latency={self.latency:.3g} s"
        chance = "" if self.propensity == 1 else f", propensity={self.propensity:.3g}"
        return (
            f"Decision(arm={self.arm!r}, quality={self.quality:.2f}, cost={self.cost:.4g}{latency}, "
            f"difficulty={self.difficulty:.2f}, reason={self.reason.value!r}{chance})"
        )

    def explain(self) -> str:
        """The decision for people: a sentence, and a line per arm, the one chosen marked."""
        lines = [
            f"{self.arm}: {self.sentence}",
            f"  difficulty {self.difficulty:.2f}, value of a correct answer {self.objective.value:g}"
            + (f", limits: {self.objective.limits}" if self.objective.limits else ""),
        ]
        if self.plan:
            lines.append(f"  first step of the plan {self.plan}; the best fixed plan: {self.fixed_plan}")
        if not self.familiar and self.reason is not Reason.UNFAMILIAR:
            lines.append("  the prompt is unlike the training prompts")
        if self.failed:
            lines.append(f"  failed first: {', '.join(self.failed)}")
        return "\n".join([*lines, *table_of(self.arms, self.arm, "first" if self.plan else "arm")])

    def to_dict(self) -> dict[str, object]:
        """The decision as plain JSON types: `sentence` and the whole objective included."""
        return {
            "arm": self.arm,
            "quality": self.quality,
            "cost": self.cost,
            "latency": self.latency,
            "utility": self.utility,
            "difficulty": self.difficulty,
            "propensity": self.propensity,
            "reason": self.reason.value,
            "sentence": self.sentence,
            "fallback": self.fallback,
            "familiar": self.familiar,
            "failed": list(self.failed),
            "group": self.context.group if self.context else None,
            "tenant": self.context.tenant if self.context else None,
            "policy": self.policy,
            "router_version": self.router_version,
            "plan": self.plan,
            "fixed_plan": self.fixed_plan,
            "objective": msgspec.to_builtins(self.objective),
            "arms": [msgspec.structs.asdict(a) for a in self.arms],
        }


def table_of(estimates: Sequence[ArmEstimate], chosen: str, head: str) -> list[str]:
    """Lines of a table of estimates under the heading `head`, the best utility first, the one chosen marked."""
    wide = max(len(head), *(len(a.name) for a in estimates))
    lines = [f"  {head:{wide}}  quality  benefit          cost   latency   utility"]
    for a in sorted(estimates, key=lambda a: -math.inf if a.utility is None else a.utility, reverse=True):
        mark = ">" if a.name == chosen else " " if a.feasible else "x"
        seconds = "-" if a.latency is None else f"{a.latency:.3g} s"
        utility = "-" if a.utility is None else f"{a.utility:.4g}"
        lines.append(
            f"{mark} {a.name:{wide}}  {a.quality:7.3f}  {a.benefit:+.3f} ±{a.benefit_se:.3f}  "
            f"{a.cost:9.4g} {seconds:>9} {utility:>9}"
        )
    if not all(a.feasible for a in estimates):
        lines.append("  x: not open to choice (a hard limit, not allowed, or its backend can't take the prompt)")
    return lines
