"""Random small checkpoints, made and saved by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

# family, heads, kv_heads, head_dim, tied, theta
CONFIGURATIONS: dict[str, tuple[str, int, int, int, bool, float]] = {
    "llama": ("llama", 4, 4, 16, True, 1e4),
    "llama untied": ("llama", 4, 4, 16, False, 1e4),
    "llama grouped": ("llama", 4, 2, 16, True, 5e5),
    "llama grouped untied": ("llama", 4, 2, 16, False, 1e4),
    "llama, large heads": ("llama", 4, 1, 32, False, 1e4),
    "qwen3": ("qwen3", 4, 2, 32, True, 1e6),
    "qwen3 untied": ("qwen3", 4, 4, 8, False, 1e6),
}


def new_model(name: str, seed: int = 0, vocabulary: int = 97) -> Any:
    """A model whose gains are random too, so that nothing is symmetric by accident."""
    family, heads, kv_heads, head_dim, tied, theta = CONFIGURATIONS[name]
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    torch.manual_seed(seed)
    model = model_class(
        config_class(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            initializer_range=0.1,
            attn_implementation="eager",
        )
    )
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def save_model(
    name: str,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    vocabulary: int = 97,
) -> Any:
    """Saves a new model to `folder` and returns it."""
    model = new_model(name, vocabulary=vocabulary).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model
