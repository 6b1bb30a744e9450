"""The router: from a prompt and an objective to a decision, and to an answer.

    from howhard.router import Objective, Router

    router = Router.load("models/router-quickstart")
    print(router.decide("Use 3, 5 and 7 to make 36.").explain())

Needs numpy and msgspec alone; what runs an arm (PyTorch, HTTP) is imported when an arm is run.
"""

from ..strategies.errors import HowhardError
from .decision import ArmEstimate, Context, Decision, Reason
from .estimates import Estimates
from .objective import Objective
from .plan_choice import PlanWarning
from .plan_run import Planned, PlanResult, PlanRule
from .plan_told import Step
from .policy import Policy, ThresholdPolicy, UtilityPolicy
from .router import FingerprintWarning, ObjectiveWarning, RoutedResult, RoutedStream, Router

__all__ = [
    "ArmEstimate",
    "Context",
    "Decision",
    "Estimates",
    "FingerprintWarning",
    "HowhardError",
    "Objective",
    "ObjectiveWarning",
    "PlanResult",
    "PlanRule",
    "PlanWarning",
    "Planned",
    "Policy",
    "Reason",
    "RoutedResult",
    "RoutedStream",
    "Router",
    "Step",
    "ThresholdPolicy",
    "UtilityPolicy",
]
