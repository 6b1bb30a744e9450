"""Which candidate wins."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Candidate
from howhard.strategies.selection import best_of_majority, voted, weighted_best


def candidates(*given):
    """(answer, score) pairs; answer None = not complete."""
    made = []
    for place, (answer, score) in enumerate(given):
        candidate = dataclasses.replace(Candidate.of(f"text {place}", answer), score=score)
        if answer is None:
            cut = dataclasses.replace(candidate.generation, finish_reason="length")
            candidate = dataclasses.replace(candidate, generation=cut)
        made.append(candidate)
    return made


def grouped(made):
    numbers = {}
    return tuple(None if c.answer is None else numbers.setdefault(c.answer, len(numbers)) for c in made)


def test_the_vote_goes_to_the_most_weight_and_ties_to_the_answer_launched_first():
    made = candidates(("b", None), ("a", None), ("a", None), ("b", None), (None, None))
    groups = grouped(made)
    assert voted(made, groups, (1, 1, 1, 1, 0)) is made[0]
    assert voted(made, groups, (1, 2, 1, 1, 0)) is made[1]
    assert voted(made, groups, (0, 1, 1, 3, 0)) is made[3]  # a sample that weighs nothing does not speak for its answer
    assert voted(made, groups, (0,) * 5) is made[0]
    assert voted(made[4:], groups[4:], (0,)) is None


def sure(candidate, *logprobs):
    return dataclasses.replace(
        candidate, generation=dataclasses.replace(candidate.generation, logprobs=logprobs or None)
    )


def test_ties_go_to_the_surer_answer_where_all_of_them_tell_how_sure_they_are():
    made = candidates(("a", None), ("b", None), ("b", None), ("a", None), ("c", None))
    groups = grouped(made)
    known = [sure(c, p) for c, p in zip(made, (-1.0, -0.5, -2.5, -1.0, -0.1), strict=True)]
    assert voted(known, groups, (1,) * 5) is known[0]  # -1.0 against -1.5; c has one vote only
    assert voted(known, groups, (1, 2, 0, 1, 1)) is known[1]  # a sample that weighs nothing is not asked
    assert voted(known[:3], groups[:3], (1, 0.5, 0.5)) is known[0]
    assert voted([known[3], known[1]], (0, 1), (1, 1)) is known[1]
    assert voted([sure(made[1]), known[3]], (0, 1), (1, 1)).answer == "b"  # it does not tell: launch order
    assert voted([known[3], known[0]], (0, 1), (1, 1)) is known[3]  # equally sure: launch order


def test_the_weighted_choice_sums_the_scores_of_equal_answers():
    made = candidates(("a", 0.9), ("b", 0.5), ("b", 0.6), ("c", None))
    assert weighted_best(made, grouped(made)) is made[2]
    assert weighted_best(made[:2], grouped(made[:2])) is made[0]


def test_the_weighted_choice_breaks_ties_by_launch_order_and_needs_a_score():
    made = candidates(("a", 0.5), ("b", 0.5))
    assert weighted_best(made, grouped(made)) is made[0]
    made = candidates((None, None), ("b", None), ("a", None))
    assert weighted_best(made, grouped(made)) is made[1]
    made = candidates((None, None))
    assert weighted_best(made, grouped(made)) is made[0]


def test_best_of_majority_leaves_rare_answers_out_however_high_their_score():
    made = candidates(("x", 1.0), ("a", 0.2), ("a", 0.3), ("a", 0.1), ("b", 0.9), ("b", 0.4))
    groups = grouped(made)
    assert best_of_majority(made, groups, frequent=0.1) is made[0]
    assert best_of_majority(made, groups, frequent=0.3) is made[4]
    assert best_of_majority(made, groups, frequent=0.5) is made[2]
    assert best_of_majority(made, groups, frequent=1.0) is made[2]  # nobody is so frequent: the most frequent
    nothing = candidates((None, None))
    assert best_of_majority(nothing, grouped(nothing), frequent=0.1) is nothing[0]


RATED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.floats(0.1, 1)), min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(RATED)
def test_with_equal_scores_the_weighted_choice_is_the_plain_vote(rated):
    made = candidates(*((answer, None if answer is None else 0.5) for answer, _ in rated))
    groups = grouped(made)
    plain = voted(made, groups, [1.0] * len(made))
    chosen = weighted_best(made, groups)
    assert (chosen.answer if chosen else None) == (plain.answer if plain else None)
    assert plain is None or chosen is plain


@settings(max_examples=80, deadline=None)
@given(RATED, st.sampled_from([0.0, 0.2, 0.5]))
def test_the_choice_is_a_candidate_with_an_answer_where_there_is_one(rated, frequent):
    made = candidates(*((answer, None if answer is None else score) for answer, score in rated))
    groups = grouped(made)
    some = any(c.answer is not None for c in made)
    for chosen in (weighted_best(made, groups), best_of_majority(made, groups, frequent=frequent)):
        assert any(chosen is c for c in made)
        assert (chosen.answer is not None) == some
    best = max((c.score for c in made if c.answer is not None), default=None)
    assert best_of_majority(made, groups, frequent=0.0).score == best


@pytest.mark.parametrize("choose", [weighted_best, lambda c, g: best_of_majority(c, g, frequent=0.1)])
def test_of_no_candidates_none_is_chosen(choose):
    assert choose([], ()) is None
