"""Rules of every arithmetic function: bits by any thread count, refused arrays, NULL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from native_arrays import OPTIONS, normal
from numpy.random import default_rng

from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import ffi, lib

THREADS = (1, 2, 5)


@pytest.fixture(scope="module")
def contexts() -> Iterator[dict[int, Context]]:
    opened = {threads: Context(threads=threads) for threads in THREADS}
    yield opened
    for context in opened.values():
        context.close()


@pytest.fixture(scope="module")
def context(contexts: dict[int, Context]) -> Context:
    return contexts[2]


def results(context: Context) -> dict[str, list[np.ndarray]]:
    """What every function makes of the same arrays, big enough to be cut over threads."""
    rng = default_rng(11)
    x, dy, dx = (normal(rng, 137, 301) for _ in range(3))
    gamma, dgamma, table = normal(rng, 137), normal(rng, 137), normal(rng, 50, 137)
    y, inverse_rms = np.empty_like(x), np.empty(301, np.float32)
    tokens = rng.integers(0, 50, 301, dtype=np.int32)
    flat = [normal(rng, 100_003) for _ in range(4)]
    flat[3] **= 2
    out, losses, embedded = np.empty((137, 50), np.float32), np.empty(301, np.float32), x.copy()
    logits = normal(rng, 301, 500)
    arithmetic.rmsnorm_forward(context, x, gamma, 1e-6, y, inverse_rms)
    arithmetic.rmsnorm_backward(context, x, gamma, inverse_rms, dy, dx, dgamma)
    arithmetic.embedding_forward(context, table, tokens, embedded)
    arithmetic.embedding_backward(context, dx, tokens, table)
    arithmetic.cross_entropy(context, logits, tokens, 0.5, losses)
    big = normal(rng, 300, 700)
    square = np.empty((700, 700), np.float32)
    arithmetic.gemm(context, big, big, square, transpose_a=True)
    arithmetic.gemm(context, x, np.ascontiguousarray(x.T[:, :50]), out)
    squares = np.array(arithmetic.sum_squares(context, flat[0]))
    arithmetic.axpy(context, 0.7, flat[0], flat[1])
    arithmetic.adamw(context, *flat, **OPTIONS)
    return {
        "rmsnorm": [y, inverse_rms, dx, dgamma],
        "embedding": [embedded, table],
        "cross_entropy": [logits, losses],
        "gemm": [square, out],
        "flat": [squares, *flat],
    }


def test_any_number_of_threads_gives_the_same_bits(contexts: dict[int, Context]) -> None:
    expected = results(contexts[1])
    for threads in THREADS[1:]:
        for name, arrays in results(contexts[threads]).items():
            for array, wanted in zip(arrays, expected[name], strict=True):
                assert array.tobytes() == wanted.tobytes(), (name, threads)


def calls(f: Callable[..., np.ndarray]) -> dict[str, Callable[[Context], object]]:
    """One call of every function with float arrays made by `f`."""
    tokens = np.zeros(3, np.int32)
    return {
        "gemm": lambda c: arithmetic.gemm(c, f(2, 3), f(3, 2), f(2, 2)),
        "embedding_forward": lambda c: arithmetic.embedding_forward(c, f(4, 5), tokens, f(5, 3)),
        "embedding_backward": lambda c: arithmetic.embedding_backward(c, f(5, 3), tokens, f(4, 5)),
        "rmsnorm_forward": lambda c: arithmetic.rmsnorm_forward(
            c, f(2, 3), f(2), 1e-5, f(2, 3), f(3)
        ),
        "rmsnorm_backward": lambda c: arithmetic.rmsnorm_backward(
            c, f(2, 3), f(2), f(3), f(2, 3), f(2, 3), f(2)
        ),
        "cross_entropy": lambda c: arithmetic.cross_entropy(c, f(3, 4), tokens, 1.0, f(3)),
        "axpy": lambda c: arithmetic.axpy(c, 1.0, f(3, 4), f(3, 4)),
        "sum_squares": lambda c: arithmetic.sum_squares(c, f(3, 4)),
        "adamw": lambda c: arithmetic.adamw(c, f(3), f(3), f(3), f(3), **OPTIONS),
    }


NAMES = list(calls(np.zeros))


def float64(*shape: int) -> np.ndarray:
    return np.ones(shape)


def strided(*shape: int) -> np.ndarray:
    return np.ones((*shape, 2), np.float32)[..., 0]


def read_only(*shape: int) -> np.ndarray:
    array = np.ones(shape, np.float32)
    array.flags.writeable = False
    return array


def one_too_many(*shape: int) -> np.ndarray:
    return np.ones((1, *shape), np.float32)


class Growing:
    """Makes arrays that get longer with every call, so that no two fit."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *shape: int) -> np.ndarray:
        self.calls += 1
        return np.ones([size + self.calls for size in shape], np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_right_arrays_are_accepted(context: Context, name: str) -> None:
    calls(lambda *shape: np.ones(shape, np.float32))[name](context)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [float64, strided])
def test_wrong_dtypes_and_strides_are_value_errors(
    context: Context, name: str, make: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"dtype float64|not C-contiguous"):
        calls(make)[name](context)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sum_squares"}))
def test_shapes_that_do_not_fit_are_value_errors(context: Context, name: str) -> None:
    with pytest.raises(ValueError, match=r"shape|inner sizes"):
        calls(Growing())[name](context)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sum_squares", "axpy", "adamw"}))
def test_a_dimension_too_many_is_a_value_error(context: Context, name: str) -> None:
    with pytest.raises(ValueError, match="shape"):
        calls(one_too_many)[name](context)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sum_squares"}))
def test_arrays_that_would_be_written_must_be_writable(context: Context, name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        calls(read_only)[name](context)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_tokens_and_targets_are_int32(context: Context, dtype: type) -> None:
    tokens, x, table = np.zeros(3, dtype), np.ones((5, 3), np.float32), np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match="tokens has dtype"):
        arithmetic.embedding_forward(context, table, tokens, x)
    with pytest.raises(ValueError, match="tokens has dtype"):
        arithmetic.embedding_backward(context, x, tokens, table)
    with pytest.raises(ValueError, match="targets has dtype"):
        arithmetic.cross_entropy(context, x.T.copy(), tokens, 1.0, np.ones(3, np.float32))


def raw_calls(context: object, array: object, tokens: object, options: object) -> Iterator[int]:
    yield lib.ane_gemm(context, 0, 0, 1, 1, 1, 1.0, array, 1, array, 1, 0.0, array, 1)
    yield lib.ane_embedding_forward(context, 1, 1, 1, array, tokens, array)
    yield lib.ane_embedding_backward(context, 1, 1, 1, array, tokens, array)
    yield lib.ane_rmsnorm_forward(context, 1, 1, 1e-5, array, array, array, array)
    yield lib.ane_rmsnorm_backward(context, 1, 1, array, array, array, array, array, array)
    yield lib.ane_cross_entropy(context, 1, 1, array, tokens, 1.0, array)
    yield lib.ane_axpy(context, 1, 1.0, array, array)
    yield lib.ane_sum_squares(context, 1, array, ffi.NULL)
    yield lib.ane_adamw(context, options, 1, ffi.NULL, array, array, array, array)


def test_null_is_an_argument_error_everywhere(context: Context) -> None:
    array, tokens = ffi.new("float[1]"), ffi.new("int32_t[1]")
    options = ffi.new("ane_adamw_options *", OPTIONS)
    null = ffi.NULL
    for arguments in (
        (null, array, tokens, options),
        (context._pointer, null, null, null),
    ):
        assert set(raw_calls(*arguments)) == {lib.ANE_ERROR_ARGUMENT}
    error = ffi.new("ane_error_info *")
    lib.ane_context_error(context._pointer, error)
    assert b"NULL" in ffi.string(error.text)
