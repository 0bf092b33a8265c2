"""RMSNorm of the residual stream over D in fp16, with its gain, and its backward.

RMSNorm does not change when x and sqrt(epsilon) are scaled, so whoever stages x scales it by a
power of two so that squares stay within fp16, and epsilon with it. Means are convolutions with a
row of 1/D, which accumulate wide, since reduce_sum accumulates in fp16 on the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ane_train import mil


@dataclass(frozen=True, slots=True)
class ResidualNorm:
    """The constants: the gain [1, D, 1, 1] and the row of 1/D, [1, D, 1, 1]."""

    gamma: mil.Value
    row: mil.Value


@dataclass(frozen=True, slots=True)
class Normalized:
    """What the backward pass needs: u = x / rms(x) [1, D, 1, BS] and 1 / rms [1, 1, 1, BS]."""

    value: mil.Value
    inverse: mil.Value


def residual_norm(b: mil.Builder, name: str, gain: npt.NDArray[np.float32]) -> ResidualNorm:
    """The norm whose gain [D] is called `name`."""
    place = (1, gain.size, 1, 1)
    row = b.constant(np.full(place, 1 / gain.size), "fp16", name="mean_row")
    return ResidualNorm(b.constant(gain.reshape(place), "fp16", name=name), row)


def residual_norm_forward(
    b: mil.Builder, norm: ResidualNorm, x: mil.Value, epsilon: mil.Value
) -> Normalized:
    """Normalises x [1, D, 1, BS], without gain; epsilon [1, 1, 1, BS] is scaled as x^2 is."""
    mean = b.conv(b.mul(x, x), norm.row, name="mean_square")
    inverse = b.pow(b.add(mean, epsilon), -0.5, name="inverse")
    return Normalized(b.mul(x, inverse, name="unit"), inverse)


def residual_norm_backward(
    b: mil.Builder, norm: ResidualNorm, dy: mil.Value, forward: Normalized
) -> tuple[mil.Value, mil.Value]:
    """From dy [1, D, 1, BS], the gradient of gamma u: those of x and, per position, of gamma.

    dx = (g - u mean(g u)) / rms with g = gamma dy. Where x was staged as scale * x, multiply dx by
    the scale; gamma's gradient is not affected.
    """
    scaled = b.mul(dy, norm.gamma)
    mean = b.conv(b.mul(scaled, forward.value), norm.row, name="mean_product")
    centred = b.sub(scaled, b.mul(forward.value, mean))
    dgamma = b.mul(dy, forward.value, name="dgamma")
    return b.mul(centred, forward.inverse, name="dx_residual"), dgamma
