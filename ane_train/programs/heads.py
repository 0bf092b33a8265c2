"""Heads and sequences as axes: rows of projections become heads, and heads with one key a group.

B sequences side by side become B times as many heads, those of one sequence after the other. The
width stays the last axis on the way, so each move copies whole runs of S elements.
"""

from __future__ import annotations

from ane_train import mil
from ane_train.programs.shape import LayerShape


def as_heads(b: mil.Builder, x: mil.Value, count: int, shape: LayerShape) -> mil.Value:
    """[1, 1, n*E, B*S] -> [1, B*n, E, S]."""
    if shape.batch > 1:
        rows = count * shape.head_size
        x = b.reshape(x, (1, rows, shape.batch, shape.sequence))
        x = b.transpose(x, (0, 2, 1, 3))
    return b.reshape(x, (1, shape.batch * count, shape.head_size, shape.sequence))


def side_by_side(b: mil.Builder, x: mil.Value, shape: LayerShape) -> mil.Value:
    """[1, B*n, E, S] -> [1, n, E, B*S], which with one sequence is the same."""
    if shape.batch == 1:
        return x
    rows = x.type.elements // shape.columns
    x = b.reshape(x, (1, shape.batch, rows, shape.sequence))
    heads = (1, rows // shape.head_size, shape.head_size, shape.columns)
    return b.reshape(b.transpose(x, (0, 2, 1, 3)), heads)


def as_rows(b: mil.Builder, x: mil.Value, shape: LayerShape) -> mil.Value:
    """[1, n, E, B*S] -> [1, 1, n*E, B*S]."""
    return b.reshape(x, (1, 1, x.type.shape[1] * shape.head_size, shape.columns))


def group_heads(b: mil.Builder, x: mil.Value, shape: LayerShape, name: str) -> mil.Value:
    """[1, B*H, E, S] -> [1, B*K, r*S, E]: heads that share a key head become rows."""
    groups = shape.batch * shape.kv_heads
    rows = (1, groups, shape.ratio * shape.sequence, shape.head_size)
    return b.reshape(b.transpose(x, (0, 1, 3, 2)), rows, name=name)


def ungroup_heads(b: mil.Builder, x: mil.Value, shape: LayerShape, name: str) -> mil.Value:
    """[1, B*K, r*S, E] -> [1, B*H, E, S]."""
    heads = (1, shape.batch * shape.heads, shape.sequence, shape.head_size)
    return b.transpose(b.reshape(x, heads), (0, 1, 3, 2), name=name)
