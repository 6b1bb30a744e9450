import asyncio
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import (
    ArmSpec,
    BestOfNSpec,
    ExactCheckSpec,
    FirstOfSpec,
    RewardModelSpec,
    SingleSpec,
    TreeSearchSpec,
    VoteSpec,
    build_arms,
)
from howhard.strategies.answers import extract
from howhard.strategies.base import Batch, Generation, Prices, Sample, SamplingParams, Usage, Verdicts
from howhard.strategies.errors import InputError, TableError
from howhard.strategies.verifiers.exact import ExactCheck
from howhard.strategies.verifiers.first_of import FirstOf
from howhard.strategies.verifiers.vote import Vote
from howhard.training import derive, tables

PARAMS = SamplingParams(temperature=1.0, max_tokens=64)
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64}
VERIFIERS = {
    "check": ExactCheckSpec(),
    "prm": RewardModelSpec(model="tiny-prm"),
    "vote": VoteSpec(),
    "best": FirstOfSpec(verifiers=("check", "prm")),
    "trusting": FirstOfSpec(verifiers=("check", "vote")),
}


def arm(n=1, verifier=None, backend="small", **changes):
    if verifier is None:
        return ArmSpec(backend=backend, strategy=SingleSpec(**(SAMPLING | changes)))
    return ArmSpec(backend=backend, strategy=BestOfNSpec(n=n, verifier=verifier, **(SAMPLING | changes)))


def make_samples(rows, prompt_id="p0", **changes):
    """Rows of dicts: quality, answer, finish_reason, scores {verifier: score}, tokens."""
    return tables.fill(
        "samples",
        [
            {
                "prompt_id": prompt_id,
                "backend": "small",
                "fingerprint": "f",
                "params": tables.params_json(PARAMS),
                "sample_index": i,
                "text": "",
                "answer": row.get("answer", "x"),
                "extractor": derive.EXTRACTOR,
                "quality": row["quality"],
                "verdicts": [
                    {"verifier": name, "score": score, "tokens": 10, "cost": 0.5}
                    for name, score in row.get("scores", {}).items()
                ],
                "finish_reason": row.get("finish_reason", "stop"),
                "prompt_tokens": 7,
                "completion_tokens": row.get("tokens", 4),
                "cost": 0.1 * row.get("tokens", 4),
                "prompt_cost": 0.7,
            }
            | changes
            for i, row in enumerate(rows)
        ],
    )


def make_prompts(*ids):
    return tables.fill("prompts", [{"prompt_id": i, "text": "t", "group": "g"} for i in ids])


def derived(samples, *arms, verifiers=VERIFIERS):
    samples = tables.validate_samples(samples)
    return derive.derive(samples, make_prompts(*samples["prompt_id"].unique()), arms, verifiers).set_index("arm")


# Brute force: every subset, every launch order that the ties leave open.


def choose_by_score(subset):
    complete = [s for s in subset if s["finish_reason"] == "stop"]
    if not complete:
        return subset
    best = max(s["rank"] for s in complete)
    return [s for s in complete if s["rank"] == best]


def choose_by_vote(subset):
    votes = [s for s in subset if s["finish_reason"] == "stop"]
    if not votes:
        return subset
    answers = [s["answer"] for s in votes]
    most = max(answers.count(a) for a in answers)
    return [s for s in votes if answers.count(s["answer"]) == most]


def brute_force(samples, k, choose):
    values = []
    for subset in itertools.combinations(samples, k):
        chosen = choose(list(subset))
        values.append(sum(s["quality"] for s in chosen) / len(chosen))
    return sum(values) / len(values)


sample = st.fixed_dictionaries(
    {
        "quality": st.sampled_from([0.0, 0.25, 1.0]),
        "answer": st.sampled_from(["1", "2", "3", "4"]),
        "rank": st.sampled_from([-1.0, 0.1, 0.5, 0.9]),
        "finish_reason": st.sampled_from(["stop", "stop", "stop", "length", "cancelled"]),
    }
)


@st.composite
def samples_and_k(draw):
    rows = draw(st.lists(sample, min_size=1, max_size=8))
    return rows, draw(st.integers(1, len(rows)))


@settings(max_examples=30, deadline=None)
@given(samples_and_k())
def test_best_of_k_is_the_mean_over_all_subsets(case):
    rows, k = case
    scored = [{**r, "scores": {"prm": None if r["rank"] < 0 else r["rank"]}} for r in rows]
    got = derived(make_samples(scored), arm(k, "prm"))
    assert got["quality"].item() == pytest.approx(brute_force(rows, k, choose_by_score))


@settings(max_examples=30, deadline=None)
@given(samples_and_k())
def test_a_vote_of_k_is_the_mean_over_all_subsets(case):
    rows, k = case
    got = derived(make_samples(rows), arm(k, "vote"))
    assert got["quality"].item() == pytest.approx(brute_force(rows, k, choose_by_vote))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 4), st.data())
def test_the_chances_of_all_answers_and_of_nobody_voting_add_to_one(sizes, abstain, data):
    m = sum(sizes) + abstain
    k = data.draw(st.integers(1, m))
    shares = derive.vote_shares(tuple(sorted(sizes)), abstain, k)
    assert sum(shares[s] for s in sizes) + math.comb(abstain, k) / math.comb(m, k) == pytest.approx(1)
    assert all(shares[a] <= shares[b] + 1e-12 for a in shares for b in shares if a <= b)


@given(st.integers(1, 12), st.data())
def test_with_the_truth_as_score_best_of_k_is_pass_at_k(n, data):
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    quality = np.array([[1.0] * correct + [0.0] * (n - correct)])
    closed_form = derive.pass_at_k(n, correct, k)
    assert derive.best_of_k(quality, quality, k)[0] == pytest.approx(closed_form)
    subsets = list(itertools.combinations(quality[0], k))
    assert closed_form == pytest.approx(sum(max(s) for s in subsets) / len(subsets))


def test_coverage_is_pass_at_k_of_each_prompt():
    rows = [{"quality": q} for q in (1.0, 0.0, 0.0, 1.0, 0.0)]
    samples = pd.concat([make_samples(rows), make_samples(rows[1:4], "p1")])
    got = derive.coverage(tables.validate_samples(samples), arm(), ks=[2, 5])
    assert got.set_index(["prompt_id", "k"])["quality"].to_dict() == pytest.approx(
        {("p0", 2): derive.pass_at_k(5, 2, 2), ("p1", 2): derive.pass_at_k(3, 1, 2), ("p0", 5): 1.0}
    )


@pytest.mark.parametrize("n, correct, k", [(0, 0, 0), (4, 5, 1), (4, 1, 5), (4, -1, 2), (4, 1, 0)])
def test_pass_at_k_refuses_what_it_cannot_say(n, correct, k):
    with pytest.raises(ValueError, match="needs 1 <= k <= n"):
        derive.pass_at_k(n, correct, k)


def test_costs_are_the_prompt_once_and_k_completions_with_their_verdicts():
    rows = [{"quality": 1.0, "tokens": t, "scores": {"prm": 0.5}} for t in (2, 4, 6)]
    got = derived(make_samples(rows), arm(), arm(2, "prm"), arm(2, "vote"))
    tokens = ["prompt_tokens", "completion_tokens", "verifier_tokens", "calls"]
    assert got.loc["small/single", tokens].tolist() == [7, 4, 0, 1]
    assert got.loc["small/prm_of_2", tokens].tolist() == [7, 8, 20, 2]
    assert got.loc["small/vote_of_2", tokens].tolist() == [7, 8, 0, 1]
    assert got["cost"].tolist() == pytest.approx([0.7 + 0.4, 0.7 + 0.8 + 1.0, 0.7 + 0.8])
    assert got["n"].tolist() == [1, 2, 2]
    assert (got["source"] == "derived").all()
    for column in ("latency_s", "propensity", "answer"):
        assert got[column].isna().all()


def test_a_verifier_reads_the_prompt_once_where_there_is_anything_to_judge():
    verdict = {"verifier": "prm", "score": 0.5, "tokens": 10, "cost": 0.5, "prompt_tokens": 6, "prompt_cost": 0.3}
    samples = make_samples([{"quality": 1.0}, {"quality": 1.0, "finish_reason": "length"}, {"quality": 1.0}])
    samples["verdicts"] = [[verdict], [], [verdict]]
    got = derived(samples, arm(1, "prm"), arm(2, "prm"))
    # One of three samples is cut off: alone it is drawn once in three times, and then nothing is read.
    assert got["verifier_tokens"].tolist() == pytest.approx([(6 + 10) * 2 / 3, 6 + 2 * 10 * 2 / 3])
    assert got.loc["small/prm_of_2", "cost"] == pytest.approx(0.7 + 0.8 + 0.3 + 2 * 0.5 * 2 / 3)


def test_the_first_verifier_that_can_judge_a_prompt_chooses_there():
    judged = [
        {"quality": 1.0, "scores": {"check": 1.0, "prm": 0.1}},
        {"quality": 0.0, "scores": {"check": 0.0, "prm": 0.9}},
    ]
    unjudged = [{**row, "scores": {"check": None, "prm": row["scores"]["prm"]}} for row in judged]
    samples = pd.concat([make_samples(judged, "a"), make_samples(unjudged, "b")])
    got = derived(samples, arm(2, "best"), arm(2, "prm"), arm(2, "trusting")).reset_index()
    quality = got.set_index(["arm", "prompt_id"])["quality"]
    assert quality["small/best_of_2"].to_dict() == {"a": 1.0, "b": 0.0}
    assert quality["small/prm_of_2"].to_dict() == {"a": 0.0, "b": 0.0}
    assert quality["small/trusting_of_2"].to_dict() == {"a": 1.0, "b": 0.5}
    tokens = got.set_index(["arm", "prompt_id"])["verifier_tokens"]
    assert tokens["small/best_of_2"].to_dict() == {"a": 20, "b": 40}


def test_where_nobody_can_judge_all_complete_samples_are_equal():
    rows = [
        {"quality": 1.0, "scores": {"check": None}},
        {"quality": 0.0, "scores": {"check": None}},
        {"quality": 0.0, "finish_reason": "length"},
    ]
    assert derived(make_samples(rows), arm(3, "check"))["quality"].item() == 0.5


def test_equal_answers_in_other_clothes_vote_together():
    rows = [
        {"answer": "1,000", "quality": 1.0},
        {"answer": "1000.0", "quality": 1.0},
        {"answer": "7", "quality": 0.0},
    ]
    assert derived(make_samples(rows), arm(3, "vote"))["quality"].item() == 1.0


def test_answers_of_an_older_extractor_are_read_from_the_text_again():
    rows = [
        {"quality": 1.0, "answer": "garbage 1"},
        {"quality": 1.0, "answer": "2"},
        {"quality": 0.0, "answer": "5"},
    ]
    samples = make_samples(rows, extractor="final/0")
    samples["text"] = ["Answer: 3", "Answer: 3", "Answer: 5"]
    assert derived(samples, arm(3, "vote"))["quality"].item() == 1.0


def test_failed_and_live_samples_are_left_out():
    rows = [{"quality": 0.0}, {"quality": 1.0}]
    failed = make_samples([{"quality": None, "finish_reason": "error", "answer": None}], sample_index=7)
    live = make_samples([{"quality": 1.0}], origin="live", parent="r1")
    got = derived(pd.concat([make_samples(rows), failed, live]), arm())
    assert got["quality"].item() == 0.5


def test_a_prompt_with_too_few_samples_has_no_row_and_a_warning(caplog):
    samples = pd.concat([make_samples([{"quality": 1.0}] * 4, "a"), make_samples([{"quality": 1.0}] * 2, "b")])
    got = derived(samples, arm(), arm(4, "vote"))
    assert got.loc["small/single", "prompt_id"].tolist() == ["a", "b"]
    assert got.loc["small/vote_of_4", "prompt_id"] == "a"
    assert "1 prompts have fewer than 4 samples" in caplog.text


@pytest.mark.parametrize(
    "arms, error, words",
    [
        ([arm(9, "vote")], TableError, "draws 9 samples, but the log has at most 2"),
        ([arm(2, "prm")], TableError, "no scores of verifier 'prm'"),
        ([arm(2, "pmr")], InputError, "wants verifier 'pmr'; did you mean 'prm'"),
        ([arm(backend="smalll")], TableError, "no samples of it; did you mean 'small'"),
        ([arm(temperature=0.5)], TableError, r"samples with temperature=0\.5.*drawn with temperature=1\.0"),
        ([], InputError, "no arm to derive"),
    ],
)
def test_what_does_not_fit_the_log_is_an_error_that_says_why(arms, error, words):
    with pytest.raises(error, match=words):
        derived(make_samples([{"quality": 1.0}] * 2), *arms)


def test_tree_search_must_be_run():
    search = ArmSpec(backend="small", strategy=TreeSearchSpec(verifier="prm", width=2, branches=2, **SAMPLING))
    assert not derive.is_derivable(search)
    assert derive.is_derivable(arm(2, "vote"))
    with pytest.raises(InputError, match="cannot be derived from samples: run it"):
        derived(make_samples([{"quality": 1.0}]), search)


@pytest.mark.parametrize("changes", [{"selection": "weighted"}, {"selection": "majority"}, {"stop": "exact"}])
def test_best_of_n_that_counts_votes_or_stops_early_must_be_run(changes):
    spec = arm(2, "vote", **changes)
    assert not derive.is_derivable(spec)
    with pytest.raises(InputError, match="cannot be derived from samples: run it"):
        derived(make_samples([{"quality": 1.0}] * 2), spec)


def test_samples_that_say_nothing_of_one_model_are_refused():
    good = make_samples([{"quality": 1.0}])
    with pytest.raises(TableError, match="nothing to derive from"):
        derive.SampleSet(tables.validate_samples(good.assign(finish_reason="error")))
    with pytest.raises(TableError, match="'quality' is null for 1 samples"):
        derive.SampleSet(tables.validate_samples(good.assign(quality=None)))
    other = make_samples([{"quality": 1.0}], "p1", fingerprint="g")
    with pytest.raises(TableError, match="2 fingerprints"):
        derive.SampleSet(tables.validate_samples(pd.concat([good, other])))
    with pytest.raises(TableError, match="'p0' is not in the prompts table"):
        derive.derive(tables.validate_samples(good), make_prompts("p9"), [arm()], VERIFIERS)


# The strategies themselves, run on every ordered choice of the logged samples.


class Replay:
    """A backend that draws given texts, whole or cut short."""

    name, fingerprint, context, prices = "small", "f", None, Prices(prompt=0.1, completion=1.0)

    def __init__(self, rows):
        self.rows = rows

    def generate(self, prefixes, *, n, params, apart=False):
        drawn = []
        for row in self.rows[:n]:
            drawn.append(Sample())
            drawn[-1].finish(
                Generation(
                    text=row["text"],
                    finish_reason=row["finish_reason"],
                    completion_tokens=row["tokens"],
                    prompt_tokens=7,
                )
            )
        tokens = sum(row["tokens"] for row in self.rows[:n])
        cost = self.prices.cost(prompt=7, completion=tokens)
        return Batch([drawn], lambda: Usage(prompt_tokens=7, completion_tokens=tokens, calls=1, cost=cost))

    async def close(self):
        pass


class Likes:
    """Scores a text by what is written behind it ("~0.5", or "~?" for: cannot judge); reads ten tokens each."""

    name, sound, prices = "prm", False, Prices(prompt=0.05, completion=0.0)

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        marks = [text.partition("~")[2] for text in texts]
        scores = tuple(None if mark == "?" else float(mark) for mark in marks)
        return Verdicts(scores, Usage(verifier_tokens=10 * len(texts), cost=0.5 * len(texts), calls=1))


replayed = [
    {"text": "Answer: 1\n~0.5", "finish_reason": "stop", "tokens": 3},
    {"text": "Answer: 2\n~0.5", "finish_reason": "stop", "tokens": 5},
    {"text": "Answer: 2\n~0.1", "finish_reason": "stop", "tokens": 4},
    {"text": "Answer: 1\n~?", "finish_reason": "stop", "tokens": 6},
    {"text": "Answer: 1\n~0.9", "finish_reason": "length", "tokens": 9},
]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("verifier", ["prm", "vote", "best"])
def test_a_derived_arm_is_the_mean_of_the_strategy_over_every_order_of_the_samples(k, verifier):
    prm = Likes()
    opened = {"prm": prm, "vote": Vote(), "best": FirstOf("best", [ExactCheck(name="check"), prm])}
    spec = arm(k, verifier)

    async def run_all():
        results = []
        for order in itertools.permutations(replayed, k):
            arms = build_arms([spec], {"small": Replay(list(order))}, opened)
            results.append(await arms[spec.name].run("What is it?"))
        return results

    results = asyncio.run(run_all())
    rows = []
    for row in replayed:
        complete = row["finish_reason"] == "stop"
        mark = row["text"].partition("~")[2]
        scores = {"check": None, "prm": None if mark == "?" else float(mark)} if complete else {}
        rows.append(
            {
                "quality": float(complete and extract(row["text"]) == "1"),
                "answer": extract(row["text"]) if complete else None,
                "finish_reason": row["finish_reason"],
                "scores": scores,
                "tokens": row["tokens"],
            }
        )
    samples = make_samples(rows)
    samples["cost"] = [float(row["tokens"]) for row in replayed]
    samples["verdicts"] = [
        [v | ({"tokens": 0, "cost": 0.0} if v["verifier"] == "check" else {}) for v in verdicts]
        for verdicts in samples["verdicts"]
    ]
    got = derived(samples, spec).iloc[0]

    def mean(of):
        return sum(of(result) for result in results) / len(results)

    assert got["quality"] == pytest.approx(mean(lambda r: float(r.answer == "1")))
    assert got["completion_tokens"] == pytest.approx(mean(lambda r: r.usage.completion_tokens))
    assert got["verifier_tokens"] == pytest.approx(mean(lambda r: r.usage.verifier_tokens))
    assert got["cost"] == pytest.approx(mean(lambda r: r.usage.cost))
    assert got["prompt_tokens"] == 7
