"""The plain Llama: what is decoded step by step equals the whole forward pass, whatever the padding."""

import json

import pytest

torch = pytest.importorskip("torch")

from howhard.strategies.backends.llama import (  # noqa: E402
    Llama,
    LlamaConfig,
    RewardModel,
    load,
    load_reward,
    step_ends,
)
from howhard.strategies.errors import ConfigError  # noqa: E402

CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    head_dim=32,
    max_position_embeddings=40,
    eos_token_id=2,
)
PREFIXES = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17]]


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    made = Llama(CONFIG)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.freeze()


def whole(model: Llama, ids: list[int]) -> "torch.Tensor":
    return model(torch.tensor([ids]))[0, -1]


def test_prefill_gives_each_prefix_the_logits_it_has_alone(model):
    state = model.prefill(PREFIXES)
    for row, prefix in enumerate(PREFIXES):
        torch.testing.assert_close(state.logits[row], whole(model, prefix), atol=1e-4, rtol=1e-4)


def test_decoding_equals_the_whole_pass_through_expanding_and_dropping_rows(model):
    generator = torch.Generator().manual_seed(1)
    state = model.prefill(PREFIXES, reserve=3).expand([2, 1, 3, 1])
    rows = [list(prefix) for prefix, n in zip(PREFIXES, [2, 1, 3, 1], strict=True) for _ in range(n)]
    for turn in range(9):
        ids = torch.randint(0, 50, (len(rows),), generator=generator)
        logits = model.step(state, ids)
        rows = [[*row, token] for row, token in zip(rows, ids.tolist(), strict=True)]
        if turn in (2, 5):
            alive = [0, 1, 2, 6] if turn == 2 else [2, 1]
            state.keep(torch.tensor(alive))
            rows, logits = [rows[i] for i in alive], state.logits
        assert len(state) == len(rows)
        assert state.lengths.tolist() == [len(row) for row in rows]
        for row, ids_of_row in enumerate(rows):
            torch.testing.assert_close(logits[row], whole(model, ids_of_row), atol=1e-4, rtol=1e-4)


def test_a_state_resumed_from_what_was_read_goes_on_as_one_that_was_read_whole(model):
    before = model.prefill([[5, 6, 7], [9, 10, 11, 12, 13]])
    pasts = [None, before.row(0), before.row(1)[..., :4, :], None]
    texts = [[8], [5, 6, 7, 20, 21], [9, 10, 11, 12, 13], [16, 17, 18]]
    news = [text[0 if past is None else past.shape[-2] :] for past, text in zip(pasts, texts, strict=True)]
    state = model.resume(pasts, news, reserve=1)
    assert state.lengths.tolist() == [1, 5, 5, 3]
    for row, text in enumerate(texts):
        torch.testing.assert_close(state.logits[row], whole(model, text), atol=1e-4, rtol=1e-4)
    for token in (30, 31, 32):
        logits = model.step(state, torch.full((4,), token))
        texts = [[*text, token] for text in texts]
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], whole(model, text), atol=1e-4, rtol=1e-4)


def test_what_stands_in_the_right_padding_changes_nothing(model):
    short, padded = model(torch.tensor([[5, 6, 7]])), model(torch.tensor([[5, 6, 7, 40, 41]]))
    torch.testing.assert_close(short[0], padded[0, :3], atol=1e-5, rtol=1e-5)


def test_a_prefix_that_is_empty_or_beyond_the_context_is_an_error(model):
    with pytest.raises(ValueError, match="1 to 40 tokens"):
        model.prefill([[]])
    with pytest.raises(ValueError, match="1 to 40 tokens"):
        model.prefill([[1] * 41])
    state = model.prefill([[1] * 40])
    with pytest.raises(ValueError, match="outgrew"):
        model.step(state, torch.tensor([1]))


def test_step_scores_are_read_at_the_ends_of_steps_and_do_not_depend_on_neighbours(model):
    torch.manual_seed(3)
    judge = RewardModel(CONFIG)
    judge.trunk.freeze()
    sequences = [[5, 6, 3, 7, 3, 8, 2], [9, 3, 4, 4, 2], [11, 12]]
    ends = [step_ends(ids, 2, newline=3, end=2) for ids in sequences]
    assert ends == [[2, 4, 6], [4], []]
    together = judge.score_steps(sequences, ends)
    assert [len(scores) for scores in together] == [3, 1, 0]
    for ids, stops, scores in zip(sequences, ends, together, strict=True):
        assert judge.score_steps([ids], [stops])[0] == pytest.approx(scores, abs=1e-5)
        assert all(0 <= score <= 1 for score in scores)
        if stops:  # what comes later does not change an earlier step's score
            first = judge.score_steps([ids[: stops[0] + 1]], [stops[:1]])[0]
            assert first == pytest.approx(scores[:1], abs=1e-5)
    with pytest.raises(ValueError, match="steps end at"):
        judge.score_steps([[1, 2]], [[2]])


def test_models_survive_the_way_to_disk_and_back(model, tmp_path):
    from howhard.training.embedded import tokenizer as tokenizers
    from howhard.training.embedded.export import export

    export(model, tokenizers.build(), tmp_path / "lm")
    loaded, tokenizer = load(tmp_path / "lm")
    assert tokenizer.decode(tokenizer.encode("Use 3, 5 and 7 to make 36.").ids) == "Use 3, 5 and 7 to make 36."
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight.bfloat16().float())
    torch.manual_seed(5)
    judge = RewardModel(CONFIG)
    export(judge, tokenizers.build(), tmp_path / "prm")
    again, _ = load_reward(tmp_path / "prm")
    assert again.score_steps([[4, 5, 3]], [[2]])[0] == pytest.approx(judge.score_steps([[4, 5, 3]], [[2]])[0], abs=0.02)


def test_an_architecture_that_is_not_computed_here_is_refused(model, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "vocab_size": 8,
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            }
        )
    )
    with pytest.raises(ConfigError, match="as many key heads"):
        LlamaConfig.read(tmp_path)


def test_a_configuration_without_a_size_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 8, "n_embd": 64}')
    with pytest.raises(ConfigError, match="has no 'hidden_size'"):
        LlamaConfig.read(tmp_path)


def test_a_model_of_another_kind_is_refused_by_name(tiny_model, tiny_reward_model):
    with pytest.raises(ConfigError, match=r"holds no reward model of ours: it lacks \['score"):
        load_reward(tiny_model)
    with pytest.raises(ConfigError, match=r"holds no language model of ours"):
        load(tiny_reward_model)


def test_reading_on_from_what_was_read_gives_the_scores_of_one_reading():
    torch.manual_seed(4)
    judge = RewardModel(CONFIG)
    torch.nn.init.normal_(judge.score.weight)
    judge.requires_grad_(False)
    judge.trunk.freeze()
    texts = [[5, 6, 3, 7, 8, 3, 9, 2], [9, 3, 4, 4, 10, 2]]
    whole, _ = judge.read([None, None], texts)
    for text, expected in zip(texts, whole, strict=True):
        assert torch.sigmoid(judge(torch.tensor([text])))[0].tolist() == pytest.approx(expected, abs=1e-5)
    first, pasts = judge.read([None, None], [text[:4] for text in texts])
    rest, _ = judge.read(pasts, [text[4:] for text in texts])
    for head, tail, expected in zip(first, rest, whole, strict=True):
        assert [*head, *tail] == pytest.approx(expected, abs=1e-5)


def test_an_unlikely_token_of_the_solution_lowers_every_score_after_it_and_one_of_the_prompt_none():
    torch.manual_seed(6)
    judge = RewardModel(CONFIG)
    judge.trunk.freeze()
    scores, _ = judge.read([None], [[5, 6, 7, 3, 8, 9, 10, 11, 2]])
    assert scores[0][:4] == pytest.approx([scores[0][0]] * 4)  # the prompt and its newline
    assert all(later <= earlier for earlier, later in zip(scores[0][3:], scores[0][4:], strict=False))
