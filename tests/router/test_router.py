import asyncio
import json
import shutil
import threading
import warnings

import msgspec
import numpy as np
import pytest

from howhard.router import (
    Context,
    FingerprintWarning,
    Objective,
    ObjectiveWarning,
    Reason,
    Router,
    ThresholdPolicy,
    UtilityPolicy,
)
from howhard.router.artifact import write_artifact
from howhard.router.router import threshold_policy
from howhard.strategies import (
    ArmSpec,
    BestOfNSpec,
    CascadeSpec,
    ChainOfThoughtSpec,
    FirstOfSpec,
    JudgeSpec,
    RegexCheckSpec,
    SingleSpec,
    TreeSearchSpec,
    VLLMSpec,
    VoteSpec,
)
from howhard.strategies.base import Budget, Message, Verdicts
from howhard.strategies.errors import (
    ArtifactError,
    BackendTimeout,
    BackendUnreachable,
    ConfigError,
    InputError,
    NoFeasibleArm,
    PromptTooLong,
)

EASY = "add 4 and 2"
HARD = "prove that the sum of 713, 922, 548, 391 and 877 is the product of two primes, and list them all"


@pytest.fixture
def router(router_dir):
    return Router.load(router_dir)


@pytest.fixture
def served(router_dir, backend):
    """A router with both of its backends, and those backends."""
    backends = {"small": backend("small"), "large": backend("large", answer="the answer is 42")}
    return Router.load(router_dir, backends=backends), backends


# ── deciding ────────────────────────────────────────────────────────────────────────────────────────────────


def test_easy_prompts_go_to_the_cheap_arm_and_hard_ones_to_the_large_model(router):
    assert router.decide(EASY).arm == "small/single"
    assert router.decide(HARD).arm == "large/single"


def test_a_decision_holds_every_arm_and_adds_up(router):
    objective = Objective(value=200, price_of_second=0.0, deadline_quantile=0.95)
    decision = router.decide(EASY, objective)
    assert tuple(a.name for a in decision.arms) == router.arms
    chosen = decision.estimate
    assert decision.utility == pytest.approx(200 * chosen.quality - chosen.cost)
    assert decision.utility == max(a.utility for a in decision.arms if a.utility is not None)
    fallback = next(a for a in decision.arms if a.name == "large/single")
    for arm in decision.arms:
        assert arm.benefit == pytest.approx(arm.quality - fallback.quality)
    assert fallback.benefit_se == 0
    assert decision.difficulty == pytest.approx(1 - decision.arms[0].quality)
    assert decision.propensity == 1
    assert fallback.latency is None
    assert decision.arms[1].latency is not None
    assert decision.router_version == router.version
    assert decision.reason == Reason.BEST_UTILITY


def test_a_decision_reads_well_and_is_plain_json(router):
    decision = router.decide(EASY, context=Context(group="sums", tenant="acme"))
    assert repr(decision).startswith("Decision(arm='small/single', quality=0.9")
    text = decision.explain()
    assert text.startswith("small/single: Of the arms within the limits")
    assert sum(line.startswith("> small/single") for line in text.splitlines()) == 1
    plain = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert plain["reason"] == "best_utility"
    assert "unlike the training prompts" not in text
    strange = msgspec.structs.replace(decision, familiar=False)
    assert "  the prompt is unlike the training prompts" in strange.explain().splitlines()
    held = msgspec.structs.replace(strange, reason=Reason.UNFAMILIAR)
    assert held.explain().count("unlike the training prompts") == 1
    assert plain["group"] == "sums"
    assert plain["objective"]["value"] == 200
    assert [a["name"] for a in plain["arms"]] == list(router.arms)


def test_a_value_that_the_router_was_never_checked_at_warns_once_and_decides(trained, tmp_path):
    facts = msgspec.structs.replace(trained.manifest.training, values=(20.0, 3000.0))
    write_artifact(tmp_path / "router", msgspec.structs.replace(trained.manifest, training=facts), trained.files)
    router = Router.load(tmp_path / "router")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for inside in (20, 3000):
            router.decide(EASY, Objective(value=inside))
        assert not caught
        assert router.decide(EASY, Objective(value=19)).arm == "small/single"
        router.decide(EASY, Objective(value=1e6))
    assert [w.category for w in caught] == [ObjectiveWarning]
    assert "value=19 lies outside of 20 .. 3000" in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence(reason):
    assert reason.sentence[0].isupper()
    assert reason.sentence.endswith(".")


def test_many_prompts_are_decided_as_each_alone(router):
    prompts = [EASY, HARD, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": EASY}]]
    assert [repr(d) for d in router.decide_many(prompts)] == [repr(router.decide(p)) for p in prompts]
    assert router.decide_many([]) == []


def test_only_allowed_arms_are_chosen(router):
    decision = router.decide(EASY, context=Context(allowed={"small/vote_of_4", "large/single"}))
    assert decision.arm in {"small/vote_of_4", "large/single"}
    assert not decision.arms[0].feasible
    only = router.decide(EASY, context=Context(allowed=["large/single"]))
    assert (only.arm, only.reason) == ("large/single", Reason.ONLY_FEASIBLE)
    with pytest.raises(InputError, match="did you mean 'small/single'"):
        router.decide(EASY, context=Context(allowed=["small/singel"]))


def test_hard_limits_that_no_arm_keeps_are_an_error_or_the_fallback(router):
    with pytest.raises(NoFeasibleArm, match=r"max_cost=0\.001: the cheapest, 'small/single'"):
        router.decide(EASY, Objective(value=1, max_cost=0.001))
    decision = router.decide(EASY, Objective(value=200, max_cost=0.001, on_infeasible="fallback"))
    assert (decision.arm, decision.reason, decision.fallback) == ("large/single", Reason.INFEASIBLE, True)
    assert "x small/single" in decision.explain()


def test_an_arm_that_was_never_timed_keeps_no_deadline(router):
    decision = router.decide(HARD, Objective(value=2000, deadline=10))
    assert decision.arm == "small/vote_of_4"
    assert decision.latency is not None
    assert decision.latency <= 10
    assert "latency=" in repr(decision)


def test_exploration_reports_the_chance_it_had_and_repeats_under_a_seed(router_dir):
    policy = UtilityPolicy(epsilon=0.5)
    first, second = (Router.load(router_dir, policy=policy, seed=7) for _ in range(2))
    decisions = [first.decide(EASY) for _ in range(40)]
    assert [d.arm for d in decisions] == [second.decide(EASY).arm for _ in range(40)]
    for d in decisions:
        assert d.propensity == pytest.approx(0.5 / 3 + (0.5 if d.arm == "small/single" else 0))
    assert {d.reason for d in decisions} == {Reason.EXPLORED, Reason.BEST_UTILITY}


def test_another_policy_or_objective_takes_the_place_of_the_manifests(router_dir):
    policy = ThresholdPolicy(arms=("small/single", "small/vote_of_4", "large/single"), hard=0.5)
    router = Router.load(router_dir, policy=policy, objective=Objective(value=1))
    assert (router.decide(EASY).arm, router.decide(EASY).reason) == ("small/single", Reason.EASY)
    assert router.decide(HARD).arm == "large/single"
    assert router.decide(HARD).objective.value == 1
    assert router.decide(HARD).policy.startswith("threshold/1")


def test_an_empty_prompt_is_refused(router):
    for prompt in ("", "   ", [], [Message("user", " ")]):
        with pytest.raises(InputError, match="empty"):
            router.decide(prompt)


def test_threads_may_decide_at_once(router):
    found: list[str] = []

    def work():
        found.extend(router.decide(p).arm for p in (EASY, HARD) * 20)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found.count("small/single") == found.count("large/single") == 80


def test_a_prompt_that_fills_a_context_never_goes_there(router_dir, backend):
    small = backend("small", context=200, tokens_per_prompt=200)
    router = Router.load(router_dir, backends={"small": small, "large": backend("large", context=100_000)})
    assert router.decide(EASY).arm == "small/single"  # so short that nothing needs counting
    decision = router.decide(EASY + " please" * 10)
    assert decision.arm == "large/single"
    assert [a.feasible for a in decision.arms] == [False, False, True]


def test_a_prompt_that_fits_nowhere_is_too_long_whatever_the_objective(router_dir, backend):
    backends = {n: backend(n, context=200, tokens_per_prompt=200) for n in ("small", "large")}
    router = Router.load(router_dir, backends=backends)
    for on_infeasible in ("error", "fallback"):
        with pytest.raises(PromptTooLong, match=r"fills the context of every backend .*'small' holds 200 tokens"):
            router.decide(EASY + " please" * 10, Objective(value=1, on_infeasible=on_infeasible))


def test_the_fallback_is_never_an_arm_that_is_not_allowed(router):
    objective = Objective(value=200, max_cost=0.001, on_infeasible="fallback")
    with pytest.raises(NoFeasibleArm, match="max_cost"):
        router.decide(EASY, objective, context=Context(allowed=["small/single"]))
    allowed = Context(allowed=["small/single", "large/single"])
    assert router.decide(EASY, objective, context=allowed).arm == "large/single"


# ── loading ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="nothing-here: it is not a directory"):
        Router.load(tmp_path / "nothing-here")
    with pytest.raises(ArtifactError, match="not an address of a registered router"):
        Router.load("models:/howhard-router")


def test_a_shipped_router_is_found_by_name_from_anywhere(router_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = shutil.copytree(router_dir, tmp_path / "package" / "router-quickstart")

    def path(name):
        if name != "router-quickstart":
            raise FileNotFoundError(name)
        return shipped

    monkeypatch.setattr("howhard.models.path", path)
    for source in ("models/router-quickstart", "router-quickstart"):
        assert Router.load(source).source == str(shipped)
    with pytest.raises(ArtifactError, match="no router at models/other"):
        Router.load("models/other")


def test_backends_and_verifiers_that_the_router_does_not_know_are_refused(router_dir, backend):
    with pytest.raises(InputError, match="did you mean 'small'"):
        Router.load(router_dir, backends={"smal": backend("small")})
    with pytest.raises(InputError, match="verifiers: 'votes'"):
        Router.load(router_dir, verifiers={"votes": object()})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="fingerprint="):
        Router.load(router_dir, fingerprint="shrug")  # type: ignore[arg-type]


# ── answering ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_chosen_arm_answers_and_is_paid_for(served):
    router, backends = served
    routed = asyncio.run(router.run(EASY))
    assert routed.decision.arm == "small/single"
    assert (routed.text, routed.answer) == ("the answer is 7", "7")
    assert routed.result.usage.cost == 4
    assert backends["large"].calls["generate"] == 0


def test_best_of_n_is_run_with_the_manifests_verifier(served):
    router, _ = served
    routed = asyncio.run(router.run(EASY, context=Context(allowed=["small/vote_of_4"])))
    assert routed.answer == "7"
    assert routed.result.usage.completion_tokens == 16


def test_a_backend_that_fails_is_replaced_by_the_next_best_and_the_decision_says_so(router_dir, backend):
    small = backend("small", fails=BackendUnreachable("nobody is there"))
    router = Router.load(router_dir, backends={"small": small, "large": backend("large")})
    routed = asyncio.run(router.run(EASY))
    decision = routed.decision
    assert (decision.arm, decision.reason, decision.fallback) == ("large/single", Reason.BACKEND_FAILED, True)
    assert decision.failed == ("small/single",)
    assert small.calls["generate"] == 1  # the other arm of the same backend was not tried
    assert "failed first: small/single" in decision.explain()


def test_after_a_failure_the_fallback_still_serves_what_no_arm_can_within_the_limits(router_dir, backend):
    small = backend("small", fails=BackendUnreachable("nobody is there"))
    router = Router.load(router_dir, backends={"small": small, "large": backend("large")})
    objective = Objective(value=200, max_cost=20, on_infeasible="fallback")
    assert router.decide(EASY, objective).arm == "small/single"
    assert asyncio.run(router.run(EASY, objective)).decision.arm == "large/single"
    with pytest.raises(BackendUnreachable):
        asyncio.run(router.run(EASY, objective.but(on_infeasible="error")))


@pytest.mark.parametrize("on_infeasible", ["error", "fallback"])
def test_when_every_backend_fails_the_first_failure_is_raised(router_dir, backend, on_infeasible):
    backends = {
        "small": backend("small", raises=BackendUnreachable("small is away")),
        "large": backend("large", raises=BackendTimeout("large is slow")),
    }
    router = Router.load(router_dir, backends=backends)
    with pytest.raises(BackendUnreachable, match="small is away") as caught:
        asyncio.run(router.run(EASY, Objective(value=200, on_infeasible=on_infeasible)))
    assert any("large is slow" in note for note in caught.value.__notes__)


def test_a_prompt_that_turns_out_too_long_goes_to_the_next_backend(router_dir, backend):
    small = backend("small", raises=PromptTooLong("512 tokens is all I hold"))
    router = Router.load(router_dir, backends={"small": small, "large": backend("large")})
    assert asyncio.run(router.run(EASY)).decision.failed == ("small/single",)


def test_a_served_backend_must_be_handed_over(router_dir):
    with pytest.raises(InputError, match=r"backend 'small' \(vllm, 'small-model'\) is served elsewhere"):
        asyncio.run(Router.load(router_dir).run(EASY))


def test_an_arm_of_an_imported_table_is_chosen_but_not_run(trained, tmp_path):
    manifest = msgspec.structs.replace(trained.manifest, specs=(None,) * 3)
    write_artifact(tmp_path / "imported", manifest, trained.files)
    router = Router.load(tmp_path / "imported")
    assert router.decide(EASY).arm == "small/single"
    with pytest.raises(InputError, match="learned from an imported table"):
        asyncio.run(router.run(EASY))


def test_another_backend_than_in_training_is_told_once_or_refused(router_dir, backend):
    other = {"small": backend("small", fingerprint="other-weights"), "large": backend("large")}
    router = Router.load(router_dir, backends=other)
    with pytest.warns(FingerprintWarning, match="fingerprint other-weights instead of small-weights"):
        asyncio.run(router.run(EASY))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(router.run(EASY))
    strict = Router.load(router_dir, backends=other, fingerprint="error")
    with pytest.raises(ArtifactError, match="not the one that router"):
        asyncio.run(strict.run(EASY))
    assert other["small"].calls["generate"] == 2


def test_other_prices_than_in_training_are_told_too(router_dir, backend):
    cheap = backend("small")
    cheap.prices = backend("large").prices
    router = Router.load(router_dir, backends={"small": cheap, "large": backend("large")})
    with pytest.warns(FingerprintWarning, match="Prices"):
        asyncio.run(router.run(EASY))


def test_a_budget_reaches_the_strategy(served):
    router, _ = served
    with pytest.raises(InputError, match="does not hold one token"):
        asyncio.run(router.run(EASY, budget=Budget(tokens=1)))


def test_the_sync_twin_works_inside_and_outside_of_a_running_loop(served):
    router, backends = served
    assert router.run_sync(EASY).answer == "7"

    async def inside():
        assert router.run_sync(HARD).answer == "42"
        await router.close()

    asyncio.run(inside())
    assert not any(t.name == "howhard-run-sync" for t in threading.enumerate())
    assert not backends["small"].closed  # handed over: the caller's to close


def test_a_router_closes_what_it_opened(router_dir, backend, monkeypatch):
    opened = {}

    def open_scripted(name, spec):
        opened[name] = backend(name)
        return opened[name]

    monkeypatch.setattr("howhard.router.router.open_backend", open_scripted)

    async def use():
        spec = VLLMSpec(url="http://127.0.0.1:1", model="small-model")
        async with Router.load(router_dir, backends={"small": spec}) as router:
            await router.run(EASY)
        assert opened["small"].closed
        assert router.decide(EASY).arm == "small/single"

    asyncio.run(use())


# ── arms of several backends ────────────────────────────────────────────────────────────────────────────────


STAGES = (
    {"strategy": {"kind": "best_of_n", "n": 2, "verifier": "first"}, "accept": "score >= 0.9"},
    {"strategy": {"kind": "best_of_n", "n": 2, "verifier": "judge"}, "backend": "large"},
)


@pytest.fixture
def staged(trained, tmp_path):
    """A router whose cascade has `large` answer in its second stage, and nowhere else; `small` judges."""
    cascade = msgspec.convert({"kind": "cascade", "stages": STAGES}, CascadeSpec)
    specs = [ArmSpec(backend="small", strategy=s) for s in (SingleSpec(), BestOfNSpec(n=2, verifier="strict"), cascade)]
    verifiers = {
        "vote": VoteSpec(),
        "shape": RegexCheckSpec(pattern="4"),
        "first": FirstOfSpec(verifiers=("shape", "vote")),
        "judge": JudgeSpec(backend="small", samples=1),
        "strict": JudgeSpec(backend="large", samples=1),
    }
    manifest = msgspec.structs.replace(
        trained.manifest,
        arms=tuple(s.name for s in specs),
        specs=tuple(specs),
        fallback=specs[2].name,
        verifiers=verifiers,
    )
    write_artifact(tmp_path / "staged", manifest, trained.files)
    return tmp_path / "staged", Context(allowed=[specs[2].name])


def test_a_backend_of_a_later_stage_can_be_handed_over_and_is_checked_as_the_first_one(staged, backend):
    directory, cascade = staged
    backends = {
        "small": backend("small", answer="3"),
        "large": backend("large", answer="4", fingerprint="other-weights"),
    }
    router = Router.load(directory, backends=backends)
    with pytest.warns(FingerprintWarning, match="backend 'large' is not the one"):
        routed = asyncio.run(router.run(EASY, context=cascade))
    assert routed.answer == "4"
    strict = Router.load(directory, backends=backends, fingerprint="error")
    with pytest.raises(ArtifactError, match="backend 'large' is not the one"):
        asyncio.run(strict.run(EASY, context=cascade))
    assert asyncio.run(strict.run(EASY, context=Context(allowed=["small/single"]))).answer == "3"


def test_the_backend_of_a_judge_is_opened_for_it_and_may_be_handed_over(staged, backend):
    directory, _ = staged
    backends = {"small": backend("small", answer="3"), "large": backend("large", answer="4")}
    routed = asyncio.run(
        Router.load(directory, backends=backends).run(EASY, context=Context(allowed=["small/strict_of_2"]))
    )
    assert [c.score for c in routed.result.candidates] == [0.75, 0.75]
    assert backends["large"].calls["generate"] == 1


def test_stages_and_judges_of_a_closed_router_are_opened_again(staged, backend, monkeypatch):
    directory, cascade = staged
    opened = []

    def open_scripted(name, spec):
        opened.append(backend(name, answer={"small": "3", "large": "4"}[name]))
        return opened[-1]

    monkeypatch.setattr("howhard.router.router.open_backend", open_scripted)
    server = VLLMSpec(url="http://127.0.0.1:1", model="model")

    async def use():
        router = Router.load(directory, backends={"small": server, "large": server})
        for _ in range(2):
            assert (await router.run(EASY, context=cascade)).answer == "4"
            served = [b for b in opened if not b.closed]
            assert {b.name: b.calls["generate"] for b in served} == {"small": 2, "large": 1}
            await router.close()
        assert len(opened) == 4
        assert all(b.closed for b in opened)

    asyncio.run(use())


def test_a_verifier_that_is_handed_over_takes_its_place_in_others_too(staged, backend):
    class Sure:
        name, sound, prices = "shape", False, None

        async def score(self, request, candidates, *, partial=False):
            return Verdicts((1.0,) * len(candidates))

    directory, cascade = staged
    backends = {"small": backend("small"), "large": backend("large")}
    router = Router.load(directory, backends=backends, verifiers={"shape": Sure()})
    assert asyncio.run(router.run(EASY, context=cascade)).answer == "7"
    assert backends["large"].calls["generate"] == 0


# ── streaming ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chain_of_thought_is_streamed_too(trained, tmp_path, backend):
    specs = [
        ArmSpec(backend="small", strategy=s)
        for s in (ChainOfThoughtSpec(template=None), ChainOfThoughtSpec(), SingleSpec())
    ]
    manifest = msgspec.structs.replace(
        trained.manifest, arms=tuple(s.name for s in specs), specs=tuple(specs), fallback=specs[2].name
    )

    async def read(directory):
        router = Router.load(directory, backends={"small": backend("small", answer="the answer is 7")})
        stream = router.stream(EASY, context=Context(allowed=["small/think"]))
        return [delta.text async for delta in stream], (await stream.result()).text

    write_artifact(tmp_path / "thinking", manifest, trained.files)
    pieces, text = asyncio.run(read(tmp_path / "thinking"))
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_a_single_pass_is_streamed_piece_by_piece(served):
    router, _ = served

    async def read():
        stream = router.stream(EASY)
        assert stream.decision is None
        pieces = [delta.text async for delta in stream]
        return pieces, stream.decision, await stream.result()

    pieces, decision, routed = asyncio.run(read())
    assert decision is not None
    assert pieces == ["the", " answer", " is", " 7"]
    assert decision is routed.decision
    assert (decision.arm, routed.answer) == ("small/single", "7")


def test_other_strategies_yield_their_answer_once(served):
    router, _ = served

    async def read():
        stream = router.stream(EASY, context=Context(allowed=["small/vote_of_4"]))
        return [delta.text async for delta in stream], await stream.result()

    pieces, routed = asyncio.run(read())
    assert pieces == [routed.text] == ["the answer is 7"]


def test_the_result_can_be_had_without_iterating_or_after_stopping_early(served):
    router, _ = served

    async def read():
        whole = await router.stream(EASY).result()
        stream = router.stream(EASY)
        async for _ in stream:
            break
        return whole, await stream.result(), await stream.result()

    whole, after, again = asyncio.run(read())
    assert whole.text == after.text == again.text == "the answer is 7"


def test_a_backend_that_fails_before_the_first_piece_is_replaced(router_dir, backend):
    small = backend("small", fails=BackendUnreachable("nobody is there"))
    router = Router.load(router_dir, backends={"small": small, "large": backend("large")})

    async def read():
        stream = router.stream(EASY)
        return [delta.text async for delta in stream], await stream.result()

    pieces, routed = asyncio.run(read())
    assert "".join(pieces) == "the answer is 7"
    assert (routed.decision.arm, routed.decision.failed) == ("large/single", ("small/single",))


def test_a_backend_that_fails_after_the_first_piece_is_not_replaced(router_dir, backend):
    small = backend("small", fails=BackendTimeout("gone"), pieces_before=2)
    large = backend("large")
    router = Router.load(router_dir, backends={"small": small, "large": large})

    async def read():
        stream = router.stream(EASY)
        pieces = []
        with pytest.raises(BackendTimeout, match="gone"):
            async for delta in stream:
                pieces.append(delta.text)  # noqa: PERF401  # what came before the failure counts
        with pytest.raises(InputError, match="start another"):
            await stream.result()
        return pieces

    assert asyncio.run(read()) == ["the", " answer"]
    assert large.calls["generate"] == 0


def test_a_closed_stream_has_no_result(served):
    router, _ = served

    async def read():
        stream = router.stream(EASY)
        async for _ in stream:
            break
        await stream.aclose()
        await stream.result()

    with pytest.raises(InputError, match="closed"):
        asyncio.run(read())


# ── from MLflow ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registered_router_is_loaded_and_its_alias_resolved_once(router_dir, tmp_path, monkeypatch):
    """Against an MLflow that is no more than a folder: what is asked of it is what counts."""
    import mlflow
    import mlflow.artifacts

    asked: list[str] = []

    class Client:
        def __init__(self, **_):
            pass

        def get_model_version_by_alias(self, name, alias):
            asked.append(f"{name}@{alias}")
            return type("Version", (), {"version": "3"})()

        def get_model_version_download_uri(self, name, version):
            return f"mlflow-artifacts:/{name}/{version}"

    def download_artifacts(*, artifact_uri, dst_path, tracking_uri):
        asked.append(artifact_uri)
        return str(shutil.copytree(router_dir, f"{dst_path}/router"))

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download_artifacts)
    router = Router.load("models:/howhard-router@champion")
    assert router.source == "models:/howhard-router/3"
    assert asked == ["howhard-router@champion", "mlflow-artifacts:/howhard-router/3"]
    assert router.decide(EASY).arm == "small/single"


def test_an_unknown_alias_and_a_missing_mlflow_are_said(monkeypatch):
    import sys

    import mlflow
    from mlflow.exceptions import MlflowException

    class Client:
        def __init__(self, **_):
            raise MlflowException("no such alias")

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    with pytest.raises(ArtifactError, match=r"was not found in MLflow at .*no such alias.*howhard promote"):
        Router.load("models:/howhard-router@champion")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="pip install 'howhard\\[train\\]'"):
        Router.load("models:/howhard-router@champion")


def test_utilities_that_are_not_known_are_none(router):
    decision = router.decide(EASY, Objective(value=200, price_of_second=1.0))
    assert decision.arms[2].utility is None
    assert not decision.arms[2].feasible
    assert decision.utility is not None
    assert np.isfinite(decision.utility)
    json.dumps(decision.to_dict(), allow_nan=False)


def test_a_named_policy_takes_the_routers_own_arms(router_dir, trained):
    manifest = msgspec.structs.replace(
        trained.manifest,
        arms=("a/single", "a/best_of_2", "a/best_of_8", "a/beam_2x2", "b/best_of_4"),
        specs=(
            ArmSpec(backend="a", strategy=SingleSpec()),
            ArmSpec(backend="a", strategy=BestOfNSpec(n=2)),
            ArmSpec(backend="a", strategy=BestOfNSpec(n=8)),
            ArmSpec(backend="a", strategy=TreeSearchSpec(width=2, branches=2)),
            ArmSpec(backend="b", strategy=BestOfNSpec(n=4)),
        ),
        reference="a/single",
        fallback="a/single",
    )
    assert threshold_policy(manifest).arms == ("a/single", "a/best_of_2", "a/beam_2x2")
    assert Router.load(router_dir, policy="utility").policy == trained.manifest.policy


def test_a_named_policy_that_cannot_be_is_an_error(router_dir):
    with pytest.raises(ConfigError, match="it needs a best-of-N and a tree search of the same backend"):
        Router.load(router_dir, policy="threshold")
    with pytest.raises(ConfigError, match="policy 'utilty'; did you mean 'utility'"):
        Router.load(router_dir, policy="utilty")
