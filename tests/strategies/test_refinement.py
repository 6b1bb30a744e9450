import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Budget, Message, Prices, RegexCheck, Request, SamplingParams, Usage, Verdicts, Vote
from howhard.strategies.errors import BackendError, ConfigError
from howhard.strategies.refinement import SATISFIED, Refinement, RefinementSpec
from howhard.strategies.testing import CONTRACT, ScriptedBackend, Subject

PARAMS = SamplingParams(max_tokens=60, temperature=1.0, seed=0)


class Written:
    """Scores and feedback by text, as they are written down; remembers what it was shown."""

    sound, prices = False, None

    def __init__(self, scores, feedback=None, *, sound=False, name="best"):
        self.scores, self.feedback, self.sound, self.name = scores, feedback or {}, sound, name
        self.shown = []

    async def score(self, request, candidates, *, partial=False):
        self.shown += [c.text for c in candidates]
        return Verdicts(
            tuple(self.scores.get(c.text) for c in candidates),
            feedback=tuple(self.feedback.get(c.text) for c in candidates),
        )


class Telling(Written):
    """Wants something told with every call."""

    async def score(self, request, candidates, *, partial=False):
        return dataclasses.replace(await super().score(request, candidates), note="code ran without isolation")


class Chat:
    """Answers each call with the next line of a play, and keeps the conversations that it was asked in."""

    def __init__(self, *lines, context=None):
        self.asked = []
        self.lines = list(lines)
        self.backend = ScriptedBackend(self._say, context=context)

    def _say(self, prompt):
        return [self.lines[min(len(self.asked), len(self.lines)) - 1]]

    def run(self, strategy, prompt="2 + 2", **options):
        generate = self.backend.generate

        def watched(prefixes, **how):
            self.asked.append(prefixes[0].messages)
            return generate(prefixes, **how)

        self.backend.generate = watched
        return asyncio.run(strategy.run(Request.of(prompt), self.backend, **options))


def refine(verifier=None, **options):
    return Refinement(**{"rounds": 3, "params": PARAMS, "verifier": verifier, **options})


def test_the_verifiers_words_are_fed_back_in_a_chat_until_it_proves_an_answer():
    tests = Written({"5": 0.0, "4": 1.0}, {"5": "test 1 failed: 2 + 2 is not 5"}, sound=True)
    chat = Chat("5", "4")
    result = chat.run(refine(tests))
    assert (result.answer, len(result.candidates)) == ("4", 2)
    assert "'best' proved an answer after 1 round" in result.stopped_because
    assert [c.proven for c in result.candidates] == [False, True]
    draft, fix = chat.asked
    assert [m.role for m in draft] == ["user"]
    assert [m.role for m in fix] == ["user", "assistant", "user"]
    assert fix[1] == Message("assistant", "5")
    assert "test 1 failed: 2 + 2 is not 5" in fix[2].content


def test_a_check_of_form_that_says_what_is_wrong_is_obeyed():
    chat = Chat("The year was 1969.", "1969")
    result = chat.run(refine(RegexCheck(r"^\d{4}$", name="year")), "When was the moon landing? Answer as YYYY.")
    assert result.text == "1969"
    assert r"does not match" in chat.asked[1][2].content
    assert "'year' gave 1, which is good enough, after 1 round" in result.stopped_because


def test_where_the_verifier_has_no_words_the_model_is_asked_for_them():
    chat = Chat("5", "2 + 2 is 4, not 5", "4")
    result = chat.run(refine(Written({"5": 0.2, "4": 1.0})))
    assert result.answer == "4"
    _, critique, fix = chat.asked
    assert [m.role for m in critique] == ["user"]
    assert "2 + 2" in critique[0].content
    assert "5" in critique[0].content
    assert "2 + 2 is 4, not 5" in fix[2].content
    assert [c.text for c in result.candidates] == ["5", "4"]  # a criticism is no candidate
    assert result.usage.completion_tokens == chat.backend.served.completion_tokens


def test_system_messages_stand_before_the_question_of_the_critic_too():
    chat = Chat("5", f"Fine.\n{SATISFIED}")
    chat.run(refine(), [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "2 + 2"}])
    assert [m.role for m in chat.asked[1]] == ["system", "user"]
    assert "Be brief" not in chat.asked[1][1].content


def test_a_version_that_its_verifier_ranks_below_the_draft_is_not_returned():
    scores = {"A": 0.5, "B": 0.4, "C": 0.3, "D": 0.1}
    chat = Chat("A", "B", "C", "D")
    result = chat.run(refine(Written(scores, dict.fromkeys(scores, "wrong"))))
    assert (result.text, len(result.candidates)) == ("A", 4)
    assert all(fix[1].content == "A" for fix in chat.asked[1:])  # and no round goes on from it


def test_a_round_goes_on_from_the_newest_version_that_is_not_worse_and_ties_return_the_first():
    scores = dict.fromkeys("ABCD", 0.5)
    chat = Chat("A", "B", "C", "D")
    result = chat.run(refine(Written(scores, dict.fromkeys(scores, "wrong"))))
    assert [fix[1].content for fix in chat.asked[1:]] == ["A", "B", "C"]
    assert result.text == "A"


def test_it_stops_when_a_fix_changes_nothing():
    chat = Chat("Answer: 5", "Answer:  5")
    result = chat.run(refine(Written({}, {"Answer: 5": "no"}), rounds=9))
    assert len(result.candidates) == 2
    assert "round 1 changed nothing" in result.stopped_because


def test_going_back_to_an_earlier_version_is_no_change_either():
    chat = Chat("A", "B", "A")
    result = chat.run(refine(Written({"A": 0.2, "B": 0.2}, {"A": "no", "B": "no"}), rounds=9))
    assert "round 2 changed nothing" in result.stopped_because


def test_a_score_at_the_threshold_is_good_enough():
    chat = Chat("A", "B", "C")
    result = chat.run(refine(Written({"A": 0.1, "B": 0.7, "C": 0.9}, {"A": "no", "B": "no"}), threshold=0.7))
    assert result.text == "B"
    assert "'best' gave 0.7, which is good enough, after 1 round" in result.stopped_because


def test_a_good_draft_is_taken_as_it_comes():
    chat = Chat("A")
    assert chat.run(refine(Written({"A": 1.0}))).text == "A"
    assert len(chat.asked) == 1


@pytest.mark.parametrize("said", [SATISFIED, f"I looked at each step.\n**{SATISFIED.title()}.**\n"])
def test_without_a_verifier_the_models_own_no_mistakes_stops_it(said):
    chat = Chat("5", "carry the one", "6", said)
    result = chat.run(refine())
    assert result.text == "6"
    assert "the model found no mistakes after 1 round" in result.stopped_because


def test_no_mistakes_in_a_sentence_stops_nothing():
    chat = Chat("5", f"There are {SATISFIED} in step 1, but step 2 is wrong.", "6", SATISFIED)
    assert chat.run(refine()).text == "6"


def test_without_a_verifier_the_last_complete_version_is_returned():
    chat = Chat("5", "wrong", "6", "still wrong", "7 and much more than can be said in so few tokens" * 3)
    result = chat.run(refine(rounds=2))
    assert [c.generation.finish_reason for c in result.candidates] == ["stop", "stop", "length"]
    assert result.text == "6"


def test_the_best_of_several_drafts_is_refined():
    backend = ScriptedBackend(lambda prompt: ["A", "B", "C"] if "{" not in prompt and len(prompt) < 9 else ["D"])
    judge = Written({"A": 0.1, "B": 0.3, "C": 0.2, "D": 0.2}, dict.fromkeys("ABCD", "no"))
    events = []
    result = asyncio.run(
        refine(judge, drafts=3, rounds=1).run(
            Request.of("2 + 2"), backend, trace=lambda event, fields: events.append((event, dict(fields)))
        )
    )
    assert [c.text for c in result.candidates] == ["A", "B", "C", "D"]
    assert result.text == "B"
    samples = [fields for event, fields in events if event == "sample"]
    assert [s["wave"] for s in samples] == [0, 0, 0, 1]
    assert {s["planned"] for s in samples} == {4}
    [told] = [fields for event, fields in events if event == "round"]
    assert (told["feedback"], told["score"]) == ("no", 0.2)


def test_what_the_verifier_wants_told_is_told_once():
    chat = Chat("A", "B", "C")
    result = chat.run(refine(Telling(dict.fromkeys("ABC", 0.5), dict.fromkeys("ABC", "no")), rounds=2))
    assert result.stopped_because == "did all 2 rounds; code ran without isolation"


def test_versions_that_the_verifier_did_not_judge_are_told_and_never_beat_a_judged_one():
    chat = Chat("A", "B", "C")
    result = chat.run(refine(Written({"A": 0.5}, dict.fromkeys("ABC", "no")), rounds=2))
    assert result.text == "A"
    assert "'best' did not judge 2 of 3 complete versions" in result.stopped_because
    nothing = Chat("A", "B", "C").run(refine(Written({}, dict.fromkeys("ABC", "no")), rounds=2))
    assert nothing.text == "C"
    assert "did not judge 3 of 3 complete versions, so the last one was kept" in nothing.stopped_because


def test_a_failed_criticism_ends_it_with_the_best_so_far_and_says_so():
    backend = ScriptedBackend(
        lambda prompt: ["A"], fails=lambda prefix, i: "Check the answer" in prefix.messages[0].content
    )
    result = asyncio.run(refine().run(Request.of("2 + 2"), backend))
    assert result.text == "A"
    assert "a criticism failed (scripted failure)" in result.stopped_because


def test_a_failed_fix_is_visible_and_the_next_round_tries_again():
    backend = ScriptedBackend(lambda prompt: ["A"], fails=lambda prefix, i: len(prefix.messages) > 1)
    judge = Written({"A": 0.5}, {"A": "no"})
    result = asyncio.run(refine(judge, rounds=2).run(Request.of("2 + 2"), backend))
    assert [c.generation.finish_reason for c in result.candidates] == ["stop", "error", "error"]
    assert result.text == "A"
    assert "2 of 3 failed: scripted failure" in result.stopped_because


def test_a_failed_draft_is_an_error():
    backend = ScriptedBackend(lambda prompt: ["A"], fails=lambda prefix, i: True)
    with pytest.raises(BackendError, match="the only sample of 'scripted' failed"):
        asyncio.run(refine().run(Request.of("2 + 2"), backend))


def test_a_conversation_that_outgrows_the_context_ends_it_with_the_best_so_far():
    chat = Chat("A", "B", context=100)
    result = chat.run(refine(Written({"A": 0.5}, {"A": "x" * 200})))
    assert result.text == "A"
    assert "round 1 does not fit the backend's context" in result.stopped_because


def test_a_round_is_begun_only_where_the_budget_holds_all_of_it():
    chat = Chat("A", "B", "C")
    judge = Written({"A": 0.1, "B": 0.2}, {"A": "no", "B": "no"})
    result = chat.run(refine(judge), budget=Budget(tokens=220))
    assert len(result.candidates) < 4
    assert "the budget of 220 tokens does not hold round" in result.stopped_because
    assert result.usage.total_tokens <= 220


def test_two_samples_never_share_a_seed():
    chat = Chat("A", "wrong", "B", "wrong", "C")
    chat.run(refine(rounds=2))
    assert [params.seed for _, _, params in chat.backend.calls] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"drafts": 0}, "drafts=0"),
        ({"drafts": 2}, "no verifier ranks them"),
        ({"threshold": 0.0}, "threshold=0"),
        ({"threshold": 1.5}, r"threshold=1\.5"),
        ({"critique_tokens": 0}, "critique_tokens=0"),
        ({"critique": "Check {answer}"}, r"critique lacks the slot \{prompt\}"),
        ({"fix": "Do better."}, r"fix lacks the slot \{feedback\}"),
        ({"fix": "{feedback} {feedbak}"}, r"slot \{feedbak\} that nothing fills; did you mean 'feedback'"),
        ({"fix": "{feedback} {"}, "fix is no template"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        refine(**settings)


def test_a_verifier_that_compares_versions_with_each_other_is_refused():
    with pytest.raises(ConfigError, match=r"verifier 'vote' scores texts by comparing them.*criticises itself"):
        refine(Vote())


def test_drafts_that_would_all_be_the_same_are_refused():
    with pytest.raises(ConfigError, match="same draft 2 times"):
        Refinement(rounds=1, drafts=2, verifier=Written({}), params=SamplingParams(temperature=0.0))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "refine_3"),
        ({"rounds": 2, "drafts": 4}, "refine_2_of_4"),
        ({"verifier": "tests"}, "refine_3_by_tests"),
        ({"verifier": ""}, "refine_3_alone"),
    ],
)
def test_its_spec_names_it_and_the_verifier_that_it_needs(settings, name):
    spec = RefinementSpec(**settings)
    assert spec.name == name
    assert spec.needs_verifiers == ((settings.get("verifier", "best"),) if spec.verifier else ())


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["A", "B", "C", "D", "E"]), min_size=6, max_size=6),
    scores=st.fixed_dictionaries({t: st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.6, 0.9])) for t in "ABCDE"}),
)
def test_whatever_it_draws_it_returns_the_first_of_the_best_scored(texts, scores):
    chat = Chat(*texts)
    result = chat.run(refine(Written(scores, dict.fromkeys("ABCDE", "no")), rounds=5))
    drawn = [c.text for c in result.candidates]
    if scores[drawn[0]] is not None:
        assert scores[result.text] is not None
        assert scores[result.text] >= scores[drawn[0]]
    known = [scores[text] for text in drawn if scores[text] is not None]
    if known:
        assert drawn.index(result.text) == next(i for i, t in enumerate(drawn) if scores[t] == max(known))
    else:
        assert result.text == drawn[-1]


class Reads:
    """Scores a text by its digits, a token per character."""

    name, sound, prices = "best", False, Prices(prompt=0.5, completion=0.0)

    async def score(self, request, candidates, *, partial=False):
        read = sum(len(request.text) + len(c.text) for c in candidates)
        digits = [sum(map(int, filter(str.isdigit, c.text))) % 10 / 10 for c in candidates]
        return Verdicts(tuple(digits), Usage(verifier_tokens=read, calls=1, cost=0.5 * read))


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "strategy", [refine(Reads(), drafts=3), refine(Reads(), rounds=1), refine()], ids=lambda s: s.name
)
def test_it_keeps_the_contract(check, strategy):
    backend = ScriptedBackend(lambda prompt: [f"{i}{i + 1}\nAnswer: {len(prompt) % 7 + i}" for i in range(7)])

    async def served():
        return backend.served.completion_tokens

    async def running():
        return backend.running

    def pause():
        backend.held = asyncio.Event()

    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    asyncio.run(check(Subject(
        strategy=strategy, backend=backend, prompts=prompts, served=served, running=running,
        pause=pause, resume=lambda: backend.held.set(),
    )))  # fmt: skip
