"""Logs whose best plan is known: in memory as plans read them, and on disk as a collection would leave them."""

from collections.abc import Callable

import msgspec
import numpy as np
import pandas as pd
import pytest

from howhard.router.estimates import Estimates
from howhard.router.flight import Draws
from howhard.router.plan import Leg, Menu
from howhard.strategies import ArmSpec, BestOfNSpec, ExactCheckSpec, RewardModelSpec, SingleSpec, VoteSpec
from howhard.strategies.base import SamplingParams
from howhard.training import tables
from howhard.training.log import Log
from howhard.training.plans.trajectories import SampleLog, Samples

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64}
VERIFIERS = {"check": ExactCheckSpec(), "prm": RewardModelSpec(model="tiny-prm"), "vote": VoteSpec()}

PRICES = {"small": 1.0, "large": 6.0}


def _samples(right: np.ndarray, rng: np.random.Generator, *, cost: float, sound: bool) -> Samples:
    """Samples that are right or not; right ones agree, wrong ones hardly ever do. A sample has ten tokens."""
    n, k = right.shape
    draws = Draws(
        complete=np.ones((n, k), dtype=bool),
        label=np.where(right, 0, rng.integers(1, 1000, (n, k))),
        score=right.astype(float) if sound else np.full((n, k), np.nan),
        proven=right if sound else np.zeros((n, k), dtype=bool),
        logprob=np.where(right, -0.1, -0.2),
        confidence=np.full((n, k), np.nan),
        tokens=np.full((n, k), 10.0),
    )
    return Samples(
        draws=draws,
        quality=right.astype(float),
        cost=np.full((n, k), cost),
        prompt_cost=np.zeros(n),
        reading_cost=np.zeros(n),
        tokens=np.full((n, k), 10.0),
        prompt_tokens=np.zeros(n),
    )


def _log_of(
    chances: np.ndarray,
    *,
    stages: tuple[int, ...] = (1, 2, 3, 4, 5, 6),
    large: np.ndarray | None = None,
    large_cost: float = 5.0,
    sound: bool = True,
    give_up: bool = False,
    seed: int = 0,
) -> SampleLog:
    """Prompts whose samples are right with `chances` (n,), at 1 each; those of the large backend with `large`."""
    rng = np.random.default_rng(seed)

    def drawn(p: np.ndarray, k: int) -> np.ndarray:
        return rng.random((len(p), k)) < p[:, None]

    legs = [Leg(backend="small", stages=stages)]
    samples = [_samples(drawn(chances, stages[-1]), rng, cost=1.0, sound=sound)]
    if large is not None:
        legs.append(Leg(backend="large", stages=(1, 2)))
        samples.append(_samples(drawn(large, 2), rng, cost=large_cost, sound=sound))
    return SampleLog(
        menu=Menu(legs=tuple(legs), verifier="check" if sound else None, give_up=give_up, ahead=1),
        prompt_ids=tuple(f"p{i:04d}" for i in range(len(chances))),
        legs=tuple(samples),
        searches=(),
        left_out=0,
    )


def _told(quality: np.ndarray) -> Estimates:
    """What a predictor says of prompts, of one arm: `quality` (n,)."""
    q = quality[:, None]
    arm = "small/single"
    return Estimates(
        arms=(arm,), quality=q, benefit_se=np.zeros_like(q), cost=np.ones_like(q), fallback=arm, reference=arm
    )


def _rows(prompt_id: str, backend: str, right: np.ndarray, *, price: float, rng: np.random.Generator) -> list[dict]:
    """Sample rows as a collection logs them; answer 7 is right, and the sound verifier `check` accepts it alone."""
    wrong = rng.integers(8, 1000, len(right))
    return [
        {
            "prompt_id": prompt_id, "backend": backend, "fingerprint": f"f-{backend}",
            "params": tables.params_json(SamplingParams(**SAMPLING)), "sample_index": i,
            "text": f"The answer is {7 if ok else wrong[i]}.", "answer": "7" if ok else str(wrong[i]),
            "extractor": "final/1", "quality": float(ok),
            "verdicts": [
                {"verifier": "check", "score": float(ok), "tokens": 0, "cost": 0.0},
                {"verifier": "prm", "score": 0.8 if ok else 0.4, "tokens": 12, "cost": 0.5},
            ],
            "mean_logprob": -0.1 if ok else -0.3, "finish_reason": "stop", "prompt_tokens": 3,
            "completion_tokens": 10, "cost": 10 * price, "prompt_cost": price,
        }
        for i, ok in enumerate(right)
    ]  # fmt: skip


ARMS = tuple(
    ArmSpec(backend=backend, strategy=strategy)
    for backend in ("small", "large")
    for strategy in (SingleSpec(**SAMPLING), BestOfNSpec(n=4, verifier="check", **SAMPLING))
)


def _prompts(n: int) -> list[dict]:
    """Half are easy words, half are hopeless, in two groups that the text tells apart."""
    kinds = ("open", "hopeless")
    return [
        {"prompt_id": f"p{i:04d}", "text": f"{kinds[i % 2]} question number {i * 37 % 1009}", "group": kinds[i % 2]}
        for i in range(n)
    ]


def _write(path, n: int = 160, k: int = 8) -> None:
    """A log of two backends with k samples each; arms were timed on the first ten prompts."""
    rng = np.random.default_rng(0)
    prompts = _prompts(n)
    samples, outcomes = [], []
    for i, prompt in enumerate(prompts):
        for (backend, price), chances in zip(PRICES.items(), ((0.5, 0.0), (0.9, 0.3)), strict=True):
            samples += _rows(prompt["prompt_id"], backend, rng.random(k) < chances[i % 2], price=price, rng=rng)
    for prompt in prompts[:10]:
        for arm in ARMS:
            drawn = 4 if isinstance(arm.strategy, BestOfNSpec) else 1
            outcomes.append(
                {
                    "prompt_id": prompt["prompt_id"], "group": prompt["group"], "arm": arm.name,
                    "backend": arm.backend, "strategy": arm.strategy.name, "n": drawn, "quality": 1.0,
                    "completion_tokens": 10 * drawn, "cost": 1.0, "latency_s": 0.5 + 0.02 * 10 + 0.001 * 10 * drawn,
                    "source": "run", "answer": "7",
                }
            )  # fmt: skip
    with Log(path) as log:
        log.append_prompts(prompts)
        log.append_samples(samples)
        log.append("outcomes", outcomes)
        log.note(
            arms=[msgspec.to_builtins(arm) for arm in ARMS],
            verifiers={name: msgspec.to_builtins(spec) for name, spec in VERIFIERS.items()},
            backends={
                name: {
                    "kind": "vllm",
                    "model": name,
                    "fingerprint": f"f-{name}",
                    "prices": {"prompt": price / 3, "completion": price},
                }
                for name, price in PRICES.items()
            },
        )


@pytest.fixture(scope="session")
def log_of() -> Callable[..., SampleLog]:
    return _log_of


@pytest.fixture(scope="session")
def told() -> Callable[[np.ndarray], Estimates]:
    return _told


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The directory of a log of 160 prompts, half open and half hopeless."""
    path = tmp_path_factory.mktemp("plans") / "log"
    _write(path)
    return path


@pytest.fixture(scope="session")
def logged(written) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Its samples and its runs."""
    log = Log.open(written)
    return log.samples(), log.outcomes()
