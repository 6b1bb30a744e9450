"""How long does Router.decide take, and does it grow with the prompt?

Median and p99 per prompt length after a warm-up, on one core: on the clock, and in processor time, which other programs
on a busy machine do not stretch. Training the router (made-up outcomes; only its size
counts: 8 arms, 4 bags of 60 trees with 31 leaves, 100 trees for the cost), building prompts and printing are not timed.
The rival: LightGBM's own predict on as many trees, one thread.

    python benchmarks/decide_latency.py | tail -1 | jq .p99_ms
    python benchmarks/decide_latency.py --router models/router-quickstart
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before numpy starts its threads

import lightgbm
import numpy as np

from howhard.router import Objective, Router, UtilityPolicy
from howhard.router.artifact import Manifest, TrainingFacts, write_artifact
from howhard.router.features import FeatureSpec, featurize
from howhard.router.predictor import pack_predictor
from howhard.router.trees import read_forest

ARMS, BAGS, TREES, COST_TREES, LEAVES = 8, 4, 60, 100, 31
LENGTHS = (50, 500, 2_000, 8_000, 100_000)
TEXT = (
    "use make prove list the number of graph node from to each how many steps find sum product if then not all path "
    "shortest answer with only one line explain which option is right and why compute first last total cost"
)
WORDS = TEXT.split()


def prompt(rng: np.random.Generator, length: int) -> str:
    words = rng.choice(WORDS, size=length // 3 + 2).tolist()
    for at in rng.integers(0, len(words), size=len(words) // 8 + 1):
        words[at] = str(rng.integers(1, 1000))
    return " ".join(words)[:length]


def boost(x: np.ndarray, y: np.ndarray, objective: str, trees: int, seed: int) -> str:
    settings = {"objective": objective, "num_leaves": LEAVES, "seed": seed, "num_threads": 1, "verbose": -1}
    settings |= {"bagging_fraction": 0.7, "bagging_freq": 1, "feature_fraction": 0.3, "learning_rate": 0.05}
    return lightgbm.train(settings, lightgbm.Dataset(x, y), num_boost_round=trees).model_to_string()


def make_router(directory: Path, rng: np.random.Generator) -> None:
    spec = FeatureSpec()
    x = featurize([prompt(rng, int(n)) for n in rng.integers(20, 800, size=500)], spec).dense
    arms = rng.normal(size=(ARMS, 6))
    rows = np.concatenate([np.repeat(x, ARMS, axis=0), np.tile(arms, (len(x), 1))], axis=1)
    target = rng.random(len(rows))
    names = tuple(f"backend-{i % 2}/strategy_{i}" for i in range(ARMS))
    files = pack_predictor(
        quality_models=[boost(rows, target, "cross_entropy", TREES, seed) for seed in range(BAGS)],
        cost_model=boost(rows, target - 0.5, "regression", COST_TREES, 99),
        arm_features=arms,
        cost_mean=np.arange(1.0, ARMS + 1),
        se_inflation=np.ones(ARMS),
        calibration=(np.linspace(0, 1, 20), np.linspace(0, 1, 20)),
        latency=np.linspace(0.1, 2.0, ARMS * 3).reshape(ARMS, 3),
    )
    manifest = Manifest(
        created="2026-01-01T00:00:00Z",
        howhard_version="0",
        features=spec,
        arms=names,
        specs=(None,) * ARMS,
        reference=names[0],
        fallback=names[-1],
        objective=Objective(value=10.0, price_of_second=0.1, deadline=60.0),
        policy=UtilityPolicy(guard=1.0),
        currency="units",
        quantiles=(0.5, 0.9, 0.95),
        training=TrainingFacts(n_prompts=len(x), dataset="made up"),
    )
    write_artifact(directory, manifest, files)


def milliseconds(call: Callable[[], object], *, seconds: float) -> np.ndarray:
    """Milliseconds of each call, (calls, 2): on the clock, and of this thread's processor time."""
    for _ in range(50):
        call()
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 200:
        start, start_cpu = time.perf_counter(), time.thread_time()
        call()
        taken.append((time.perf_counter() - start, time.thread_time() - start_cpu))
    return np.array(taken) * 1e3


def show(what: str, taken: np.ndarray) -> dict[str, float]:
    (p50, cpu_p50), (p99, cpu_p99) = np.percentile(taken, [50, 99], axis=0)
    print(f"{what:34} p50 {p50:7.3f} ms   p99 {p99:7.3f} ms   processor {cpu_p50:7.3f}, {cpu_p99:7.3f} ms")
    figures = {"p50_ms": p50, "p99_ms": p99, "cpu_p50_ms": cpu_p50, "cpu_p99_ms": cpu_p99, "calls": len(taken)}
    return {k: round(float(v), 4) for k, v in figures.items()}


def rival(rng: np.random.Generator, seconds: float) -> dict[str, dict[str, float]]:
    """8 rows x 200 trees x 31 leaves, the same sums two ways."""
    x = rng.normal(size=(4000, 40))
    text = boost(x, rng.random(len(x)), "regression", 200, 0)
    booster, forest = lightgbm.Booster(model_str=text), read_forest([text], names=["model"])
    rows = np.concatenate([np.repeat(x[:1, :34], ARMS, axis=0), x[:ARMS, 34:]], axis=1)
    bound = forest.bind(rows[:, 34:])
    np.testing.assert_allclose(bound.raw(rows[:1, :34])[0, :, 0], np.asarray(booster.predict(rows)), rtol=1e-12)
    return {
        "howhard": show("8 x 200 x 31, howhard", milliseconds(lambda: bound.raw(rows[:1, :34]), seconds=seconds)),
        "lightgbm": show(
            "8 x 200 x 31, lightgbm", milliseconds(lambda: booster.predict(rows, num_threads=1), seconds=seconds)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", help="time this router instead of a made-up one")
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.router
        if source is None:
            source = str(Path(folder) / "router")
            make_router(Path(source), rng)
        start = time.perf_counter()
        router = Router.load(source)
        load_ms = (time.perf_counter() - start) * 1e3
    by_length = {}
    for length in LENGTHS:
        prompts = [prompt(rng, length) for _ in range(20)]
        turn = iter(range(10**9))
        taken = milliseconds(lambda p=prompts, t=turn: router.decide(p[next(t) % len(p)]), seconds=arguments.seconds)
        by_length[length] = show(f"decide, {length:,} characters", taken)
    hundred = [prompt(rng, 500) for _ in range(100)]
    batch = show("decide_many, 100 x 500 characters", milliseconds(lambda: router.decide_many(hundred), seconds=1.0))
    print(
        json.dumps(
            {
                "benchmark": "decide_latency",
                **by_length[500],
                "by_characters": by_length,
                "per_prompt_of_100_ms": round(batch["p50_ms"] / 100, 4),
                "load_ms": round(load_ms, 1),
                "trees": router.predictor.trees.forest.n_trees,
                "arms": len(router.arms),
                "sums_of_200_trees": rival(rng, arguments.seconds),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used",
                "load_average": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
                "numpy": np.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
