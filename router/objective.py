"""What the caller wants of one answer: its value, the price of waiting, and hard limits.

An Objective is data (configs, manifests and logs hold it as it is); what is done with it lives in policy.py.
"""

import math
from typing import Any, Literal

import msgspec

from ..strategies.spec import SpecError


class Objective(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a correct answer is worth, what a second costs, and what may not be exceeded.

        U = value * quality - cost - price_of_second * seconds

    value             : worth of a correct answer in the price book's currency, >= 0. With no price at all,
                        the unit is one completion token of the reference backend.
    price_of_second   : in the same unit, >= 0.
    max_cost          : most that the arm's expected cost may be; None = no limit.
    deadline          : seconds; the arm's latency at `deadline_quantile` may not exceed it; None = no limit.
    deadline_quantile : in (0, 1): 0.95 = nineteen of twenty answers keep the deadline.
    min_quality       : least predicted quality, in [0, 1]; None = no limit.
    on_infeasible     : where no arm keeps the limits, "error" raises NoFeasibleArm, "fallback" takes the
                        fallback arm, limits or not (but only if it is allowed), and the decision says so.

    Raises ConfigError for a value that is NaN, infinite, negative, out of range, or not a number.
    """

    value: float
    price_of_second: float = 0.0
    max_cost: float | None = None
    deadline: float | None = None
    deadline_quantile: float = 0.95
    min_quality: float | None = None
    on_infeasible: Literal["error", "fallback"] = "error"

    def __post_init__(self) -> None:
        _check("value", self.value)
        _check("price_of_second", self.price_of_second)
        for name in ("max_cost", "deadline"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), or_none=True)
        if self.min_quality is not None:
            _check("min_quality", self.min_quality, most=1.0, or_none=True)
        _check("deadline_quantile", self.deadline_quantile, most=1.0)
        if not 0 < self.deadline_quantile < 1:
            raise SpecError(f"deadline_quantile={self.deadline_quantile!r}: it must lie inside (0, 1)")
        if self.on_infeasible not in ("error", "fallback"):
            raise SpecError(f"on_infeasible={self.on_infeasible!r}: it must be 'error' or 'fallback'")

    def but(self, **changes: object) -> "Objective":
        """Return a copy with some fields changed, checked again."""
        return msgspec.structs.replace(self, **changes)

    @property
    def limits(self) -> str:
        """The hard limits in words, for messages: "max_cost=0.01, deadline=2 s at the 0.95 quantile"."""
        words = []
        if self.max_cost is not None:
            words.append(f"max_cost={self.max_cost:g}")
        if self.deadline is not None:
            words.append(f"deadline={self.deadline:g} s at the {self.deadline_quantile:g} quantile")
        if self.min_quality is not None:
            words.append(f"min_quality={self.min_quality:g}")
        return ", ".join(words)


def guarded_gain(
    *, benefit: Any, benefit_se: Any, extra_cost: Any, extra_seconds: Any, objective: Objective, guard: float
) -> Any:
    """What an alternative surely adds over what it is compared with; take it only where this is above 0.

        value * (benefit - guard * benefit_se) - extra_cost - price_of_second * extra_seconds

    benefit, extra_cost, extra_seconds : alternative minus baseline, numbers or arrays of one shape;
                                         benefit_se is the
    standard error of `benefit`. Used for an arm against the fallback arm (here), a plan against stopping, and
    a challenger against the champion, so that all three mean the same by "surely better".
    """
    gain = objective.value * (benefit - guard * benefit_se) - extra_cost
    return gain - objective.price_of_second * extra_seconds if objective.price_of_second else gain


def _check(name: str, value: object, *, most: float = math.inf, or_none: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= most):  # type: ignore[arg-type]
        span = "a finite number >= 0" if most == math.inf else f"a number in [0, {most:g}]"
        raise SpecError(f"{name}={value!r}: it must be {span}{', or None for no limit' if or_none else ''}")
