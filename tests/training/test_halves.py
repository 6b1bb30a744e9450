"""Two halves of the samples: what one knows, the other pays."""

import numpy as np
import pytest

from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec, TreeSearchSpec, VoteSpec
from howhard.strategies.base import SamplingParams
from howhard.training import tables
from howhard.training.halves import halves
from howhard.training.matrix import OutcomeMatrix

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 16}
SPECS = {
    spec.name: spec
    for spec in (
        ArmSpec(backend="small", strategy=SingleSpec(**SAMPLING)),
        ArmSpec(backend="small", strategy=BestOfNSpec(n=4, verifier="vote", **SAMPLING)),
        ArmSpec(backend="small", strategy=TreeSearchSpec(width=1, branches=2, verifier="prm", **SAMPLING)),
    )
}
QUALITY = {"p0": [1, 0, 1, 0], "p1": [0, 0, 1, 1]}


@pytest.fixture
def pair():
    prompts = tables.fill("prompts", [{"prompt_id": i, "text": "t", "group": "g"} for i in QUALITY])
    samples = tables.fill(
        "samples",
        [
            {
                "prompt_id": prompt_id,
                "backend": "small",
                "fingerprint": "f",
                "params": tables.params_json(SamplingParams(**SAMPLING)),
                "sample_index": i,
                "text": "",
                "answer": "x",
                "extractor": "final/1",
                "quality": float(q),
                "finish_reason": "stop",
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "cost": 2.0,
            }
            for prompt_id, qualities in QUALITY.items()
            for i, q in enumerate(qualities)
        ],
    )
    n, arms = len(QUALITY), tuple(sorted(SPECS))
    matrix = OutcomeMatrix(
        prompt_ids=tuple(QUALITY),
        texts=("t",) * n,
        groups=("g",) * n,
        families=("g",) * n,
        arms=arms,
        quality=np.ones((n, len(arms))),
        cost=np.full((n, len(arms)), 9.0),
        tokens=np.ones((n, len(arms))),
        latency=np.full((n, len(arms)), np.nan),
        draws=np.ones((n, len(arms))),
    )
    return matrix, halves(samples, prompts, matrix, SPECS, {"vote": VoteSpec()})


def test_each_half_holds_the_means_of_its_own_samples(pair):
    matrix, (even, odd) = pair
    single = matrix.arms.index("small/single")
    assert even.quality[:, single].tolist() == [1.0, 0.5]
    assert odd.quality[:, single].tolist() == [0.0, 0.5]


def test_what_a_half_cannot_give_is_never_worth_taking(pair):
    matrix, parts = pair
    for arm in ("small/vote_of_4", "small/beam_1x2"):
        for part in parts:
            assert part.quality[:, matrix.arms.index(arm)].tolist() == [0.0, 0.0]
