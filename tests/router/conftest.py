"""A small router, trained by LightGBM on made-up prompts, and backends that follow a script."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from howhard.router.artifact import BackendFacts, Manifest, TrainingFacts, write_artifact
from howhard.router.estimates import ArmMeans
from howhard.router.features import FeatureSpec, featurize
from howhard.router.linear import Amounts, LinearMap
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.router.predictor import Predictor
from howhard.router.trees import TreesComponent
from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec, VoteSpec
from howhard.strategies.base import (
    Batch,
    Delta,
    Generation,
    Prefix,
    Prices,
    Sample,
    SamplingParams,
    Usage,
)
from howhard.strategies.errors import BackendError, HowhardError

SPEC = FeatureSpec(n_hashed=16)
SPECS = (
    ArmSpec(backend="small", strategy=SingleSpec()),
    ArmSpec(backend="small", strategy=BestOfNSpec(n=4, verifier="vote")),
    ArmSpec(backend="large", strategy=SingleSpec()),
)
ARMS = tuple(s.name for s in SPECS)
PRICES = {"small": Prices(prompt=0.0, completion=1.0), "large": Prices(prompt=0.0, completion=10.0)}
EASY = "add 1 and 2"
HARD = "prove that the sum of 713, 922, 548, 391 and 877 is the product of two primes, and list them all"


@dataclass(frozen=True)
class Trained:
    """What a fit gives: the files of a predictor, and what a manifest says of them."""

    files: Mapping[str, bytes]
    manifest: Manifest


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Easy prompts are solved by every arm, hard ones by the large model alone; four members of ten trees."""
    import lightgbm

    rng = np.random.default_rng(0)
    texts = [
        EASY.replace("1", str(i)) if i % 2 else HARD.replace("713", str(700 + i)) + " now" * (i % 7) for i in range(120)
    ]
    x = featurize(texts, SPEC).dense
    arms = np.eye(len(ARMS))
    rows = np.concatenate([np.repeat(x, len(arms), axis=0), np.tile(arms, (len(x), 1))], axis=1)
    easy = np.array([[0.95, 0.97, 0.98]])
    hard = np.array([[0.1, 0.3, 0.9]])
    truth = np.where(np.arange(len(texts))[:, None] % 2, easy, hard).ravel()

    def fit(objective: str, target: np.ndarray, seed: int) -> str:
        settings = {
            "objective": objective,
            "num_leaves": 7,
            "min_data_in_leaf": 5,
            "learning_rate": 0.3,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "seed": seed,
            "num_threads": 1,
            "verbose": -1,
        }
        return lightgbm.train(settings, lightgbm.Dataset(rows, target), num_boost_round=10).model_to_string()

    texts_of_members = [
        fit("cross_entropy", np.clip(truth + rng.normal(0, 0.02, len(truth)), 0, 1), k) for k in range(4)
    ]
    a = len(ARMS)
    log_length = x[:, 0]
    predictor = Predictor(
        features=SPEC,
        arms=ARMS,
        fallback="large/single",
        reference="small/single",
        quantiles=(0.5, 0.95),
        components=(TreesComponent.of("trees", texts_of_members, arms),),
        weights=np.array([[0.9, 1.1]]),
        intercept=np.array([0.01, 0.0, -0.01]),
        slope=np.array([1.0, 1.1, 1.2]),
        inflation=1.5 * (1 - np.eye(a)),
        floor=0.001 * (1 - np.eye(a)),
        strange_se=4.0 * (1 - np.eye(a)),
        familiarity=None,
        means=ArmMeans(
            quality=np.array([0.5, 0.6, 0.97]),
            cost=np.array([10.0, 40.0, 100.0]),
            seconds=np.array([0.1, 0.2, np.nan]),
            quality_se=0.02 * (1 - np.eye(a)),
        ),
        tokens=np.array([10.0, 40.0, np.nan]),
        # Longer prompts than the middle one cost up to e^0.5 times the mean, shorter ones as much less.
        amounts=Amounts(
            logs=LinearMap(
                offset=np.zeros(2 * a),
                mean=np.array([float(np.sqrt(log_length.mean()))]),
                scale=np.array([20.0]),
                dense_weights=np.full((1, 2 * a), 0.5, dtype=np.float32),
            )
        ),
        latency=np.array([[0.1, 0.3], [0.2, 0.6], [np.nan, np.nan]]),
    )
    manifest = Manifest(
        created="2026-11-24T10:00:00Z",
        howhard_version="0.1.0",
        features=SPEC,
        arms=ARMS,
        specs=SPECS,
        backends={
            name: BackendFacts(kind="vllm", model=f"{name}-model", fingerprint=f"{name}-weights", prices=prices)
            for name, prices in PRICES.items()
        },
        verifiers={"vote": VoteSpec()},
        reference="small/single",
        fallback="large/single",
        objective=Objective(value=200.0),
        policy=UtilityPolicy(),
        currency="completion tokens of small",
        quantiles=(0.5, 0.95),
        training=TrainingFacts(n_prompts=len(texts), dataset="made up", metrics={"brier_skill": 0.9}),
    )
    return Trained(predictor.pack(), manifest)


@pytest.fixture(scope="session")
def router_dir(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The router's directory. Tests that change it take a copy."""
    directory = tmp_path_factory.mktemp("routers") / "router"
    write_artifact(directory, trained.manifest, trained.files)
    return directory


@dataclass
class ScriptedBackend:
    """Answers what it is told; where `fails` is set, every sample fails with it, after `pieces_before` pieces."""

    name: str
    answer: str = "the answer is 7"
    fails: HowhardError | None = None
    pieces_before: int = 0
    raises: HowhardError | None = None
    fingerprint: str = ""
    context: int | None = None
    tokens_per_prompt: int = 5
    calls: Counter[str] = field(default_factory=Counter)
    closed: bool = False

    def __post_init__(self) -> None:
        self.prices = PRICES[self.name]
        self.fingerprint = self.fingerprint or f"{self.name}-weights"

    def count_tokens(self, prefix: Prefix) -> int:
        return self.tokens_per_prompt

    def generate(self, prefixes, *, n: int, params: SamplingParams, apart: bool = False) -> Batch:
        self.calls["generate"] += 1
        if self.raises is not None:
            raise self.raises
        rows = [[Sample() for _ in range(n)] for _ in prefixes]
        for row in rows:
            for sample in row:
                asyncio.get_running_loop().call_soon(self._play, sample)
        tokens = sum(len(r) for r in rows) * len(self.answer.split())
        usage = Usage(completion_tokens=tokens, calls=1, cost=tokens * self.prices.completion)
        return Batch(rows, lambda: usage)

    def _play(self, sample: Sample) -> None:
        words = self.answer.split(" ")
        pieces = [w if i == 0 else f" {w}" for i, w in enumerate(words)]
        if self.fails is not None:
            pieces = pieces[: self.pieces_before]
        for piece in pieces:
            sample.feed(Delta(text=piece))
        sample.finish(
            Generation(
                text="".join(pieces),
                finish_reason="stop" if self.fails is None else "error",
                completion_tokens=len(pieces),
                prompt_tokens=self.tokens_per_prompt,
                error=None if self.fails is None else str(self.fails),
                cause=self.fails if isinstance(self.fails, BackendError) else None,
            )
        )

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def backend() -> Callable[..., ScriptedBackend]:
    """Make a scripted backend: `backend("small", answer=..., fails=...)`."""
    return ScriptedBackend
