"""The measured curves of the embedded models: formulas against brute force, search, and what a card says."""

import itertools
import random
from statistics import mean

import pytest

torch = pytest.importorskip("torch")

from howhard.models import path as model_path  # noqa: E402
from howhard.strategies.backends.llama import Llama, LlamaConfig, RewardModel, load, load_reward  # noqa: E402
from howhard.training.embedded import cards, curves, reward, rollouts  # noqa: E402
from howhard.training.embedded import tokenizer as tokenizers  # noqa: E402
from howhard.training.problems.chain import Chain  # noqa: E402
from howhard.training.problems.families import fresh_problems  # noqa: E402

SAMPLES = [
    curves.Drawn(right, answer, 5, score)
    for right, answer, score in [
        (True, "a", 0.9),
        (False, "b", 0.9),
        (False, "b", 0.4),
        (True, "a", 0.3),
        (False, "c", 0.1),
        (True, "a", 0.05),
    ]
]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_and_coverage_agree_with_every_subset(n):
    best, covered = [], []
    for subset in itertools.combinations(SAMPLES, n):
        top = max(one.score for one in subset)
        # Samples that tie share one quality, that of all drawn samples with this score.
        best.append(mean(one.right for one in SAMPLES if one.score == top))
        covered.append(any(one.right for one in subset))
    assert curves.best_of(SAMPLES, n) == pytest.approx(mean(best))
    assert curves.coverage(SAMPLES, n) == pytest.approx(mean(covered))


def test_votes_count_answers_and_share_ties():
    assert curves.votes(SAMPLES, 6, random.Random(0)) == 1.0
    assert curves.votes(SAMPLES, 1, random.Random(0), repeats=4000) == pytest.approx(0.5, abs=0.03)
    tied = [curves.Drawn(True, "a", 1, 0.0), curves.Drawn(False, "b", 1, 0.0)]
    assert curves.votes(tied, 2, random.Random(0)) == 0.5


def tiny_models() -> tuple[Llama, RewardModel]:
    torch.manual_seed(0)
    tokenizer = tokenizers.build()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        eos_token_id=tokenizer.token_to_id(tokenizers.END),
    )
    judge = RewardModel(config)
    judge.trunk.freeze()
    return Llama(config).freeze(), judge


def test_a_search_counts_its_tokens_and_always_comes_to_an_end():
    model, judge = tiny_models()
    tokenizer = tokenizers.build()
    problems = fresh_problems(4, seed=0)
    found = curves.search(model, judge, tokenizer, problems, beams=2, branches=2, seed=1, most_steps=3)
    assert len(found) == 4
    for problem, one in zip(problems, found, strict=True):
        head = len(tokenizer.encode(problem.prompt + "\n").ids)
        assert one.read == head + one.generated
        assert one.generated > 0


def cell(*, small: float, covered: float, judged: float, searched: float, voted: float | None = None) -> dict:
    model = {
        "pass": small,
        "pass_se": 0.01,
        "tokens": 20.0,
        "coverage": dict.fromkeys(curves.SIZES_OF_N, covered),
        "best_of_prm": dict.fromkeys(curves.SIZES_OF_N, judged),
    }
    if voted is not None:
        model["votes"] = dict.fromkeys(curves.SIZES_OF_N, voted)
    search = {
        f"{a}x{b}": {"quality": searched, "generated": 80.0, "prm_read": 90.0, "prm_cached": 200.0}
        for a, b in curves.SEARCHES
    }
    return {"prompts": 9, "prompt_tokens": 10.0, "tiny-small": model, "tiny-large": model, "search": search}


def test_a_card_names_the_cells_of_each_regime_and_admits_what_was_not_reached(tmp_path):
    cells = {
        "countdown-4": cell(small=0.2, covered=0.6, judged=0.5, searched=0.5),
        "chain-10": cell(small=0.2, covered=0.6, judged=0.4, searched=0.7, voted=0.3),
        "remainder-3": cell(small=0.4, covered=0.6, judged=0.35, searched=0.3, voted=0.5),
        "path-6": cell(small=0.3, covered=0.44, judged=0.3, searched=0.3),
        "path-8": cell(small=0.3, covered=0.6, judged=0.35, searched=0.3),
        "remainder-7": cell(small=0.1, covered=0.15, judged=0.1, searched=0.1, voted=0.1),
    }
    found = {name: [key for key, _ in own] for name, own in cards.regimes(cells).items()}
    assert found == {
        "easy": [],
        "coverage": ["countdown-4", "path-8"],
        "accumulating errors": ["chain-10"],
        "weak verifier": ["path-8", "remainder-3"],
        "hopeless": ["remainder-7"],
    }
    cards.write_card(
        tmp_path,
        name="tiny-prm",
        what="A judge.",
        task="text-classification",
        training="long",
        parameters=1234,
        config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1},
        cells=cells,
        seed=0,
    )
    text = (tmp_path / "README.md").read_text()
    assert "**not reached**" in text
    assert "Not an assistant" in text
    assert "| chain-10 | .20 |" in text


def test_the_models_that_ship_do_what_their_cards_say():
    small, tokenizer = load(model_path("tiny-small"))
    judge, _ = load_reward(model_path("tiny-prm"))
    chain, rng = Chain(), random.Random(1)
    problems = [chain.generate(4, rng) for _ in range(24)]
    drawn = rollouts.sample(small, tokenizer, [p.prompt for p in problems], 1, seed=0)
    texts = [rollouts.text_of(one, tokenizer) for own in drawn for one in own]
    assert sum(reward.is_right(p, text) for p, text in zip(problems, texts, strict=True)) >= 20
    end = tokenizer.token_to_id(tokenizers.END)

    def score(problem, text: str) -> float:
        ids = tokenizer.encode(problem.prompt + "\n" + text).ids
        return judge.score_steps([[*ids, end]], [[len(ids)]])[0][0]

    told_apart = [score(p, p.solution) > 0.5 > score(p, chain.corrupted(p, rng)) for p in problems]
    assert sum(told_apart) >= 20
