"""Write a trained model as a Hugging Face directory that transformers, vLLM and our own loader read alike."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from ...strategies.backends.llama import Llama, LlamaConfig, RewardModel
from .tokenizer import CHAT_TEMPLATE, END, PAD, UNKNOWN, token_id


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def export(model: Llama | RewardModel, tokenizer: Tokenizer, directory: Path) -> None:
    """Write config, weights (bf16, the head of a reward model as `score.weight`) and tokenizer files."""
    directory.mkdir(parents=True, exist_ok=True)
    reward = isinstance(model, RewardModel)
    config: LlamaConfig = (model.trunk if isinstance(model, RewardModel) else model).config
    end, pad = token_id(tokenizer, END), token_id(tokenizer, PAD)
    content: dict[str, object] = {
        "architectures": ["HowhardStepReward" if reward else "LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        **{name: getattr(config, name) for name in LlamaConfig.__dataclass_fields__},
        "num_key_value_heads": config.num_attention_heads,
        "bos_token_id": None,
        "pad_token_id": pad,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if reward:
        content["num_labels"] = 1
    _write_json(directory / "config.json", content)
    if not reward:
        _write_json(
            directory / "generation_config.json",
            {"do_sample": True, "temperature": 1.0, "eos_token_id": end, "pad_token_id": pad},
        )
    weights = {
        name.removeprefix("trunk."): weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
    }
    part = directory / "model.safetensors.part"
    save_file(weights, str(part), metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(directory / "model.safetensors")
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    _write_json(directory / "special_tokens_map.json", special)
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "add_eos_token": False,
            "chat_template": CHAT_TEMPLATE,
            **special,
        },
    )
