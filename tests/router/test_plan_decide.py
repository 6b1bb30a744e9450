import json

import msgspec
import numpy as np
import pytest

from howhard.router import Context, Objective, Reason, Router, UtilityPolicy
from howhard.router.plan import START, Draw
from howhard.strategies.errors import NoFeasibleArm, PromptTooLong

from .made_plans import made_plan
from .test_plan_artifact import written

EASY = "add 4 and 2"
HARD = "prove that the sum of 713, 922, 548, 391 and 877 is the product of two primes, and list them all"
BETTER = {(START, Draw(0, 8)): (0.9, 80.0, 2.0), (START, Draw(1, 2)): (0.95, 300.0, 1.0)}


@pytest.fixture
def planned(trained, tmp_path):
    return written(trained, tmp_path / "router", made_plan(BETTER, error=0.1, guard=1.0))


@pytest.fixture
def router(planned):
    return Router.load(planned)


def test_deciding_is_the_plans_step_where_nothing_is_drawn_yet(router):
    decision = router.decide(EASY, Objective(value=1000))
    state = router.plan.start(router.estimate([EASY]))
    steps = router.plan.step(state, Objective(value=1000), router.plan_policy)
    assert steps.actions[int(steps.index[0])] == Draw(0, 8)
    assert decision.arm == "small x8"
    assert [a.name for a in decision.arms][:2] == ["small x1", "small x2"]
    assert (decision.quality, decision.cost, decision.latency) == (0.9, 80.0, pytest.approx(4.0))
    assert decision.utility == pytest.approx(1000 * 0.9 - 80)
    assert decision.estimate.benefit == pytest.approx(0.4)
    assert decision.estimate.benefit_se == pytest.approx(0.1)
    assert (decision.reason, decision.fallback, decision.propensity) == (Reason.BEST_UTILITY, False, 1.0)
    assert decision.difficulty == router.decide(EASY, context=Context(allowed=router.arms)).difficulty
    assert router.decide(EASY, Objective(value=10_000)).arm == "large x2"


def test_a_decision_of_a_plan_reads_well_and_is_plain_json(router):
    decision = router.decide(EASY, Objective(value=1000))
    assert decision.plan == "small 1-8, large 1-2, small/vote_of_4"
    assert decision.fixed_plan == "small 4"
    assert decision.policy == "utility/1 guard=1 epsilon=0; plan/1"
    lines = decision.explain().splitlines()
    assert lines[0].startswith("small x8: Of what may be done next within the limits")
    assert lines[2] == "  first step of the plan small 1-8, large 1-2, small/vote_of_4; the best fixed plan: small 4"
    assert lines[3].split()[0] == "first"
    assert sum(line.startswith("> small x8") for line in lines) == 1
    plain = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert (plain["arm"], plain["plan"], plain["sentence"]) == ("small x8", decision.plan, decision.sentence)
    assert repr(decision).startswith("Decision(arm='small x8', quality=0.90")


def test_the_plans_own_guard_keeps_to_the_fixed_plan(router):
    decision = router.decide(EASY, Objective(value=200))
    assert (decision.arm, decision.reason, decision.fallback) == ("small x4", Reason.GUARDED, True)
    assert "not surely enough to leave the best fixed plan" in decision.explain()


def test_unfamiliar_prompts_go_the_best_fixed_plans_way(router, monkeypatch):
    predict = router.predictor.predict_texts

    def strange(texts):
        estimates = predict(texts)
        from dataclasses import replace

        return replace(estimates, familiar=np.array(["sum" not in t for t in texts]))

    monkeypatch.setattr(type(router.predictor), "predict_texts", lambda self, texts: strange(texts))
    decision = router.decide(HARD, Objective(value=1000))
    assert (decision.arm, decision.reason, decision.familiar) == ("small x4", Reason.UNFAMILIAR, False)
    assert "so the best fixed plan serves it" in decision.explain()
    assert "the best fixed plan: small 4" in decision.explain()
    assert [d.arm for d in router.decide_many([EASY, HARD], Objective(value=1000))] == ["small x8", "small x4"]


def test_many_prompts_are_decided_as_each_alone(router):
    prompts = [EASY, HARD, [{"role": "user", "content": EASY}]]
    together = router.decide_many(prompts, Objective(value=1000))
    assert [d.to_dict() for d in together] == [router.decide(p, Objective(value=1000)).to_dict() for p in prompts]
    assert router.decide_many([]) == []


def test_a_caller_who_names_arms_gets_one_of_them(router):
    decision = router.decide(EASY, context=Context(allowed=["small/single", "large/single"]))
    assert decision.arm == "small/single"
    assert decision.plan == decision.fixed_plan == ""
    context = Context(group="sums", tenant="acme")
    decision = router.decide(EASY, context=context)
    assert decision.plan
    assert decision.context == context


def test_limits_hold_for_what_is_done_first(router):
    assert router.decide(EASY, Objective(value=1000, max_cost=50.0)).arm != "small x8"
    assert router.decide(EASY, Objective(value=1000, deadline=3.0)).arm != "small x8"
    with pytest.raises(NoFeasibleArm, match="no arm fits max_cost=1"):
        router.decide(EASY, Objective(value=1000, max_cost=1.0))


def test_exploration_draws_among_first_actions_and_repeats_under_a_seed(planned):
    first, second = (Router.load(planned, policy=UtilityPolicy(epsilon=0.5), seed=3) for _ in range(2))
    decisions = [first.decide(EASY, Objective(value=1000)) for _ in range(40)]
    assert [d.arm for d in decisions] == [second.decide(EASY, Objective(value=1000)).arm for _ in range(40)]
    assert {d.reason for d in decisions} == {Reason.EXPLORED, Reason.BEST_UTILITY}
    for d in decisions:
        assert d.propensity == pytest.approx(0.5 / len(d.arms) + (0.5 if d.arm == "small x8" else 0))


def test_a_backend_that_cannot_take_the_prompt_is_not_drawn_from(planned, backend):
    small = backend("small", context=60)
    small.tokens_per_prompt = 60
    router = Router.load(planned, backends={"small": small, "large": backend("large")})
    words = " ".join(["word"] * 60)
    decisions = router.decide_many([EASY, words], Objective(value=1000))
    small.tokens_per_prompt = 5
    assert {a.name for a in decisions[1].arms} == {"large x1", "large x2"}
    assert decisions[1].fixed_plan == "large 1"
    assert router.decide(EASY, Objective(value=1000)).arm == "small x8"
    full = {name: backend(name, context=60) for name in ("small", "large")}
    for one in full.values():
        one.tokens_per_prompt = 60
    router = Router.load(planned, backends=full)
    with pytest.raises(PromptTooLong, match="'small' holds 60 tokens"):
        router.decide(words)


def test_a_plan_that_is_never_left_says_so(trained, tmp_path):
    router = Router.load(written(trained, tmp_path / "router", made_plan(BETTER, guard=None)))
    decision = router.decide(EASY, Objective(value=1000))
    assert (decision.arm, decision.reason) == ("small x4", Reason.GUARDED)
    assert decision.policy == "keeps to the fixed plan; plan/1"
    assert router.plan_policy is None
    wary = Router.load(written(trained, tmp_path / "wary", made_plan(BETTER, trusted=(0.0, 50.0))))
    assert wary.decide(EASY, Objective(value=1000)).policy == "keeps to the fixed plan; plan/1"
    assert wary.decide(EASY, Objective(value=400)).policy == "utility/1 guard=0 epsilon=0; plan/1"
    assert msgspec.json.encode(router.manifest.plans[0].guard) == b"null"
