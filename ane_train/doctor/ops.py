"""One row per op: a program of one [1, n * 64, 1, 64] input around that op.

Operands are stacked along the channels, since slices along the width go wrong on old chips. What
stands around the op to bring its result back to a surface is reshapes and slices; pairs that only
make sense together (quantize with dequantize) share a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.doctor.rows import CHANNELS, WIDTH, Array, Draw, normal, positive

Build = Callable[[mil.Builder, mil.Value], mil.Value]
SURFACE = (1, CHANNELS, 1, WIDTH)
MATRIX = (1, 1, CHANNELS, WIDTH)
STEP = 0.0625  # between quantised values


@dataclass(frozen=True, slots=True)
class OpRow:
    """kind: the op; operands: how many [64, 64] blocks the input holds."""

    kind: str
    name: str
    build: Build
    operands: int = 1
    draw: Callable[[int], Draw] = normal


def input_channels(row: OpRow) -> int:
    """Channels of the row's input."""
    return row.operands * CHANNELS


def _operand(b: mil.Builder, x: mil.Value, index: int) -> mil.Value:
    return b.slice_by_size(x, (0, index * CHANNELS, 0, 0), SURFACE)


def _unary(kind: str, draw: Callable[[int], Draw] = normal, **others: float) -> OpRow:
    return OpRow(kind, kind, lambda b, x: b.op(kind, {"x": x, **others})[0], 1, draw)


def _binary(kind: str, draw: Callable[[int], Draw] = normal) -> OpRow:
    def build(b: mil.Builder, x: mil.Value) -> mil.Value:
        return b.op(kind, {"x": _operand(b, x, 0), "y": _operand(b, x, 1)})[0]

    return OpRow(kind, kind, build, 2, draw)


def _pow(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.pow(x, -0.5)


def _cast(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.cast(b.cast(x, "fp32"), "fp16")


def _matmul(transpose_x: bool, transpose_y: bool) -> Build:
    def build(b: mil.Builder, x: mil.Value) -> mil.Value:
        left, right = (b.reshape(_operand(b, x, index), MATRIX) for index in (0, 1))
        return b.reshape(b.matmul(left, right, transpose_x, transpose_y), SURFACE)

    return build


def _weights(seed: int) -> Array:
    shape = (CHANNELS, CHANNELS, 1, 1)
    return np.random.default_rng(seed).normal(0.0, CHANNELS**-0.5, shape)


def _conv(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.conv(x, b.constant(_weights(1), "fp16", name="weight"))


def _affine(b: mil.Builder, x: mil.Value) -> mil.Value:
    stored = np.round(_weights(2) / STEP).clip(-128, 127).astype(np.int8)
    weight = b.constexpr_affine_dequantize(
        b.constant(stored, "int8", name="stored"),
        b.constant(STEP, "fp16"),
        b.constant(0, "int8"),
    )
    return b.conv(x, weight)


def _reshape(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.reshape(x, (1, CHANNELS, 1, 2 * WIDTH))


def _transpose(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.reshape(b.transpose(b.reshape(x, MATRIX), (0, 1, 3, 2)), SURFACE)


def _slice_by_size(b: mil.Builder, x: mil.Value) -> mil.Value:
    return _operand(b, x, 1)


def _slice_by_index(b: mil.Builder, x: mil.Value) -> mil.Value:
    end = (1, 2 * CHANNELS, 1, WIDTH)
    return b.slice_by_index(x, (0, 0, 0, 0), end, (1, 2, 1, 1))


def _concat(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.concat([_operand(b, x, 1), _operand(b, x, 0)], axis=1)


def _split(b: mil.Builder, x: mil.Value) -> mil.Value:
    first, second = b.split(x, 2, axis=1)
    return b.concat([second, first], axis=1)


def _expand_dims(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.expand_dims(b.reshape(x, (1, CHANNELS, WIDTH)), (2,))


def _squeeze(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.reshape(b.squeeze(x, (2,)), SURFACE)


def _softmax(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.softmax(x, -1)


def _reduce(kind: str) -> OpRow:
    """Over 16 values that a reshape puts on an axis of their own."""

    def build(b: mil.Builder, x: mil.Value) -> mil.Value:
        grouped = b.reshape(x, (1, CHANNELS, 16, WIDTH))
        return b.op(kind, {"x": grouped, "axes": (2,), "keep_dims": True})[0]

    return OpRow(kind, kind, build, 16)


def _layer_norm(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.layer_norm(x, (-1,))


def _gather(b: mil.Builder, x: mil.Value) -> mil.Value:
    order = b.constant(np.array([3, 0, 2, 1, 7, 4, 6, 5]), "int32")
    grouped = b.reshape(x, (1, 8, CHANNELS // 8, WIDTH))
    return b.reshape(b.gather(grouped, order, axis=1), SURFACE)


def _select(b: mil.Builder, x: mil.Value) -> mil.Value:
    first, second = _operand(b, x, 0), _operand(b, x, 1)
    return b.select(b.cast(b.relu(first), "bool"), first, second)


def _quantize(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.dequantize(b.quantize(x, STEP), STEP)


OP_ROWS: tuple[OpRow, ...] = (
    OpRow("cast", "cast", _cast),
    _unary("identity"),
    *(_binary(kind) for kind in ("add", "sub", "mul", "maximum", "minimum")),
    _binary("real_div", positive),
    OpRow("pow", "pow", _pow, 1, positive),
    *(_unary(kind) for kind in ("sigmoid", "silu", "tanh", "relu", "exp", "square")),
    _unary("log", positive, epsilon=STEP),
    _unary("sqrt", positive),
    _unary("rsqrt", positive, epsilon=STEP),
    OpRow("matmul", "matmul", _matmul(False, False), 2),
    OpRow("matmul", "matmul transpose_x", _matmul(True, False), 2),
    OpRow("matmul", "matmul transpose_y", _matmul(False, True), 2),
    OpRow("conv", "conv", _conv),
    OpRow("reshape", "reshape", _reshape, 2),
    OpRow("transpose", "transpose", _transpose),
    OpRow("slice_by_size", "slice_by_size", _slice_by_size, 2),
    OpRow("slice_by_index", "slice_by_index", _slice_by_index, 2),
    OpRow("concat", "concat", _concat, 2),
    OpRow("split", "split", _split, 2),
    OpRow("expand_dims", "expand_dims", _expand_dims),
    OpRow("squeeze", "squeeze", _squeeze),
    OpRow("softmax", "softmax", _softmax),
    *(_reduce(kind) for kind in ("reduce_sum", "reduce_mean", "reduce_max")),
    OpRow("layer_norm", "layer_norm", _layer_norm),
    OpRow("gather", "gather", _gather),
    OpRow("select", "select", _select, 2),
    OpRow("quantize", "quantize, dequantize", _quantize),
    OpRow("constexpr_affine_dequantize", "constexpr_affine_dequantize", _affine),
)
