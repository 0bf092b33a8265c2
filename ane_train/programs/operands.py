"""Where a program takes its activations and weights from; the arithmetic around them is the same.

Dynamic: weights are blocks of the input surface, applied by matmul. Static: weights are constants,
a weight file each, applied as 1x1 convolutions, and the RMSNorm before a block is in its forward
program; its backward is in the block's backward program where that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ane_train import mil
from ane_train.programs.packing import Packing, read_block, stack_inputs
from ane_train.programs.residual_norm import (
    residual_norm,
    residual_norm_backward,
    residual_norm_forward,
)
from ane_train.programs.shape import LayerShape

Gammas = tuple[mil.Value, mil.Value]
WRITES_RESIDUAL = ("output", "down")  # the matrices that are not fed by the normalised activations


@dataclass(frozen=True, slots=True)
class Constants:
    """The weights of one layer by parameter name, matrices [out, in]; read when files are written.

    `file` is the one weight file of all constants of a program; None: one for each. norm_backward:
    whether backward programs go on through the RMSNorm, to the gradient of the residual stream.
    """

    values: Mapping[str, npt.NDArray[np.float32]]
    file: str | None = None
    norm_backward: bool = False


class Operands(Protocol):
    """What a program is made from; matrices are rank 4 with C * BS elements in row-major order."""

    packing: Packing

    def read(self, name: str) -> mil.Value:
        """An activation of the input, C x BS."""
        ...

    def normalized(self) -> tuple[mil.Value, list[mil.Value]]:
        """Normalised activations [D, BS], and what the program has to return besides for them."""
        ...

    def apply(self, name: str, x: mil.Value, result: str) -> mil.Value:
        """The matrix W times x; in a backward program its transpose."""
        ...

    def through_norm(self, dx: mil.Value) -> tuple[mil.Value, list[mil.Value]]:
        """From the gradient of the normalised x: what the program returns as dx, and besides."""
        ...

    def gammas(self, shape: LayerShape) -> Gammas:
        """The gains of queries and keys, [1, 1, E, S] or [1, 1, E, 1]."""
        ...


def builder(constants: Constants | None) -> mil.Builder:
    """An empty program that puts its constants where `constants` says."""
    return mil.Builder(file=None if constants is None else constants.file)


class PackedOperands:
    """Weights in the input surface: as staged, [in, out] where x is normalised, else [out, in].

    In a backward program the same product is by the transpose, since they are staged transposed.
    """

    def __init__(self, b: mil.Builder, packing: Packing) -> None:
        self.packing = packing
        self._b, self._surface = b, b.input("x", packing.shape)

    def read(self, name: str) -> mil.Value:
        """The block as [1, 1, C, BS]."""
        return read_block(self._b, self._surface, self.packing[name], name)

    def normalized(self) -> tuple[mil.Value, list[mil.Value]]:
        """The block x, normalised by whoever staged it."""
        block = self.packing["x"]
        return read_block(self._b, self._surface, block, "normalized_x"), []

    def apply(self, name: str, x: mil.Value, result: str) -> mil.Value:
        """A matmul, [1, 1, rows, BS]."""
        weight = read_block(self._b, self._surface, self.packing[name], f"{name}_weight")
        transposed = name not in WRITES_RESIDUAL
        return self._b.matmul(weight, x, transpose_x=transposed, name=result)

    def through_norm(self, dx: mil.Value) -> tuple[mil.Value, list[mil.Value]]:
        """As it is: the norm's backward is the CPU's."""
        return dx, []

    def gammas(self, shape: LayerShape) -> Gammas:
        """Both halves of the block gamma."""
        b, block, e = self._b, self.packing["gamma"], shape.head_size
        size = (1, e, 1, block.columns)
        query, key = (
            b.reshape(
                b.slice_by_size(self._surface, (0, row, 0, block.column), size),
                (1, 1, e, block.columns),
            )
            for row in (0, e)
        )
        return query, key


class ConstantOperands:
    """Weights as constants. `norm` names the gain of the norm that the program holds, if any."""

    def __init__(
        self,
        b: mil.Builder,
        packing: Packing,
        constants: Constants,
        norm: str | None,
        *,
        transposed: bool = False,
    ) -> None:
        self.packing = packing
        self._b, self._values, self._transposed = b, constants.values, transposed
        self._surface = b.input("x", packing.shape)
        self._norm = None if norm is None else residual_norm(b, norm, self._values[norm])

    def read(self, name: str) -> mil.Value:
        """The block as [1, C, 1, BS]: slices begin on the channel axis alone."""
        block = self.packing[name]
        size = (1, block.rows, 1, block.columns)
        return self._b.slice_by_size(self._surface, (0, block.row, 0, 0), size, name=name)

    def normalized(self) -> tuple[mil.Value, list[mil.Value]]:
        """gamma x / sqrt(mean(x^2) + epsilon) of the residual stream, also returned."""
        assert self._norm is not None
        unit = residual_norm_forward(self._b, self._norm, self.read("x"), self.read("epsilon"))
        value = self._b.mul(unit.value, self._norm.gamma, name="normalized")
        return value, [value]

    def through_norm(self, dx: mil.Value) -> tuple[mil.Value, list[mil.Value]]:
        """With a norm: the gradient of the residual stream x, and the gain's per position."""
        if self._norm is None:
            return dx, []
        x, epsilon = self.read("x"), self.read("epsilon")
        forward = residual_norm_forward(self._b, self._norm, x, epsilon)
        residual, dgamma = residual_norm_backward(self._b, self._norm, dx, forward)
        return residual, [dgamma]

    def apply(self, name: str, x: mil.Value, result: str) -> mil.Value:
        """A 1x1 convolution, [1, out, 1, BS]."""
        matrix = self._values[name]
        matrix = matrix.T if self._transposed else matrix
        weight = self._b.constant(matrix[:, :, None, None], "fp16", name=f"{name}_weight")
        rows = (1, matrix.shape[1], 1, x.type.shape[-1])
        x = x if x.type.shape == rows else self._b.reshape(x, rows)
        return self._b.conv(x, weight, name=result)

    def gammas(self, shape: LayerShape) -> Gammas:
        """Constants [1, 1, E, 1]."""
        place = (1, 1, shape.head_size, 1)
        query, key = (
            self._b.constant(self._values[name].reshape(place), "fp16", name=name)
            for name in ("query_norm", "key_norm")
        )
        return query, key


def forward_operands(
    b: mil.Builder, packing: Packing, constants: Constants | None, shape: LayerShape, norm: str
) -> Operands:
    """Those of a forward program: with constants, x is the residual stream [D, BS]."""
    if constants is None:
        return PackedOperands(b, packing)
    residual = stack_inputs(shape.columns, *residual_parts(shape))
    return ConstantOperands(b, residual, constants, norm)


def backward_operands(
    b: mil.Builder, packing: Packing, constants: Constants | None, norm: str
) -> Operands:
    """Those of a backward program, with the given packing."""
    if constants is None:
        return PackedOperands(b, packing)
    name = norm if constants.norm_backward else None
    return ConstantOperands(b, packing, constants, name, transposed=True)


def residual_parts(shape: LayerShape) -> tuple[tuple[str, int], ...]:
    """What a program with the norm takes: the residual stream x [D, BS], and epsilon [1, BS]."""
    return (("x", shape.dim), ("epsilon", 1))
