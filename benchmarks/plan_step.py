"""How long does a step of a plan take: reading the fresh samples, asking the forests, choosing?

Median and p99 for one request at several places of a plan, on one core, and what decide takes with a plan beside decide
without. The plan is learned from made-up samples of two models (only its size counts: 1-32 and 1-8 samples, four
members of the default number of trees); the router is the shipped one. Learning is not timed here. A step is `Hand.of`
of the samples so far and `Plan.step`; at the start there is nothing to read.

    python benchmarks/plan_step.py | tail -1 | jq .worst_p50_ms
"""

import argparse
import json
import os
import platform

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before numpy starts its threads

import numpy as np
from decide_latency import milliseconds, prompt, show

from howhard.router import Objective, Router
from howhard.router.flight import Draws
from howhard.router.plan import Hand, Leg, Menu, Place, Plan, State
from howhard.training.plans.fit_plan import fit_plan
from howhard.training.plans.trajectories import SampleLog, Samples

ROUTER = "models/router-quickstart"
PROMPTS, FOLDS = 400, 4
PLACES = ((0, 0), (1, 0), (4, 0), (8, 0), (16, 0), (32, 0), (32, 1), (32, 8))
MENU = Menu(
    legs=(Leg(backend="small", stages=(1, 2, 4, 8, 16, 32)), Leg(backend="large", stages=(1, 2, 4, 8))),
    verifier="check",
)


def samples(rng: np.random.Generator, able: np.ndarray, k: int, price: float) -> Samples:
    """Draw k samples per prompt: right with its chance, wrong in one of five ways, judged by a fair verifier."""
    n = len(able)
    right = rng.random((n, k)) < able[:, None]
    tokens = rng.integers(20, 160, (n, k)).astype(float)
    draws = Draws(
        complete=rng.random((n, k)) < 0.95,
        label=np.where(right, 0, rng.integers(1, 6, (n, k))),
        score=np.clip(right * 0.4 + rng.random((n, k)) * 0.6, 0, 0.99),
        proven=np.zeros((n, k), dtype=bool),
        logprob=-rng.random((n, k)),
        confidence=rng.random((n, k)),
        tokens=tokens,
    )
    nothing = np.zeros(n)
    return Samples(
        draws=draws,
        quality=right.astype(float),
        cost=tokens * price,
        prompt_cost=nothing,
        tokens=tokens,
        prompt_tokens=nothing,
        reading_cost=nothing,
    )


def make_plan(router: Router, rng: np.random.Generator) -> tuple[Plan, SampleLog]:
    estimates = router.estimate([prompt(rng, 300) for _ in range(PROMPTS)])
    able = rng.random(PROMPTS)
    legs = (samples(rng, able, 32, 1.0), samples(rng, np.sqrt(able), 8, 6.0))
    ids = tuple(map(str, range(PROMPTS)))
    log = SampleLog(menu=MENU, prompt_ids=ids, legs=legs, searches=(), left_out=0)
    seconds = ((0.01, 0.001, 0.0), (0.02, 0.004, 0.0))
    fold = np.arange(PROMPTS) % FOLDS
    fitted = fit_plan(log, estimates, fold, families=["made-up"] * PROMPTS, seconds=seconds, needs=("logprobs",))
    return fitted.plan, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    seconds = parser.parse_args().seconds
    rng = np.random.default_rng(0)
    router = Router.load(ROUTER, plan=False)
    plan, log = make_plan(router, rng)
    policy, objective = plan.policy(), Objective(value=100 * plan.facts.unit, price_of_second=0.1)
    prompts = [prompt(rng, 500) for _ in range(200)]
    start = plan.start(router.estimate(prompts[:1]))

    def step(place: Place, fresh: Draws | None, before: tuple[Hand, ...]) -> None:
        hands = before if fresh is None else (*before, Hand.of(fresh))
        hands = (*hands, *(None,) * (len(MENU.legs) - len(hands)))
        state = State(place, start.prompt, start.familiar, hands, None, start.spent, start.elapsed)
        plan.step(state, objective, policy)

    steps = {}
    for counts in PLACES:
        # A wave is of one leg: what those before it have shown was read when they were drawn.
        drawn = [leg.draws[:1].first(k) for leg, k in zip(log.legs, counts, strict=True) if k]
        place, fresh, before = Place(counts), drawn[-1] if drawn else None, tuple(Hand.of(d) for d in drawn[:-1])
        name = " ".join(f"{leg.backend} x{k}" for leg, k in zip(MENU.legs, counts, strict=True) if k) or "start"
        steps[name] = show(
            f"step, {name}", milliseconds(lambda p=place, f=fresh, b=before: step(p, f, b), seconds=seconds)
        )
    decide = {}
    for name, one in (("plan", plan), ("no_plan", None)):
        chooser = Router(router.manifest, router.predictor, plan=one)
        turn = iter(range(10**9))
        taken = milliseconds(lambda c=chooser, t=turn: c.decide(prompts[next(t) % len(prompts)]), seconds=seconds)
        decide[name] = show(f"decide, {name}", taken)
    print(
        json.dumps(
            {
                "benchmark": "plan_step",
                "worst_p50_ms": max(one["p50_ms"] for one in steps.values()),
                "worst_p99_ms": max(one["p99_ms"] for one in steps.values()),
                "steps": steps,
                "decide": decide,
                "fixed_plans": len(plan.facts.fixed),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used",
                "load_average": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
                "numpy": np.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
