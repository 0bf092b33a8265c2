"""RMSNorm of queries and keys over the head size, as Qwen3 has it, in fp16.

RMSNorm does not change when its input is scaled, so x is scaled by SCALE before it is squared:
squares of |x| up to 1023 stay finite in fp16 and epsilon does not vanish. Means are products with a
row of 1/E, which accumulate wide, since reduce_sum accumulates in fp16 on the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.programs.shape import LayerShape

SCALE = 0.25


@dataclass(frozen=True, slots=True)
class Normalized:
    """What the backward pass needs: u = x / rms(x) [1, n, E, S] and SCALE / rms [1, n, 1, S]."""

    value: mil.Value
    inverse: mil.Value


def mean_row(builder: mil.Builder, shape: LayerShape) -> mil.Value:
    """The constant [1, 1, 1, E] whose product with [1, n, E, S] is the mean over E."""
    row = np.full((1, 1, 1, shape.head_size), 1 / shape.head_size)
    return builder.constant(row, "fp16", name="mean_row")


def head_norm_forward(
    b: mil.Builder, x: mil.Value, row: mil.Value, shape: LayerShape, name: str
) -> Normalized:
    """Normalises x [1, n, E, S] over E, without gamma."""
    scaled = b.mul(x, SCALE)
    mean = b.matmul(row, b.mul(scaled, scaled), name=f"{name}_mean_square")
    inverse = b.pow(b.add(mean, shape.norm_epsilon * SCALE**2), -0.5, name=f"{name}_inverse")
    return Normalized(b.mul(scaled, inverse, name=f"{name}_normalized"), inverse)


def head_norm_backward(
    b: mil.Builder, du: mil.Value, forward: Normalized, row: mil.Value, name: str
) -> mil.Value:
    """dx = (du - u mean(du u)) / rms of du [1, n, E, S]."""
    mean = b.matmul(row, b.mul(du, forward.value), name=f"{name}_mean_product")
    centred = b.sub(du, b.mul(forward.value, mean))
    return b.mul(b.mul(centred, forward.inverse), SCALE, name=name)
