"""Rules that say when enough was drawn."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc

from howhard.strategies import Candidate, Request
from howhard.strategies.errors import ConfigError
from howhard.strategies.stopping import (
    ESC,
    RULES,
    Accepted,
    Beta,
    Consensus,
    Exact,
    Fixed,
    Seen,
    StopRule,
    Tally,
    get_stop_rule,
    stays_ahead,
)


def seen(groups, *, weights=None, planned=32, scores=None):
    candidates = [Candidate.of("t", None if g is None else str(g)) for g in groups]
    if scores is not None:
        candidates = [
            Candidate(text=c.text, answer=c.answer, generation=c.generation, score=s)
            for c, s in zip(candidates, scores, strict=True)
        ]
    return Seen(
        request=Request.of("p"),
        candidates=tuple(candidates),
        groups=tuple(groups),
        weights=tuple(weights) if weights is not None else tuple(float(g is not None) for g in groups),
        planned=planned,
    )


def first_appearance(values):
    numbers = {}
    return [None if v is None else numbers.setdefault(v, len(numbers)) for v in values]


# Beta


def test_four_equal_answers_suffice_for_the_beta_rule_and_three_do_not():
    assert stays_ahead(4, 0, 0.95)
    assert not stays_ahead(3, 0, 0.95)
    assert Beta().more(seen([0, 0, 0, 0])) == 0
    assert Beta().more(seen([0, 0, 0, 1])) == 4


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.floats(0.51, 0.999))
def test_the_beta_rule_is_the_incomplete_beta_function(first, second, threshold):
    p = 1 - betainc(first + 1, second + 1, 0.5)
    if abs(p - threshold) > 1e-9:
        assert stays_ahead(first, second, threshold) == (p >= threshold)


def test_the_beta_rule_is_decided_in_integers():
    # P(4, 0) = 31/32 exactly: at the threshold it stops, one float above it does not
    assert stays_ahead(4, 0, 31 / 32)
    assert not stays_ahead(4, 0, math.nextafter(31 / 32, 1))


def test_abstentions_do_not_vote_and_weights_choose_the_leader():
    assert Beta().more(seen([None, 0, 0, 0])) == 4
    # the heaviest answer has fewer votes than another one: far from settled
    assert Beta().more(seen([0, 1, 1, 1, 1], weights=[9, 1, 1, 1, 1])) == 4
    assert Beta().more(seen([1, 0, 0, 0, 0], weights=[0, 1, 1, 1, 1])) == 0  # a vote that weighs nothing is none


def test_a_vote_in_which_no_two_agree_is_given_up_where_that_is_wished():
    assert Beta(scattered=4).more(seen([0, 1, None, 2, 3])) == 0
    assert Beta(scattered=4).more(seen([0, 1, None, 2])) == 4  # an abstention is no disagreement
    assert Beta(scattered=4).more(seen([0, 1, 2, 3, 0])) == 4
    assert Beta().more(seen(range(24))) == 4


# ESC


def test_esc_stops_at_a_unanimous_window_of_what_was_drawn_last():
    assert ESC(5).more(seen([])) == 5
    assert ESC(5).more(seen([0] * 5)) == 0
    assert ESC(5).more(seen([0, 0, 0, 0, 1])) == 5
    assert ESC(5).more(seen([0, 1, 2, 3, 0, 1, 1, 1, 1, 1])) == 0
    assert ESC(5).more(seen([0, 0, None, 0, 0])) == 5
    assert ESC(3).more(seen([None, None, None])) == 3
    assert ESC(5).more(seen([0, 0, 0])) == 5  # a wave that the budget made smaller is no window


# consensus


def test_a_consensus_is_a_share_of_the_weight():
    assert Consensus(0.75).more(seen([0, 0, 0, 1])) == 0
    assert Consensus(0.76).more(seen([0, 0, 0, 1])) == 4
    assert Consensus(0.9).more(seen([0, 1, 1], weights=[9, 0.5, 0.5])) == 0
    assert Consensus(1).more(seen([0, 0, None])) == 0  # abstentions do not count
    assert Consensus().more(seen([None, None])) == 4
    assert Consensus().more(seen([0, 0], weights=[0, 0])) == 4


# the exact rule


def winner_of(votes):
    """The full vote: the most votes; ties to the answer that appeared first."""
    counts = [votes.count(a) for a in range(max((v for v in votes if v is not None), default=-1) + 1)]
    return max(range(len(counts)), key=lambda a: counts[a], default=None)


@pytest.mark.parametrize("planned", [1, 2, 3, 5, 6])
def test_the_exact_rule_never_changes_the_winner_of_the_full_vote_and_stops_as_soon_as_that_is_so(planned):
    alphabet = [0, 1, None] if planned > 3 else [0, 1, 2, None]
    for votes in itertools.product(alphabet, repeat=planned):
        votes = first_appearance(votes)
        for drawn in range(1, planned):
            now = votes[:drawn]
            if Exact(wave=1).more(seen(now, planned=planned)) == 0:
                assert winner_of(votes) == winner_of(now)


def test_the_exact_rule_stops_as_soon_as_no_ending_can_lead_to_another_winner_or_a_tie():
    planned = 6
    for drawn in range(1, planned):
        for now in {tuple(first_appearance(v)) for v in itertools.product([0, 1, 2, None], repeat=drawn)}:
            leaders = set()
            for rest in itertools.product([0, 1, 2, 3, None], repeat=planned - drawn):
                counts = sorted(((([*now, *rest]).count(a), a) for a in range(4)), reverse=True)
                leaders |= {a for count, a in counts if count == counts[0][0]}
            assert (Exact(wave=1).more(seen(now, planned=planned)) == 0) == (len(leaders) == 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(0, 2), st.floats(0, 1)), min_size=2, max_size=10))
def test_the_weighted_exact_rule_never_changes_the_winner_either(votes):
    groups = first_appearance([g for g, _ in votes])
    weights = [0.0 if g is None else w for g, w in votes]
    whole = Tally.of(groups, weights).leader
    for drawn in range(1, len(votes)):
        part = seen(groups[:drawn], weights=weights[:drawn], planned=len(votes))
        if Exact(wave=1).more(part) == 0:
            assert Tally.of(groups[:drawn], weights[:drawn]).leader == whole


def test_the_exact_rule_counts_the_remaining_votes_at_their_largest_weight():
    votes = {"groups": [0, 0, 0], "planned": 4}
    assert Exact().more(seen(**votes)) == 0
    assert Exact(largest=3.0).more(seen(**votes)) == 1
    assert Exact(largest=2.9).more(seen(**votes)) == 0


# accepted


def test_accepted_stops_at_a_score_that_reaches_the_threshold():
    assert Accepted(0.8).more(seen([0, 1], scores=[0.1, 0.8])) == 0
    assert Accepted(0.8).more(seen([0, 1], scores=[None, 0.79])) == 4
    assert Accepted().more(seen([0], scores=[1.0])) == 0


# waves


@pytest.mark.parametrize(
    "rule, expected",
    [
        (Beta(), [4] * 8),
        (Beta(wave=10), [10, 10, 10, 2]),
        (Beta(doubling=True), [4, 4, 8, 16]),
        (ESC(), [5] * 6 + [2]),
        (ESC(wave=4), [4] * 8),
        (Exact(wave=3, doubling=True), [3, 3, 6, 12, 8]),
        (Fixed(), [32]),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_waves_add_up_to_what_was_planned(rule, expected):
    groups, waves = [], []
    while more := rule.more(seen(groups, planned=32)):
        waves.append(more)
        groups += range(len(groups), len(groups) + more)  # nobody agrees with anybody
    assert waves == expected
    assert len(groups) == 32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(0, 3), st.floats(0, 5)), max_size=12))
def test_a_tally_adds_up_and_the_first_of_equals_leads(votes):
    groups = first_appearance([g for g, _ in votes])
    weights = [w for _, w in votes]
    tally = Tally.of(groups, weights)
    for group, weight in enumerate(tally.weights):
        assert weight == math.fsum(w for g, w in zip(groups, weights, strict=True) if g == group)
    if tally.leader is not None:
        assert tally.weights[tally.leader] == max(tally.weights)
        assert all(w < tally.weights[tally.leader] for w in tally.weights[: tally.leader])


# names


@pytest.mark.parametrize(
    "text, name",
    [
        (None, "fixed"),
        ("none", "fixed"),
        ("beta", "beta"),
        ("beta:0.95", "beta"),
        ("beta:0.9,wave=8", "beta_0.9_w8"),
        ("beta,doubling", "beta_doubling"),
        ("beta:0.8,scattered=16", "beta_0.8_scattered_16"),
        ("esc", "esc"),
        ("esc:3", "esc_3"),
        ("esc:5,wave=4", "esc_w4"),
        ("exact", "exact"),
        ("consensus:0.9,wave=16", "consensus_0.9_w16"),
        ("exact, wave=1", "exact_w1"),
        ("accept", "until_1.0"),
        ("accept:0.9", "until_0.9"),
    ],
)
def test_rules_are_made_by_name(text, name):
    rule = get_stop_rule(text)
    assert rule.name == name
    assert isinstance(rule, StopRule)
    assert get_stop_rule(rule) is rule
    assert name in repr(rule)


@pytest.mark.parametrize(
    "text, words",
    [
        ("betta", "'betta' is not known; did you mean 'beta'"),
        ("none:3", "'none:3' is not known"),
        ("exact:3", "'exact:3' is not known"),
        ("beta:high", "'high' is not a number"),
        ("esc:2.5", "'2.5' is not a number"),
        ("beta,wave=x", "'x' is not a number"),
        ("beta,waves=3", "option 'waves=3' is not known"),
        ("esc,scattered=16", "option 'scattered=16' is not known"),
        ("beta,scattered=1", "scattered=1: it takes at least 2"),
        ("beta:0.5", r"threshold=0\.5: the Beta rule's must lie between 0\.5 and 1"),
        ("beta:1", "the Beta rule's must lie between"),
        ("beta:nan", "threshold=nan"),
        ("esc:1", "window=1: one sample always agrees with itself"),
        ("beta,wave=0", "wave=0: a wave draws at least 1 sample"),
        ("consensus:0.5", r"share=0\.5: a consensus is more than half"),
        ("accept:0", r"threshold=0\.0: scores lie in"),
        ("accept:1.5", r"threshold=1\.5: scores lie in"),
        (3, "stop=3: give a rule, or a name"),
    ],
)
def test_rules_check_their_settings(text, words):
    with pytest.raises(ConfigError, match=words):
        get_stop_rule(text)


def test_the_exact_rule_needs_a_largest_weight_and_every_name_makes_a_rule():
    with pytest.raises(ConfigError, match=r"largest=0: the most that a vote can weigh"):
        Exact(largest=0)
    assert [get_stop_rule(name).name for name in RULES] == ["fixed", "beta", "esc", "exact", "consensus", "until_1.0"]
