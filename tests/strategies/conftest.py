"""Fixtures of the strategies' tests: tiny random models that end their texts soon, and a scripted backend."""

import asyncio
import json

import pytest

from howhard.strategies import Prices

WORDS = ["<unk>", "</s>", "\n", *"0123456789+-=", "Answer", ":"]


def _word_tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    pieces = Regex(r"\n|\d|[A-Za-z]+|[^\sA-Za-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, "removed", invert=True)
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    glue = [decoders.Replace(" \n", "\n"), decoders.Replace("\n ", "\n")]
    words = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.decoder = decoders.Sequence([words, decoders.Fuse(), *glue])
    return tokenizer


def _byte_tokenizer():
    """A token per byte: characters beyond ASCII take several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "</s>": 1} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


def _write_model(directory, *, tokenizer, reward=False, seed=1):
    """One random layer over few words, so that line breaks and the end token (id 1) come often."""
    import torch
    from safetensors.torch import save_file

    from howhard.strategies.backends.llama import Llama, LlamaConfig, RewardModel

    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 160,
        "eos_token_id": 1,
    }
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    model = RewardModel(LlamaConfig(**config)) if reward else Llama(LlamaConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25, generator=generator)
    weights = {name.removeprefix("trunk."): weight for name, weight in model.state_dict().items()}
    save_file(weights, str(directory / "model.safetensors"))
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    pytest.importorskip("torch")
    return _write_model(tmp_path_factory.mktemp("models") / "lm", tokenizer=_word_tokenizer())


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory):
    pytest.importorskip("torch")
    return _write_model(tmp_path_factory.mktemp("models") / "bytes", tokenizer=_byte_tokenizer())


@pytest.fixture(scope="session")
def tiny_reward_model(tmp_path_factory):
    pytest.importorskip("torch")
    directory = tmp_path_factory.mktemp("models") / "prm"
    return _write_model(directory, tokenizer=_word_tokenizer(), reward=True, seed=2)


@pytest.fixture
def local(tiny_model):
    from howhard.strategies.backends.local import LocalBackend

    backend = LocalBackend("local", tiny_model, prices=Prices(prompt=1.0, completion=2.0))
    yield backend
    asyncio.run(backend.close())
