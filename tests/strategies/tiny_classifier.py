"""A random sequence classifier over bytes, as Hugging Face keeps them; made by the tests that need one."""

import contextlib
import io

import pytest


def make_classifier(directory, *, labels=1, seed=1, pad=True, chat=True):
    """Write model and tokenizer into a directory; skips the test where transformers is missing."""
    pytest.importorskip("transformers", reason="transformers is not installed: it comes with the extra `hf`")
    pytest.importorskip("torch")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"</s>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", model_max_length=200)
    if pad:
        fast.pad_token = "</s>"
    if chat:
        fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    config = Qwen2Config(
        vocab_size=len(alphabet) + 1,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=200,
        num_labels=labels,
        pad_token_id=0 if pad else None,
        eos_token_id=0,
        bos_token_id=0,
    )
    model = Qwen2ForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4, generator=generator)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        model.save_pretrained(directory)
        fast.save_pretrained(directory)
    return directory
