"""Tree search on scripted solutions, where every level can be told by hand."""

import asyncio

import pytest

from howhard.strategies import Budget, ExactCheck, FirstOf, Prices, Request, SamplingParams, TreeSearch, Usage, Verdicts
from howhard.strategies.errors import BackendError, ConfigError, InputError, PromptTooLong, VerifierError
from howhard.strategies.testing import FailingOn, ScriptedBackend

PARAMS = SamplingParams(max_tokens=40, seed=0)


class Guide:
    """Scores a text by its last line, so that each line's worth is written in the test."""

    name, sound = "guide", False

    def __init__(self, table, *, prices=None):
        self.table, self.prices, self.asked = table, prices, []

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        self.asked.append((partial, tuple(texts)))
        scores = tuple(self.table.get(text.rstrip("\n").rpartition("\n")[2], 0.5) for text in texts)
        read = sum(len(request.text) + len(t) for t in texts) if self.prices else 0
        cost = self.prices.cost(prompt=read, completion=0) if self.prices else 0.0
        return Verdicts(scores, Usage(verifier_tokens=read, cost=cost))


def backend(*texts, **kwargs):
    return ScriptedBackend(lambda prompt: texts, **kwargs)


def search(table, *, width=1, branches=2, **kwargs):
    prices = kwargs.pop("prices", None)
    kwargs.setdefault("params", PARAMS)
    return TreeSearch(width=width, branches=branches, verifier=Guide(table, prices=prices), **kwargs)


def run(strategy, on, prompt="why?", **kwargs):
    return asyncio.run(strategy.run(Request.of(prompt), on, **kwargs))


# growing


def test_the_best_step_is_gone_on_from_and_the_others_are_left():
    on = backend("a\nx\n1", "b\ny\n2", "b\nz\n3")
    result = run(search({"a": 0.2, "b": 0.8, "y": 0.1, "z": 0.7}, branches=3), on)
    assert result.answer == "b\nz\n3"
    assert [p.answer for prefixes, _, _ in on.calls for p in prefixes] == ["", "b\n", "b\nz\n"]
    assert result.stopped_because == "every way had ended after 3 levels"


def test_the_first_level_draws_as_many_steps_as_the_later_ones():
    on = backend("a\nx\n1", "b\ny\n2", "c\nz\n3", "d\nw\n4")
    run(search({}, width=2, branches=2), on)
    assert [(len(prefixes), n) for prefixes, n, _ in on.calls][:2] == [(1, 4), (2, 2)]
    assert [params.seed for _, _, params in on.calls][:3] == [0, 4, 8]


def test_equal_steps_are_merged_before_they_are_scored_and_gone_on_from():
    on = backend("a\n1", "a\n2", "b\n3", "a\n4")
    strategy = search({"a": 0.9, "b": 0.8}, width=2, branches=2)
    nodes = []
    run(strategy, on, trace=lambda event, fields: nodes.append(dict(fields)) if event == "node" else None)
    assert strategy.verifier.asked[0] == (True, ("a\n", "b\n"))
    assert [(n["text"], n["copies"], n["kept"]) for n in nodes if n["depth"] == 1] == [
        ("a\n", 3, True),
        ("b\n", 1, True),
    ]
    assert [p.answer for p in on.calls[1][0]] == ["a\n", "b\n"]
    first = next(n for n in nodes if n["finished"])
    assert (first["parent"], first["depth"]) == (nodes[0]["node"], 2)


def test_where_places_go_by_draws_a_step_holds_and_draws_as_many_as_said_it():
    texts = ("a\nx\n1", "b\ny\n2", "a\nz\n3", "a\nw\n4")  # "b" is rated highest, but was drawn once
    rated = {"b": 0.9, "a": 0.8}
    on = backend(*texts)
    run(search(rated, width=2, branches=2, places="drawn"), on)
    assert sorted((p.answer, n) for prefixes, n, _ in on.calls[1:2] for p in prefixes) == [("a\n", 2), ("b\n", 2)]
    on = backend("a\nx\n1", "b\ny\n2", "a\nz\n3")
    run(search({"a": 0.9, "b": 0.8}, width=2, branches=2, places="drawn"), on)
    [(prefixes, n, _)] = on.calls[1:2]
    assert ([p.answer for p in prefixes], n) == (["a\n"], 4)  # its two draws hold both places, and draw for both


def test_finished_solutions_are_judged_whole_and_partial_ones_as_partial():
    strategy = search({"1": 0.3}, branches=2)
    run(strategy, backend("a\n1", "2"))
    assert strategy.verifier.asked[:2] == [(False, ("2",)), (True, ("a\n",))]


def test_a_finished_solution_takes_its_place_out_of_play():
    on = backend("1", "a\n2", "b\n3")
    result = run(search({"1": 0.9, "a": 0.8, "b": 0.7, "2": 0.95}, width=2, branches=2), on)
    assert [p.answer for p in on.calls[1][0]] == ["a\n"]  # one place is left of two
    assert result.answer == "a\n2"
    assert [(c.text, c.score) for c in result.candidates] == [("1", 0.9), ("a\n2", 0.95)]


def test_a_place_stays_out_of_play_at_later_levels():
    on = backend("1", "a\nx\n2", "a\ny\n3", "b\n4")
    run(search({"1": 0.9, "a": 0.8, "b": 0.7}, width=2, branches=2), on)
    assert [[p.answer for p in prefixes] for prefixes, _, _ in on.calls] == [[""], ["a\n"], ["a\nx\n"]]


def test_a_finished_solution_that_is_not_among_the_best_is_weighed_all_the_same():
    result = run(search({"1": 0.4, "a": 0.8, "2": 0.1}, branches=2), backend("1", "a\n2"))
    assert result.answer == "1"
    assert len(result.candidates) == 2


def test_equal_scores_go_to_the_solution_that_was_launched_first():
    assert run(search({}, width=2, branches=2), backend("1", "2", "3", "4")).answer == "1"


def test_a_proof_ends_the_search():
    prompt = "Use 3, 5 and 7 to make 36."
    right, on_the_way = "5 + 7 = 12\n12 * 3 = 36", "3 * 5 = 15\n15 + 7 = 22"
    on = backend(right, on_the_way, right)
    verifier = FirstOf("best", [ExactCheck(), Guide({})])
    params = SamplingParams(max_tokens=60, seed=0)
    result = run(TreeSearch(width=3, branches=2, verifier=verifier, params=params), on, prompt)
    assert result.text == right
    assert result.stopped_because == "'best' proved a solution at level 2"
    assert [c.text for c in result.candidates if c.proven] == [right]


def test_a_wrong_solution_is_no_proof():
    prompt = "Use 3, 5 and 7 to make 36."
    verifier = FirstOf("best", [ExactCheck(), Guide({})])
    params = SamplingParams(max_tokens=60, seed=0)
    result = run(TreeSearch(width=1, branches=2, verifier=verifier, params=params), backend("1 + 1 = 2"), prompt)
    assert result.candidates[0].score == 0.0
    assert "proved" not in result.stopped_because


def test_a_step_longer_than_its_limit_goes_on_at_the_next_level():
    result = run(search({}, branches=1, step_tokens=3), backend("abcdefgh\n12"))
    assert result.answer == "abcdefgh\n12"
    assert result.candidates[0].generation.completion_tokens == 12


def test_a_solution_never_exceeds_max_tokens():
    on = backend("abc\n" * 20)
    params = SamplingParams(max_tokens=10, seed=0)
    result = run(search({}, branches=2, params=params), on)
    assert [call.max_tokens for _, _, call in on.calls] == [10, 6, 2]
    assert result.answer is None
    assert result.text == "abc\nabc\nab"
    assert result.candidates[0].generation.finish_reason == "length"


def test_beams_with_less_room_left_are_drawn_with_less():
    on = backend("a\nbbbbbbbbbbbb", "abcdef\nbbbbbbbbb")
    params = SamplingParams(max_tokens=10, seed=0)
    run(search({}, width=2, branches=1, params=params), on)
    assert sorted(call.max_tokens for _, _, call in on.calls[1:3]) == [3, 8]


@pytest.mark.parametrize("keep", [True, False])
def test_a_stop_string_of_the_caller_ends_a_solution(keep):
    params = SamplingParams(max_tokens=40, stop=("END",), keep_stop=keep, seed=0)
    result = run(search({}, branches=1, params=params), backend("a\n7END and more"))
    assert result.answer == ("a\n7END" if keep else "a\n7")


def test_candidates_carry_the_whole_way():
    [candidate] = run(search({}, branches=1), backend("a\nb\n7")).candidates
    generation = candidate.generation
    assert (generation.text, generation.complete) == ("a\nb\n7", True)
    assert generation.completion_tokens == 6
    assert generation.prompt_tokens == 4


def test_another_text_may_end_a_step():
    on = backend("a. b. 7")
    assert run(search({}, branches=1, step_end=". "), on).answer == "a. b. 7"
    assert [p.answer for prefixes, _, _ in on.calls for p in prefixes] == ["", "a. ", "a. b. "]


def test_a_verifier_that_can_t_judge_partial_solutions_is_told_on():
    strategy = TreeSearch(width=1, branches=2, verifier=ExactCheck(), params=PARAMS)
    result = run(strategy, backend("a\n1", "b\n2"))
    assert result.answer == "a\n1"
    assert "'check' judged no partial solution, so ways were kept in launch order" in result.stopped_because


# ends


def test_where_nothing_has_finished_the_best_way_is_written_to_its_end_greedily():
    on = backend("a\nx\n1", "b\ny\n2")
    result = run(search({"b": 0.9}, branches=2, max_steps=1), on)
    assert result.answer == "b\ny\n2"
    assert on.calls[-1][2].temperature == 0
    assert on.calls[-1][1] == 1
    assert result.stopped_because == "took all 1 levels; the best way was written to its end greedily"
    assert result.candidates[0].score == 0.5


@pytest.mark.parametrize("tokens", [*range(5, 60), 80, 120, 200, 1000])
@pytest.mark.parametrize("prices", [None, Prices(prompt=1.0, completion=0.0)], ids=["free", "reading"])
def test_there_is_an_answer_within_any_budget_that_holds_one_solution(tokens, prices):
    on = backend("a\nxx\n1", "b\nyy\n2", "cc\nzz\n3")
    params = SamplingParams(max_tokens=12, seed=0)
    strategy = search({}, width=2, branches=2, params=params, step_tokens=6, prices=prices)
    result = run(strategy, on, budget=Budget(tokens=tokens))
    assert result.usage.total_tokens <= tokens
    if tokens >= 4 + 12:
        assert result.answer is not None
    else:
        assert result.text


def test_a_larger_budget_searches_more():
    texts = [f"{a}\n{b}\n{a}{b}" for a in "abcd" for b in "wxyz"]
    params = SamplingParams(max_tokens=12, seed=0)
    drawn = [
        run(search({}, width=2, branches=4, params=params, step_tokens=6), backend(*texts), budget=Budget(tokens=t))
        for t in (20, 60, 120, 1000)
    ]
    totals = [result.usage.completion_tokens for result in drawn]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]
    assert "the budget of 20 tokens holds no further level after 0" in drawn[0].stopped_because


def test_the_settings_own_budget_and_the_run_s_are_both_kept():
    texts = ["a\nb\nc\n1", "d\ne\nf\n2"]
    for own, given in ((60, None), (60, 1000), (None, 60), (1000, 60)):
        strategy = search({}, branches=2, token_budget=own, step_tokens=6)
        result = run(strategy, backend(*texts), budget=None if given is None else Budget(tokens=given))
        assert result.usage.total_tokens <= 60
    cost = Budget(cost=120)
    assert run(search({}, token_budget=10_000), backend(*texts), budget=cost).usage.cost <= 120


def test_a_budget_that_holds_no_token_is_refused():
    on = backend("a\n1")
    with pytest.raises(InputError, match="the budget of 4 tokens does not hold one token"):
        run(search({}), on, budget=Budget(tokens=4))
    assert on.calls == []


def test_time_runs_out_and_the_best_so_far_is_kept():
    on = backend("1", "a\nbbbbb\n2")

    class Holding(Guide):
        async def score(self, request, candidates, *, partial=False):
            on.held = asyncio.Event()  # from the second level on, no sample gets beyond its first token
            return await super().score(request, candidates, partial=partial)

    strategy = TreeSearch(width=2, branches=1, verifier=Holding({"a": 0.9}), params=PARAMS)
    result = run(strategy, on, budget=Budget(seconds=0.5))
    assert result.answer == "1"
    assert result.stopped_because == "the budget of 0.5 s was spent at level 2"
    assert "cancelled" in [c.generation.finish_reason for c in result.candidates]
    assert on.running == 0


def test_a_way_that_can_t_be_finished_is_shown_as_far_as_it_came():
    params = SamplingParams(max_tokens=12, seed=0)
    result = run(search({"b": 0.9}, max_steps=1, params=params), backend("a\n" + "x" * 20, "b\n" + "y" * 20))
    assert (result.answer, result.text) == (None, "b\nyyyyyyyyyy")
    assert [c.generation.finish_reason for c in result.candidates] == ["length"]


# failing


def test_a_step_that_failed_is_shown_and_loses_no_other():
    result = run(search({}, width=2, branches=2), FailingOn(backend("a\n1", "b\n2", "c\n3"), {1}))
    failed = [c for c in result.candidates if c.generation.finish_reason == "error"]
    assert failed
    assert result.answer == "a\n1"


def test_where_every_sample_failed_the_first_error_is_raised_and_nothing_more_is_sent():
    on = backend("a\n1", "b\n2")
    with pytest.raises(BackendError, match="all 2 samples of 'scripted' failed; the first: failed on purpose"):
        run(search({}), FailingOn(on, {0, 1}))
    assert len(on.calls) == 1


def test_a_backend_that_breaks_half_way_leaves_the_text_so_far():
    on = backend("a\n1", "b\n2", fails=lambda prefix, i: prefix.answer != "")
    result = run(search({"b": 0.9}), on)
    assert (result.answer, result.text) == (None, "b\n")
    assert "every sample of level 2 failed" in result.stopped_because
    assert len(on.calls) == 2


def test_a_verifier_s_nonsense_is_an_error():
    with pytest.raises(VerifierError, match="'guide' gave candidate 0 the score 7"):
        run(search({"a": 7}), backend("a\n1"))


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn():
    on = backend("a\n1", context=43)
    with pytest.raises(PromptTooLong, match="holds 43 tokens, but the prompt has 4 and max_tokens=40"):
        run(search({}), on)
    assert on.calls == []


def test_a_context_that_fills_up_ends_the_search_with_what_there_is():
    class Full(FailingOn):  # can't be asked for lengths beforehand
        def generate(self, prefixes, *, n, params, apart=False):
            if any(len(p.answer) >= 4 for p in prefixes):
                raise PromptTooLong("full")
            return self.backend.generate(prefixes, n=n, params=params, apart=apart)

    on = Full(backend("a\nb\n1", "2", context=100), set())
    result = run(search({"a": 0.9, "b": 0.9, "2": 0.1}), on)
    assert result.answer == "2"
    assert result.stopped_because == "the context of 'scripted' was full after 2 levels"
    unfinished = run(search({"a": 0.9, "b": 0.9}), Full(backend("a\nb\n1", context=100), set()))
    assert (unfinished.answer, unfinished.text) == (None, "a\nb\n")


# settings


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"width": 0}, "width=0"),
        ({"branches": 0}, "branches=0"),
        ({"step_tokens": 0}, "step_tokens=0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"step_end": ""}, "step_end is empty"),
        ({"token_budget": 0}, "tokens=0"),
        ({"params": SamplingParams(temperature=0)}, "the same step again and again"),
    ],
)
def test_settings_are_checked_when_built(changes, words):
    with pytest.raises(ConfigError, match=words):
        search({}, **{"width": 2, "branches": 2, **changes})


def test_the_name_says_width_and_branches():
    strategy = search({}, width=4, branches=3)
    assert strategy.name == "beam_4x3_by_guide"
    assert "width=4, branches=3, verifier='guide'" in repr(strategy)
    assert strategy.on(backend()).name == "scripted/beam_4x3_by_guide"
    assert search({}, width=4, branches=3, places="drawn").name == "beam_4x3_drawn_by_guide"
