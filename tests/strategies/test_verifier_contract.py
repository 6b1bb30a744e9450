"""Every verifier of the catalogue keeps the contract of howhard.strategies.verifier_testing.

A kind that is listed there and has no way of being opened here fails a test: OPENED says how.
"""

import asyncio
import json

import pytest
from aiohttp import web

from howhard.strategies import (
    BestOfN,
    Candidate,
    Classifier,
    CodeExecution,
    FirstOf,
    FunctionCheck,
    Generation,
    Judge,
    JudgeSettings,
    Logprob,
    Prices,
    PromptConstraints,
    RegexCheck,
    Request,
    RewardModel,
    RewardServer,
    SamplingParams,
    SelfCertainty,
    Verdicts,
    Vote,
    open_verifiers,
)
from howhard.strategies.catalogue import VERIFIERS
from howhard.strategies.errors import ConfigError
from howhard.strategies.running import candidate
from howhard.strategies.testing import CONTRACT, ScriptedBackend
from howhard.strategies.verifier_testing import VERIFIER_CONTRACT, VerifierSubject
from howhard.strategies.verifiers.json_schema import JsonSchemaCheck

from .scripted_server import in_thread
from .test_contract import script
from .test_contract import subject as subject_of
from .tiny_classifier import make_classifier

PROMPTS = ("Use 3, 5 and 7 to make 36.", "Use 2 and 4 to make 8.")
ASKED_OF_FORM = ("What is 3 * 12? Use at most 3 words.", "What is 2 * 4? Answer in JSON.")
RIGHT = "5 + 7 = 12\n12 * 3 = 36"
ANSWERS = ((RIGHT, "Answer: 36", "12"), ("2 * 4 = 8", "Answer: 8", "[8]", "2 * 4 = 8"))


def drawn(text, place):
    numbers = tuple(-0.1 * (i % 3 + place) - 0.1 for i in range(3))
    return candidate(
        Generation(
            text=text,
            finish_reason="stop",
            completion_tokens=3,
            prompt_tokens=5,
            logprobs=numbers,
            confidences=tuple(3 - n for n in numbers),
        )
    )


def questions(prompts=PROMPTS):
    return tuple(
        (Request.of(prompt), [drawn(text, i) for i, text in enumerate(texts)])
        for prompt, texts in zip(prompts, ANSWERS, strict=True)
    )


def scripted_judge(mode):
    """A judge that prefers the longer text; an honest fake, its replies are read as any model's."""

    def reply(prompt):
        texts = prompt.split("<answer-")[1:]
        lengths = [len(text) for text in texts]
        if mode == "pointwise":
            return [str(1 + lengths[0] % 5), str(1 + lengths[0] % 4)]
        if mode == "pairwise":
            return ["A" if lengths[0] >= lengths[1] else "B"]
        return [" > ".join(str(i + 1) for i in sorted(range(len(texts)), key=lambda i: -lengths[i]))]

    return Judge(ScriptedBackend(reply), JudgeSettings(mode=mode, samples=4, max_tokens=40), name=mode)


@pytest.fixture
def reward_server():
    """A server of one class, a fake that answers as vLLM 0.32.0 does at /classify: for the contract, not for vLLM."""

    async def classify(request):
        body = await request.json()
        text = json.dumps(body["messages"])
        item = {"index": 0, "label": "LABEL_0", "probs": [len(text) % 10 / 10], "num_classes": 1}
        return web.json_response({"data": [item], "usage": {"prompt_tokens": len(text) // 4}})

    app = web.Application()
    app.router.add_post("/classify", classify)
    port, stop = in_thread(app)
    yield RewardServer(f"http://127.0.0.1:{port}/v1", "m", prices=Prices(prompt=0.5, completion=0.0))
    stop()


def from_fixture(name):
    return lambda request: request.getfixturevalue(name)


def tiny_prm(request):
    return RewardModel(request.getfixturevalue("tiny_reward_model"), prices=Prices(prompt=0.5, completion=0.0))


def json_schema(request):
    pytest.importorskip("jsonschema", reason="needs the extra `json`")
    return JsonSchemaCheck({"type": "array"})


def classifier(request):
    directory = make_classifier(request.getfixturevalue("tmp_path") / "classifier")
    return Classifier(directory, prices=Prices(prompt=0.5, completion=0.0))


def code_execution(request):
    verifier = CodeExecution()
    request.addfinalizer(verifier.close)
    try:
        asyncio.run(verifier.sandbox.isolation())
    except ConfigError as exc:
        pytest.skip(str(exc))
    prompts = [f"Write a function.\nassert f({place}) == {place + 1}" for place in range(2)]
    answers = ("def f(x): return x + 1", "def f(x): return 1", "def f(x): return (")
    asked = [(Request.of(prompt), [drawn(text, i) for i, text in enumerate(answers)]) for prompt in prompts]
    return VerifierSubject(verifier=verifier, questions=asked)


OPENED = {
    "classifier": classifier,
    "code": code_execution,
    "exact_check": lambda request: open_one("exact_check"),
    "first_of": lambda request: FirstOf("best", [open_one("exact_check"), scripted_judge("pointwise")]),
    "function": lambda request: FunctionCheck(lambda prompt, text: len(text) / 100, partial=True),
    "json_schema": json_schema,
    "judge": lambda request: scripted_judge("pointwise"),
    "judge, pairwise": lambda request: scripted_judge("pairwise"),
    "judge, listwise": lambda request: scripted_judge("listwise"),
    "logprob": lambda request: Logprob(),
    "prompt_constraints": lambda request: PromptConstraints(),
    "regex": lambda request: RegexCheck(r"\d"),
    "reward_model": tiny_prm,
    "reward_server": from_fixture("reward_server"),
    "self_certainty": lambda request: SelfCertainty(),
    "self_certainty, votes": lambda request: SelfCertainty(power=1.0),
    "vote": lambda request: Vote(),
}
"""Kind, and after a comma a variant of it -> how it is opened here: gives the verifier, or a VerifierSubject of its own
where the questions of this file are none of its kind."""

REMEMBERS = {"reward_model"}  # what it read before costs less


def kinds():
    return {str(spec.__struct_config__.tag): spec for spec in VERIFIERS}


def open_one(kind):
    return open_verifiers({"it": kinds()[kind]()})["it"]


@pytest.fixture(params=sorted({*OPENED, *kinds()}))
def subject(request):
    kind = request.param.partition(",")[0]
    if request.param in OPENED:
        verifier = OPENED[request.param](request)
    else:
        try:
            verifier = open_one(kind)
        except Exception as exc:
            pytest.fail(f"verifier kind {kind!r} is under no contract: say in OPENED how it is opened here ({exc})")
    if isinstance(verifier, VerifierSubject):
        return verifier
    asked = questions(ASKED_OF_FORM if kind == "prompt_constraints" else PROMPTS)
    return VerifierSubject(verifier=verifier, questions=asked, remembers=kind in REMEMBERS)


@pytest.mark.parametrize("check", VERIFIER_CONTRACT, ids=lambda check: check.__name__)
def test_every_verifier_of_the_catalogue_keeps_the_contract(check, subject):
    asyncio.run(check(subject))


def test_every_check_of_the_module_is_in_the_contract():
    from howhard.strategies import verifier_testing

    own = {
        f
        for f in vars(verifier_testing).values()
        if asyncio.iscoroutinefunction(f)
        and not f.__name__.startswith("_")
        and f.__module__ == verifier_testing.__name__
    }
    assert own == set(VERIFIER_CONTRACT)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_best_of_n_with_a_judge_keeps_the_contract_of_strategies(check, mode):
    """Budgets among it: what the judge reads and writes is held before it is asked."""
    strategy = BestOfN(n=4, verifier=scripted_judge(mode), params=SamplingParams(max_tokens=40, seed=3))
    asyncio.run(check(subject_of(strategy, ScriptedBackend(script))))


class Broken:
    """A verifier with one fault, to see that the contract notices it."""

    name, sound, prices = "broken", False, None

    def __init__(self, fault):
        self.fault, self.asked = fault, 0
        if fault == "no prices":
            self.prices = "free"

    async def score(self, request, candidates, *, partial=False):
        self.asked += 1
        n = len(candidates)
        if self.fault == "one too few":
            return Verdicts((0.5,) * max(n - 1, 0))
        if self.fault == "judges nobody":
            return Verdicts((None,) * n)
        if self.fault == "changes its mind":
            return Verdicts((1 / self.asked,) * n)
        if self.fault == "mixes":
            await asyncio.sleep(0)
            return Verdicts((self.asked % 7 / 7,) * n)
        return Verdicts((0.5,) * n)


@pytest.mark.parametrize("fault", ["no prices", "one too few", "judges nobody", "changes its mind", "mixes"])
def test_the_contract_notices_a_verifier_that_breaks_it(fault):
    subject = VerifierSubject(verifier=Broken(fault), questions=questions())
    broken = []
    for check in VERIFIER_CONTRACT:
        try:
            asyncio.run(check(subject))
        except Exception:
            broken.append(check.__name__)
    assert broken


def test_a_verifier_that_takes_a_reference_is_noticed():
    class Cheat(Broken):
        async def score(self, request, candidates, *, partial=False, reference=None):
            return Verdicts((0.5,) * len(candidates))

    from howhard.strategies.verifier_testing import it_cannot_be_handed_a_reference

    with pytest.raises(AssertionError):
        asyncio.run(it_cannot_be_handed_a_reference(VerifierSubject(verifier=Cheat(""), questions=questions())))


def test_a_candidate_of_a_log_is_a_candidate():
    """The contract's candidates carry log-probabilities; most verifiers do without."""
    verdicts = asyncio.run(Vote().score(Request.of("?"), [Candidate.of("7"), Candidate.of("7.0")]))
    assert verdicts.scores == (1.0, 1.0)
