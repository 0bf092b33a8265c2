"""Sequences side by side become heads and are put together again: fast evaluator, slow twin.

Heads are read where they lie, loaded in their order, or written there by the product that makes
them; none of it may change a bit or miss that a surface was written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from engine_cases import Op, evaluate, get, literal, port_surface, program_text, put, run

from ane_train.native.engine import Context

Shape = tuple[int, ...]


@dataclass
class HeadsProgram:
    """Of C = heads * size channels, and as many sequences of one length, in one packed input."""

    sequences: int
    heads: int
    size: int
    length: int
    ops: list[Op] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return self.heads * self.size

    @property
    def columns(self) -> int:
        return self.sequences * self.length

    @property
    def input_shape(self) -> Shape:
        """Two tensors side by side, and a weight."""
        return (1, self.channels, 1, 2 * self.columns + self.channels)

    def emit(self, kind: str, result: Shape, **arguments: object) -> str:
        name = f"v{len(self.ops)}"
        texts = {k: v if isinstance(v, str) else literal(v) for k, v in arguments.items()}
        self.ops.append(Op(kind, texts, [(name, "fp16", result)]))
        return name

    def part(self, column: int, columns: int) -> str:
        """[1, 1, C, columns] of the input."""
        shape = (1, self.channels, 1, columns)
        part = self.emit("slice_by_size", shape, x="x", begin=[0, 0, 0, column], size=list(shape))
        return self.reshape(part, (1, 1, self.channels, columns))

    def reshape(self, name: str, shape: Shape) -> str:
        return self.emit("reshape", shape, x=name, shape=list(shape))

    def transpose(self, name: str, perm: list[int], shape: Shape) -> str:
        return self.emit("transpose", shape, x=name, perm=perm)

    def product(self, a: str, b: str, shape: Shape, *, turned: str = "") -> str:
        flags = {"transpose_x": "a" in turned, "transpose_y": "b" in turned}
        return self.emit("matmul", shape, x=a, y=b, **flags)

    def split(self, name: str) -> str:
        """[1, 1, C, N] as [1, B H, D, S]."""
        b, c, s = self.sequences, self.channels, self.length
        apart = self.reshape(name, (1, c, b, s))
        turned = self.transpose(apart, [0, 2, 1, 3], (1, b, c, s))
        return self.reshape(turned, (1, b * self.heads, self.size, s))

    def join(self, name: str) -> str:
        """The way back."""
        b, c, s = self.sequences, self.channels, self.length
        apart = self.reshape(name, (1, b, c, s))
        turned = self.transpose(apart, [0, 2, 1, 3], (1, c, b, s))
        return self.reshape(turned, (1, 1, c, b * s))

    def halves_added(self, name: str) -> str:
        """Each half plus the other one."""
        half = (1, self.sequences * self.heads, self.size // 2, self.length)
        first, second = (
            self.emit("slice_by_size", half, x=name, begin=[0, 0, row, 0], size=list(half))
            for row in (0, half[2])
        )
        both = [self.emit("add", half, x=a, y=b) for a, b in ((first, second), (second, second))]
        whole = (*half[:2], self.size, self.length)
        values = f"({', '.join(both)})"
        return self.emit("concat", whole, values=values, axis=2, interleave=False)


def heads_program(sequences: int, heads: int, size: int, length: int) -> tuple[str, HeadsProgram]:
    """Text; attention without its softmax, with what is between as outputs too."""
    b = HeadsProgram(sequences, heads, size, length)
    whole, rows = (1, 1, b.channels, b.columns), (1, sequences * heads, length, size)
    x, given = b.part(0, b.columns), b.part(b.columns, b.columns)
    weight = b.part(2 * b.columns, b.channels)
    made = b.product(weight, x, whole, turned="a")
    q, k, v = b.halves_added(b.split(given)), b.split(made), b.split(x)
    scores = b.product(q, k, (*rows[:3], length), turned="a")
    few = b.emit("relu", (*rows[:3], length), x=scores)
    few = b.emit("minimum", (*rows[:3], length), x=few, y=literal(np.array(3.0, np.float16)))
    mixed = b.transpose(
        b.product(few, v, rows, turned="b"), [0, 1, 3, 2], (*rows[:2], size, length)
    )
    joined = b.join(mixed)
    y = b.product(weight, joined, whole)
    flat = (1, b.channels, 1, b.columns)
    parts = [b.reshape(each, flat) for each in (y, joined, made, b.join(b.halves_added(k)))]
    stacked = (1, len(parts) * b.channels, 1, b.columns)
    out = b.emit("concat", stacked, values=f"({', '.join(parts)})", axis=1, interleave=False)
    given_inputs = {"x": np.zeros(b.input_shape, np.float16)}
    return program_text(given_inputs, b.ops, [out]), b


SHAPES = [
    (1, 2, 4, 16),
    (2, 1, 2, 33),
    (2, 3, 4, 20),
    (3, 2, 8, 32),
    (4, 12, 2, 7),
    (2, 2, 16, 160),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("numerics", ["fp16", "fp32", "bf16", "hazard"])
def test_the_bits_are_those_of_the_reference(shape: tuple[int, ...], numerics: str) -> None:
    text, program = heads_program(*shape)
    x = np.random.default_rng(1).standard_normal(program.input_shape).astype(np.float16)
    fast = run(Context(numerics, threads=2, blas=None), text, {"x": x})
    slow = run(Context(numerics, threads=1, blas=None, reference=True), text, {"x": x})
    assert np.isfinite(slow[0]).all()
    np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("numerics", ["fp16", "fp32", "bf16"])
def test_products_of_whole_numbers_are_exact_in_any_order(
    shape: tuple[int, ...], numerics: str
) -> None:
    text, program = heads_program(*shape)
    x = np.random.default_rng(2).integers(-1, 2, program.input_shape).astype(np.float16)
    fast = run(Context(numerics, threads=2), text, {"x": x})
    slow = run(Context(numerics, threads=1, blas=None, reference=True), text, {"x": x})
    assert np.isfinite(slow[0]).all()
    np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("seed", range(6))
def test_every_write_is_seen(seed: int) -> None:
    rng = random.Random(seed)
    text, program = heads_program(*SHAPES[2 + seed % 2])
    values = np.random.default_rng(seed).standard_normal(program.input_shape).astype(np.float16)
    with Context("fp16", threads=2, blas=None) as context:
        compiled = context.compile(text)
        port, target = compiled.inputs[0], compiled.outputs[0]
        surface = port_surface(context, port.dtype, port.shape)
        out = port_surface(context, target.dtype, target.shape)
        request = compiled.request([surface], [out])
        put(surface, values)
        matrix = values.reshape(program.channels, -1)
        for _ in range(30):
            if rng.random() < 0.4:
                row, column = (rng.randrange(n) for n in matrix.shape)
                matrix[row, column] += 0.5
                surface.write(matrix[row : row + 1, column : column + 1], row, column)
            request.evaluate()
            (fresh,) = evaluate(context, compiled, [values])
            np.testing.assert_array_equal(get(out, target.dtype, target.shape), fresh)
