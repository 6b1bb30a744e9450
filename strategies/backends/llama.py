"""A small Llama in plain PyTorch: forward, incremental decoding of many samples, and a step reward model.

Weights carry Hugging Face names, so `transformers` and vLLM load the same directory. Computing is fp32, whatever
the storage. Knows nothing of requests, sampling or strategies: howhard.strategies.backends.local wraps it.

    model, tokenizer = load(directory)
    state = model.prefill([ids, ids, ...])       # one row per prefix; state.logits (rows, vocabulary)
    state = state.expand(8)                      # eight samples per prefix, the prefix computed once
    logits = model.step(state, chosen)           # (rows,) ids -> (rows, vocabulary)
    state.keep(alive)                            # drop finished rows, on the spot
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes of one model, named as in a Hugging Face config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    eos_token_id: int = 0
    newline_token_id: int = 3

    @classmethod
    def read(cls, directory: Path | str) -> LlamaConfig:
        """Read config.json; raises ConfigError for an architecture that this file does not compute."""
        raw = json.loads((Path(directory) / "config.json").read_text())
        sizes = [f.name for f in fields(cls) if f.default is MISSING and f.name != "head_dim"]
        missing = [name for name in sizes if name not in raw]
        if missing:
            raise ConfigError(f"{directory}: config.json has no {missing[0]!r}: no model that is computed here")
        heads = raw["num_attention_heads"]
        if raw.get("num_key_value_heads", heads) != heads or raw.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"{directory}: only Llamas with as many key heads as heads, and SiLU, are supported")
        raw.setdefault("head_dim", raw["hidden_size"] // heads)
        return cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, then scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions, halves paired (the Hugging Face convention); cos, sin broadcast against x."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention, written out as two products (on the CPU that trains faster than the fused call)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.fused: Tensor | None = None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) -> queries, keys, values, each (B, heads, T, head_dim)."""
        fused = self.fused
        if fused is None:
            fused = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        q, k, v = F.linear(x, fused).view(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Mix values; bias (broadcast to (B, heads, T, S)) is 0 where a query may look and -inf elsewhere."""
        scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2) + bias
        mixed = torch.softmax(scores, dim=-1).to(v.dtype) @ v
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) -> the same shape, and this layer's rotated keys and values (B, heads, T, head_dim)."""
        q, k, v = self.self_attn.project(self.input_layernorm(x))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        x = x + self.self_attn.attend(q, k, v, bias)
        return x + self.mlp(self.post_attention_layernorm(x)), k, v


class Trunk(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @property
    def blocks(self) -> list[Block]:
        """The layers, in order."""
        return cast("list[Block]", list(self.layers))


class Decoding:
    """Rows in the middle of being written: keys and values so far, and where each row stands.

    Rows are padded on the left, so that all of them write their next token in the same column; padding columns
    are masked, and positions count from each row's own first token.

    logits : (rows, vocabulary), what follows the last token.    lengths : (rows,) tokens so far.
    """

    def __init__(self, cache: Tensor, pad: Tensor, column: int, logits: Tensor) -> None:
        self.cache, self.pad, self.column, self.logits = cache, pad, column, logits
        self._bias = self._mask(cache.shape[-2])

    def __len__(self) -> int:
        return self.pad.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens that each row holds, padding not counted: (rows,) integers."""
        return self.column - self.pad

    def _mask(self, columns: int) -> Tensor:
        hidden = torch.arange(columns, device=self.pad.device) < self.pad[:, None]
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, float("-inf"))[:, None, None]

    def row(self, row: int) -> Tensor:
        """A copy of one row's keys and values, (layers, 2, heads, length, head_dim)."""
        return self.cache[:, :, row, :, int(self.pad[row]) : self.column].clone()

    def expand(self, n: int | Sequence[int]) -> Decoding:
        """Repeat every row `n` times (or row i `n[i]` times), copies of one row side by side."""
        counts = torch.tensor([n] * len(self) if isinstance(n, int) else list(n), device=self.pad.device)
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.pad.device), counts)
        return Decoding(self.cache.index_select(2, rows), self.pad[rows], self.column, self.logits[rows])

    def keep(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows (indices, in this order) and forget the others; columns that all rows pad go too."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.pad.device)
        self.cache, self.pad, self.logits = self.cache.index_select(2, rows), self.pad[rows], self.logits[rows]
        idle = int(self.pad.min()) if len(rows) else 0
        if idle:
            self.cache = self.cache[..., idle:, :].contiguous()
            self.pad, self.column = self.pad - idle, self.column - idle
        self._bias = self._mask(self.cache.shape[-2])

    def reserve(self, columns: int) -> None:
        """Make room for `columns` columns in all."""
        missing = columns - self.cache.shape[-2]
        if missing > 0:
            room = self.cache.new_zeros(*self.cache.shape[:-2], missing, self.cache.shape[-1])
            self.cache = torch.cat((self.cache, room), dim=-2)
            self._bias = self._mask(columns)


class Llama(nn.Module):
    """A decoder-only language model with tied embeddings."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def hidden(self, ids: Tensor) -> Tensor:
        """(B, T) token ids, padded on the right with anything -> (B, T, width) after the last norm."""
        length = ids.shape[1]
        bias = torch.full((length, length), float("-inf"), device=ids.device).triu_(1)
        x = self.model.embed_tokens(ids)
        for layer in self.model.blocks:
            x, _, _ = layer(x, self.cos[:length], self.sin[:length], bias)
        return self.model.norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary) logits."""
        return F.linear(hidden, self.model.embed_tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token ids, padded on the right with anything -> (B, T, vocabulary) logits."""
        return self.head(self.hidden(ids))

    def freeze(self) -> Llama:
        """Prepare for inference: no gradients, one product for queries, keys and values together."""
        self.requires_grad_(False)
        self.eval()
        for layer in self.model.blocks:
            attention = layer.self_attn
            attention.fused = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
        return self

    @torch.inference_mode()
    def prefill(self, prefixes: Sequence[Sequence[int]], *, reserve: int = 128) -> Decoding:
        """Read prefixes (token ids, none empty) into a state of one row each, with room for `reserve` more tokens.

        Raises ValueError for an empty prefix or one that fills the context (`max_position_embeddings`).
        """
        lengths = [len(prefix) for prefix in prefixes]
        limit = self.config.max_position_embeddings
        if not lengths or min(lengths) < 1 or max(lengths) > limit:
            raise ValueError(f"prefix lengths must be 1 to {limit} tokens, got {lengths[:8]}")
        width, device = max(lengths), self.cos.device
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prefixes], device=device)
        pad = torch.tensor([width - n for n in lengths], device=device)
        columns = torch.arange(width, device=device)
        positions = (columns - pad[:, None]).clamp_min(0)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        hidden = (columns > columns[:, None]) | ((columns < pad[:, None])[:, None] & (columns != columns[:, None]))
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))[:, None]
        c = self.config
        shape = (c.num_hidden_layers, 2, len(lengths), c.num_attention_heads, width + reserve, c.head_dim)
        cache = torch.zeros(shape, device=device)
        x = self.model.embed_tokens(ids)
        for index, layer in enumerate(self.model.blocks):
            x, cache[index, 0, :, :, :width], cache[index, 1, :, :, :width] = layer(x, cos, sin, bias)
        return Decoding(cache, pad, width, self.head(self.model.norm(x[:, -1])))

    @torch.inference_mode()
    def read(self, pasts: Sequence[Tensor | None], news: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """Go on reading texts whose beginnings were read before.

        pasts : per row, keys and values of what was read, (layers, 2, heads, length, head_dim); None = nothing.
        news  : per row, the token ids that follow, none empty.

        Returns (rows, longest new, width) hidden states after the last norm, padded on the right, and per row the
        keys and values of its new tokens. Raises ValueError for an empty row or one that outgrows the context.
        """
        known = [0 if past is None else past.shape[-2] for past in pasts]
        lengths = [len(new) for new in news]
        limit, device = self.config.max_position_embeddings, self.cos.device
        if min(lengths) < 1 or max(k + n for k, n in zip(known, lengths, strict=True)) > limit:
            raise ValueError(f"each row needs 1 new token or more and at most {limit} in all")
        before, width = max(known), max(lengths)
        ids = torch.tensor([[*new, *[0] * (width - len(new))] for new in news], device=device)
        start = torch.tensor(known, device=device)
        columns = torch.arange(width, device=device)
        positions = (start[:, None] + columns).clamp_max(limit - 1)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        # What was read stands right-aligned before the new columns; the gap on its left is masked.
        gap = torch.arange(before, device=device) < (before - start)[:, None]
        hidden = torch.cat(
            (gap[:, None].expand(-1, width, -1), (columns > columns[:, None]).expand(len(ids), -1, -1)), -1
        )
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))[:, None]
        c = self.config
        past = torch.zeros((c.num_hidden_layers, 2, len(ids), c.num_attention_heads, before, c.head_dim), device=device)
        for row, cache in enumerate(pasts):
            if cache is not None:
                past[:, :, row, :, before - known[row] :] = cache
        read = past.new_zeros((c.num_hidden_layers, 2, len(ids), c.num_attention_heads, width, c.head_dim))
        x = self.model.embed_tokens(ids)
        for index, layer in enumerate(self.model.blocks):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x))
            k = rotate(k, cos, sin)
            read[index, 0], read[index, 1] = k, v
            keys, values = torch.cat((past[index, 0], k), dim=2), torch.cat((past[index, 1], v), dim=2)
            x = x + layer.self_attn.attend(rotate(q, cos, sin), keys, values, bias)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        caches = [read[:, :, row, :, :n].clone() for row, n in enumerate(lengths)]
        return self.model.norm(x), caches

    @torch.inference_mode()
    def resume(self, pasts: Sequence[Tensor | None], news: Sequence[Sequence[int]], *, reserve: int = 128) -> Decoding:
        """Go on reading texts into a state of one row each, with room for `reserve` more tokens.

        As `prefill`, but for what was read before; arguments as for `read`. Rows of which nothing was read are read
        apart from the others, as they are longer.
        """
        lengths = [len(new) + (0 if past is None else past.shape[-2]) for past, new in zip(pasts, news, strict=True)]
        width, device, c = max(lengths), self.cos.device, self.config
        shape = (c.num_hidden_layers, 2, len(news), c.num_attention_heads, width + reserve, c.head_dim)
        cache = torch.zeros(shape, device=device)
        last = torch.zeros((len(news), c.hidden_size), device=device)
        for known in (False, True):
            rows = [row for row, past in enumerate(pasts) if (past is not None) == known]
            if not rows:
                continue
            hidden, read = self.read([pasts[row] for row in rows], [news[row] for row in rows])
            for place, row in enumerate(rows):
                past, begin = pasts[row], width - lengths[row]
                if past is not None:
                    cache[:, :, row, :, begin : begin + past.shape[-2]] = past
                cache[:, :, row, :, width - len(news[row]) : width] = read[place]
                last[row] = hidden[place, len(news[row]) - 1]
        pad = torch.tensor([width - n for n in lengths], device=device)
        return Decoding(cache, pad, width, self.head(last))

    @torch.inference_mode()
    def step(self, state: Decoding, ids: Tensor) -> Tensor:
        """Append one token per row: (rows,) ids -> (rows, vocabulary) logits of what follows.

        Raises ValueError where a row would outgrow the context.
        """
        column = state.column
        if column >= state.cache.shape[-2]:
            state.reserve(column + 128)
        positions = column - state.pad
        if column >= self.config.max_position_embeddings and int(positions.max()) >= len(self.cos):
            raise ValueError(f"a row outgrew the context of {len(self.cos)} tokens")
        cos, sin = self.cos[positions][:, None, None], self.sin[positions][:, None, None]
        bias = state._bias[..., : column + 1]
        x = self.model.embed_tokens(ids)[:, None]
        for layer, (keys, values) in zip(self.model.blocks, state.cache, strict=True):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x))
            keys[:, :, column : column + 1] = rotate(k, cos, sin)
            values[:, :, column : column + 1] = v
            x = x + layer.self_attn.attend(
                rotate(q, cos, sin), keys[:, :, : column + 1], values[:, :, : column + 1], bias
            )
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        state.column = column + 1
        state.logits = self.head(self.model.norm(x[:, 0]))
        return state.logits


def step_ends(ids: Sequence[int], start: int, *, newline: int, end: int) -> list[int]:
    """Where steps end in `ids`: the index of every newline and end token at or after `start` (the prompt's length).

    A last step that neither a newline nor an end token closes is unfinished and has no end.
    """
    return [place for place in range(start, len(ids)) if ids[place] in (newline, end)]


class RewardHead(nn.Module):
    """One number from the last hidden state and from how unlikely the solution's least likely token was."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.full((1,), 2.0))
        self.likelihood = nn.Parameter(torch.ones(1))

    def forward(self, hidden: Tensor, least: Tensor) -> Tensor:
        """(..., width) hidden states and (...) log-probabilities -> (...) logits."""
        return F.linear(hidden, self.weight).squeeze(-1) + self.bias + self.likelihood * least


class RewardModel(nn.Module):
    """The same trunk with a head of one number: the chance that the text so far is still on a right way.

    The trunk stays a language model, and its surprise is evidence: the head sees, beside the last hidden state, the
    log-probability of the least likely token of the solution so far. (What should follow "58 + 85 =" is known in the
    last layer only, so no layer is left to compare it with what did follow; a head on the hidden state alone never
    learned to check a sum.) The solution begins after the first newline, `config.newline_token_id`.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        if config.hidden_size != config.num_attention_heads * config.head_dim:
            raise ValueError("a reward model's width must be that of its heads together")
        self.trunk = Llama(config)
        self.score = RewardHead(config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token ids, padded on the right -> (B, T) logits, one at every token."""
        hidden = self.trunk.hidden(ids)
        nothing = hidden.new_zeros(len(ids), hidden.shape[-1])
        logits, _, _ = self._judge(hidden, ids, nothing, hidden.new_zeros(len(ids)), hidden.new_zeros(len(ids)))
        return logits

    def _judge(
        self, hidden: Tensor, ids: Tensor, last: Tensor, least: Tensor, inside: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Judge new tokens: hidden (B, T, width) after them, ids (B, T), and what stood before them.

        last : (B, width) the hidden state before.   least : (B,) the lowest log-probability before, 0 if none.
        inside : (B,) 1 where the solution has begun. Returns logits, least and inside after every token, (B, T).
        """
        before = torch.cat((last[:, None].to(hidden.dtype), hidden[:, :-1]), dim=1)
        predicted = torch.log_softmax(self.trunk.head(before).float(), dim=-1)
        own = predicted.gather(-1, ids[..., None]).squeeze(-1)
        newlines = (ids == self.trunk.config.newline_token_id).long()
        begun = newlines.cumsum(1) + inside[:, None]
        own = torch.where(begun - newlines > 0, own, 0.0)
        lowest = torch.minimum(torch.cummin(own, dim=1).values, least[:, None].float())
        return self.score(hidden.float(), lowest), lowest, (begun > 0).to(lowest.dtype)

    @torch.inference_mode()
    def read(
        self, pasts: Sequence[Tensor | None], news: Sequence[Sequence[int]]
    ) -> tuple[list[list[float]], list[Tensor]]:
        """Go on reading texts; arguments and second result as for `Llama.read`, with one more layer in each cache.

        That layer holds what the head goes on from: the hidden state after each token, and (in the first half's first
        head) the lowest log-probability so far and whether the solution has begun.
        Returns the chance in [0, 1] after every new token, one list per text, and what was read.
        """
        hidden, caches = self.trunk.read([None if past is None else past[:-1] for past in pasts], news)
        c, (rows, width, _) = self.trunk.config, hidden.shape
        last, least, inside = hidden.new_zeros(rows, c.hidden_size), hidden.new_zeros(rows), hidden.new_zeros(rows)
        for row, past in enumerate(pasts):
            if past is not None:
                last[row] = past[-1, 1, :, -1].flatten()
                least[row], inside[row] = past[-1, 0, 0, -1, 0], past[-1, 0, 0, -1, 1]
        ids = torch.tensor([[*new, *[0] * (width - len(new))] for new in news], device=hidden.device)
        logits, lowest, begun = self._judge(hidden, ids, last, least, inside)
        kept = hidden.new_zeros(rows, 1, 2, c.num_attention_heads, width, c.head_dim)
        kept[:, 0, 0, 0, :, 0], kept[:, 0, 0, 0, :, 1] = lowest, begun
        kept[:, 0, 1] = hidden.unflatten(-1, (c.num_attention_heads, c.head_dim)).transpose(1, 2)
        chances = torch.sigmoid(logits).tolist()
        caches = [torch.cat((cache, kept[row, ..., : cache.shape[-2], :])) for row, cache in enumerate(caches)]
        return [row[: len(new)] for row, new in zip(chances, news, strict=True)], caches

    def score_steps(
        self, sequences: Sequence[Sequence[int]], ends: Sequence[Sequence[int]], *, batch_size: int = 64
    ) -> list[list[float]]:
        """Score each step of each sequence.

        sequences : token ids of prompt and solution.    ends : per sequence, the index of each step's last token
        (the newline or the end token that closes it). Returns the same shape as `ends`, values in [0, 1].
        Raises ValueError for a sequence beyond the context or an end outside its sequence.
        """
        limit = self.trunk.config.max_position_embeddings
        for sequence, stops in zip(sequences, ends, strict=True):
            if not 0 < len(sequence) <= limit or any(not 0 <= stop < len(sequence) for stop in stops):
                raise ValueError(f"steps end at {list(stops)} in {len(sequence)} tokens (context {limit})")
        scores: list[list[float]] = [[] for _ in sequences]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            chances, _ = self.read([None] * len(rows), [sequences[i] for i in rows])
            for row, chance in zip(rows, chances, strict=True):
                scores[row] = [chance[stop] for stop in ends[row]]
        return scores


def _weights(directory: Path | str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights = load_file(str(Path(directory) / "model.safetensors"))
    return {name: weight.float() for name, weight in weights.items()}


def _fill(model: nn.Module, weights: dict[str, Tensor], directory: Path | str, what: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as exc:
        wanted = model.state_dict().keys()
        lacking, further = sorted(wanted - weights.keys()), sorted(weights.keys() - wanted)
        differs = f"it lacks {lacking[:3]}" if lacking else f"it also holds {further[:3]}" if further else str(exc)
        raise ConfigError(f"{directory} holds no {what} of ours: {differs}") from exc


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """Read tokenizer.json."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))


def load(directory: Path | str, device: str = "cpu") -> tuple[Llama, Tokenizer]:
    """Load a language model directory (config.json, model.safetensors, tokenizer.json) for inference."""
    model = Llama(LlamaConfig.read(directory))
    _fill(model, _weights(directory), directory, "language model")
    return model.to(device).freeze(), load_tokenizer(directory)


def load_reward(directory: Path | str, device: str = "cpu") -> tuple[RewardModel, Tokenizer]:
    """Load a step reward model directory (the trunk's weights under `model.`, the head's under `score.`)."""
    model = RewardModel(LlamaConfig.read(directory))
    weights = _weights(directory)
    named = {name if name.startswith("score.") else f"trunk.{name}": weight for name, weight in weights.items()}
    _fill(model, named, directory, "reward model")
    model.requires_grad_(False)
    model.to(device).eval()
    model.trunk.freeze()
    return model, load_tokenizer(directory)
