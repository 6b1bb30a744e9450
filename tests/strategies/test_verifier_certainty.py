"""Self-certainty, its proxy, Borda votes, and mean log-probability."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Candidate, Generation, Request, SamplingParams
from howhard.strategies.base import Prefix
from howhard.strategies.errors import ConfigError, VerifierError
from howhard.strategies.running import candidate
from howhard.strategies.spec import Parts, SpecError
from howhard.strategies.verifiers.certainty import Logprob, LogprobSpec, SelfCertainty, SelfCertaintySpec

PROMPT = Request.of("1 + 2?")


def drawn(text="x", *, confidences=None, logprobs=None):
    return candidate(
        Generation(
            text=text,
            finish_reason="stop",
            completion_tokens=len(text),
            prompt_tokens=1,
            confidences=confidences,
            logprobs=logprobs,
        )
    )


def score(verifier, *candidates, **kwargs):
    return asyncio.run(verifier.score(PROMPT, candidates, **kwargs))


distributions = st.lists(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda w: [x / sum(w) for x in w]), min_size=1, max_size=5
)


@settings(max_examples=50, deadline=None)
@given(distributions)
def test_self_certainty_is_the_papers_formula_over_the_whole_vocabulary(tokens):
    """-1/(nV) sum_i sum_j log(V p_ij), from the mean of -log p over the V tokens of each place."""
    v, n = 4, len(tokens)
    confidences = tuple(-sum(math.log(p) for p in place) / v for place in tokens)
    [got] = score(SelfCertainty(vocabulary=v), drawn(confidences=confidences)).scores
    s = -sum(math.log(v * p) for place in tokens for p in place) / (n * v)
    assert got == pytest.approx(s / (1 + s), abs=1e-9)


def test_a_uniform_model_has_no_certainty_and_a_sharper_one_has_more():
    uniform, sharp = (math.log(4),), (3.0,)
    verdicts = score(SelfCertainty(vocabulary=4), drawn(confidences=uniform), drawn(confidences=sharp))
    assert verdicts.scores[0] == pytest.approx(0, abs=1e-9)
    assert verdicts.scores[1] > 0.5
    assert verdicts.note == ""


def test_the_embedded_model_gives_what_the_exact_value_needs(local):
    size = local._tokenizer.get_vocab_size()
    verifier = SelfCertainty(vocabulary=size)

    async def main():
        params = SamplingParams(max_tokens=12, seed=1, confidence_of=verifier.confidence_of)
        [generations] = await local.generate([Prefix(PROMPT.messages)], n=4, params=params).all()
        return await verifier.score(PROMPT, [candidate(g) for g in generations])

    scores = asyncio.run(main()).scores
    assert len(set(scores)) > 1
    assert all(0 < s < 1 for s in scores)


def test_confidences_over_the_likeliest_tokens_are_called_a_proxy():
    proxy = SelfCertainty(top=20)
    assert proxy.name == "top20_certainty"
    assert proxy.confidence_of == 20
    verdicts = score(proxy, drawn(confidences=(3.0, 1.0)))
    assert verdicts.scores == pytest.approx((2 / 3,))
    assert "proxy" in verdicts.note
    assert SelfCertaintySpec().open("sure", Parts()).name == "sure"


def test_confidences_that_cannot_be_over_the_vocabulary_are_refused():
    with pytest.raises(VerifierError, match=r"mean confidence of 0.5; it cannot be below log 1000 = 6.908"):
        score(SelfCertainty(vocabulary=1000), drawn(confidences=(0.5,)))
    with pytest.raises(VerifierError, match="cannot be below 0 nor infinite"):
        score(SelfCertainty(), drawn(confidences=(math.inf,)))


def test_borda_votes_weigh_each_sample_by_its_rank():
    four = [
        drawn("Answer: 7", confidences=(1.0,)),  # rank 4
        drawn("Answer: 8", confidences=(4.0,)),  # rank 1
        drawn("so 7\nAnswer: 7.0", confidences=(2.0,)),  # rank 3
        drawn("Answer: 9", confidences=(3.0,)),  # rank 2
    ]
    votes = {"7": 1**2 + 2**2, "8": 4**2, "9": 3**2}
    total = sum(votes.values())
    got = score(SelfCertainty(power=2.0), *four).scores
    assert got == pytest.approx([votes[a] / total for a in ("7", "8", "7", "9")])
    assert score(SelfCertainty(power=0.0), *four).scores == pytest.approx((0.5, 0.25, 0.5, 0.25))
    assert score(SelfCertainty(power=1000.0), *four).scores == pytest.approx((0, 1, 0, 0), abs=1e-6)


def test_equal_certainty_is_ranked_by_launch_order():
    first, second = score(
        SelfCertainty(power=1.0), drawn("Answer: 1", confidences=(1.0,)), drawn("Answer: 2", confidences=(1.0,))
    ).scores
    assert (first, second) == pytest.approx((2 / 3, 1 / 3))


def test_logprob_is_the_geometric_mean_of_the_tokens_probabilities():
    verdicts = score(Logprob(), drawn(logprobs=(math.log(0.5), math.log(0.125))), drawn(logprobs=(0.0,)))
    assert verdicts.scores == pytest.approx((0.25, 1.0))


@pytest.mark.parametrize(
    "verifier, remedy",
    [
        (SelfCertainty(), r"confidence_of=20\), on a backend that offers it"),
        (SelfCertainty(vocabulary=50), r"confidence_of=50\)"),
        (Logprob(), r"logprobs=True\), on a backend that offers it"),
    ],
)
def test_samples_without_the_numbers_are_never_ranked_and_the_remedy_is_named(verifier, remedy):
    fine = drawn(confidences=(5.0,), logprobs=(-1.0,))
    with pytest.raises(VerifierError, match=f"sample 1 has none: draw with SamplingParams.{remedy}"):
        score(verifier, fine, Candidate.of("from a log"))
    assert score(verifier, Candidate.of("unfinished"), partial=True).scores == (None,)


@pytest.mark.parametrize("bad", [{"vocabulary": 1}, {"top": 0}, {"power": -1.0}, {"power": math.inf}])
def test_settings_out_of_range_are_refused_by_class_and_spec(bad):
    [(name, value)] = bad.items()
    for build, error in ((SelfCertainty, ConfigError), (SelfCertaintySpec, SpecError)):
        with pytest.raises(error, match=f"{name}={value}"):
            build(**bad)
    assert LogprobSpec().open("lp", Parts()).name == "lp"
