"""Chains of matrix products that keep the size of their values, in fp16 and in 8 bits.

The 8-bit ones are made so that every sum is a whole number of fp32: rows of weights whose scale is
a power of two, scales of activations with four significant bits. Then all engines that accumulate
in fp32 agree to the bit whatever their order, and NumPy can say exactly what they must give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_train import mil
from ane_train.programs.quantize import matrix_constant, quantize

Array = np.ndarray[Any, Any]
Floats = npt.NDArray[np.float32]

LEVELS = 127  # of int8, on each side of zero
# Columns after which inputs repeat: few, so that NumPy is quick; a prime, so that a wrong stride or
# place shows.
PERIOD = 61
_ODD_STEPS = (9, 11, 13, 15)


def draw_weights(random: np.random.Generator, rows: int, columns: int) -> Floats:
    """Weights [rows, columns], fp16 numbers, that keep the mean square of what they multiply.

    The largest of a row is 127 times a power of two, which differs between rows.
    """
    drawn = random.standard_normal((rows, columns), np.float32)
    largest = np.abs(drawn).argmax(1)
    drawn *= np.float32(LEVELS) / np.abs(drawn).max(1)[:, None]
    drawn[np.arange(rows), largest] = np.copysign(LEVELS, drawn[np.arange(rows), largest])
    energies = (drawn.astype(np.float64) ** 2).sum(1)
    base = np.floor(np.log2(rows / energies.sum()) / 2)
    energies *= 4.0**base
    larger = int(np.searchsorted(np.cumsum(3 * energies), rows - energies.sum()))
    exponents = base + (np.arange(rows) < larger)
    return to_fp16(drawn * np.exp2(exponents, dtype=np.float32)[:, None])


def to_fp16(values: Array) -> Floats:
    """The nearest fp16 numbers, as fp32."""
    return values.astype(np.float16).astype(np.float32)


def draw_columns(random: np.random.Generator, channels: int) -> Floats:
    """PERIOD columns of standard normal values, fp16 numbers [C, PERIOD]."""
    return to_fp16(random.standard_normal((channels, PERIOD), np.float32))


def repeated(columns: Array, width: int) -> Array:
    """The columns over and over, [C, width]."""
    return columns[:, np.arange(width) % columns.shape[1]]


def activation_scale(largest: float) -> float:
    """The least number of four significant bits, the last one set, at which 127 holds `largest`."""
    exponent = int(np.floor(np.log2(largest / LEVELS / _ODD_STEPS[0])))
    steps = (odd * 2.0**power for power in (exponent, exponent + 1) for odd in _ODD_STEPS)
    return next(step for step in steps if LEVELS * step >= largest)


def chain_outputs(matrices: Iterable[Floats], x: Array) -> Iterator[Array]:
    """What comes out of each matrix in turn, in float64 rounded to fp16."""
    for matrix in matrices:
        x = (matrix.astype(np.float64) @ x).astype(np.float16).astype(np.float64)
        yield x


def fake_quantized(x: Array, scale: float) -> Array:
    """The multiples of the scale next to x, as 8 bits hold them; ties go to even."""
    return np.clip(np.rint(x / scale), -LEVELS - 1, LEVELS) * scale


@dataclass(frozen=True, slots=True)
class Chain:
    """Square matrices [C, C] and what they are given [C, PERIOD].

    Of the input of each matrix: powers, its mean square in fp16, and the scale for 8 bits.
    """

    matrices: Sequence[Floats]
    columns: Floats
    powers: tuple[float, ...]
    scales: tuple[float, ...]

    def fp16_outputs(self) -> Array:
        """The last output in fp16, [C, PERIOD]."""
        *_, last = chain_outputs(self.matrices, self.columns.astype(np.float64))
        return last

    def int8_outputs(self) -> Array:
        """The last output with weights and activations of 8 bits, [C, PERIOD]."""
        x: Array = self.columns.astype(np.float64)
        for matrix, scale in zip(self.matrices, self.scales, strict=True):
            weights = quantize(matrix).dequantized()
            (x,) = chain_outputs([weights], fake_quantized(x, scale))
        return x

    def noise(self) -> tuple[float, float]:
        """Relative RMS that rounding activations, and weights, adds by the end: step / sqrt(12)."""
        steps = zip(self.scales, self.powers, strict=True)
        activations = sum(scale**2 / 12 / power for scale, power in steps)
        weights = sum(
            np.mean(quantize(matrix).scales ** 2) / 12 / np.mean(matrix**2)
            for matrix in self.matrices
        )
        return float(np.sqrt(activations)), float(np.sqrt(weights))


def draw_chain(depth: int, channels: int, seed: int) -> Chain:
    """A chain with scales that are calibrated on its own columns."""
    random = np.random.default_rng([seed, depth, channels])
    columns = draw_columns(random, channels)
    matrices = [draw_weights(random, channels, channels) for _ in range(depth)]
    inputs = [columns, *chain_outputs(matrices[:-1], columns.astype(np.float64))]
    powers = tuple(float(np.mean(x**2)) for x in inputs)
    scales = tuple(activation_scale(float(np.abs(x).max())) for x in inputs)
    return Chain(matrices, columns, powers, scales)


def chain_program(
    matrices: Sequence[Floats], shape: tuple[int, int, int, int], scales: Sequence[float] = ()
) -> mil.Program:
    """1x1 convolutions one after another on [1, C, H, W]; all weights are in one file.

    With scales it is in 8 bits: what goes into a convolution is quantised with its own, the weights
    with one for each output channel.
    """
    b = mil.Builder(file="weights")
    x = b.input("x", shape)
    for index, matrix in enumerate(matrices):
        if scales:
            x = b.dequantize(b.quantize(x, scales[index]), scales[index])
        x = b.conv(x, matrix_constant(b, matrix, f"w{index}", int8=bool(scales)))
    return b.build([x])
