"""LoRA in a training step: the factors, the matrices beside which they stand, and both directions.

Programs know nothing of it. At each refresh the matrix W + (alpha / R) B A is made anew from the W
that is kept, and staged (or compiled) where W would be: so W never drifts, and programs, dispatches
and verified shapes are those of full training. Adapters as inputs of their own would need further
programs, two more products for each matrix and token, and ranks that suit a chip; the merge that
takes their place costs 2 R operations per weight and step, whatever the number of tokens. The sum
is rounded to fp16 as all weights are: what is below a weight's last bit waits in the factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np

from ane_train.model.adapters import Adapter, Lora, adapter_table, adapters
from ane_train.model.arena import Arena, Array
from ane_train.model.parameters import Parameter
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.train.workspace import Workspace


class Adapters:
    """Owns the factors (`values`, by `table`) and the matrices as they were before any of them."""

    def __init__(self, spec: ModelSpec, lora: Lora, context: Context) -> None:
        self.lora, self._context = lora, context
        self.table: tuple[Parameter, ...] = adapter_table(spec, lora)
        self.values = Arena(self.table)
        self._by_matrix: dict[str, Adapter] = {a.matrix.name: a for a in adapters(spec, lora)}
        self._base = Arena([adapter.matrix for adapter in self._by_matrix.values()])

    def __contains__(self, matrix: str) -> bool:
        return matrix in self._by_matrix

    def begin(self, weights: Arena, seed: int) -> None:
        """Keeps the matrices of `weights`; fresh factors, which change nothing at first.

        A is uniform within 1 / sqrt(in), as PEFT has it, each from its own stream of (seed, index);
        B is zero.
        """
        for name, base in self._base.views.items():
            np.copyto(base, weights[name])
        for index, adapter in enumerate(self._by_matrix.values()):
            a, bound = self.values[adapter.a.name], np.float32(sqrt(3) * adapter.a.std)
            generator = np.random.Generator(np.random.Philox(key=[seed, index]))
            generator.random(out=a, dtype=np.float32)
            a *= 2 * bound
            a -= bound
            self.values[adapter.b.name].fill(0.0)

    def base(self, weights: Arena) -> Mapping[str, Array]:
        """The model without adapters by our names: what is kept here, and the rest of `weights`."""
        return {**weights.views, **self._base.views}

    def merge(self, layer: int, weights: Arena) -> None:
        """The matrices of a layer in `weights` become W + (alpha / R) B A."""
        for name, adapter in self._by_matrix.items():
            if adapter.matrix.layer == layer:
                np.copyto(weights[name], self._base[name])
                a, b = self._factors(adapter, self.values)
                scale = self.lora.scale
                arithmetic.gemm(self._context, b, a, weights[name], alpha=scale, beta=1.0)

    def backward(
        self, matrix: str, left: Array, right: Array, gradients: Arena, workspace: Workspace
    ) -> None:
        """Adds to the gradients of both factors, where that of the matrix is left right^T.

        left [out, S], right [in, S]. With s = alpha / R: dB += s left (A right)^T and
        dA += s (B^T left) right^T, so that no array of the matrix's size is made.
        """
        adapter, context, scale = self._by_matrix[matrix], self._context, self.lora.scale
        a, b = self._factors(adapter, self.values)
        da, db = self._factors(adapter, gradients)
        inner = workspace.array("inner", self.lora.rank, right.shape[1])
        arithmetic.gemm(context, a, right, inner)
        arithmetic.gemm(context, left, inner, db, transpose_b=True, alpha=scale, beta=1.0)
        arithmetic.gemm(context, b, left, inner, transpose_a=True)
        arithmetic.gemm(context, inner, right, da, transpose_b=True, alpha=scale, beta=1.0)

    @staticmethod
    def _factors(adapter: Adapter, arena: Arena) -> tuple[Array, Array]:
        return arena[adapter.a.name], arena[adapter.b.name]
