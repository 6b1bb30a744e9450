"""How long does Router.decide take, does it grow with the prompt, and how many prompts a second are decided in a batch?

Median and p99 per prompt length after a warm-up, on one core: on the clock, and in processor time, which other programs
on a busy machine do not stretch. Training the router (made-up outcomes of 8 arms; only its size counts), building
prompts and printing are not timed. With --encoder the router reads an embedding too. The rival: LightGBM's own predict
on as many trees, one thread.

    python benchmarks/decide_latency.py | tail -1 | jq .p99_ms
    python benchmarks/decide_latency.py --encoder all-MiniLM-L6-v2 | tail -1 | jq .p50_ms
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

from howhard.router import Objective, Router
from howhard.router.trees import TreesComponent, read_forest
from howhard.training.config import fit_settings
from howhard.training.fit import fit, write_router
from howhard.training.matrix import OutcomeMatrix

ARMS, LEAVES, PROMPTS = 8, 31, 2_000
LENGTHS = (50, 500, 2_000, 8_000, 100_000)
BATCH = 10_000
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


def make_router(directory: Path, rng: np.random.Generator, encoder: str | None) -> None:
    """Train on made-up outcomes that depend on the prompts, so that every component has something to say."""
    texts = tuple(prompt(rng, int(n)) for n in rng.integers(20, 800, size=PROMPTS))
    hard = np.array([len(t) / 800 + 0.5 * ("prove" in t) - 0.3 * ("sum" in t) for t in texts])
    able = np.linspace(0.2, 1.2, ARMS)
    chance = 1 / (1 + np.exp(3 * (hard[:, None] - able)))
    cost = np.arange(1.0, ARMS + 1) * (1 + hard[:, None])
    shape = (PROMPTS, ARMS)
    matrix = OutcomeMatrix(
        prompt_ids=tuple(map(str, range(PROMPTS))),
        texts=texts,
        groups=("made-up",) * PROMPTS,
        families=("made-up",) * PROMPTS,
        arms=tuple(f"backend-{i % 2}/strategy_{i}" for i in range(ARMS)),
        quality=(rng.random(shape) < chance).astype(float),
        cost=cost,
        tokens=cost * 20,
        latency=cost / 10,
        draws=np.ones(shape),
    )
    settings = fit_settings({}, encoder=encoder)
    write_router(directory, fit(matrix, settings=settings), dataset="made up")


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
    parser.add_argument("--encoder", help="train the made-up router with this encoder")
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.router
        if source is None:
            source = str(Path(folder) / "router")
            make_router(Path(source), rng, arguments.encoder)
        start = time.perf_counter()
        router = Router.load(source)
        load_ms = (time.perf_counter() - start) * 1e3
    objective = Objective(value=router.objective.value, price_of_second=1e-6 if router.manifest.quantiles else 0.0)
    by_length = {}
    for length in LENGTHS:
        prompts = [prompt(rng, length) for _ in range(200)]
        turn = iter(range(10**9))
        taken = milliseconds(
            lambda p=prompts, t=turn: router.decide(p[next(t) % len(p)], objective), seconds=arguments.seconds
        )
        by_length[length] = show(f"decide, {length:,} characters", taken)
    # With an encoder a prompt takes milliseconds: fewer of them say as much.
    many = [prompt(rng, 500) for _ in range(BATCH if arguments.encoder is None else 200)]
    start = time.perf_counter()
    router.decide_many(many, objective)
    per_second = len(many) / (time.perf_counter() - start)
    print(f"decide_many, {len(many):,} x 500 characters: {per_second:,.0f} prompts/s")
    trees = [c for c in router.predictor.components if isinstance(c, TreesComponent)]
    print(
        json.dumps(
            {
                "benchmark": "decide_latency",
                **by_length[500],
                "by_characters": by_length,
                "batch": len(many),
                "batch_per_second": round(per_second),
                "load_ms": round(load_ms, 1),
                "encoder": arguments.encoder,
                "components": [c.name for c in router.predictor.components],
                "trees": sum(text.count("\nTree=") for c in trees for text in c.texts),
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
