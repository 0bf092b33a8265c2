"""Hugging Face's config.json and our ModelSpec, both ways.

Invariant: a configuration that means more than a ModelSpec can say is refused, and by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ane_train.errors import ModelError
from ane_train.model.spec import ModelSpec, build_model

Config = Mapping[str, Any]

FAMILIES: Mapping[str, Config] = MappingProxyType(
    {
        "llama": {"qk_norm": False, "max_position_embeddings": 2048},
        "qwen3": {"qk_norm": True, "max_position_embeddings": 32768, "head_dim": 128},
    }
)
"""What a family's config.json leaves unsaid, by its model_type."""

_FROM_CONFIG = MappingProxyType(
    {
        "layers": "num_hidden_layers",
        "dim": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_size": "head_dim",
        "ffn": "intermediate_size",
        "vocabulary": "vocab_size",
        "sequence": "max_position_embeddings",
        "norm_epsilon": "rms_norm_eps",
        "tied_embeddings": "tie_word_embeddings",
    }
)
_DEFAULTS = MappingProxyType({"rms_norm_eps": 1e-6, "tie_word_embeddings": False})


def spec_of(config: Config, name: str, file: str) -> ModelSpec:
    """The architecture that a config.json describes.

    ModelError, naming `file` and key, for what this version cannot train, or makes no sense.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise ModelError(
            f"{file}: the architecture is {_architecture(config)}; "
            f"this version trains {' and '.join(FAMILIES)}"
        )
    for key, problem in _unsupported(config):
        raise ModelError(f"{file}: {key}: {problem}, which this version cannot train")
    filled = {**_DEFAULTS, **family, **{k: v for k, v in config.items() if v is not None}}
    for key in ("hidden_size", "num_attention_heads"):
        if type(filled.get(key)) is not int or filled[key] <= 0:
            raise ModelError(f"{file}: {key}: must be a whole number above 0")
    filled.setdefault("num_key_value_heads", filled["num_attention_heads"])
    filled.setdefault("head_dim", filled["hidden_size"] // filled["num_attention_heads"])
    table = {ours: filled[theirs] for ours, theirs in _FROM_CONFIG.items() if theirs in filled}
    table |= {"rope_theta": _theta(filled, file), "qk_norm": family["qk_norm"]}
    return build_model(name, table, file, _FROM_CONFIG)


def config_of(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """The config.json of `spec`, with weights of `dtype` as torch names it.

    The base of the rotation stands there twice: older readers know only `rope_theta`, transformers
    from 5 on only `rope_parameters`.
    """
    family, model = ("qwen3", "Qwen3") if spec.qk_norm else ("llama", "Llama")
    values = {theirs: getattr(spec, ours) for ours, theirs in _FROM_CONFIG.items()}
    return {
        "architectures": [f"{model}ForCausalLM"],
        "model_type": family,
        **values,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rope_theta": spec.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "rope_scaling": None,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _architecture(config: Config) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else "not named"
    return f"{config.get('model_type') or 'of no model_type'} ({first})"


def _theta(config: Config, file: str) -> float:
    """The base of the rotation, at the top level or in rope_parameters."""
    inner = config.get("rope_parameters") or config.get("rope_scaling") or {}
    given = [v for v in (config.get("rope_theta"), inner.get("rope_theta")) if v is not None]
    if len(set(map(repr, given))) > 1 and given[0] != given[1]:
        raise ModelError(f"{file}: rope_theta is {given[0]}, that in rope_parameters {given[1]}")
    return given[0] if given else 10000.0


def _unsupported(config: Config) -> Iterator[tuple[str, str]]:
    """Each (key, what it asks for) that a ModelSpec cannot say."""
    for key in ("attention_bias", "mlp_bias", "qkv_bias", "use_bias"):
        if config.get(key):
            yield key, "asks for biases"
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        yield "hidden_act", f"asks for the activation {activation}"
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            yield key, "asks for a mixture of experts"
    if config.get("quantization_config"):
        yield "quantization_config", "says that the weights are quantised"
    yield from _unsupported_attention(config)
    yield from _unsupported_rotation(config)


def _unsupported_attention(config: Config) -> Iterator[tuple[str, str]]:
    kinds = config.get("layer_types") or []
    others = [kinds]
    if isinstance(kinds, list):
        others = [kind for kind in kinds if kind != "full_attention"]
    if others:
        yield "layer_types", f"asks for {others[0]}"
    layers = config.get("num_hidden_layers")
    first = config.get("max_window_layers")
    unused = type(first) is int and type(layers) is int and first >= layers
    if config.get("use_sliding_window") and config.get("sliding_window") and not unused:
        yield "use_sliding_window", "asks for a sliding window"
    if "use_sliding_window" not in config and config.get("sliding_window"):
        yield "sliding_window", "asks for a sliding window"
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            yield key, "asks for capped logits"


def _unsupported_rotation(config: Config) -> Iterator[tuple[str, str]]:
    for key in ("rope_parameters", "rope_scaling"):
        rotation = config.get(key) or {}
        if not isinstance(rotation, dict):
            yield key, f"is {rotation!r}"
            continue
        kind = rotation.get("rope_type", rotation.get("type", "default"))
        if kind != "default":
            yield key, f"asks for rotary scaling of type {kind}"
        if rotation.get("partial_rotary_factor", 1) != 1:
            yield key, "asks for a partial rotation"
    if config.get("partial_rotary_factor", 1) not in (1, None):
        yield "partial_rotary_factor", "asks for a partial rotation"
