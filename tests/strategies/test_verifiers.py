"""Each verifier, and the check of what a verifier returns."""

import asyncio

import pytest

from howhard.strategies import Candidate, ExactCheck, FirstOf, Prices, Request, RewardModel, Usage, Verdicts, Vote
from howhard.strategies.errors import BackendError, ConfigError, VerifierError
from howhard.strategies.running import judged

COUNTDOWN = Request.of("Use 3, 5 and 7 to make 36.")
PROSE = Request.of("Why is the sky blue?")
XY = [Candidate.of("x"), Candidate.of("y")]


def score(verifier, request, texts, **kwargs):
    return asyncio.run(verifier.score(request, [Candidate.of(t) for t in texts], **kwargs))


class Fixed:
    sound = False

    def __init__(self, name, scores, *, sound=False, usage=None, prices=None):
        self.name, self.scores, self.sound = name, scores, sound
        self.usage = usage or Usage()
        self.prices = prices
        self.asked = 0

    async def score(self, request, candidates, *, partial=False):
        self.asked += 1
        if isinstance(self.scores, Exception):
            raise self.scores
        return Verdicts(self.scores, self.usage) if isinstance(self.scores, tuple) else self.scores


# exact check


def test_an_exact_check_proves_right_and_wrong_solutions():
    verdicts = score(ExactCheck(), COUNTDOWN, ["5 + 7 = 12\n12 * 3 = 36", "5 + 7 = 13", ""])
    assert verdicts.scores == (1.0, 0.0, 0.0)
    assert verdicts.sound
    assert verdicts.usage == Usage()


def test_an_exact_check_judges_neither_other_prompts_nor_partial_solutions():
    assert score(ExactCheck(), PROSE, ["5 + 7 = 12"]).scores == (None,)
    assert score(ExactCheck(), COUNTDOWN, ["5 + 7 = 12\n"], partial=True).scores == (None,)


def test_the_first_checker_that_knows_the_prompt_judges():
    checkers = {"none": lambda p, s: None, "yes": lambda p, s: True, "no": lambda p, s: False}
    assert score(ExactCheck(checkers, name="mine"), PROSE, ["x"]).scores == (1.0,)
    with pytest.raises(ConfigError, match="checkers is empty"):
        ExactCheck({})


# vote


def test_a_vote_is_the_share_of_samples_with_the_same_answer():
    texts = ["so\nAnswer: 1,000", "Answer: 1000.0", "Answer: 7", "the answer is 1000"]
    assert score(Vote(), PROSE, texts).scores == (0.75, 0.75, 0.25, 0.75)
    assert score(Vote(), PROSE, texts, partial=True).scores == (None,) * 4
    assert score(Vote(), PROSE, []).scores == ()


# the first of several


def test_the_first_verifier_that_can_judge_does_and_only_it():
    silent, loud, never = Fixed("a", (None, None)), Fixed("b", (None, 0.5)), Fixed("c", (1.0, 1.0))
    verdicts = score(FirstOf("best", [silent, loud, never]), PROSE, ["x", "y"])
    assert verdicts.scores == (None, 0.5)
    assert (silent.asked, loud.asked, never.asked) == (1, 1, 0)


def test_verdicts_of_several_are_sound_only_where_a_sound_one_judged():
    both = FirstOf("best", [ExactCheck(), Fixed("prm", (0.3,))])
    assert not both.sound
    assert score(both, COUNTDOWN, ["5 + 7 = 12\n12 * 3 = 36"]).sound
    assert not score(both, PROSE, ["x"]).sound
    assert FirstOf("all", [ExactCheck(), ExactCheck()]).sound


def test_what_silent_verifiers_spent_is_booked_too():
    first = Fixed("a", (None,), usage=Usage(verifier_tokens=5, calls=1, cost=1.0))
    second = Fixed("b", (0.5,), usage=Usage(verifier_tokens=7, calls=1, cost=2.0))
    spent = Usage(verifier_tokens=12, calls=2, cost=3.0)
    assert score(FirstOf("best", [first, second]), PROSE, ["x"]).usage == spent
    assert score(FirstOf("best", [first, first]), PROSE, ["x"]).scores == (None,)


def test_several_verifiers_are_priced_as_the_dearest():
    assert FirstOf("best", [ExactCheck(), Vote()]).prices is None
    cheap, dear = Prices(prompt=1, completion=4), Prices(prompt=3, completion=0)
    both = FirstOf("best", [Vote(), Fixed("a", (1.0,), prices=cheap), Fixed("b", (1.0,), prices=dear)])
    assert both.prices == Prices(prompt=3, completion=4)
    with pytest.raises(ConfigError, match="'empty' is made of no verifier"):
        FirstOf("empty", [])


# what a verifier returns


@pytest.mark.parametrize(
    "returned, words",
    [
        ((0.5,), "1 scores, 2 step lists and 2 pieces of feedback for 2 candidates"),
        ((0.5, float("nan")), "gave candidate 1 the score nan"),
        ((1.5, 0.5), "gave candidate 0 the score 1.5"),
        ((-0.1, 0.5), "the score -0.1"),
        (("good", 0.5), "the score 'good'"),
        (Verdicts((0.5, 0.5), steps=((0.5,),)), "2 scores, 1 step lists"),
        (Verdicts((0.5, 0.5), steps=((0.5, 2.0), None)), "gave candidate 0 the score 2.0"),
        ([0.5, 0.5], "returned list, not Verdicts"),
        (None, "returned NoneType, not Verdicts"),
        (ZeroDivisionError("oh"), "'odd' raised ZeroDivisionError: oh"),
    ],
)
def test_nothing_is_ranked_by_a_return_value_that_is_no_verdict(returned, words):
    with pytest.raises(VerifierError, match=words):
        asyncio.run(judged(Fixed("odd", returned), PROSE, XY))


def test_good_verdicts_pass_and_own_errors_keep_their_kind():
    verdicts = Verdicts((0.0, None), steps=((0.0, 1.0), None))
    assert asyncio.run(judged(Fixed("good", verdicts), PROSE, XY)) is verdicts
    with pytest.raises(BackendError, match="down"):
        asyncio.run(judged(Fixed("odd", BackendError("down")), PROSE, XY))


# reward model


@pytest.fixture
def prm(tiny_reward_model):
    return RewardModel(tiny_reward_model, prices=Prices(prompt=0.5, completion=0.0))


SUM = Request.of("1 + 2")
SOLUTION = "1 + 2 = 3\n\n3 + 4 = 7\nAnswer: 7"


def chances(prm, ids):
    """Of every token, by one plain forward pass."""
    import torch

    return torch.sigmoid(prm._model(torch.tensor([ids])))[0].tolist()


def test_a_step_score_is_read_at_the_token_that_closes_each_line(prm):
    [steps] = score(prm, SUM, [SOLUTION]).steps
    ids = [*prm._tokenizer.encode("1 + 2\n" + SOLUTION).ids, 1]
    breaks = [i for i, token in enumerate(ids) if token == 2]
    assert len(breaks) == 4  # of the prompt, of line 1, of the blank line, of line 2
    of_each = chances(prm, ids)
    assert steps == pytest.approx([of_each[breaks[1]], of_each[breaks[3]], of_each[-1]], abs=1e-5)


def test_a_partial_solution_is_read_as_it_stands(prm):
    [whole, open_line, nothing] = score(prm, SUM, ["1 + 2 = 3\n", "1 + 2 = 3\n3 +", ""], partial=True).steps
    encode = lambda text: prm._tokenizer.encode("1 + 2\n" + text).ids  # noqa: E731
    assert whole == pytest.approx([chances(prm, encode("1 + 2 = 3\n"))[-1]], abs=1e-5)
    both = chances(prm, encode("1 + 2 = 3\n3 +"))
    assert open_line == pytest.approx([both[-3], both[-1]], abs=1e-5)
    assert nothing == pytest.approx([chances(prm, encode(""))[-1]], abs=1e-5)


def test_white_space_after_a_finished_solution_changes_nothing(prm):
    one, other, empty = score(prm, SUM, [SOLUTION, SOLUTION + "\n \n", ""]).steps
    assert one == pytest.approx(other, abs=1e-5)
    assert len(empty) == 1


@pytest.mark.parametrize(
    "aggregate, merge",
    [
        ("last", lambda s: s[-1]),
        ("min", min),
        ("product", lambda s: s[0] * s[1] * s[2]),
        ("mean", lambda s: sum(s) / 3),
    ],
)
def test_step_scores_become_one_score(aggregate, merge, tiny_reward_model):
    prm = RewardModel(tiny_reward_model, prices=Prices(prompt=1, completion=1), aggregate=aggregate)
    verdicts = score(prm, SUM, [SOLUTION])
    assert verdicts.scores[0] == pytest.approx(merge(verdicts.steps[0]))


def tokens(prm, text):
    return len(prm._tokenizer.encode(text).ids)


def test_every_token_read_is_booked_and_the_prompt_once_for_all_texts(prm):
    verdicts = score(prm, SUM, [SOLUTION, "7"])
    prompt = tokens(prm, "1 + 2\n")
    read = prompt + sum(tokens(prm, text) + 1 for text in (SOLUTION, "7"))
    assert verdicts.usage == Usage(verifier_tokens=read, calls=1, cost=read * 0.5)
    assert verdicts.shared == Usage(verifier_tokens=prompt, cost=prompt * 0.5)


def test_going_on_from_a_partial_solution_reads_only_what_is_new_and_scores_the_same(prm):
    request, first, second = Request.of("1 + 2"), "1 + 2 = 3\n", "1 + 2 = 3\n3 + 4 = 7\n"
    score(prm, request, [first], partial=True)
    further = score(prm, request, [second, first], partial=True)
    assert further.usage.verifier_tokens == tokens(prm, "3 + 4 = 7\n")
    assert further.shared == Usage()
    finished = score(prm, request, [second + "Answer: 7"])
    assert finished.usage.verifier_tokens == tokens(prm, "Answer: 7") + 1
    fresh = Request.of("1 + 2")
    assert further.steps[0] == pytest.approx(score(prm, fresh, [second], partial=True).steps[0], abs=1e-5)
    assert finished.steps[0] == pytest.approx(score(prm, fresh, [second + "Answer: 7"]).steps[0], abs=1e-5)


def test_what_was_read_is_forgotten_with_its_request(prm):
    score(prm, Request.of("1 + 2"), ["3"], partial=True)
    assert not prm._memories


def test_a_text_beyond_the_context_is_not_judged(prm):
    verdicts = score(prm, SUM, ["1 " * 200, "7"])
    assert verdicts.scores[0] is None
    assert verdicts.steps[0] is None
    assert verdicts.scores[1] is not None
    assert score(prm, SUM, ["1 " * 200]).usage == Usage()


def test_requests_that_are_scored_at_once_do_not_mix(prm):
    texts = [f"{i} + 1 = {i + 1}" for i in range(8)]
    alone = [score(prm, SUM, [text]).scores[0] for text in texts]

    async def together():
        return await asyncio.gather(*(prm.score(SUM, [Candidate.of(text)]) for text in texts))

    assert [v.scores[0] for v in asyncio.run(together())] == pytest.approx(alone, abs=1e-5)


def test_a_reward_model_that_breaks_is_a_verifier_error(prm, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(prm._model, "read", broken)
    with pytest.raises(VerifierError, match="'prm' failed: out of memory"):
        score(prm, SUM, ["7"])


def test_bad_settings_of_a_reward_model_are_refused(tiny_reward_model, tmp_path):
    prices = Prices(prompt=0, completion=0)
    with pytest.raises(ConfigError, match="aggregate='sum': choose one of last, min, product, mean"):
        RewardModel(tiny_reward_model, prices=prices, aggregate="sum")
    with pytest.raises(ConfigError, match="no directory there"):
        RewardModel(tmp_path / "nothing", prices=prices)
