"""Layers that continue a text: n new tokens against a key-value cache of T columns.

One program runs several whole layers, since each dispatch to the ANE costs as much as the weights
of a layer. The input is stacked along channels and T wide, a multiple of 64: the caches, one column
for each token, which the CPU writes after the evaluation; then x in the first n columns, and what
depends on positions. So every slice begins at column 0. The new tokens attend to themselves by
`place`, an [n, T] matrix that puts their scores into their columns, where the cache is still zero:
no concatenation, and nothing passes over the cache twice. n is 1, or a multiple of 64 to take in a
prompt. Within the program a single token is one column wide; its output is folded to 64.

The residual stream is fp16 here, scaled for each token by a power of two (`token_scale`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ane_train import mil
from ane_train.programs.attention import MASKED
from ane_train.programs.head_norm import head_norm_forward, mean_row
from ane_train.programs.heads import as_heads, as_rows, group_heads, ungroup_heads
from ane_train.programs.operands import Constants
from ane_train.programs.packing import (
    MINIMUM_CHANNELS,
    WIDTH_MULTIPLE,
    Block,
    LayerProgram,
    Packing,
    stack_along_channels,
    stack_inputs,
)
from ane_train.programs.quantize import Floats, matrix_constant
from ane_train.programs.rotary import Rotary, rotary_forward
from ane_train.programs.shape import LayerShape

TABLES = ("query_cos", "query_sin", "key_cos", "key_sin")
NORM_SCALE = 2.0**-6  # of x before its squares are summed: up to 2^13 the sum stays in fp16
_LARGEST = -2  # log2 of where a token's largest |x| is scaled to
_LARGEST_EPSILON = 2.0**12


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """A layer, whose `sequence` is n (the new tokens), with a cache of T; `layers` in a program."""

    layer: LayerShape
    cache: int
    layers: int
    prompt: int

    @property
    def tokens(self) -> int:
        """n, the new tokens of an evaluation."""
        return self.layer.sequence

    def of_prompt(self) -> DecodeShape:
        """The same for n = `prompt` tokens; both share their input surface."""
        return replace(self, layer=replace(self.layer, sequence=self.prompt))


def decode_input(shape: DecodeShape) -> Packing:
    """Caches [KV, T] of each layer, x [D, n], the tables [E/2, n], mask and place [n, T].

    The last two have rows for `prompt` tokens, so that programs of 1 and of `prompt` share it.
    """
    layer, parts = shape.layer, list[tuple[str, int]]()
    for index in range(shape.layers):
        parts += [(f"key_{index}", layer.key), (f"value_{index}", layer.key)]
    parts += [("x", layer.dim), ("scale", 1), ("epsilon", 1)]
    parts += [(name, layer.head_size // 2) for name in TABLES]
    return stack_inputs(shape.cache, *parts, ("mask", shape.prompt), ("place", shape.prompt))


def decode_output(shape: DecodeShape) -> Packing:
    """New columns [KV, n] of the caches, in their order, and x [D, n]; one column folded to 64.

    Folded it has 64 channels or more, as ports need. The blocks are those of the unfolded result,
    [C, n].
    """
    layer, parts = shape.layer, list[tuple[str, int]]()
    for index in range(shape.layers):
        parts += [(f"key_{index}", layer.key), (f"value_{index}", layer.key)]
    stacked = stack_along_channels(shape.tokens, *parts, ("x", layer.dim))
    if shape.tokens > 1:
        return stacked
    rows = max(MINIMUM_CHANNELS, -(-stacked.channels // WIDTH_MULTIPLE))
    return Packing(rows, WIDTH_MULTIPLE, stacked.blocks)


def token_scale(x: Floats, dim: int, epsilon: float) -> tuple[Floats, Floats]:
    """Powers of two by which the columns of x [D, n] are staged, and the `epsilon` that fits.

    The largest |x| comes to lie in [1/8, 1/4), so that it may grow 2^15 times within a program.
    """
    largest = np.maximum(x.max(axis=0), -x.min(axis=0))
    exponent = np.where(largest > 0, _LARGEST - np.frexp(largest)[1], 0)
    unit = dim * NORM_SCALE**2 * epsilon
    most = np.floor(np.log2(_LARGEST_EPSILON / unit) / 2)
    scale = np.exp2(np.minimum(exponent, most)).astype(np.float32)
    fitting = np.where(largest > 0, unit * scale**2, 1.0)  # fp16 may round a small one to zero
    return scale, fitting.astype(np.float32)


def rotary_tables(layer: LayerShape, start: int, count: int) -> Floats:
    """The blocks TABLES [2 E, count] for positions from `start`; the query's hold 1/sqrt(E)."""
    half = layer.head_size // 2
    frequency = layer.rope_theta ** (-np.arange(half) / half)
    angle = np.outer(frequency, np.arange(start, start + count))
    key = np.concatenate([np.cos(angle), np.sin(angle)])
    return np.concatenate([layer.head_size**-0.5 * key, key]).astype(np.float32)


def decode_program(
    shape: DecodeShape, weights: Sequence[Constants], *, int8: bool = False
) -> LayerProgram:
    """The program of `shape.layers` layers with these weights as constants, a file each."""
    assert len(weights) == shape.layers
    packing, output = decode_input(shape), decode_output(shape)
    writer = _Writer(shape, packing, int8)
    b, x = writer.b, writer.read("x")
    columns = []
    for index, constants in enumerate(weights):
        x, key, value = writer.layer(x, index, constants)
        columns += [key, value]
    parts = [b.reshape(part, (1, part.type.elements // shape.tokens, 1, shape.tokens))
             for part in (*columns, x)]  # fmt: skip
    result = (
        writer.folded(parts, output) if shape.tokens == 1 else b.concat(parts, 1, name="output")
    )
    return LayerProgram(f"decode_{shape.tokens}", b.build([result]), packing, output)


class _Writer:
    """Writes the layers of one program; values are [1, C, 1, n] unless said otherwise."""

    def __init__(self, shape: DecodeShape, packing: Packing, int8: bool) -> None:
        self.b = mil.Builder()
        self._shape, self._layer, self._packing, self._int8 = shape, shape.layer, packing, int8
        self._surface = self.b.input("x", packing.shape)
        n, half = shape.tokens, self._layer.head_size // 2
        tables = [self.b.reshape(self.read(name), (1, 1, half, n)) for name in TABLES]
        self._query_rotary = Rotary(tables[0], tables[1], half, n)
        self._key_rotary = Rotary(tables[2], tables[3], half, n)
        self._mean_row = mean_row(self.b, self._layer) if self._layer.qk_norm else None
        self._scale, self._epsilon = self.read("scale"), self.read("epsilon")
        self._mask = self._rows_of("mask")
        self._place = self._rows_of("place")

    def read(self, name: str) -> mil.Value:
        """The first n columns of a block, [1, C, 1, n]."""
        return self._slice(name, self._packing[name], self._shape.tokens)

    def _slice(self, name: str, block: Block, columns: int, rows: int | None = None) -> mil.Value:
        size = (1, rows or block.rows, 1, columns)
        return self.b.slice_by_size(self._surface, (0, block.row, 0, 0), size, name=name)

    def _rows_of(self, name: str) -> mil.Value:
        """The first n rows of mask or place, [1, 1, n, T]."""
        n, t = self._shape.tokens, self._shape.cache
        return self.b.reshape(self._slice(name, self._packing[name], t, n), (1, 1, n, t))

    def _cache(self, name: str) -> mil.Value:
        """[1, K, E, T]."""
        layer, t = self._layer, self._shape.cache
        return self.b.reshape(
            self._slice(name, self._packing[name], t), (1, layer.kv_heads, layer.head_size, t)
        )

    def layer(
        self, x: mil.Value, index: int, constants: Constants
    ) -> tuple[mil.Value, mil.Value, mil.Value]:
        """x after the layer, and the new columns of its caches."""
        b, values, name = self.b, constants.values, f"layer_{index}"

        def apply(parameter: str, given: mil.Value) -> mil.Value:
            label = f"{name}_{parameter}"
            weight = matrix_constant(b, values[parameter], f"{label}_weight", int8=self._int8)
            return b.conv(given, weight, name=label)

        normalized = self._normalize(x, values["attention_norm"], f"{name}_attention_norm")
        q, k, v = (apply(part, normalized) for part in ("query", "key", "value"))
        query = self._rotate(q, self._query_rotary, values, f"{name}_query")
        key = self._rotate(k, self._key_rotary, values, f"{name}_key")
        value = as_heads(b, v, self._layer.kv_heads, self._layer)
        heads = self._attend(query, key, value, index)
        x = self._residual(x, apply("output", heads), f"{name}_attended")
        normalized = self._normalize(x, values["ffn_norm"], f"{name}_ffn_norm")
        gate, up = apply("gate", normalized), apply("up", normalized)
        gated = b.mul(b.mul(gate, b.sigmoid(gate)), up, name=f"{name}_gated")
        return self._residual(x, apply("down", gated), name), key, v

    def _residual(self, x: mil.Value, y: mil.Value, name: str) -> mil.Value:
        return self.b.add(x, self.b.mul(y, self._scale), name=name)

    def _normalize(self, x: mil.Value, gain: Floats, name: str) -> mil.Value:
        """gain x / sqrt(mean(x^2) + epsilon); 1/D of the mean is in the gain.

        The squares are summed by a product, which accumulates wide and rounds none of them.
        """
        b, n, d = self.b, self._shape.tokens, self._layer.dim
        scaled = b.mul(x, NORM_SCALE)
        rows = b.reshape(scaled, (1, 1, d, n))
        rows = b.transpose(rows, (0, 1, 3, 2)) if n > 1 else rows
        row, column = b.reshape(rows, (1, n, 1, d)), b.reshape(rows, (1, n, d, 1))
        squares = b.reshape(b.matmul(row, column, name=f"{name}_squares"), (1, 1, 1, n))
        inverse = b.pow(b.add(squares, self._epsilon), -0.5, name=f"{name}_inverse")
        gamma = (np.float32(d**0.5 * NORM_SCALE) * gain).reshape(1, d, 1, 1)
        gains = b.constant(gamma, "fp16", name=f"{name}_gain")
        return b.mul(b.mul(x, inverse), gains, name=name)

    def _rotate(
        self, x: mil.Value, table: Rotary, values: Mapping[str, Floats], name: str
    ) -> mil.Value:
        """Queries or keys after norm and rotation, [1, heads, E, n]."""
        b, layer = self.b, self._layer
        heads = as_heads(b, x, x.type.shape[1] // layer.head_size, layer)
        if self._mean_row is not None:
            part = name.rpartition("_")[2]
            normalized = head_norm_forward(b, heads, self._mean_row, layer, name).value
            gain = values[f"{part}_norm"].reshape(1, 1, layer.head_size, 1)
            heads = b.mul(normalized, b.constant(gain, "fp16", name=f"{name}_norm"))
        return rotary_forward(b, heads, table, f"{name}_rotated")

    def _attend(self, query: mil.Value, key: mil.Value, value: mil.Value, index: int) -> mil.Value:
        """The heads' outputs, [1, Q, 1, n]."""
        b, layer, n = self.b, self._layer, self._shape.tokens
        name, t = f"layer_{index}", self._shape.cache
        rows = layer.ratio * n
        grouped = group_heads(b, query, layer, f"{name}_grouped_query")
        old = b.matmul(grouped, self._cache(f"key_{index}"), name=f"{name}_old_scores")
        new = b.matmul(grouped, key, name=f"{name}_new_scores")
        scores = b.add(
            b.reshape(old, (1, layer.heads, n, t)), self._placed(new, f"{name}_placed_scores")
        )
        p = b.softmax(b.add(scores, self._mask), axis=-1, name=f"{name}_probabilities")
        own = self._own(p, f"{name}_own_probabilities")
        p = b.reshape(p, (1, layer.kv_heads, rows, t))
        mixed = b.matmul(
            p, self._cache(f"value_{index}"), transpose_y=True, name=f"{name}_old_mixed"
        )
        mixed = b.add(mixed, self._own_values(own, value, f"{name}_new_mixed"))
        heads = as_rows(b, ungroup_heads(b, mixed, layer, f"{name}_mixed"), layer)
        return b.reshape(heads, (1, layer.query, 1, n))

    def _placed(self, scores: mil.Value, name: str) -> mil.Value:
        """Scores [1, K, r*n, n] among new tokens in their columns, [1, H, n, T]."""
        b, n, t, heads = self.b, self._shape.tokens, self._shape.cache, self._layer.heads
        if n == 1:
            return b.mul(b.reshape(scores, (1, heads, 1, 1)), self._place, name=name)
        placed = b.matmul(b.reshape(scores, (1, 1, heads * n, n)), self._place, name=name)
        return b.reshape(placed, (1, heads, n, t))

    def _own(self, p: mil.Value, name: str) -> mil.Value:
        """Of probabilities [1, H, n, T] those of new tokens, [1, K, r*n, n]."""
        b, n, t, layer = self.b, self._shape.tokens, self._shape.cache, self._layer
        rows = b.reshape(p, (1, 1, layer.heads * n, t))
        own = b.matmul(rows, self._place, transpose_y=True, name=name)
        return b.reshape(own, (1, layer.kv_heads, layer.ratio * n, n))

    def _own_values(self, own: mil.Value, value: mil.Value, name: str) -> mil.Value:
        """[1, K, r*n, E]; a product over one token is a multiplication."""
        b, layer = self.b, self._layer
        if self._shape.tokens > 1:
            return b.matmul(own, value, transpose_y=True, name=name)
        row = b.reshape(value, (1, layer.kv_heads, 1, layer.head_size))
        return b.mul(own, row, name=name)

    def folded(self, parts: list[mil.Value], output: Packing) -> mil.Value:
        """One column of all parts as rows of 64, filled up with zeros."""
        b, missing = self.b, output.elements - sum(part.type.elements for part in parts)
        if missing:
            zeros = np.zeros((1, missing, 1, 1), np.float32)
            parts = [*parts, b.constant(zeros, "fp16", name="filling")]
        return b.reshape(b.concat(parts, 1, name="columns"), output.shape, name="output")


def mask_rows(shape: DecodeShape, start: int, count: int) -> tuple[Floats, Floats]:
    """mask and place [n, T] for `count` tokens from position `start`; the other lanes are idle."""
    n, t = shape.tokens, shape.cache
    mask, place = np.full((n, t), MASKED, np.float32), np.zeros((n, t), np.float32)
    rows = np.arange(count)
    mask[:count][np.arange(t) <= start + rows[:, None]] = 0.0
    place[rows, start + rows] = 1.0
    return mask, place
