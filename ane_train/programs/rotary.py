"""Rotary position embedding in the rotate-half convention (Su et al. 2021, arXiv 2104.09864).

Heads are [1, n, E, S]: the halves are split on the head-size axis, never on the last one, which
old chips slice wrongly. Backward is the rotation by the opposite angle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.programs.shape import LayerShape


@dataclass(frozen=True, slots=True)
class Rotary:
    """Constants of one rotation: cosine and sine, [1, 1, E/2, S] each."""

    cos: mil.Value
    sin: mil.Value
    half: int
    sequence: int


def rotary(builder: mil.Builder, shape: LayerShape, name: str, scale: float = 1.0) -> Rotary:
    """Tables for positions 0 .. S-1, multiplied by `scale` (a rotation that also scales)."""
    half = shape.head_size // 2
    frequency = shape.rope_theta ** (-np.arange(half) / half)
    angle = np.outer(frequency, np.arange(shape.sequence)).reshape(1, 1, half, shape.sequence)
    cos = builder.constant(scale * np.cos(angle), "fp16", name=f"{name}_cos")
    sin = builder.constant(scale * np.sin(angle), "fp16", name=f"{name}_sin")
    return Rotary(cos, sin, half, shape.sequence)


def _halves(builder: mil.Builder, x: mil.Value, table: Rotary) -> tuple[mil.Value, mil.Value]:
    size = (1, x.type.shape[1], table.half, table.sequence)
    first = builder.slice_by_size(x, (0, 0, 0, 0), size)
    return first, builder.slice_by_size(x, (0, 0, table.half, 0), size)


def rotary_forward(b: mil.Builder, x: mil.Value, table: Rotary, name: str) -> mil.Value:
    """[x1 cos - x2 sin; x2 cos + x1 sin] of x [1, n, E, S]."""
    x1, x2 = _halves(b, x, table)
    y1 = b.sub(b.mul(x1, table.cos), b.mul(x2, table.sin))
    y2 = b.add(b.mul(x2, table.cos), b.mul(x1, table.sin))
    return b.concat([y1, y2], axis=2, name=name)


def rotary_backward(b: mil.Builder, dy: mil.Value, table: Rotary, name: str) -> mil.Value:
    """[dy1 cos + dy2 sin; dy2 cos - dy1 sin] of dy [1, n, E, S]."""
    dy1, dy2 = _halves(b, dy, table)
    dx1 = b.add(b.mul(dy1, table.cos), b.mul(dy2, table.sin))
    dx2 = b.sub(b.mul(dy2, table.cos), b.mul(dy1, table.sin))
    return b.concat([dx1, dx2], axis=2, name=name)
