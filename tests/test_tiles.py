"""The tiles of matrix products: every kernel against the definition, to the bit."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from dataclasses import dataclass

import numpy as np
import pytest
from compiled import ROOT
from engine_cases import Op, literal, program_text, run
from native_arrays import assert_close, needs_bf16
from numpy.random import Generator, default_rng
from processors import EmulatedArm, Native, Processor

from ane_train.native import arithmetic
from ane_train.native.engine import Context

SIZES = [
    (8, 32, 16), (1, 1, 1), (4, 24, 8), (9, 33, 17), (37, 70, 256), (130, 50, 257), (16, 600, 40),
    (24, 48, 700), (1100, 40, 30), (30, 1100, 90),
]  # fmt: skip


class Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_size_t),
        ("transposed", ctypes.c_bool),
        ("half", ctypes.c_bool),
    )


class Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_size_t) for name in "mnk"),
        ("alpha", ctypes.c_float),
        ("a", Matrix),
        ("b", Matrix),
        ("beta", ctypes.c_float),
        ("c", ctypes.c_void_p),
        ("ldc", ctypes.c_size_t),
        ("rounds", ctypes.c_bool),
        ("halves", ctypes.c_void_p),
        ("halves_stride", ctypes.c_size_t),
        *((name, ctypes.c_size_t) for name in ("piece", "b_step", "c_step")),
    )


class Operand:
    """A random matrix [rows, columns] as it is stored, with a few elements between its rows."""

    def __init__(self, rng: Generator, shape: tuple[int, int], transposed: bool, half: bool):
        rows, columns = shape[::-1] if transposed else shape
        dtype = np.float16 if half else np.float32
        stored = np.full((rows, columns + 3), np.nan, dtype)
        stored[:, :columns] = rng.standard_normal((rows, columns))
        self.stored = stored.ravel()[:-3]
        self.layout = (columns + 3, transposed, half)

    def placed(self, processor: Processor) -> Matrix:
        return Matrix(processor.place(self.stored), *self.layout)


TINY = [x * 2.0**-64 for x in (-1, -0.75, 0.25, 0.5, 1, 4)]  # products: 2^-132 to 2^-124
UNTOUCHED = 0x1234
PROBE = "tiles_probe"
FP16 = ROOT / "csrc" / "base" / "fp16.c"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    sources = [FP16, *(ROOT / "csrc" / "base" / f"{name}.c" for name in ("error", "pool"))]
    folder = tmp_path_factory.mktemp("tiles")
    return Native(folder, PROBE, sources, ["-O2", "-ffp-contract=off"])


@pytest.fixture(scope="module", params=["native", "arm"])
def processor(request: pytest.FixtureRequest) -> Processor:
    if request.param == "native":
        return request.getfixturevalue("native")
    return EmulatedArm(PROBE, [FP16])


@dataclass(frozen=True)
class Case:
    """A random product, and whatever must not change its bits."""

    size: tuple[int, int, int]
    flags: tuple[bool, ...]  # left and right transposed, left and right in fp16, adding
    threads: int = 2
    short: bool = False

    @property
    def narrows(self) -> bool:
        """Whether the result is wanted in fp16 as well."""
        _, _, left_half, right_half, adds = self.flags
        return left_half and right_half and not adds

    def result(self, processor: Processor, function: str, *arguments: int) -> np.ndarray:
        """What a function of the probe makes of it; the product is its last argument."""
        m, n, k = self.size
        rng = default_rng(m * n + k)
        across, down, left_half, right_half, adds = self.flags
        a = Operand(rng, (m, k), across, left_half)
        b = Operand(rng, (k, n), down, right_half)
        alpha, beta = (0.5, -2.0) if adds else (1.0, 0.0)
        out = rng.standard_normal((m, n + 5)).astype(np.float32)
        if not adds:
            out[:, :n] = np.nan  # what is not read
        out = out.ravel()[:-5]
        halves = np.full((m, n + 3), UNTOUCHED, np.uint16)
        product = Product(m, n, k, alpha, a.placed(processor), b.placed(processor), beta,
                          processor.place(out), n + 5, left_half and not adds)  # fmt: skip
        if self.narrows:
            product.halves, product.halves_stride = processor.place(halves), n + 3
        placed = processor.place(np.frombuffer(product, np.uint8))
        assert processor.call(function, *arguments, placed) == 0
        processor.fetch(product.c, out)
        if self.narrows and function == "probe_multiply":
            processor.fetch(product.halves, halves)
            floats = np.append(out, np.zeros(5, np.float32)).reshape(m, n + 5)[:, :n]
            np.testing.assert_array_equal(halves[:, :n], floats.astype(np.float16).view(np.uint16))
            assert (halves[:, n:] == UNTOUCHED).all()
        processor.clear()
        return out.view(np.uint32)


def assert_defined_bits(processor: Processor, native: Native, case: Case) -> None:
    """The bits of the definition as this processor computes it."""
    defined = [case.result(native, "probe_defined", bf16) for bf16 in (False, True)]
    for kernel in range(processor.call("probe_kernels")):
        options = (kernel, case.threads, case.short)
        wanted = defined[processor.call("probe_bf16", kernel)]
        np.testing.assert_array_equal(case.result(processor, "probe_multiply", *options), wanted)


def test_a_64_bit_arm_has_a_kernel() -> None:
    emulated = EmulatedArm(PROBE, [FP16])
    assert emulated.call("probe_kernels") == 1
    assert emulated.text("probe_name", 0) == "NEON"


@pytest.mark.parametrize("size", SIZES)
def test_every_kernel_gives_the_bits_of_the_definition(
    processor: Processor, native: Native, size: tuple[int, int, int]
) -> None:
    for flags in itertools.product([False, True], repeat=5):
        assert_defined_bits(processor, native, Case(size, flags))


def test_bits_do_not_depend_on_threads_or_on_memory_for_panels(
    processor: Processor, native: Native
) -> None:
    flags = (True, False, True, False, True)
    for size in ((300, 200, 600), (50, 700, 300), (33, 32, 33000)):
        for threads, short in ((1, False), (5, False), (2, True)):
            assert_defined_bits(processor, native, Case(size, flags, threads, short))


PIECE = 96  # columns: whole tiles of every kernel
GAP = 5  # elements after each row, and after each piece


def in_pieces(matrix: np.ndarray) -> np.ndarray:
    """[pieces, rows * (PIECE + GAP) + GAP] of [rows, columns]; NaN where there is nothing."""
    rows, columns = matrix.shape
    pieces = -(-columns // PIECE)
    apart = np.full((pieces, rows * (PIECE + GAP) + GAP), np.nan, matrix.dtype)
    for index, piece in enumerate(apart):
        part = matrix[:, index * PIECE : (index + 1) * PIECE]
        piece[:-GAP].reshape(rows, PIECE + GAP)[:, : part.shape[1]] = part
    return apart


@pytest.mark.parametrize("size", [(30, 288, 90), (300, 250, 600), (1100, 1250, 20), (9, 97, 17)])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_pieces_give_the_bits_of_columns_side_by_side(
    processor: Processor, size: tuple[int, int, int], reads: bool, writes: bool
) -> None:
    m, n, k = size
    rng = default_rng(m)
    a = rng.standard_normal((m, k)).astype(np.float32)
    b = rng.standard_normal((k, n)).astype(np.float16 if k > 50 else np.float32)
    before = rng.standard_normal((m, n)).astype(np.float32)
    stored = in_pieces(b) if reads else b
    for kernel in range(processor.call("probe_kernels")):
        side, apart = before.copy(), in_pieces(before) if writes else before.copy()
        results = []
        for given, out, piece in ((b, side, 0), (stored, apart, PIECE)):
            stride, ldc = (PIECE + GAP if out is apart and cut else n for cut in (reads, writes))
            steps = [x.shape[1] if cut and piece else PIECE
                     for x, cut in ((given, reads), (out, writes))]  # fmt: skip
            matrices = [Matrix(processor.place(a), k, False, False),
                        Matrix(processor.place(given), stride, False, b.itemsize == 2)]  # fmt: skip
            halves = np.full((m, n), UNTOUCHED, np.uint16)
            product = Product(m, n, k, 0.5, *matrices, -2, processor.place(out), ldc, True,
                              processor.place(halves), n, piece, *steps)  # fmt: skip
            placed = processor.place(np.frombuffer(product, np.uint8))
            assert processor.call("probe_multiply", kernel, 2, 0, placed) == 0
            processor.fetch(product.c, out)
            processor.fetch(product.halves, halves)
            results.append(halves)
            processor.clear()
        wanted = in_pieces(side) if writes else side
        np.testing.assert_array_equal(apart.view(np.uint32), wanted.view(np.uint32))
        np.testing.assert_array_equal(*results)


@needs_bf16
def test_subnormal_sums_count_as_zero_in_either_way_to_multiply_bf16(native: Native) -> None:
    rng = default_rng(9)
    m, n, k = 16, 64, 90
    left, right = (rng.choice(TINY, shape).astype(np.float32) for shape in ((m, k), (k, n)))
    matrices = [Matrix(native.place(x), x.shape[1], False, False) for x in (left, right)]
    outs = []
    for kernel in range(native.call("probe_kernels")):
        if not native.call("probe_bf16", kernel):
            continue
        out = np.full((m, n), np.nan, np.float32)
        product = Product(m, n, k, 1, *matrices, 0, native.place(out), n, False)
        placed = native.place(np.frombuffer(product, np.uint8))
        assert native.call("probe_multiply", kernel, 1, 0, placed) == 0
        native.fetch(product.c, out)
        outs.append(out.view(np.uint32))
    assert len(outs) == 2
    np.testing.assert_array_equal(*outs)
    exact = (left.astype(np.float64) @ right).astype(np.float32)
    assert np.any((outs[0] == 0) & (exact != 0))
    assert np.any(outs[0].view(np.float32) > 0)
    native.clear()


def at_page_end(array: np.ndarray) -> np.ndarray:
    """A copy that ends where memory that must not be read begins."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), np.uint8)
    guard = ctypes.c_void_p(whole.ctypes.data + size)
    assert ctypes.CDLL(None).mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = whole[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_nothing_beyond_the_operands_is_read_or_written(
    native: Native, half: bool, transposed: bool
) -> None:
    for m, n, k in SIZES[:6]:
        shapes = ((k, m), (n, k)) if transposed else ((m, k), (k, n))
        dtype = np.float16 if half else np.float32
        stored = [at_page_end(np.ones(shape, dtype)) for shape in shapes]
        matrices = [Matrix(x.ctypes.data, x.shape[1], transposed, half) for x in stored]
        out = at_page_end(np.full((m, n), 2, np.float32))
        product = Product(m, n, k, 1, *matrices, 1, out.ctypes.data, n, False)
        for kernel in range(native.call("probe_kernels")):
            out[...] = 2
            assert native.call("probe_multiply", kernel, 1, 0, ctypes.addressof(product)) == 0
            np.testing.assert_array_equal(out, k + 2)


def test_a_product_has_the_same_bits_for_every_number_of_threads() -> None:
    rng = default_rng(3)
    a, b = (rng.standard_normal(shape, np.float32) for shape in ((700, 300), (900, 300)))
    outs = [np.empty((700, 900), np.float32) for _ in range(3)]
    for threads, out in zip((1, 2, 5), outs, strict=True):
        with Context(threads=threads) as context:
            arithmetic.gemm(context, a, b, out, transpose_b=True)
    np.testing.assert_array_equal(outs[0], outs[1])
    np.testing.assert_array_equal(outs[0], outs[2])
    assert_close(outs[0], a.astype(np.float64) @ b.T, 2e-6)


def product_of_an_input(transposed: bool, columns: int) -> tuple[str, dict[str, np.ndarray]]:
    """A weight and an activation side by side in one fp16 input, multiplied.

    Small whole numbers, so that every order of additions is exact.
    """
    rows, inner = 40, 100
    weight = (inner, rows) if transposed else (rows, inner)
    channels = max(inner, rows)
    packed = default_rng(columns).integers(-4, 5, (1, channels, 1, columns + weight[1] + 5))
    shapes = {"w": (3, weight), "x": (weight[1] + 4, (inner, columns))}
    ops = []
    for name, (column, shape) in shapes.items():
        slice_ = {"x": "packed", "begin": literal([0, 0, 0, column])}
        slice_["size"] = literal([1, shape[0], 1, shape[1]])
        ops.append(Op("slice_by_size", slice_, [(f"{name}0", "fp16", (1, shape[0], 1, shape[1]))]))
        matrix = {"x": f"{name}0", "shape": literal([1, 1, *shape])}
        ops.append(Op("reshape", matrix, [(name, "fp16", (1, 1, *shape))]))
    product = {"x": "w", "y": "x", "transpose_x": literal(transposed)}
    ops.append(Op("matmul", product, [("out", "fp16", (1, 1, rows, columns))]))
    inputs = {"packed": packed.astype(np.float16)}
    return program_text(inputs, ops, ["out"]), inputs


@pytest.mark.parametrize("numerics", ["fp16", "fp32", "hazard"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("columns", [1, 20, 256])
def test_operands_that_are_read_in_a_surface_give_the_bits_of_the_reference(
    columns: int, transposed: bool, numerics: str
) -> None:
    text, inputs = product_of_an_input(transposed, columns)
    hazards = 7 if numerics == "hazard" else 0
    fast = run(Context(numerics, hazards, threads=2), text, inputs)
    slow = run(Context(numerics, hazards, blas=None, reference=True), text, inputs)
    np.testing.assert_array_equal(fast[0], slow[0])


def test_no_fp32_copy_is_made_of_an_operand_that_is_read_in_a_surface(native: Native) -> None:
    text, _ = product_of_an_input(False, 256)
    scratch = []
    for blas in ("auto", None):
        with Context(threads=1, blas=blas) as context:
            scratch.append(context.compile(text).cost.scratch_bytes)
    copies = 4 * (40 * 100 + 100 * 256)
    assert scratch[1] - scratch[0] == (copies if native.call("probe_kernels") else 0)
