"""Matrices as constants of a program: fp16, or int8 with one scale for each output channel.

int8 goes through constexpr_affine_dequantize, which chips from M2 on stream without widening. A
row's scale is the least fp16 number that is not below its largest magnitude / 127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_train import mil

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Quantized:
    """int8 values [out, in] and the scale of each row [out], which fp16 holds exactly."""

    values: npt.NDArray[np.int8]
    scales: Floats

    def dequantized(self) -> Floats:
        """The matrix that these stand for, not rounded to fp16."""
        return self.values.astype(np.float32) * self.scales[:, None]


def quantize(matrix: Floats) -> Quantized:
    """The nearest int8 matrix of [out, in]; a row of zeros has scale 1."""
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1)) / np.float32(127)
    scales = _rounded_up(np.where(largest > 0, largest, np.float32(1)))
    values = np.empty(matrix.shape, np.int8)
    step = max(1, (1 << 20) // matrix.shape[1])
    for start in range(0, len(matrix), step):  # by parts: no fp32 copy of a large matrix
        part = slice(start, start + step)
        values[part] = np.rint(matrix[part] / scales[part, None])
    return Quantized(values, scales)


def _rounded_up(values: Floats) -> Floats:
    half = values.astype(np.float16)
    half = np.where(half.astype(np.float32) < values, np.nextafter(half, np.float16(np.inf)), half)
    return np.asarray(half, np.float32)


def matrix_constant(b: mil.Builder, matrix: Floats, name: str, *, int8: bool) -> mil.Value:
    """The weights [out, in, 1, 1] of a 1x1 convolution."""
    if not int8:
        return b.constant(matrix[:, :, None, None], "fp16", name=name)
    stored = quantize(matrix)
    zero: Any = np.int8(0)
    return b.constexpr_affine_dequantize(
        b.constant(stored.values[:, :, None, None], "int8", name=f"{name}_int8"),
        b.constant(stored.scales, "fp16", name=f"{name}_scale"),
        b.constant(zero, "int8", name=f"{name}_zero"),
        name=name,
    )
