"""The backward of the RMSNorm before a block: on the CPU in fp32, or in the backward program.

Also how x is staged for the programs that hold a norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from ane_train.model.arena import Arena, Array
from ane_train.native import arithmetic
from ane_train.programs import LayerShape
from ane_train.train.bound import BoundProgram

if TYPE_CHECKING:
    from ane_train.train.block import ResidualBlock

_LARGEST = 4  # log2 of where values are scaled to: squares stay below 256
_LARGEST_EPSILON = 2.0**15
_LARGEST_SCALE = 100  # log2: reciprocals and products of two with a number stay within fp32


def fitting_scale(values: Array, most: int = _LARGEST_SCALE) -> float:
    """The power of two, at most 2^most, that brings the largest |value| into [8, 16)."""
    largest = max(float(values.max()), -float(values.min()))
    if not 0 < largest < math.inf:
        return 1.0
    return 2.0 ** min(_LARGEST - math.frexp(largest)[1], most)


def norm_scale(x: Array, epsilon: float) -> float:
    """The power of two by which x is staged for RMSNorm, which does not change by it.

    The largest |x| comes to lie in [8, 16) unless that made epsilon * scale^2 too large for fp16.
    """
    return fitting_scale(x, math.floor(math.log2(_LARGEST_EPSILON / epsilon) / 2))


def sequences(x: Array, shape: LayerShape) -> Iterator[tuple[int, Array]]:
    """The first column of each sequence in x [C, BS], and its part [C, S] of x."""
    for column in range(0, x.shape[1], shape.sequence):
        yield column, x[:, column : column + shape.sequence]


def stage_residual(program: BoundProgram, x: Array, shape: LayerShape) -> list[float]:
    """Stages x [D, BS], each sequence scaled to fit fp16, and the epsilon that goes with the scale.

    Returns the scale of each sequence: a large value in one costs no other its small ones.
    """
    scales, epsilon = [], shape.norm_epsilon
    for column, part in sequences(x, shape):
        scale = norm_scale(part, epsilon)
        fitting = np.full((1, part.shape[1]), epsilon * scale**2, np.float32)
        program.stage("x", part, scale=scale, column=column)
        program.stage("epsilon", fitting, column=column)
        scales.append(scale)
    return scales


class NormBackward(Protocol):
    """From the output of a block's backward program to the gradient of the residual stream."""

    in_program: ClassVar[bool]  # whether backward programs have to hold the norm's backward

    def __init__(self, block: ResidualBlock) -> None: ...

    @property
    def gains(self) -> tuple[str, ...]:
        """Gains whose gradient the backward program gives per position, by parameter name."""
        ...

    def feed(self, x: Array) -> None:
        """Stages what the backward program needs of the block's input x [D, BS]."""
        ...

    def backward(self, x: Array, dx: Array, weights: Arena, gradients: Arena) -> None:
        """Adds to dx [D, BS] what came through the block and its norm, after the evaluation."""
        ...


class CpuNorm:
    """In fp32, from the program's gradient of the normalised x."""

    in_program: ClassVar[bool] = False
    gains: tuple[str, ...] = ()

    def __init__(self, block: ResidualBlock) -> None:
        self._shared, self._programs = block.shared, block.programs
        self._name = block.prefix + block.kind.norm

    def feed(self, x: Array) -> None:
        """Nothing."""

    def backward(self, x: Array, dx: Array, weights: Arena, gradients: Arena) -> None:
        """Also adds to the gain's gradient, if it has one."""
        shared, program = self._shared, self._programs.backward
        unused = shared.workspace.array("unused", dx.shape[0])
        with shared.timings.measure("io"):
            dnormalized = program.read("dx", shared.workspace.array("dnormalized", *dx.shape))
        with shared.timings.measure("elementwise"):
            arithmetic.rmsnorm_backward(
                shared.engine.context,
                x,
                weights[self._name],
                self._programs.inverse_rms(x, weights),
                dnormalized,
                dx,
                gradients.views.get(self._name, unused),
            )


class EngineNorm:
    """In the backward program, which takes x scaled and gives dx divided by that scale."""

    in_program: ClassVar[bool] = True

    def __init__(self, block: ResidualBlock) -> None:
        self._shared, self._programs = block.shared, block.programs
        self._scales: list[float] = []
        self.gains = (block.kind.norm,)

    def feed(self, x: Array) -> None:
        """x and epsilon."""
        with self._shared.timings.measure("io"):
            self._scales = stage_residual(self._programs.backward, x, self._shared.shape)

    def backward(self, x: Array, dx: Array, weights: Arena, gradients: Arena) -> None:
        """The gain's gradient is left to whoever sums over positions."""
        program, parts = self._programs.backward, sequences(dx, self._shared.shape)
        with self._shared.timings.measure("io"):
            for (column, part), scale in zip(parts, self._scales, strict=True):
                program.read("dx", part, alpha=scale, beta=1.0, column=column)
