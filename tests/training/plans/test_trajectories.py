"""What plans read of a samples log, and which logs they refuse."""

import numpy as np
import pandas as pd
import pytest

from howhard.router.plan import Hand, Leg, Menu
from howhard.strategies import ExactCheckSpec, FirstOfSpec, RewardModelSpec, VoteSpec
from howhard.strategies.errors import ConfigError, InputError, TableError
from howhard.training.plans.trajectories import read_samples

VERIFIERS = {
    "check": ExactCheckSpec(), "prm": RewardModelSpec(model="tiny-prm"), "vote": VoteSpec(),
    "best": FirstOfSpec(verifiers=("check", "prm")),
}  # fmt: skip


def menu(*stages: int, large: tuple[int, ...] = (), verifier: str | None = "check", **leg) -> Menu:
    drawn = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64, **leg}
    legs = [Leg(backend="small", stages=stages or (1, 2, 4, 8), **drawn)]
    legs += [Leg(backend="large", stages=large, **drawn)] if large else []
    return Menu(legs=tuple(legs), verifier=verifier)


@pytest.fixture
def samples(logged) -> pd.DataFrame:
    """The samples of twelve prompts."""
    table = logged[0]
    kept = sorted(set(table["prompt_id"]))[:12]
    return table[table["prompt_id"].isin(kept)].reset_index(drop=True)


@pytest.fixture
def runs(logged) -> pd.DataFrame:
    return logged[1]


def test_it_holds_every_sample_in_the_order_in_which_it_was_drawn(samples, runs):
    log = read_samples(samples, runs, menu(1, 8, large=(1, 4)), VERIFIERS)
    assert len(log) == 12
    assert log.left_out == 0
    assert [leg.quality.shape for leg in log.legs] == [(12, 8), (12, 4)]
    own = samples[(samples["backend"] == "small") & (samples["prompt_id"] == log.prompt_ids[3])]
    assert log.legs[0].quality[3].tolist() == own.sort_values("sample_index")["quality"].tolist()
    assert (log.legs[1].cost == 60).all()
    assert (log.legs[1].prompt_cost == 6).all()


def test_right_answers_share_a_label_between_backends(samples, runs):
    log = read_samples(samples, runs, menu(8, large=(8,)), VERIFIERS)
    small, large = log.legs
    right = {*small.draws.label[small.quality == 1].tolist(), *large.draws.label[large.quality == 1].tolist()}
    assert len(right) == 1


def test_a_sound_verifier_proves_and_another_only_scores(samples, runs):
    sound = read_samples(samples, runs, menu(8), VERIFIERS).legs[0]
    assert np.array_equal(sound.draws.proven, sound.quality == 1)
    other = read_samples(samples, runs, menu(8, verifier="prm"), VERIFIERS).legs[0]
    assert not other.draws.proven.any()
    assert set(np.unique(other.draws.score)) == {0.4, 0.8}
    assert (other.cost == sound.cost + 0.5).all()
    assert (other.tokens == 22).all()


def test_of_a_first_of_the_first_that_judges_counts(samples, runs):
    log = read_samples(samples, runs, menu(8, verifier="best"), VERIFIERS)
    assert np.array_equal(log.legs[0].draws.proven, log.legs[0].quality == 1)


def test_without_a_verifier_nothing_is_scored_and_no_verdict_is_paid(samples, runs):
    votes = read_samples(samples, runs, menu(8, verifier=None), VERIFIERS).legs[0]
    assert np.isnan(votes.draws.score).all()
    assert (votes.cost == 10).all()


def test_signals_that_the_log_has_are_told_and_can_be_taken_away(samples, runs):
    log = read_samples(samples, runs, menu(4), VERIFIERS)
    assert log.signals == ("logprobs",)
    without = log.without(("logprobs",))
    assert without.signals == ()
    assert np.isnan(without.legs[0].draws.logprob).all()
    assert np.isfinite(log.legs[0].draws.logprob).all()
    with pytest.raises(ConfigError, match="signals: there is no 'logprob'; did you mean 'logprobs'"):
        log.without(("logprob",))


def test_a_signal_taken_away_breaks_no_tie_of_the_answer_in_hand(samples, runs):
    """Of two answers that differ the surer one is in hand; where nobody is asked how sure, the first."""
    log = read_samples(samples, runs, menu(2, verifier=None), VERIFIERS)
    right_second = np.flatnonzero((log.legs[0].quality == [0, 1]).all(axis=1))
    assert len(right_second)
    seen = Hand.of(log.legs[0].draws[right_second]).lead.index
    blind = Hand.of(log.without(("logprobs",)).legs[0].draws[right_second]).lead.index
    assert (seen == 1).all()
    assert (blind == 0).all()


def test_prompts_with_fewer_samples_than_others_are_left_out_and_counted(samples, runs, caplog):
    short = samples[~((samples["prompt_id"] == samples["prompt_id"][0]) & (samples["sample_index"] >= 5))]
    log = read_samples(short, runs, menu(1, 8), VERIFIERS)
    assert (len(log), log.left_out) == (11, 1)
    assert "1 of 12 prompts have too few samples" in caplog.text
    assert len(read_samples(short, runs, menu(1, 5), VERIFIERS)) == 12


def test_prompts_that_lack_a_search_are_left_out_and_its_seconds_are_those_of_the_timed_runs(samples, runs):
    whole = Menu(legs=menu(8).legs, searches=("small/single",))
    timed = runs.assign(latency_s=np.where(runs["prompt_id"] < "p0003", 0.2, np.nan))
    log = read_samples(samples, timed, whole, VERIFIERS)
    assert (len(log), log.left_out) == (10, 2)
    assert np.allclose(log.rows(np.arange(5, 10)).searches[0].seconds, 0.2)  # none of these was timed
    never = read_samples(samples, runs.assign(latency_s=np.nan), whole, VERIFIERS)
    assert np.isnan(never.searches[0].seconds).all()


def test_answers_of_an_older_extractor_are_read_again_from_the_texts(samples, runs):
    older = samples.assign(extractor="final/0", answer="read by an older rule")
    now, then = (read_samples(t, runs, menu(8), VERIFIERS).legs[0].draws.label for t in (samples, older))
    assert np.array_equal(now == now[:, :1], then == then[:, :1])


def broken(table: pd.DataFrame, **changes) -> pd.DataFrame:
    """The table with some cells of its first row changed."""
    out = table.copy()
    for column, value in changes.items():
        out.loc[0, column] = value
    return out


def test_one_sample_per_prompt_teaches_nothing_of_what_more_show(samples, runs):
    with pytest.raises(TableError, match=r"one sample of 'small' per prompt.*Collect several"):
        read_samples(samples[samples["sample_index"] == 0], runs, menu(1, 2), VERIFIERS)


def test_a_stage_that_the_log_does_not_reach_is_named(samples, runs):
    with pytest.raises(TableError, match=r"stage 16 of 'small' is missing.*at most 8.*end its stages at 8"):
        read_samples(samples, runs, menu(1, 16), VERIFIERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": 11.0}, "prices of 'small' contradict each other: a completion token costs between 1 and 1.1"),
        ({"quality": np.nan}, "'quality' is null for samples of 'small': grade them"),
        ({"fingerprint": "other"}, "'small' has 2 fingerprints"),
        ({"extractor": "boxed/3"}, "read by extractor 'boxed/3', this howhard reads them by 'final/1'"),
    ],
)
def test_samples_that_contradict_each_other_or_were_never_judged_are_refused(samples, runs, change, message):
    first = samples.sort_values("backend", ascending=False, kind="stable").reset_index(drop=True)
    with pytest.raises(TableError, match=message):
        read_samples(broken(first, **change), runs, menu(8), VERIFIERS)


def test_what_the_log_does_not_know_is_named_with_what_is_nearest(samples, runs):
    with pytest.raises(InputError, match="wants verifier 'chek'; did you mean 'check'"):
        read_samples(samples, runs, menu(8, verifier="chek"), VERIFIERS)
    with pytest.raises(TableError, match="carry no scores of verifier 'judge'"):
        read_samples(samples, runs, menu(8, verifier="judge"), {**VERIFIERS, "judge": VERIFIERS["prm"]})
    with pytest.raises(TableError, match="no samples of 'smal'; did you mean 'small'"):
        read_samples(samples, runs, Menu(legs=(Leg(backend="smal", stages=(1,)),)), VERIFIERS)
    with pytest.raises(TableError, match="no runs of 'small/beam_2x2'"):
        read_samples(samples, runs, Menu(legs=menu(8).legs, verifier="check", searches=("small/beam_2x2",)), VERIFIERS)
    with pytest.raises(TableError, match=r"is to be drawn with .*'temperature': 0.5.*were with"):
        read_samples(samples, runs, menu(8, temperature=0.5), VERIFIERS)


def test_a_log_without_collected_samples_is_refused(samples, runs):
    with pytest.raises(TableError, match="no row of origin 'collect'"):
        read_samples(samples.assign(origin="live"), runs, menu(8), VERIFIERS)
