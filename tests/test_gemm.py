"""The matrix product against NumPy in float64, by the BLAS library and by the reference."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from native_arrays import assert_close, normal
from numpy.random import Generator, default_rng

from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import address, lib


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with Context(threads=2) as opened:
        yield opened


@pytest.fixture
def rng() -> Generator:
    return default_rng(7)


@pytest.mark.parametrize("blas", ["auto", None])
@pytest.mark.parametrize("flags", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    "size", [(1, 1, 1), (1, 70, 3), (65, 1, 9), (33, 130, 17), (300, 257, 64), (3, 5, 0), (0, 4, 2)]
)
def test_gemm_is_the_product_in_float64(
    rng: Generator, size: tuple[int, int, int], flags: tuple[bool, bool], blas: str | None
) -> None:
    m, n, k = size
    a = normal(rng, *((k, m) if flags[0] else (m, k)))
    b = normal(rng, *((n, k) if flags[1] else (k, n)))
    out = normal(rng, m, n)
    left, right = (a.T if flags[0] else a), (b.T if flags[1] else b)
    expected = 0.5 * left.astype(np.float64) @ right.astype(np.float64) - 2.0 * out
    with Context(threads=2, blas=blas) as context:
        arithmetic.gemm(context, a, b, out, *flags, alpha=0.5, beta=-2.0)
    assert_close(out, expected, 2e-6)


@pytest.mark.parametrize("blas", ["auto", None])
def test_gemm_with_beta_0_does_not_read_the_output(rng: Generator, blas: str | None) -> None:
    a, b = normal(rng, 40, 30), normal(rng, 30, 20)
    out = np.full((40, 20), np.nan, np.float32)
    with Context(threads=2, blas=blas) as context:
        arithmetic.gemm(context, a, b, out)
        assert_close(out, a.astype(np.float64) @ b, 2e-6)
        arithmetic.gemm(context, a, b, out, alpha=0.0)
    assert not out.any()


@pytest.mark.parametrize("blas", ["auto", None])
def test_gemm_reads_and_writes_within_leading_dimensions(rng: Generator, blas: str | None) -> None:
    a, b, out = normal(rng, 70, 50), normal(rng, 50, 140), normal(rng, 70, 150)
    before = out.copy()
    pointers = [address(array, np.float32) for array in (a, b, out)]
    with Context(threads=2, blas=blas) as context:
        status = lib.ane_gemm(
            context._pointer, False, False, 70, 130, 40, 1.0,
            pointers[0], 50, pointers[1], 140, 0.0, pointers[2], 150,
        )  # fmt: skip
    assert status == lib.ANE_OK
    assert_close(out[:, :130], a[:, :40].astype(np.float64) @ b[:40, :130], 2e-6)
    np.testing.assert_array_equal(out[:, 130:], before[:, 130:])


@pytest.mark.parametrize("blas", ["auto", None])
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_rows_that_lie_apart_give_the_bits_of_those_side_by_side(
    rng: Generator, flags: tuple[bool, bool], blas: str | None
) -> None:
    left, right, out = normal(rng, 70, 150), normal(rng, 70, 150), normal(rng, 70, 150)
    a, b, c = left[:, 3:73], right[:, 80:150], out[:, 40:110]
    expected, before = c.copy(), out.copy()
    with Context(threads=2, blas=blas) as context:
        arithmetic.gemm(context, a.copy(), b.copy(), expected, *flags, beta=0.5)
        arithmetic.gemm(context, a, b, c, *flags, beta=0.5)
    before[:, 40:110] = expected
    assert out.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "view",
    [
        lambda square: square[:, ::2],
        lambda square: square[::-1, :4],
        lambda square: np.broadcast_to(square[0, :4], (8, 4)),
        lambda square: square[:, :4].T,
    ],
    ids=["columns apart", "backwards", "one row again", "down the columns"],
)
def test_other_strides_are_refused(context: Context, view: Callable[..., np.ndarray]) -> None:
    wrong, square = view(np.ones((8, 8), np.float32)), np.ones((8, 8), np.float32)
    with pytest.raises(ValueError, match=r"a (is|has rows that are) not C-contiguous"):
        arithmetic.gemm(context, wrong, square[: wrong.shape[1]], square[: wrong.shape[0]])


def test_gemm_takes_strides_that_32_bits_do_not_hold(rng: Generator) -> None:
    stride = (1 << 31) + 16
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    sparse = np.frombuffer(mmap.mmap(-1, 4 * (stride + 3), flags), np.float32)
    b, out = normal(rng, 3, 4), np.empty((2, 4), np.float32)
    rows = normal(rng, 2, 3)
    sparse[:3], sparse[stride : stride + 3] = rows
    with Context(threads=1) as context:
        status = lib.ane_gemm(
            context._pointer, False, False, 2, 4, 3, 1.0, address(sparse, np.float32), stride,
            address(b, np.float32), 4, 0.0, address(out, np.float32), 4,
        )  # fmt: skip
    assert status == lib.ANE_OK
    assert_close(out, rows.astype(np.float64) @ b, 1e-6)


def test_gemm_refuses_leading_dimensions_less_than_a_row(context: Context, rng: Generator) -> None:
    pointer = address(normal(rng, 8, 8), np.float32)
    for lda, ldb, ldc in ((3, 8, 8), (8, 7, 8), (8, 8, 7)):
        status = lib.ane_gemm(
            context._pointer, False, False, 2, 8, 4, 1.0, pointer, lda, pointer, ldb, 0.0,
            pointer, ldc,
        )  # fmt: skip
        assert status == lib.ANE_ERROR_ARGUMENT
