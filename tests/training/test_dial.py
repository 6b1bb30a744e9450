"""More numbers of samples than the log was collected for: which arms, of how many samples, and what they did."""

import msgspec
import numpy as np
import pytest

from howhard.strategies import ArmSpec, BestOfNSpec, RewardModelSpec, SingleSpec, TreeSearchSpec, VoteSpec
from howhard.strategies.base import SamplingParams
from howhard.strategies.errors import InputError
from howhard.training import tables
from howhard.training.commands import load_source, train
from howhard.training.derive import best_of_k
from howhard.training.dial import dialled, samples_per_prompt
from howhard.training.log import Log

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 16}
SINGLE = ArmSpec(backend="small", strategy=SingleSpec(**SAMPLING))
BEST = ArmSpec(backend="small", strategy=BestOfNSpec(n=4, verifier="prm", **SAMPLING))
VOTE = ArmSpec(backend="small", strategy=BestOfNSpec(n=8, verifier="vote", equivalence="text", **SAMPLING))
BEAM = ArmSpec(backend="small", strategy=TreeSearchSpec(width=1, branches=2, verifier="prm", **SAMPLING))
STOPS = ArmSpec(backend="small", strategy=BestOfNSpec(n=4, verifier="prm", stop="accept", **SAMPLING))
VERIFIERS = {"prm": RewardModelSpec(model="tiny-prm"), "vote": VoteSpec()}


def by_name(*arms: ArmSpec) -> dict[str, ArmSpec]:
    return {arm.name: arm for arm in arms}


def samples_of(prompt_id: str, n: int, *, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt_id": prompt_id,
            "backend": "small",
            "fingerprint": "f",
            "params": tables.params_json(SamplingParams(**SAMPLING)),
            "sample_index": i,
            "text": "",
            "answer": str(rng.integers(3)),
            "extractor": "final/1",
            "quality": float(rng.integers(2)),
            "verdicts": [{"verifier": "prm", "score": float(rng.random()), "tokens": 1, "cost": 0.5}],
            "finish_reason": "stop",
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "cost": 2.0,
            "prompt_cost": 0.3,
        }
        for i in range(n)
    ]


@pytest.fixture
def log(tmp_path):
    """A log of 12 prompts with 6 samples each, and a search that was run."""
    prompts = [{"prompt_id": f"p{i}", "text": f"add {i}", "group": "g"} for i in range(12)]
    with Log(tmp_path / "log") as opened:
        opened.append_prompts(prompts)
        opened.append_samples([s for i, p in enumerate(prompts) for s in samples_of(p["prompt_id"], 6, seed=i)])
        opened.note(
            arms=[msgspec.to_builtins(a) for a in (SINGLE, BEST)],
            verifiers={n: msgspec.to_builtins(v) for n, v in VERIFIERS.items()},
        )
    return tmp_path / "log"


def test_best_of_n_and_votes_are_dialled_to_powers_of_two_and_to_all_samples():
    specs = by_name(SINGLE, BEST, VOTE)
    arms = dialled(specs, {BEST.name: 20, VOTE.name: 8})
    assert list(arms) == [
        *specs,
        *(f"small/prm_of_{n}" for n in (2, 8, 16, 20)),
        *(f"small/vote_of_{n}" for n in (2, 4)),
    ]
    assert all(name == arm.name for name, arm in arms.items())


def test_only_n_changes():
    arms = dialled(by_name(VOTE), {VOTE.name: 8})
    changed = arms["small/vote_of_2"].strategy
    assert isinstance(changed, BestOfNSpec)
    assert msgspec.structs.replace(changed, n=8) == VOTE.strategy


@pytest.mark.parametrize("arm", [SINGLE, BEAM, STOPS], ids=lambda a: a.name)
def test_arms_that_do_not_follow_from_samples_stay_alone(arm):
    assert dialled(by_name(arm), {arm.name: 64}) == by_name(arm)


def test_two_arms_that_would_share_a_name_do_not_replace_each_other():
    other = ArmSpec(backend="small", strategy=msgspec.structs.replace(VOTE.strategy, n=4, equivalence="numeric"))
    arms = dialled(by_name(VOTE, other), {VOTE.name: 8, other.name: 8})
    assert arms[VOTE.name] == VOTE
    assert arms[other.name] == other
    assert arms["small/vote_of_2"].strategy == msgspec.structs.replace(VOTE.strategy, n=2)


def test_few_poorly_sampled_prompts_do_not_hold_the_dial_back():
    rows = [s for i in range(19) for s in samples_of(f"p{i}", 8)] + samples_of("poor", 2)
    samples = tables.validate_samples(tables.fill("samples", rows))
    assert samples_per_prompt(samples, by_name(SINGLE, BEST, BEAM)) == {BEST.name: 8}


def test_a_log_is_read_with_the_arms_that_its_samples_can_tell_of(log):
    source = load_source(log)
    assert source.matrix.arms == ("small/prm_of_4", "small/single")
    more = source.dialled()
    assert more.matrix.arms == (*(f"small/prm_of_{n}" for n in (2, 4, 6)), "small/single")
    assert set(more.specs) == set(more.matrix.arms)
    assert more.matrix.prompt_ids == source.matrix.prompt_ids
    samples = Log(log).samples().sort_values(["prompt_id", "sample_index"])
    score = np.array([v[0]["score"] for v in samples["verdicts"]]).reshape(12, 6)
    quality = samples["quality"].to_numpy(dtype=float).reshape(12, 6)
    for column, n in enumerate((2, 4, 6)):
        np.testing.assert_allclose(more.matrix.quality[:, column], best_of_k(score, quality, n))
        np.testing.assert_allclose(more.matrix.cost[:, column], 0.3 + n * 2.5)


def test_part_of_a_log_stays_that_part(log):
    some = load_source(log).only(["p3", "p7"]).dialled()
    assert some.matrix.prompt_ids == ("p3", "p7")
    assert set(some.outcomes["prompt_id"]) == {"p3", "p7"}


def test_groups_keep_the_families_that_they_were_read_with(log):
    assert set(load_source(log, families={"g": "kin"}).dialled().matrix.families) == {"kin"}


def test_a_table_without_samples_cannot_be_dialled(world, tmp_path):
    path = tmp_path / "outcomes.parquet"
    world.outcomes.merge(world.prompts.rename(columns={"text": "prompt"}), on="prompt_id").to_parquet(path)
    with pytest.raises(InputError, match="holds no samples"):
        train(path, tmp_path / "router", dial=True, register=False, quiet=True)


def test_a_log_without_best_of_n_has_nothing_to_dial():
    samples = tables.validate_samples(tables.fill("samples", samples_of("p", 4)))
    with pytest.raises(InputError, match="nothing to dial"):
        samples_per_prompt(samples, by_name(SINGLE, BEAM))
