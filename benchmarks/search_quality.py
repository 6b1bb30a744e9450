"""Which search finds more right answers than best-of-N and the vote, at equal tokens?

Every search runs on fresh problems of the embedded models, with tiny-prm as its verifier, under several seeds.
Best-of-N and the vote are worked out exactly from one pool of samples per problem and seed (all subsets of n of them;
the vote from random ones), at the number of samples, fractions interpolated, that costs as many tokens as the search
spent on average. Tokens are those drawn and those that the verifier read; prompts, which a server with a prefix cache
reads once, are counted beside them. Differences come with bootstrap intervals over problems. `--problems-seed` makes
the problems: settings are chosen on one, figures are reported on another.

    python benchmarks/search_quality.py --cells chain-14,countdown-4 | tail -1 | jq '.cells["chain-14"]'
"""

import argparse
import asyncio
import json
import math
import platform
import random
import time
from collections import Counter

import msgspec
import numpy as np

from howhard.strategies import (
    Arm,
    Candidate,
    LocalSpec,
    Prefix,
    PricesSpec,
    Request,
    RewardModelSpec,
    SamplingParams,
    StrategySpec,
    build_strategy,
    canonical,
    open_backend,
    open_verifiers,
)
from howhard.strategies.running import candidate, with_verdict
from howhard.strategies.verifiers.checkers import CHECKERS
from howhard.training.problems.families import FAMILIES
from howhard.training.problems.problem import Problem

SEARCHES: tuple[dict, ...] = (
    {"kind": "tree_search", "width": 1, "branches": 4},
    {"kind": "tree_search", "width": 2, "branches": 4},
    {"kind": "tree_search", "width": 4, "branches": 4, "places": "drawn"},
    {"kind": "dvts", "width": 2, "branches": 4},
    {"kind": "rebase", "n": 8},
    {"kind": "best_first"},
    {"kind": "particles", "n": 8},
    {"kind": "particles", "n": 8, "entropic": True},
    {"kind": "mcts"},
    {"kind": "mcts", "choice": "puct"},
    {"kind": "mcts", "value": "rollout", "samples": 24},
    {"kind": "ab_mcts"},
)


def right(problem: Problem, text: str, answer: str | None) -> bool:
    """Grade a finished solution."""
    if answer is None:
        return False
    if problem.reference is not None:
        return canonical(answer) == canonical(problem.reference)
    return bool(CHECKERS[problem.family](problem.prompt, text))


def chances(order: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Chance that the best-ranked of n samples is right, n = 1 ... M, over all subsets of the M.

    order : indices of the samples, the best first.    good : whether each is right.
    """
    m = len(order)
    return np.array(
        [
            sum(math.comb(m - 1 - place, n - 1) / math.comb(m, n) for place, i in enumerate(order) if good[i])
            for n in range(1, m + 1)
        ]
    )


def voted(answers: list[str | None], good: np.ndarray, n: int, rng: random.Random, rounds: int = 40) -> float:
    """Chance that the most frequent answer of n random samples is right; ties go to the earlier one."""
    hits = 0
    for _ in range(rounds):
        chosen = sorted(rng.sample(range(len(answers)), n))
        counts = Counter(answers[i] for i in chosen if answers[i] is not None)
        best = max(counts, key=lambda a: counts[a], default=None)
        hits += best is not None and bool(good[next(i for i in chosen if answers[i] == best)])
    return hits / rounds


async def pool(backend, verifier, problem: Problem, m: int, seed: int) -> tuple[list[Candidate], float, float]:
    """Draw and judge m samples; returns them, and the tokens of one drawn and read, and of the prompt read."""
    request = Request.of(problem.prompt)
    params = SamplingParams(max_tokens=160, seed=10_000 * (seed + 1))
    [row] = await backend.generate([Prefix(request.messages)], n=m, params=params).all()
    drawn = [candidate(g) for g in row]
    verdicts = await verifier.score(request, drawn)
    own = verdicts.usage.verifier_tokens - verdicts.shared.verifier_tokens
    each = (sum(g.completion_tokens for g in row) + own) / m
    scored = [with_verdict(c, verifier, verdicts, place) for place, c in enumerate(drawn)]
    return scored, each, float(verdicts.shared.verifier_tokens)


def at(curve: np.ndarray, n: float) -> float:
    """Read a curve over 1 ... M at a fraction of a sample."""
    return float(np.interp(n, np.arange(1, len(curve) + 1), curve))


def interval(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over problems."""
    means = differences[rng.integers(0, len(differences), (2000, len(differences)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


async def measure(cell: str, options: argparse.Namespace, specs: list[StrategySpec]) -> dict[str, dict]:
    """Run one cell of problems."""
    family, level = cell.rsplit("-", 1)
    rng = random.Random(f"{options.problems_seed}/{cell}")
    problems = [FAMILIES[family].generate(int(level), rng) for _ in range(options.problems)]
    backend = open_backend("model", LocalSpec(model=options.model, prices=PricesSpec(prompt=0.0, completion=1.0)))
    verifier = open_verifiers({"best": RewardModelSpec(prices=PricesSpec(prompt=1.0, completion=0.0))})["best"]
    seeds = range(options.seeds)
    each, shared, curves, pools = [], [], [], []
    for problem in problems:
        of_seed = []
        for seed in seeds:
            drawn, one, prompt = await pool(backend, verifier, problem, options.pool, seed)
            good = np.array([right(problem, c.text, c.answer) for c in drawn])
            scores = np.array([c.score if c.answer is not None and c.score is not None else -1.0 for c in drawn])
            of_seed.append(chances(np.argsort(-scores, kind="stable"), good))
            pools.append(([None if c.answer is None else canonical(c.answer) for c in drawn], good))
            each.append(one)
            shared.append(prompt)
        curves.append(np.mean(of_seed, axis=0))
    curve, one, prompt = np.array(curves), float(np.mean(each)), float(np.mean(shared))
    drawn_each = one / 2  # the verifier reads about what was drawn
    rows: dict[str, dict] = {}
    boot, vote_rng = np.random.default_rng(0), random.Random(0)
    for spec in specs:
        quality = np.zeros((len(problems), options.seeds))
        tokens, prompts, start = [], [], time.perf_counter()
        for seed in seeds:
            strategy = build_strategy(spec, {"best": verifier}, seed=1000 * seed)
            arm = Arm(strategy, backend)
            results = []
            for first in range(0, len(problems), 16):
                results += await asyncio.gather(*(arm.run(p.prompt) for p in problems[first : first + 16]))
            for i, (problem, result) in enumerate(zip(problems, results, strict=True)):
                quality[i, seed] = right(problem, result.text, result.answer)
                tokens.append(result.usage.completion_tokens + result.usage.verifier_tokens)
                prompts.append(result.usage.prompt_tokens)
        spent = float(np.mean(tokens))
        n = (spent - prompt) / one
        best = np.array([at(c, n) for c in curve])
        votes = min(max(round(spent / drawn_each), 1), options.pool)
        vote = float(np.mean([voted(answers, good, votes, vote_rng) for answers, good in pools]))
        mean = quality.mean(axis=1)
        low, high = interval(mean - best, boot)
        row = {
            "quality": round(float(mean.mean()), 4),
            "tokens": round(spent),
            "prompt_tokens": round(float(np.mean(prompts))),
            "best_of_n": round(float(best.mean()), 4),
            "n": round(n, 2),
            "vote": round(vote, 4),
            "difference": round(float((mean - best).mean()), 4),
            "interval": [round(low, 4), round(high, 4)],
            "seconds": round(time.perf_counter() - start, 1),
        }
        rows[spec.name] = row
        print(
            f"{cell:13s} {spec.name:22s} {row['quality']:.3f}  {row['tokens']:6d}  best of {row['n']:5.2f}: "
            f"{row['best_of_n']:.3f}  vote of {votes:3d}: {row['vote']:.3f}  "
            f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]  {row['seconds']:.0f} s",
            flush=True,
        )
    await backend.close()
    return rows


def main() -> None:
    """Run all cells; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="chain-14,countdown-4")
    parser.add_argument("--model", default="tiny-small")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--problems-seed", default="report")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pool", type=int, default=48, help="samples per problem and seed for best-of-N and the vote")
    parser.add_argument("--search", action="append", help='a strategy as JSON, such as \'{"kind": "mcts"}\'')
    options = parser.parse_args()
    chosen = [json.loads(text) for text in options.search] if options.search else SEARCHES
    specs = [msgspec.convert({"max_tokens": 160, **settings}, StrategySpec) for settings in chosen]
    cells = {cell: asyncio.run(measure(cell, options, specs)) for cell in options.cells.split(",")}
    print(json.dumps({"benchmark": "search_quality", "machine": platform.platform(), **vars(options), "cells": cells}))


if __name__ == "__main__":
    main()
