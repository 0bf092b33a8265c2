"""The one table of parameters. Weights, gradients, moments, checkpoints and exports all walk it.

Shapes are those of Hugging Face's checkpoints: a matrix is [out, in].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod

from ane_train.errors import ConfigError
from ane_train.model.spec import ModelSpec

EMBEDDING_STD = 0.02


@dataclass(frozen=True, slots=True)
class Parameter:
    """One trained array. `std` 0: it starts as ones (a norm's gain), or zeros (a LoRA's B)."""

    name: str
    shape: tuple[int, ...]
    hf_name: str
    std: float

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def layer(self) -> int | None:
        """Number of the layer that it belongs to, from 0; None for what no layer has."""
        kind, _, rest = self.name.partition(".")
        return int(rest.partition(".")[0]) if kind == "layers" else None

    @property
    def decays(self) -> bool:
        """Weight decay acts on matrices, not on gains."""
        return len(self.shape) > 1

    @property
    def is_vocabulary(self) -> bool:
        """Whether each row belongs to a token."""
        return self.name in ("embedding", "classifier")

    @property
    def writes_residual(self) -> bool:
        """Whether it is the last matrix of a block, whose output is added to the residual."""
        return self.name.endswith((".output", ".down"))


def parameters(spec: ModelSpec, output_scale: float = 1.0) -> tuple[Parameter, ...]:
    """The table, in the order of the forward pass.

    Matrices start normal with variance 1/in; those that write to the residual are scaled by
    `output_scale` besides (1/sqrt(2L) where the residual itself is not scaled).
    """
    rows = (spec.vocabulary, spec.dim)
    table = [Parameter("embedding", rows, "model.embed_tokens.weight", EMBEDDING_STD)]
    for layer in range(spec.layers):
        table += _layer(spec, layer, output_scale)
    table.append(Parameter("norm", (spec.dim,), "model.norm.weight", 0.0))
    if not spec.tied_embeddings:
        table.append(Parameter("classifier", rows, "lm_head.weight", EMBEDDING_STD))
    return tuple(table)


def _layer(spec: ModelSpec, layer: int, output_scale: float) -> Iterator[Parameter]:
    d, f = spec.dim, spec.ffn
    q, kv = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    norms = [("query_norm", "q_norm"), ("key_norm", "k_norm")] if spec.qk_norm else []
    rows = [
        ("attention_norm", (d,), "input_layernorm", 0.0),
        ("query", (q, d), "self_attn.q_proj", d**-0.5),
        ("key", (kv, d), "self_attn.k_proj", d**-0.5),
        ("value", (kv, d), "self_attn.v_proj", d**-0.5),
        ("output", (d, q), "self_attn.o_proj", output_scale * q**-0.5),
        *((name, (spec.head_size,), f"self_attn.{hf}", 0.0) for name, hf in norms),
        ("ffn_norm", (d,), "post_attention_layernorm", 0.0),
        ("gate", (f, d), "mlp.gate_proj", d**-0.5),
        ("up", (f, d), "mlp.up_proj", d**-0.5),
        ("down", (d, f), "mlp.down_proj", output_scale * f**-0.5),
    ]
    for name, shape, hf, std in rows:
        yield Parameter(f"layers.{layer}.{name}", shape, f"model.layers.{layer}.{hf}.weight", std)


def matching(table: Sequence[Parameter], patterns: Iterable[str]) -> frozenset[str]:
    """Names of the parameters that any of the patterns fits, by our name or Hugging Face's.

    Patterns are those of a shell (* ? [...]). ConfigError for one that fits none, with names that
    are near to it.
    """
    found: set[str] = set()
    for pattern in patterns:
        names = {
            parameter.name
            for parameter in table
            if fnmatchcase(parameter.name, pattern) or fnmatchcase(parameter.hf_name, pattern)
        }
        if not names:
            known = [name for parameter in table for name in (parameter.name, parameter.hf_name)]
            near = get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
            raise ConfigError(f"no parameter is named {pattern}; there is {', '.join(near)}")
        found |= names
    return frozenset(found)


def count(spec: ModelSpec) -> int:
    """Number of trained parameters; tied embeddings count once."""
    return sum(parameter.size for parameter in parameters(spec))
