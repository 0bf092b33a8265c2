"""The table of LoRA's adapters: which matrices have one, and the names and shapes of its factors.

LoRA (Hu et al. 2021, arXiv 2106.09685) trains A [R, in] and B [out, R] beside a matrix W [out, in]
that stays as it is; the model computes with W + (alpha / R) B A.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from ane_train.config_rules import ALL_LINEAR
from ane_train.errors import ConfigError
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec

SUFFIXES = (".lora_a", ".lora_b")
_HF_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Lora:
    """Rank R, and alpha; `matrices` are names within a layer, in the order of the model's table."""

    rank: int
    alpha: float
    matrices: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Adapter:
    """A matrix of the model, and the two factors beside it."""

    matrix: Parameter
    a: Parameter
    b: Parameter


def lora_of(spec: ModelSpec, rank: int, alpha: float, targets: Iterable[str]) -> Lora:
    """The adapters that `targets` mean: names of matrices, ours or Hugging Face's, or all-linear.

    ConfigError for a name that no matrix of a layer has, with names that are near to it, and for a
    rank above a side of a matrix, where A and B would hold more than what they stand for.
    """
    layer = _matrices(spec)
    known = {name: ours for ours, p in layer.items() for name in (ours, _module(p).split(".")[-1])}
    found = set[str]()
    for target in targets:
        if target == ALL_LINEAR:
            found |= layer.keys()
        elif target in known:
            found.add(known[target])
        else:
            near = get_close_matches(target, known, n=3, cutoff=0.4) or [ALL_LINEAR, *known]
            raise ConfigError(
                f"--lora-targets: no layer has a matrix {target}; there is {', '.join(near)}"
            )
    if not found:
        raise ConfigError("--lora-targets names nothing: give q_proj,v_proj or all-linear")
    chosen = tuple(name for name in layer if name in found)
    for name in chosen:
        if rank > min(layer[name].shape):
            raise ConfigError(
                f"--lora-rank {rank} is more than the smaller side of {name} "
                f"{list(layer[name].shape)}: give at most {min(layer[name].shape)}"
            )
    return Lora(rank, alpha, chosen)


def adapters(spec: ModelSpec, lora: Lora) -> tuple[Adapter, ...]:
    """The adapters of all layers, in the order of the forward pass.

    A factor's hf_name is its key in PEFT's adapter_model.safetensors.
    """
    matrices = (p for p in parameters(spec) if p.name.split(".")[-1] in lora.matrices)
    return tuple(_adapter(matrix, lora.rank) for matrix in matrices)


def adapter_table(spec: ModelSpec, lora: Lora) -> tuple[Parameter, ...]:
    """The factors alone, as the optimizer walks them."""
    return tuple(factor for each in adapters(spec, lora) for factor in (each.a, each.b))


def module_names(spec: ModelSpec, lora: Lora) -> tuple[str, ...]:
    """The matrices by the last part of Hugging Face's names, as PEFT's target_modules has them."""
    layer = _matrices(spec)
    return tuple(_module(layer[name]).split(".")[-1] for name in lora.matrices)


def _matrices(spec: ModelSpec) -> dict[str, Parameter]:
    """The matrices of the first layer by their names within it."""
    first = (p for p in parameters(spec) if p.layer == 0 and len(p.shape) == 2)
    return {p.name.split(".")[-1]: p for p in first}


def _module(matrix: Parameter) -> str:
    return matrix.hf_name.removesuffix(".weight")


def _adapter(matrix: Parameter, rank: int) -> Adapter:
    rows, columns = matrix.shape
    (a, b), module = SUFFIXES, _HF_PREFIX + _module(matrix)
    return Adapter(
        matrix,
        Parameter(
            matrix.name + a, (rank, columns), f"{module}.lora_A.weight", (3 * columns) ** -0.5
        ),
        Parameter(matrix.name + b, (rows, rank), f"{module}.lora_B.weight", 0.0),
    )
