"""The two orders of rows in query and key weights, which are two ways to pair what is rotated.

Ours (and Hugging Face's) pairs row i of a head with row E/2 + i; that of llama2.c, and of GGUF
files of the llama architecture, pairs row 2i with row 2i + 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ane_train.model.parameters import Parameter
from ane_train.model.spec import ModelSpec

Array = npt.NDArray[np.float32]


def rotated_heads(parameter: Parameter, spec: ModelSpec) -> int:
    """How many heads a parameter has that are rotated; 0 if it is no query or key weight."""
    if parameter.name.endswith(".query"):
        return spec.heads
    return spec.kv_heads if parameter.name.endswith(".key") else 0


def pairs_to_halves(weights: Array, heads: int) -> None:
    """Reorders [heads * E, D] in place from neighbours (2i, 2i + 1) to halves (i, E/2 + i)."""
    _reorder(weights, heads, lambda head: head.reshape(-1, 2, head.shape[-1]).swapaxes(0, 1))


def halves_to_pairs(weights: Array, heads: int) -> None:
    """The inverse of pairs_to_halves."""
    _reorder(weights, heads, lambda head: head.reshape(2, -1, head.shape[-1]).swapaxes(0, 1))


def _reorder(weights: Array, heads: int, order: Callable[[Array], Array]) -> None:
    for head in weights.reshape(heads, -1, weights.shape[-1]) if heads else ():
        head[:] = order(head).reshape(head.shape)
