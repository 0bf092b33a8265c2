"""Products with matrices that are read as they are stored, against NumPy and the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ane_train import mil
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.programs.quantize import matrix_constant, quantize

SIZES = [(1, 1), (3, 31), (5, 32), (64, 257), (130, 768), (9, 2049), (257, 4500)]


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_matvec_is_the_product_in_float64(rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows)
    matrix = draw.standard_normal((rows, columns)).astype(np.float32)
    x = draw.standard_normal(columns).astype(np.float32)
    y = np.empty(rows, np.float32)
    half, stored = matrix.astype(np.float16), quantize(matrix)
    with Context(threads=2) as context:
        arithmetic.matvec(context, half, x, y)
        bound = np.abs(half.astype(np.float64)) @ np.abs(x)
        assert (np.abs(y - half.astype(np.float64) @ x) <= 2e-6 * bound).all()
        arithmetic.matvec(context, stored.values, x, y, stored.scales)
        exact = stored.dequantized().astype(np.float64)
        bound = np.abs(exact).sum(axis=1) * np.abs(x).max() * 2.0**-16
        assert (np.abs(y - exact @ x) <= bound + 1e-6).all()


@pytest.mark.parametrize("int8", [False, True])
def test_matvec_gives_the_same_bits_on_any_number_of_threads(int8: bool) -> None:
    draw = np.random.default_rng(0)
    stored = quantize(draw.standard_normal((1000, 700)).astype(np.float32))
    matrix = stored.values if int8 else stored.dequantized().astype(np.float16)
    x = draw.standard_normal(700).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        y = np.empty(1000, np.float32)
        with Context(threads=threads) as context:
            arithmetic.matvec(context, matrix, x, y, stored.scales if int8 else None)
        results.append(y.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("int8", [False, True])
def test_what_is_not_finite_stays_so(int8: bool, wrong: float) -> None:
    stored = quantize(np.ones((5, 600), np.float32))
    x, y = np.ones(600, np.float32), np.empty(5, np.float32)
    x[300] = wrong
    with Context() as context:
        matrix = stored.values if int8 else np.ones((5, 600), np.float16)
        arithmetic.matvec(context, matrix, x, y, stored.scales if int8 else None)
    assert not np.isfinite(y).any()


def run(program: mil.Program, x: np.ndarray, numerics: str, *, reference: bool) -> np.ndarray:
    """The program's one output of its one input, [C, W] each."""
    precision = "fp32" if numerics == "fp32" else "fp16"
    with Context(numerics, threads=2, reference=reference) as context:
        size = 4 if numerics == "fp32" else 2
        compiled = context.compile(mil.print_program(program), program.weight_files(precision))
        (source_port,), (target_port,) = program.inputs, program.outputs
        source = context.surface(source_port.shape[1], source_port.shape[3], size)
        target = context.surface(target_port.shape[1], target_port.shape[3], size)
        source.write(x)
        compiled.request([source], [target]).evaluate()
        return target.read()


def conv_program(matrix: np.ndarray, positions: int, *, int8: bool) -> mil.Program:
    b = mil.Builder()
    x = b.input("x", (1, matrix.shape[1], 1, 64 * -(-positions // 64)))
    x = b.slice_by_size(x, (0, 0, 0, 0), (1, matrix.shape[1], 1, positions))
    y = b.conv(x, matrix_constant(b, matrix, "weight", int8=int8))
    return b.build([y])


@pytest.mark.parametrize("positions", [1, 2, 64, 300])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("numerics", ["fp16", "fp32"])
def test_convolutions_by_stored_weights_are_those_of_the_reference(
    numerics: str, int8: bool, positions: int
) -> None:
    draw = np.random.default_rng(positions)
    matrix = draw.standard_normal((100, 333)).astype(np.float32)
    x = draw.standard_normal((333, 64 * -(-positions // 64))).astype(np.float32)
    program = conv_program(matrix, positions, int8=int8)
    fast = run(program, x, numerics, reference=False)
    slow = run(program, x, numerics, reference=True)
    bound = np.abs(matrix) @ np.abs(x[:, :positions])
    allowed = 1e-6 * bound
    if numerics == "fp16":  # an ulp of the result; the reference rounds dequantised weights besides
        allowed += 2.0**-10 * np.abs(slow) + (2.0**-11 * bound if int8 else 0.0)
    assert (np.abs(fast - slow) <= allowed).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("vectors", [1, 3])
def test_products_with_a_cache_on_the_surface_are_those_of_the_reference(
    vectors: int, transposed: bool
) -> None:
    """A [batch, E, T] cache in whole rows of the input, by a few rows of x each."""
    batch, e, t = 4, 16, 128
    b = mil.Builder()
    surface = b.input("x", (1, batch * e + 64, 1, t))
    cache = b.slice_by_size(surface, (0, 64, 0, 0), (1, batch * e, 1, t))
    cache = b.reshape(cache, (1, batch, e, t))
    depth = t if transposed else e
    x = b.slice_by_size(surface, (0, 0, 0, 0), (1, batch * vectors * depth // 64, 1, 64))
    x = b.mul(b.reshape(x, (1, batch, vectors, depth)), 0.5)
    y = b.matmul(x, cache, transpose_y=transposed)
    program = b.build([b.reshape(y, (1, batch * vectors, 1, y.type.shape[-1]))])
    draw = np.random.default_rng(1)
    values = draw.standard_normal((batch * e + 64, t)).astype(np.float32)
    fast = run(program, values, "fp16", reference=False)
    slow = run(program, values, "fp16", reference=True)
    assert np.abs(fast - slow).max() <= 2.0**-10 * np.abs(slow).max()


def test_a_matrix_with_another_use_besides_is_decoded_for_it() -> None:
    matrix = np.random.default_rng(2).standard_normal((96, 96)).astype(np.float32)
    b = mil.Builder()
    x = b.input("x", (1, 96, 1, 64))
    weight = b.constant(matrix[:, :, None, None], "fp16", name="weight")
    y = b.conv(b.slice_by_size(x, (0, 0, 0, 0), (1, 96, 1, 1)), weight)
    shown = b.reshape(weight, (1, 96, 1, 96))
    program = b.build([b.add(b.reshape(shown, (1, 96, 1, 96)), y)])
    values = np.random.default_rng(3).standard_normal((96, 64)).astype(np.float32)
    fast = run(program, values, "fp16", reference=False)
    slow = run(program, values, "fp16", reference=True)
    assert np.abs(fast - slow).max() <= 2.0**-8


def test_int8_weights_take_a_byte_each_and_are_not_folded() -> None:
    matrix = np.ones((256, 512), np.float32)
    sizes = []
    for int8 in (False, True):
        program = conv_program(matrix, 1, int8=int8)
        with Context() as context:
            text = mil.print_program(program)
            sizes.append(context.compile(text, program.weight_files()).cost.constant_bytes)
    assert _near(sizes, [2 * matrix.size, matrix.size])


def _near(sizes: Sequence[int], expected: Sequence[int]) -> bool:
    return all(want <= size < want + 16384 for size, want in zip(sizes, expected, strict=True))
