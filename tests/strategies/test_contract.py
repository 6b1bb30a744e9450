"""Every exported strategy keeps the contract of howhard.strategies.testing on every backend."""

import asyncio
import threading

import pytest

import howhard.strategies
from howhard.strategies import (
    BestOfN,
    Bindable,
    FirstOf,
    Prices,
    RewardModel,
    SamplingParams,
    SinglePass,
    TreeSearch,
    Verdicts,
    Vote,
)
from howhard.strategies.testing import CONTRACT, ScriptedBackend, Subject

PARAMS = SamplingParams(max_tokens=40, seed=3)


class Judge:
    """Scores any text, partial or not, by its digits; honest about reading nothing."""

    name, sound, prices = "best", False, None

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        return Verdicts(tuple((sum(map(int, filter(str.isdigit, t))) % 11) / 10 for t in texts))


def strategies(judge):
    return [
        SinglePass(PARAMS),
        BestOfN(n=5, verifier=Vote(), params=PARAMS),
        BestOfN(n=5, verifier=FirstOf("best", [judge]), params=PARAMS),
        TreeSearch(width=2, branches=3, verifier=judge, params=PARAMS, step_tokens=12, max_steps=6),
        TreeSearch(width=1, branches=4, verifier=judge, params=PARAMS, step_tokens=5, token_budget=400),
    ]


NAMES = [f"{s.name}-{i}" for i, s in enumerate(strategies(Judge()))]


def script(prompt):
    return [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)]


@pytest.fixture(params=["scripted", "local", "local+prm"])
def backend_and_judge(request):
    if request.param == "scripted":
        return ScriptedBackend(script), Judge()
    backend = request.getfixturevalue("local")
    if request.param == "local":
        return backend, Judge()
    directory = request.getfixturevalue("tiny_reward_model")
    return backend, RewardModel(directory, prices=Prices(prompt=0.5, completion=0.0))


def subject(strategy, backend):
    async def served():
        return backend.served.completion_tokens

    async def running():
        return backend.running

    pause, resume = scripted_brake(backend) if isinstance(backend, ScriptedBackend) else local_brake(backend)
    return Subject(
        strategy=strategy,
        backend=backend,
        prompts=tuple(f"{i} + {i + 1}" for i in range(8)),
        served=served,
        running=running,
        pause=pause,
        resume=resume,
    )


def scripted_brake(backend):
    def pause():
        backend.held = asyncio.Event()

    return pause, lambda: backend.held.set()


def local_brake(backend):
    step, going = backend._model.step, threading.Event()
    going.set()

    def watched(state, ids):
        going.wait(30)
        return step(state, ids)

    backend._model.step = watched
    return going.clear, going.set


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
def test_every_strategy_keeps_the_contract_on_every_backend(check, place, backend_and_judge):
    backend, judge = backend_and_judge
    asyncio.run(check(subject(strategies(judge)[place], backend)))


def test_every_exported_strategy_is_under_contract():
    exported = [getattr(howhard.strategies, name) for name in howhard.strategies.__all__]
    exported = {e for e in exported if isinstance(e, type) and issubclass(e, Bindable) and e is not Bindable}
    assert exported == {type(strategy) for strategy in strategies(Judge())}


def test_every_check_of_the_module_is_in_the_contract():
    from howhard.strategies import testing

    own = {
        f
        for f in vars(testing).values()
        if asyncio.iscoroutinefunction(f) and not f.__name__.startswith("_") and f.__module__ == testing.__name__
    }
    assert own == set(CONTRACT)
