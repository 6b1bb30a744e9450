import json

from howhard.router import Decision, Objective, Reason, RoutedResult
from howhard.router.decision import ArmEstimate
from howhard.router.plan_told import Step
from howhard.strategies.base import StrategyResult, Usage
from howhard.training.cli import main
from howhard.training.commands import RouteReport


def planned() -> RoutedResult:
    """A request that drew one sample, and stopped with it."""

    def action(name: str, quality: float) -> ArmEstimate:
        return ArmEstimate(
            name=name,
            quality=quality,
            benefit=0.0,
            benefit_se=0.0,
            cost=10.0,
            latency=None,
            utility=80.0,
            feasible=True,
        )

    first, last = (action("small x1", 0.9), action("small x4", 0.8)), (action("stop with small", 0.95),)
    decision = Decision(
        arm="small x1",
        arms=first,
        utility=80.0,
        propensity=1.0,
        reason=Reason.BEST_UTILITY,
        fallback=False,
        difficulty=0.5,
        objective=Objective(value=100.0),
        policy="utility/1 guard=0 epsilon=0; plan/1",
        router_version="v",
        plan="small 1-4, verifier check",
        fixed_plan="small 4",
    )
    told = (("small x1", "", first, 0.0), ("stop with small", "1 sample of small, verifier 0.97", last, 12.0))
    steps = tuple(
        Step(
            action=name, observation=seen, reason=Reason.BEST_UTILITY, fallback=False, actions=actions, spent=spent,
            elapsed=None,
        )
        for name, seen, actions, spent in told
    )  # fmt: skip
    result = StrategyResult(
        answer="7", text="Answer: 7", usage=Usage(completion_tokens=12, cost=12.0), stopped_because="done"
    )
    return RoutedResult(decision, result, steps)


def test_a_planned_answer_is_told_step_by_step():
    routed = planned()
    text = RouteReport(routed.decision, routed).text()
    assert "  first step of the plan small 1-4, verifier check; the best fixed plan: small 4" in text
    assert "how it went:\n  1. small x1\n  2. 1 sample of small, verifier 0.97: stop with small\n\nAnswer: 7" in text
    plain = json.loads(json.dumps(RouteReport(routed.decision, routed).to_dict(), allow_nan=False))
    assert [step["action"] for step in plain["result"]["steps"]] == ["small x1", "stop with small"]
    assert plain["result"]["steps"][1]["sentence"].startswith("Of what may be done next")


def test_an_arm_that_answered_alone_has_no_steps_to_tell():
    routed = RoutedResult(planned().decision, planned().result)
    assert "how it went" not in RouteReport(routed.decision, routed).text()


def test_the_command_line_can_leave_the_plan_out(capsys):
    assert main(["route", "Use 3, 5 and 7 to make 36.", "--no-plan", "--decide-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"]["plan"] == ""
