import re
import warnings

import msgspec
import numpy as np
import pytest

from howhard.router import FingerprintWarning, Objective, PlanWarning, Router, ThresholdPolicy
from howhard.router.artifact import pack_arrays, read_artifact, unpack_arrays, write_artifact
from howhard.router.plan import Menu, Plan, plan_name
from howhard.router.policy import UtilityPolicy
from howhard.strategies import LocalSpec, OpenAISpec, VLLMSpec
from howhard.strategies.errors import ArtifactError
from howhard.strategies.spec import PricesSpec

from .made_plans import ARMS, FIXED, MENU, made_plan
from .test_plan import state

RICH = Objective(value=1000.0)


@pytest.fixture
def plan():
    return made_plan(random=1, error=0.1)


def written(trained, directory, *plans: Plan):
    """A router directory with plans."""
    files = dict(trained.files)
    for i, one in enumerate(plans):
        files |= one.pack(plan_name(i))
    manifest = msgspec.structs.replace(trained.manifest, plans=tuple(p.facts for p in plans))
    write_artifact(directory, manifest, files)
    return directory


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("drawn", [(0, 0), (1, 0), (8, 0), (4, 2)])
def test_a_plan_that_was_written_and_read_takes_the_same_steps_to_the_last_bit(plan, trained, tmp_path, drawn):
    manifest, files = read_artifact(written(trained, tmp_path / "router", plan))
    again = Plan.of(manifest.plans[0], files, manifest.arms, "plan_1")
    assert again.facts == plan.facts
    at = state(drawn, n=3)
    ours, theirs = plan.step(at, RICH, UtilityPolicy(guard=0.5)), again.step(at, RICH, UtilityPolicy(guard=0.5))
    assert (ours.index == theirs.index).all()
    for name in ("quality", "cost", "latency", "utilities", "se"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes()
    assert again.pack("plan_1") == plan.pack("plan_1")


def test_a_plan_takes_two_files_of_the_router_directory(plan):
    assert sorted(plan.pack("plan_3")) == ["plan_3.npz", "plan_3.txt"]


@pytest.mark.parametrize("name", ["plan_1.npz", "plan_1.txt"])
def test_a_plan_that_lacks_a_file_is_not_read(plan, name):
    files = plan.pack("plan_1")
    with pytest.raises(ArtifactError, match=f"lacks {name}: train it anew"):
        Plan.of(plan.facts, {n: c for n, c in files.items() if n != name}, ARMS, "plan_1")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("0_base", lambda a: None, "lacks 0_base"),
        ("0_base", lambda a: a[:, :-1], r"0_base is float64 \(2, 20\): it must be float64 \(2, 21\)"),
        ("0_base", lambda a: a.astype(np.float32), "0_base is float32"),
        ("1_error", lambda a: a - 1, "1_error holds a value that is not finite, or below 0"),
        ("2_tails", lambda a: a * np.nan, "2_tails holds a value that is not finite"),
        ("quality_se", lambda a: a[:2, :2], "quality_se is"),
        ("members", lambda a: a * 0, "members holds a value that is not finite, or below 1"),
        ("members", lambda a: a + 1, "holds 16 models, not 24"),
        ("3_leaves_1", lambda a: a[:, 1:], r"3_leaves_1 must be float32 \(leaves"),
        ("3_leaves_1", lambda a: a * np.float32(np.inf), "3_leaves_1 holds a value that is not finite"),
        ("3_leaves_1", lambda a: a[:1], "leaves do not fit their tables"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_damaged_plan_is_not_read(plan, name, change, says):
    files = plan.pack("plan_1")
    arrays = dict(unpack_arrays(files["plan_1.npz"], what="plan_1.npz"))
    changed = change(arrays.pop(name))
    if changed is not None:
        arrays[name] = changed
    with pytest.raises(ArtifactError, match=says):
        Plan.of(plan.facts, {**files, "plan_1.npz": pack_arrays(**arrays)}, ARMS, "plan_1")


def test_a_small_table_is_not_spread_over_many_leaves(plan):
    files = plan.pack("plan_1")
    text = re.sub(rb"leaf_value=.*", b"leaf_value=0 0", files["plan_1.txt"])
    arrays = dict(unpack_arrays(files["plan_1.npz"], what="plan_1.npz"))
    arrays["0_leaves_0"] = arrays["0_leaves_0"][:1]
    with pytest.raises(ArtifactError, match="leaves do not fit their tables"):
        Plan.of(plan.facts, {"plan_1.txt": text, "plan_1.npz": pack_arrays(**arrays)}, ARMS, "plan_1")


def test_a_plan_of_other_arms_or_another_menu_is_not_read(plan):
    files = plan.pack("plan_1")
    with pytest.raises(ArtifactError, match="not of this router's arms and menu"):
        Plan.of(plan.facts, files, ARMS[:2], "plan_1")
    fewer = Menu(legs=MENU.legs, searches=())
    facts = msgspec.structs.replace(plan.facts, menu=fewer, fixed=FIXED[:3], search_seconds=())
    with pytest.raises(ArtifactError):
        Plan.of(facts, files, ARMS, "plan_1")


@pytest.mark.parametrize(
    ("menu", "says"),
    [
        ({"verifier": "check"}, "plan 1 wants verifier 'check'"),
        ({"searches": ("small/beam",)}, "plan 1 runs search 'small/beam', which is not an arm"),
        ({"legs": (msgspec.structs.replace(MENU.legs[0], backend="tiny"), MENU.legs[1])}, "draws from backend 'tiny'"),
    ],
)
def test_a_plan_that_the_manifest_cannot_serve_is_neither_written_nor_read(plan, trained, tmp_path, menu, says):
    facts = msgspec.structs.replace(plan.facts, menu=msgspec.structs.replace(MENU, **menu))
    manifest = msgspec.structs.replace(trained.manifest, plans=(facts,))
    with pytest.raises(ArtifactError, match=says):
        write_artifact(tmp_path / "router", manifest, {**trained.files, **plan.pack("plan_1")})


def test_a_manifest_that_holds_impossible_facts_of_a_plan_is_not_read(plan, trained, tmp_path):
    directory = written(trained, tmp_path / "router", plan)
    manifest = directory / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"unit": 10.0', b'"unit": -1.0'))
    with pytest.raises(ArtifactError, match=r"unit=-1\.0"):
        read_artifact(directory)


def test_a_router_of_before_plans_loads_as_it_was():
    router = Router.load("models/router-quickstart")
    assert router.version == router.manifest.router_version


# ── which plan is used ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(trained, tmp_path):
    """A router with three plans: by log-probabilities and confidences, by log-probabilities, by neither."""
    needs = (("logprobs", "confidence"), ("logprobs",), ())
    return written(trained, tmp_path / "three", *(made_plan(needs=n) for n in needs))


def silent(name: str, **gives: bool):
    """A server's backend that may not tell of its tokens."""
    from howhard.strategies import open_backend

    backend = open_backend(name, spec(name))
    for signal, given in gives.items():
        setattr(backend, f"gives_{signal}", given)
    return backend


def spec(name: str, **settings: object) -> OpenAISpec:
    prices = PricesSpec(prompt=0.0, completion=1.0 if name == "small" else 10.0)
    return OpenAISpec(url="http://127.0.0.1:9", model=f"{name}-model", prices=prices, **settings)  # type: ignore[arg-type]


def test_the_first_plan_is_used_where_all_signals_are_given(three):
    vllm = VLLMSpec(url="http://127.0.0.1:9", model="small-model", prices=PricesSpec(prompt=0.0, completion=1.0))
    for backends in ({}, {"small": spec("small"), "large": spec("large")}, {"small": vllm}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            router = Router.load(three, backends=backends)
        assert router.plan is not None
        assert router.plan.facts.needs == ("logprobs", "confidence")


def test_a_plan_whose_signals_are_missing_says_so_at_load_and_the_next_is_used(three):
    told = {"small": spec("small", max_logprobs=0), "large": spec("large")}
    says = (
        "plan 1 of 3 cannot be used: backend 'small' gives no confidences of tokens, which it needs; plan 2, which "
        "needs log-probabilities, is used"
    )
    with pytest.warns(PlanWarning) as caught:
        router = Router.load(three, backends=told)
    assert str(caught[0].message) == says
    assert caught[0].filename == __file__
    assert router.plan is not None
    assert router.plan.facts.needs == ("logprobs",)
    with pytest.warns(PlanWarning, match="'large' gives no log-probabilities, which it needs; plan 3, without such"):
        router = Router.load(three, backends={"large": spec("large", logprobs=False)})
    assert router.plan is not None
    assert router.plan.facts.needs == ()
    with pytest.warns(PlanWarning, match="plan 3, without such signals, is used"):
        Router.load(three, backends={"small": silent("small", logprobs=False, confidence=False)})


def test_where_no_plan_can_be_used_prompts_alone_decide_and_that_is_said(trained, tmp_path):
    directory = written(trained, tmp_path / "router", made_plan(needs=("logprobs",)))
    with pytest.warns(PlanWarning, match="plan 1 of 1 cannot be used: .*; no plan is used, prompts alone decide"):
        router = Router.load(directory, backends={"small": spec("small", logprobs=False)})
    assert router.plan is None
    assert router.decide("add 4 and 2").arm == "small/single"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"extractor": "final/0"}, r"reads answers differently \(final/1\) than when the plan was learned \(final/0\)"),
        ({"flight": "flight/0"}, r"reads what samples show differently \(flight/1\)"),
    ],
)
def test_a_plan_that_was_learned_from_answers_read_otherwise_is_not_used(trained, tmp_path, facts, says):
    directory = written(trained, tmp_path / "router", made_plan(**facts), made_plan())
    with pytest.warns(PlanWarning, match=f"{says}.*train anew.*plan 2"):
        router = Router.load(directory)
    assert router.plan is not None
    assert router.plan.facts.extractor == "final/1"


def test_a_plan_is_not_used_where_the_caller_does_not_want_it_or_another_policy_decides(three):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = {"small": spec("small", logprobs=False)}
        assert Router.load(three, backends=told, plan=False).plan is None
        thresholds = ThresholdPolicy(arms=(ARMS[0], ARMS[1], ARMS[2]))
        router = Router.load(three, backends=told, policy=thresholds)
    assert router.plan is None
    assert router.plan_policy is None


def test_prices_that_contradict_the_ones_learned_from_are_a_warning_or_an_error(three):
    dear = {"small": msgspec.structs.replace(spec("small"), prices=PricesSpec(prompt=0.0, completion=3.0))}
    with pytest.warns(FingerprintWarning, match=r"'small' at .*completion=3\.0.* instead of .*completion=1\.0"):
        Router.load(three, backends=dear)
    with pytest.raises(ArtifactError, match="train anew"):
        Router.load(three, backends=dear, fingerprint="error")
    local = {"small": LocalSpec(model="tiny-small", prices=PricesSpec(prompt=0.0, completion=1.0))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Router.load(three, backends=local)
        Router.load(three, backends=dear, plan=False)
