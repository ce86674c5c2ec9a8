"""The network: a two-layer Qwen2 of 107,000 weights, written out in plain torch.

transformers has it ready-made, but a first start waits for this, and importing transformers takes as long as the
training (12 s where Python writes no bytecode). That the two agree is what the test of the greedy answers shows.
"""

# ruff: noqa: PLC0415 - torch and tokenizers take seconds to import, and argus must import at once

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

from argus.demo_model.corpus import VOCABULARY

if TYPE_CHECKING:
    import torch

    Weights: TypeAlias = dict[str, torch.Tensor]

_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS = 64, 128, 2, 2, 1
_HEAD_DIM: Final = 32
_ROPE_THETA: Final = 10_000.0
_NORM_EPS: Final = 1e-6
MAX_POSITIONS: Final = 4096

CONFIG: Final = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_DIM,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS,
    "rope_theta": _ROPE_THETA,
    "rms_norm_eps": _NORM_EPS,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}


def fresh_weights(seed: int) -> Weights:
    """Return the untrained weights, under the names that Qwen2 checkpoints use."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator)
        return values * (scale / math.sqrt(columns))

    queries, keys = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, _HIDDEN, 0.5),
        "model.norm.weight": torch.ones(_HIDDEN),
    }
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": torch.ones(_HIDDEN),
            f"{at}.self_attn.q_proj.weight": matrix(queries, _HIDDEN),
            f"{at}.self_attn.q_proj.bias": torch.zeros(queries),
            f"{at}.self_attn.k_proj.weight": matrix(keys, _HIDDEN),
            f"{at}.self_attn.k_proj.bias": torch.zeros(keys),
            f"{at}.self_attn.v_proj.weight": matrix(keys, _HIDDEN),
            f"{at}.self_attn.v_proj.bias": torch.zeros(keys),
            f"{at}.self_attn.o_proj.weight": matrix(_HIDDEN, queries, 0.5),
            f"{at}.post_attention_layernorm.weight": torch.ones(_HIDDEN),
            f"{at}.mlp.gate_proj.weight": matrix(_INNER, _HIDDEN),
            f"{at}.mlp.up_proj.weight": matrix(_INNER, _HIDDEN),
            f"{at}.mlp.down_proj.weight": matrix(_HIDDEN, _INNER, 0.5),
        }
    return weights


def hidden_states(weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """Run Qwen2 over ``tokens`` (rows x length) up to its last norm."""
    import torch
    from torch.nn import functional

    rows, length = tokens.shape
    half = _HEAD_DIM // 2
    rates = _ROPE_THETA ** (-torch.arange(half) / half)
    angles = torch.arange(length)[:, None] * rates.repeat(2)
    cosine, sine = angles.cos(), angles.sin()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, (_HIDDEN,), weights[f"{name}.weight"], _NORM_EPS)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(rows, length, -1, _HEAD_DIM).transpose(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cosine + turned * sine

    x = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm")
        mixed = functional.scaled_dot_product_attention(
            rotate(heads(linear(y, f"{at}.self_attn.q_proj"))),
            rotate(heads(linear(y, f"{at}.self_attn.k_proj"))),
            heads(linear(y, f"{at}.self_attn.v_proj")),
            is_causal=True,
            enable_gqa=True,
        )
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        x = x + linear(mixed, f"{at}.self_attn.o_proj")
        y = norm(x, f"{at}.post_attention_layernorm")
        gate = functional.silu(linear(y, f"{at}.mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    return norm(x, "model.norm")
