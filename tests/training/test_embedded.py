"""The recipe of the embedded models: tokenizer, data stream, training that survives a kill, labels."""

import dataclasses
import random

import pytest

torch = pytest.importorskip("torch")

from tokenizers.decoders import DecodeStream  # noqa: E402

from howhard.strategies.backends.llama import LlamaConfig  # noqa: E402
from howhard.training.embedded import data, growing, reward, rollouts, trainer  # noqa: E402
from howhard.training.embedded import tokenizer as tokenizers  # noqa: E402
from howhard.training.problems.families import FAMILIES, fresh_problems  # noqa: E402

TOKENIZER = tokenizers.build()
END = TOKENIZER.token_to_id(tokenizers.END)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_familys_text_survives_the_round_trip_whole_and_token_by_token(name):
    for problem in fresh_problems(60, seed=2, families=[name]):
        text = problem.prompt + "\n" + problem.solution
        ids = TOKENIZER.encode(text).ids
        assert TOKENIZER.token_to_id(tokenizers.UNKNOWN) not in ids
        assert TOKENIZER.decode(ids) == text
        stream = DecodeStream(skip_special_tokens=True)
        assert "".join(stream.step(TOKENIZER, token) or "" for token in ids) == text


def test_one_token_per_word_number_and_mark_and_unknown_for_the_rest():
    encoded = TOKENIZER.encode("Use 3, 5 and 7 to make 36.\n3 + 5 = 8")
    assert encoded.tokens == ["Use", "3", ",", "5", "and", "7", "to", "make", "36", ".", "\n", "3", "+", "5", "=", "8"]
    assert TOKENIZER.encode("200 zebras").tokens == ["<unk>", "<unk>"]


def test_batches_hold_whole_problems_and_ask_for_the_solution_only():
    batch = data.pool(TOKENIZER, 0, 0)[0]
    again = data.pool(TOKENIZER, 0, 0)[0]
    assert torch.equal(batch.ids, again.ids)
    assert batch.ids.numel() <= 4096
    for ids, targets in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        asked = [token for token in targets if token >= 0]
        assert asked[-1] == END
        text = TOKENIZER.decode(ids)
        assert text.endswith("\n" + TOKENIZER.decode(asked)) or TOKENIZER.decode(asked) in text


def test_a_run_that_was_cut_short_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "POOL", 24)
    monkeypatch.setattr(trainer, "compiled", lambda model: model.hidden)
    config = LlamaConfig(
        vocab_size=TOKENIZER.get_vocab_size(),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        eos_token_id=END,
    )
    schedule = trainer.Schedule(steps=6, warmup=2)

    def run(where, **options):
        return trainer.train(
            "test", trainer.fresh_model(config, 1), schedule, TOKENIZER, seed=1, checkpoint=tmp_path / where, **options
        )

    class Killed(Exception):
        pass

    def kill(model, step):
        if step == 3:
            raise Killed

    whole = run("whole.pt")
    with pytest.raises(Killed):
        run("cut.pt", on_checkpoint=kill, every_s=-1.0)
    resumed = run("cut.pt")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


def test_labels_stand_on_newlines_and_the_end_token_and_say_what_the_solver_says():
    problem = FAMILIES["countdown"].generate(3, random.Random(0))
    right = rollouts.Rollout((*TOKENIZER.encode(problem.solution).ids, END), ended=True)
    judged = reward.judge(problem, right, TOKENIZER)
    assert judged is not None
    assert judged.labels == (1, 1)
    assert [TOKENIZER.id_to_token(judged.ids[place]) for place in judged.ends] == ["\n", tokenizers.END]
    unfinished = dataclasses.replace(right, ids=(*right.ids[: right.ids.index(TOKENIZER.token_to_id("\n"))], END))
    cut = reward.judge(problem, unfinished, TOKENIZER)
    assert cut is not None
    assert cut.labels == (0,)
    assert reward.judge(problem, rollouts.Rollout((5, 5), ended=False), TOKENIZER) is None


def test_an_answer_is_right_only_as_the_last_and_only_one():
    problem = FAMILIES["remainder"].generate(1, random.Random(0))
    assert reward.is_right(problem, f"Answer: {problem.reference}")
    assert not reward.is_right(problem, f"Answer: {problem.reference}\nAnswer: {problem.reference}")
    assert not reward.is_right(problem, "")


def test_a_grown_model_computes_what_the_small_one_did():
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=32,
        rms_norm_eps=1e-9,
    )
    small = trainer.fresh_model(config, seed=0)
    wide = dataclasses.replace(
        config, hidden_size=96, intermediate_size=128, num_hidden_layers=3, num_attention_heads=3
    )
    large = growing.grow(small, wide, seed=1)
    ids = torch.randint(0, 40, (3, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(large(ids), small(ids), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="may not shrink"):
        growing.grow(large, config, seed=1)
