"""Outcomes whose truth is known, and an MLflow store that is made once, shared by the tests of this folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from howhard.router.features import FeatureSpec
from howhard.training import registry, tracking
from howhard.training.fit import FitSettings, Fitted, fit
from howhard.training.matrix import OutcomeMatrix

ARMS = ("large/single", "small/best_of_8", "small/single")
COST = np.array([10.0, 6.0, 1.0])
# True chance of success per kind of prompt and arm: each kind has another best choice.
KINDS = {
    "easy": ("Add the apples in basket", [0.97, 0.97, 0.95]),
    "search": ("Combine the numbers into target", [0.25, 0.90, 0.20]),
    "knowledge": ("Name the river that crosses province", [0.92, 0.15, 0.12]),
    "hopeless": ("Factor the enormous integer", [0.05, 0.05, 0.04]),
}


@dataclass(frozen=True)
class World:
    """Prompts, outcomes, and the truth behind them."""

    prompts: pd.DataFrame
    outcomes: pd.DataFrame
    truth: np.ndarray

    @property
    def matrix(self) -> OutcomeMatrix:
        return OutcomeMatrix.of(self.outcomes, self.prompts)


def _make(n: int = 400, *, seed: int = 0, shuffle: bool = False, seconds: bool = False) -> World:
    """`n` prompts of four kinds; `shuffle` deals each arm's outcomes out at random, so that nothing can be learned."""
    rng = np.random.default_rng(seed)
    names = list(KINDS)
    kinds = [names[i] for i in rng.integers(len(names), size=n)]
    # Filler of random length, so that length tells nothing.
    filler = [" ".join(["indeed"] * int(k)) for k in rng.integers(20, size=n)]
    texts = [
        f"{filler[i]} {KINDS[k][0]} {rng.integers(10, 99)} of {rng.integers(10, 99)}." for i, k in enumerate(kinds)
    ]
    truth = np.array([KINDS[k][1] for k in kinds])
    quality = (rng.random(truth.shape) < truth).astype(float)
    if shuffle:
        quality = np.stack([rng.permutation(column) for column in quality.T], axis=1)
        truth = np.broadcast_to(truth.mean(axis=0), truth.shape)
    cost = COST * np.exp(rng.normal(0, 0.2, truth.shape))
    ids = [f"p{i:05d}" for i in range(n)]
    prompts = pd.DataFrame({"prompt_id": ids, "text": texts, "group": kinds})
    outcomes = pd.DataFrame(
        {
            "prompt_id": np.repeat(ids, len(ARMS)),
            "arm": np.tile(ARMS, n),
            "quality": quality.ravel(),
            "cost": cost.ravel(),
            "completion_tokens": 50 * cost.ravel(),
            "latency_s": (cost / 5).ravel() if seconds else np.nan,
        }
    )
    return World(prompts, outcomes, truth)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    return _make


@pytest.fixture(scope="session")
def world() -> World:
    return _make()


@pytest.fixture(scope="session")
def fitted(world: World) -> Fitted:
    return fit(world.matrix, settings=FitSettings(features=FeatureSpec(n_hashed=16, n_text=1024)))


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory):
    """An empty MLflow store, made once: MLflow takes 6 to 9 seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    registry.version_of("champion", uri=f"sqlite:///{path}")
    return path


@pytest.fixture
def mlflow_uri(migrated_database, tmp_path, monkeypatch) -> str:
    """A store of the test's own, in its folder, which becomes the current one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def tags_of() -> Callable[..., dict[str, str]]:
    """What MLflow shows on a version of the router, by names without "howhard."."""

    def read(version: str, *, uri: str) -> dict[str, str]:
        with tracking.store(uri) as client:
            tags = client.get_model_version(registry.MODEL, version).tags
        return {name.removeprefix("howhard."): value for name, value in tags.items()}

    return read
