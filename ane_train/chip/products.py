"""One product of two matrices that are both inputs, packed along the width as training packs them.

As in `chains`, the columns repeat, and in 8 bits every sum is a whole number of fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.chip.chains import (
    LEVELS,
    Array,
    Floats,
    activation_scale,
    draw_columns,
    fake_quantized,
    repeated,
    to_fp16,
)


@dataclass(frozen=True, slots=True)
class Product:
    """W^T x: weights W [in, out] and columns [in, PERIOD] that repeat up to `width`."""

    weights: Floats
    columns: Floats
    width: int

    @property
    def scales(self) -> tuple[float, float]:
        """Of x with four significant bits; of W a power of two."""
        largest = float(np.abs(self.weights).max())
        power = 2.0 ** np.ceil(np.log2(largest / LEVELS))
        return activation_scale(float(np.abs(self.columns).max())), float(power)

    def packed(self) -> Array:
        """The input surface [in, width + out]: x, and W beside it."""
        return np.concatenate([repeated(self.columns, self.width), self.weights], 1)

    def fp16_outputs(self) -> Array:
        """[out, width]."""
        return self._outputs(self.weights, self.columns)

    def int8_outputs(self) -> Array:
        """The same with both matrices in 8 bits."""
        columns, weights = self.scales
        return self._outputs(
            fake_quantized(self.weights, weights), fake_quantized(self.columns, columns)
        )

    def noise(self) -> float:
        """Relative RMS that rounding both to 8 bits adds."""
        pairs = zip(self.scales, (self.columns, self.weights), strict=True)
        return float(np.sqrt(sum(scale**2 / 12 / np.mean(x**2) for scale, x in pairs)))

    def _outputs(self, weights: Array, columns: Array) -> Array:
        product = weights.T.astype(np.float64) @ columns.astype(np.float64)
        return repeated(to_fp16(product), self.width)


def draw_product(rows: int, columns: int, width: int, seed: int) -> Product:
    """Weights [rows, columns] of 1/sqrt(rows), and standard normal x of that width."""
    random = np.random.default_rng([seed, rows, columns])
    weights = random.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)
    return Product(to_fp16(weights), draw_columns(random, rows), width)


def product_program(product: Product, *, int8: bool = False) -> mil.Program:
    """[1, in, 1, width + out] -> [1, out, 1, width]."""
    rows, columns = product.weights.shape
    width = product.width
    b = mil.Builder()
    packed = b.input("x", (1, rows, 1, width + columns))
    x = b.slice_by_size(packed, (0, 0, 0, 0), (1, rows, 1, width))
    w = b.slice_by_size(packed, (0, 0, 0, width), (1, rows, 1, columns))
    if int8:
        x, w = (
            b.dequantize(b.quantize(part, scale), scale)
            for part, scale in zip((x, w), product.scales, strict=True)
        )
    x = b.reshape(x, (1, 1, rows, width))
    w = b.reshape(w, (1, 1, rows, columns))
    return b.build([b.reshape(b.matmul(w, x, transpose_x=True), (1, columns, 1, width))])
