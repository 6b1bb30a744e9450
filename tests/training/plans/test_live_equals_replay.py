"""A plan that is run live takes, on recorded samples, the steps that its replay takes; on fresh ones it is as good.

A made-up log is drawn from scripted backends, a plan is learned from it, and every run of a replay is then run live on
backends that write the recorded samples in the order in which they were dealt.
"""

import asyncio
import dataclasses
import random
import zlib
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pandas as pd
import pytest

from howhard.router.estimates import Estimates
from howhard.router.objective import Objective
from howhard.router.plan import (
    GiveUp,
    Leg,
    Menu,
    Plan,
    Stop,
    actions_at,
    after,
    features_of,
    places_of,
    prompt_features,
    start_of,
    words_of,
)
from howhard.router.plan_run import Planned
from howhard.router.policy import UtilityPolicy
from howhard.strategies import FunctionCheckSpec
from howhard.strategies.answers import EXTRACTOR
from howhard.strategies.base import Arm, Prefix, Prices, Request, SamplingParams, Usage, Verdicts
from howhard.strategies.legs import further_seed
from howhard.strategies.running import candidate, judged
from howhard.strategies.self_consistency import SelfConsistency
from howhard.strategies.testing import ScriptedBackend
from howhard.training.plans.fit_plan import fit_plan
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.replay import ByPlan, replay
from howhard.training.plans.runs import Runs
from howhard.training.plans.trajectories import read_samples
from howhard.training.problems.remainder import Remainder
from howhard.training.tables import COLUMNS, drawn_cells, fill, params_json, prompt_id, validate

PROMPTS = 36
DRAWN = {"small": 8, "large": 4}
PARAMS = SamplingParams(temperature=1.0, max_tokens=30)
PRICES = {
    "small": Prices(prompt=0.1, completion=1.0),
    "large": Prices(prompt=0.5, completion=6.0),
    "deep": Prices(prompt=0.2, completion=5.0),
}
SEARCH = "deep/sc_1"
SECONDS = ((0.2, 0.01, 0.002), (0.5, 0.03, 0.005))


class Judge:
    """Scores by what is written behind the hash; where it is sound, the right answer alone has a 1."""

    name, prices = "judge", None

    def __init__(self, *, sound=False):
        self.sound = sound

    async def score(self, request, candidates, *, partial=False):
        scores = tuple(self._score(request.text, c.text) for c in candidates)
        read, once = 3 * len(candidates), 5
        return Verdicts(
            scores,
            usage=Usage(verifier_tokens=read + once, calls=1, cost=0.5 * (read + once)),
            shared=Usage(verifier_tokens=once, calls=1, cost=0.5 * once),
        )

    def _score(self, prompt, text):
        right = text.endswith(f"Answer: {right_answer(prompt)}")
        return float(right) if self.sound else round((0.4 * right + 0.6 * noise(text)) * 0.98, 6)


def noise(text):
    """A number in [0, 1) that a text always has."""
    return zlib.crc32(text.encode()) / 2**32


def right_answer(prompt):
    return int(noise(f"right {prompt}") * 90) + 10


def solutions(prompt, backend):
    """The recorded samples: right more often on easy prompts, and of a large model; some are too long to end."""
    ease = 0.1 + 0.8 * noise(f"ease {prompt}")
    chance = ease if backend == "small" else 0.5 + ease / 2
    rng = np.random.default_rng(zlib.crc32(f"{prompt} {backend}".encode()))
    texts = []
    for i in range(DRAWN.get(backend, 1)):
        answer = right_answer(prompt) if rng.random() < chance else rng.integers(100, 104)
        filler = "so " * int(rng.integers(0, 7))
        texts.append(f"#{i} {filler}Answer: {answer}")
    return texts


def sureness(text):
    return -0.01 - noise(text)


def backend_of(name, script):
    confidences = lambda text: [2.0 + noise(text), 1.0 + noise(text[::-1])]  # noqa: E731
    return ScriptedBackend(script, name=name, prices=PRICES[name], logprob=sureness, confidences=confidences)


def searching(script=None):
    backend = backend_of("deep", script or (lambda prompt: solutions(prompt, "deep")))
    return Arm(SelfConsistency(1, params=PARAMS), backend)


@dataclass
class World:
    """Prompts, the log of them, and what a router would say of each."""

    menu: Menu
    needs: tuple[str, ...]
    judge: Judge | None
    prompts: list[str] = field(default_factory=lambda: [f"question {i}" for i in range(PROMPTS)])

    def __post_init__(self):
        samples, outcomes = asyncio.run(self._collected())
        verifiers = {} if self.judge is None else {"judge": FunctionCheckSpec(function="operator:eq")}
        sound = ("judge",) if self.judge is not None and self.judge.sound else ()
        self.log = read_samples(samples, outcomes, self.menu, verifiers, sound=sound)
        blank = tuple(s for s in ("logprobs", "confidence") if s not in self.needs)
        self.whole, self.log = self.log, self.log.without(blank)

    async def _collected(self):
        samples, outcomes = [], []
        for prompt in self.prompts:
            for leg in self.menu.legs:
                samples += await self._samples(prompt, leg.backend)
            for _ in self.menu.searches:
                arm = searching()
                result = await arm.run(prompt)
                outcomes.append(
                    {
                        "prompt_id": prompt_id(prompt), "group": "made", "arm": SEARCH,
                        "quality": float(result.answer == str(right_answer(prompt))),
                        "completion_tokens": result.usage.completion_tokens, "cost": result.usage.cost,
                        "latency_s": 1.0, "source": "run", "answer": result.answer,
                    }
                )  # fmt: skip
        empty = pd.DataFrame(columns=[column.name for column in COLUMNS["outcomes"]])
        table = validate("outcomes", fill("outcomes", outcomes)) if outcomes else empty
        return validate("samples", fill("samples", samples)), table

    async def _samples(self, prompt, name):
        request, backend = Request.of(prompt), backend_of(name, lambda p: solutions(p, name))
        asked = PARAMS.but(seed=0, confidence_of=20)
        [drawn] = await backend.generate([Prefix(request.messages)], n=DRAWN[name], params=asked).all()
        candidates = [candidate(g) for g in drawn]
        complete = [c for c in candidates if c.generation.complete]
        verdicts = {}
        if self.judge is not None and complete:
            told = await judged(self.judge, request, complete)
            for c, score in zip(complete, told.scores, strict=True):
                verdicts[c.text] = [
                    {"verifier": "judge", "score": score, "tokens": 3, "cost": 1.5, "prompt_tokens": 5,
                     "prompt_cost": 2.5}
                ]  # fmt: skip
        return [
            {
                "prompt_id": prompt_id(prompt), "backend": name, "fingerprint": "scripted",
                "params": params_json(PARAMS), "sample_index": i, "origin": "collect", "text": c.text,
                "answer": c.answer, "extractor": EXTRACTOR, "verdicts": verdicts.get(c.text, []),
                "quality": float(c.answer == str(right_answer(prompt))), **drawn_cells(c.generation, backend.prices),
            }
            for i, c in enumerate(candidates)
        ]  # fmt: skip

    def estimates(self):
        """A router's opinion of two arms: of some use."""
        ease = np.array([noise(f"ease {p}") for p in self.prompts])
        quality = np.stack([ease, 0.5 + ease / 2], axis=1)
        cost = np.stack([20 + 10 * ease, 120 - 10 * ease], axis=1)
        arms = ("small/single", "large/single")
        return Estimates(
            arms=arms, quality=quality, benefit_se=np.zeros_like(quality), cost=cost, fallback=arms[0],
            reference=arms[0],
        )  # fmt: skip

    def plan(self, seconds):
        fold = np.arange(PROMPTS) % 3
        settings = PlanSettings(rounds=6, leaves=6, min_rows=8, deals=2, objectives=2)
        return trusting(fit_plan(
            self.log, self.estimates(), fold, families=[f"family {i % 10}" for i in range(PROMPTS)], seconds=seconds,
            settings=settings, needs=self.needs,
        ).plan)  # fmt: skip


def trusting(plan):
    """A plan that goes its own way at every objective, worth it or not."""
    return dataclasses.replace(plan, facts=msgspec.structs.replace(plan.facts, trusted=None, trusted_waiting=True))


def menu(*legs, **settings):
    stages = {"small": (1, 2, 4, 8), "large": (1, 2, 4)}
    return Menu(legs=tuple(Leg(backend=b, stages=stages[b], max_tokens=PARAMS.max_tokens) for b in legs), **settings)


WORLDS = {
    "votes": (menu("small"), (), None),
    "votes by log-probabilities": (menu("small", give_up=True), ("logprobs", "confidence"), None),
    "a verifier": (menu("small", verifier="judge"), ("logprobs",), Judge()),
    "a sound verifier": (menu("small", verifier="judge", give_up=True), (), Judge(sound=True)),
    "two legs and a search": (menu("small", "large", searches=(SEARCH,)), ("logprobs",), None),
    "two legs, a verifier and a search": (menu("small", "large", searches=(SEARCH,), verifier="judge"), (), Judge()),
}
OBJECTIVES = {
    "cheap": Objective(value=40.0),
    "dear": Objective(value=3000.0),
    "waiting": Objective(value=400.0, price_of_second=60.0),
    "limited": Objective(value=1000.0, max_cost=60.0, on_infeasible="fallback"),
    "in time": Objective(value=1000.0, deadline=1.5, on_infeasible="fallback"),
}


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def world(request):
    made = World(*WORLDS[request.param])
    return made, made.plan(SECONDS[: len(made.menu.legs)])


def dealt_orders(world, deals, seed):
    """(t, k) per leg: which recorded sample stands where; they are told apart by their log-probabilities."""
    whole = runs_of(world, deals, seed, log=world.whole)
    orders = []
    for leg, recorded in enumerate(world.whole.legs):
        dealt, own = whole.leg(leg).draws.logprob, recorded.draws.logprob[whole.prompt]
        orders.append((dealt[:, :, None] == own[:, None, :]).argmax(axis=2))
    return orders


def runs_of(world, deals, seed, log=None):
    features, familiar = prompt_features(world.estimates()), np.arange(PROMPTS) % 7 != 0
    seconds = SECONDS[: len(world.menu.legs)]
    return Runs(log or world.log, features, familiar, deals=deals, seed=seed, seconds=seconds)


def live(world, plan, policy, objective, runs, row, orders):
    """Run one row of the replay through the strategies."""
    prompt = world.prompts[runs.prompt[row]]
    backends = {}
    for place, leg in enumerate(world.menu.legs):
        recorded = [solutions(prompt, leg.backend)[i] for i in orders[place][row]]
        seed, k = further_seed(0, place) if place else 0, len(recorded)
        shifted = [recorded[(i - seed) % k] for i in range(k)]
        backends[leg.backend] = backend_of(leg.backend, lambda p, shifted=shifted: shifted)
    nothing = np.zeros(1)
    planned = Planned(
        plan, objective=objective, policy=policy, backends=backends, verifier=world.judge,
        searches={SEARCH: searching()} if world.menu.searches else {}, seed=0,
        start=lambda _: runs.state(start_of(world.menu), np.array([row]), nothing, nothing),
    )  # fmt: skip
    return asyncio.run(planned.run(Request.of(prompt), backends[world.menu.legs[0].backend]))


def ways_of(replayed, menu):
    """Of each row the actions that it took, in order."""
    ways = {}
    for (place, action), rows in replayed.moved.items():
        for row in rows.tolist():
            ways.setdefault(row, {})[place] = action
    ordered = {}
    for row, moves in ways.items():
        place, actions = start_of(menu), []
        while place in moves:
            action = moves[place]
            actions.append(action)
            if isinstance(action, (Stop, GiveUp)):
                break
            place = after(place, action)
        ordered[row] = actions
    return ordered


class Whim(Plan):
    """Does anything, by the last bit of any feature: what it does agrees where all that it sees does."""

    def step(self, state, objective, policy, **how):
        steps = super().step(state, objective, policy, **how)
        seen = np.nan_to_num(features_of(self.facts.menu, state, *self.dials(objective)), nan=-7.0)
        index = [zlib.crc32(row.tobytes()) % len(steps.actions) for row in seen]
        return dataclasses.replace(steps, index=np.array(index))


def check_all(world, plan, policy, objective, runs, orders):
    """Run every row of the replay live, and compare all that both tell; returns the ways that were gone."""
    replayed = replay(runs, ByPlan(plan, objective, policy, runs.prompt))
    ways = ways_of(replayed, world.menu)
    for row in range(len(runs)):
        result = live(world, plan, policy, objective, runs, row, orders)

        assert [step.action for step in result.steps] == [words_of(world.menu, a) for a in ways[row]]
        assert (result.answer == str(right_answer(world.prompts[runs.prompt[row]]))) == replayed.quality[row]
        assert result.usage.completion_tokens + result.usage.verifier_tokens == replayed.tokens[row]
        assert result.usage.cost == pytest.approx(replayed.cost[row], rel=1e-12)
        assert result.steps[-1].spent == pytest.approx(replayed.cost[row], rel=1e-12)
        assert result.steps[-1].elapsed == pytest.approx(replayed.seconds[row], rel=1e-12)
    return {tuple(words_of(world.menu, a) for a in way) for way in ways.values()}


def test_on_recorded_samples_a_live_run_goes_the_way_of_its_replay(world):
    world, plan = world
    runs, orders = runs_of(world, 1, 5), dealt_orders(world, 1, 5)

    ways = set()
    for objective in OBJECTIVES.values():
        ways |= check_all(world, plan, UtilityPolicy(guard=0.25), objective, runs, orders)

    assert len(ways) > 3


def test_live_and_in_a_replay_a_plan_sees_the_same_to_the_last_bit(world):
    world, plan = world
    plan = Whim(plan.facts, plan.arms, plan.nodes, plan.fixed_means)
    runs, orders = runs_of(world, 3, 5), dealt_orders(world, 3, 5)

    ways = set()
    for wanted in ("dear", "waiting"):
        ways |= check_all(world, plan, UtilityPolicy(), OBJECTIVES[wanted], runs, orders)

    done = {action for way in ways for action in way}
    everything = {
        words_of(world.menu, a) for place in places_of(world.menu) for a in actions_at(world.menu, place.node)
    }
    assert done == everything


# ── on fresh samples ────────────────────────────────────────────────────────────────────────────────────────


class Embedded:
    """Remainders for the embedded models: half of the prompts to learn from, half to look at."""

    def __init__(self, small, large, prompts=112):
        self.backends = {"small": small, "large": large}
        legs = (
            Leg(backend="small", stages=(1, 2, 4, 8), max_tokens=12),
            Leg(backend="large", stages=(1, 2), max_tokens=12),
        )
        self.menu = Menu(legs=legs)
        rng = random.Random(7)
        found = (Remainder().generate(3 + i % 5, rng) for i in range(2 * prompts))
        self.problems = list({problem.prompt: problem for problem in found}.values())[:prompts]

    async def log(self):
        rows = []
        for problem in self.problems:
            prefix = Prefix(Request.of(problem.prompt).messages)
            for leg in self.menu.legs:
                backend, params = self.backends[leg.backend], SamplingParams(max_tokens=leg.max_tokens, seed=0)
                [drawn] = await backend.generate([prefix], n=8, params=params).all()
                for i, c in enumerate(map(candidate, drawn)):
                    rows.append(
                        {
                            "prompt_id": prompt_id(problem.prompt), "backend": backend.name, "fingerprint": "embedded",
                            "params": params_json(params), "sample_index": i, "origin": "collect", "text": c.text,
                            "answer": c.answer, "extractor": EXTRACTOR, "verdicts": [],
                            "quality": float(c.answer == problem.reference),
                            **drawn_cells(c.generation, backend.prices),
                        }
                    )  # fmt: skip
        empty = pd.DataFrame(columns=[column.name for column in COLUMNS["outcomes"]])
        return read_samples(validate("samples", fill("samples", rows)), empty, self.menu)

    def estimates(self):
        ease = np.array([[1 - p.level / 8, 1 - p.level / 12] for p in self.problems])
        return Estimates(
            arms=("small/single", "large/single"), quality=ease, benefit_se=np.zeros_like(ease),
            cost=np.full_like(ease, 5.0), fallback="small/single", reference="small/single",
        )  # fmt: skip


def test_on_fresh_samples_of_the_embedded_models_a_plan_is_as_good_and_as_dear_as_its_replay_says():
    from howhard.strategies.backends.local import LocalBackend

    small = LocalBackend("small", "tiny-small", prices=Prices(prompt=0.02, completion=1.0))
    large = LocalBackend("large", "tiny-large", prices=Prices(prompt=0.1, completion=12.0))
    made, objective, policy = Embedded(small, large), Objective(value=400.0), UtilityPolicy()

    async def go():
        log, estimates = await made.log(), made.estimates()
        known, fresh = np.arange(0, len(log), 2), np.arange(1, len(log), 2)
        plan = trusting(fit_plan(
            log.rows(known), estimates[known], np.arange(len(known)) % 3, families=[str(i) for i in known],
            seconds=(None, None), settings=PlanSettings(rounds=20, leaves=4, min_rows=5, deals=8), needs=("logprobs",),
        ).plan)  # fmt: skip
        features, familiar = prompt_features(estimates[fresh]), np.ones(len(fresh), dtype=bool)
        runs = Runs(log.rows(fresh), features, familiar, deals=20, seed=1, seconds=(None, None))
        told = replay(runs, ByPlan(plan, objective, policy, runs.prompt))
        came = {"quality": [], "tokens": [], "cost": []}
        for i in fresh.tolist():
            results = []
            for again in range(2):
                planned = Planned(
                    plan, objective=objective, policy=policy, backends=made.backends,
                    start=lambda _, i=i: plan.start(estimates[np.array([i])]), seed=1000 + 50 * again,
                )  # fmt: skip
                results.append(await planned.run(Request.of(made.problems[i].prompt), small))
            came["quality"].append(np.mean([r.answer == made.problems[i].reference for r in results]))
            came["tokens"].append(np.mean([r.usage.completion_tokens for r in results]))
            came["cost"].append(np.mean([r.usage.cost for r in results]))
        for backend in (small, large):
            await backend.close()
        return told, came

    told, came = asyncio.run(go())

    for name, live in came.items():
        apart = np.array(live) - told.by_prompt(name)
        # Three standard errors: other machines draw other samples of the same seeds, and must not fail by chance.
        assert abs(apart.mean()) < 3 * apart.std(ddof=1) / len(apart) ** 0.5, name
