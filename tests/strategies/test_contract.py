"""Every strategy of the catalogue keeps the contract of howhard.strategies.testing on every backend."""

import asyncio
import threading

import msgspec
import pytest

import howhard.strategies
from howhard.strategies import Bindable, Prices, Request, RewardModel, Verdicts
from howhard.strategies.catalogue import STRATEGIES
from howhard.strategies.errors import VerifierError
from howhard.strategies.spec import Parts
from howhard.strategies.testing import CONTRACT, ScriptedBackend, Subject

SMALLER = {
    "ab_mcts": [{"samples": 16, "batch": 4}],
    "best_first": [{"expansions": 6, "branches": 2}],
    "best_of_n": [{"n": 5}, {"n": 5, "verifier": "vote"}],
    "dvts": [{"width": 2, "branches": 2}],
    "mcts": [{"samples": 16, "batch": 4}, {"samples": 8, "batch": 2, "choice": "puct", "value": "rollout"}],
    "particles": [{"n": 4}, {"n": 4, "entropic": True}],
    "rebase": [{"n": 4}],
    "self_consistency": [
        {"n": 8},
        {"n": 6, "stop": "beta:0.95"},
        {"n": 6, "online": True, "warmup": 2, "weights": "confidence,keep=0.9"},
    ],
    "tree_search": [
        {"width": 2, "branches": 3, "step_tokens": 12, "max_steps": 6},
        {"width": 1, "branches": 4, "step_tokens": 5, "token_budget": 400},
        {"width": 2, "branches": 3, "max_steps": 6, "places": "drawn"},
    ],
}
"""Settings by kind, where the default ones draw more than a test needs. A kind that is not named runs as it comes."""


class Judge:
    """Scores any text, partial or not, by its digits; honest about reading nothing."""

    prices = None

    def __init__(self, name="best", *, sound=False):
        self.name, self.sound = name, sound

    async def score(self, request, candidates, *, partial=False):
        digits = [sum(map(int, filter(str.isdigit, c.text))) for c in candidates]
        return Verdicts(tuple((d % 11) / 10 for d in digits), sound=self.sound)


class UnderAnyName(dict):
    """Gives the same verifier whatever name is asked for."""

    def __init__(self, verifier):
        self.only = verifier

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return self.only


def with_verifier(verifier):
    return Parts(UnderAnyName(verifier), seed=3)


def specs():
    for kind in STRATEGIES:
        tag = kind.__struct_config__.tag
        for settings in SMALLER.get(tag, [{}]):
            yield msgspec.convert({"kind": tag, "max_tokens": 40, **settings}, kind)


SPECS = list(specs())


def script(prompt):
    return [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)]


def sureness(solution):
    return -0.1 - len(solution) % 7


@pytest.fixture(params=["scripted", "scripted+proofs", "local", "local+prm"])
def backend_and_judge(request):
    if request.param.startswith("scripted"):
        scripted = ScriptedBackend(script, logprob=sureness, confidences=lambda text: [-sureness(text)])
        return scripted, Judge(sound=request.param.endswith("proofs"))
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
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_strategy_keeps_the_contract_on_every_backend(check, spec, backend_and_judge):
    backend, judge = backend_and_judge
    asyncio.run(check(subject(spec.build(with_verifier(judge)), backend)))


class Broken:
    """A verifier that fails in a way of its own."""

    name, sound, prices = "broken", False, None

    def __init__(self, returned):
        self.returned = returned

    async def score(self, request, candidates, *, partial=False):
        if isinstance(self.returned, Exception):
            raise self.returned
        return Verdicts(self.returned * len(candidates)) if self.returned else Verdicts(())


@pytest.mark.parametrize("returned", [ValueError("oh"), (float("nan"),), ()], ids=["raises", "nan", "wrong length"])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.needs_verifiers], ids=lambda spec: spec.name)
def test_nothing_is_ranked_by_a_broken_verifier(spec, returned):
    strategy, backend = spec.build(with_verifier(Broken(returned))), ScriptedBackend(script)
    with pytest.raises(VerifierError, match="broken"):
        asyncio.run(strategy.run(Request.of("1 + 2"), backend))
    assert backend.running == 0


def test_every_exported_strategy_is_in_the_catalogue_and_so_under_contract():
    exported = [getattr(howhard.strategies, name) for name in howhard.strategies.__all__]
    exported = {e for e in exported if isinstance(e, type) and issubclass(e, Bindable) and e is not Bindable}
    assert exported == {type(spec.build(with_verifier(Judge()))) for spec in SPECS}


def test_every_kind_runs_with_its_default_settings_and_survives_json():
    for kind in STRATEGIES:
        assert msgspec.json.decode(msgspec.json.encode(kind()), type=kind) == kind()


def test_every_check_of_the_module_is_in_the_contract():
    from howhard.strategies import testing

    own = {
        f
        for f in vars(testing).values()
        if asyncio.iscoroutinefunction(f) and not f.__name__.startswith("_") and f.__module__ == testing.__name__
    }
    assert own == set(CONTRACT)
