"""The floor: the time that the matrix products of a micro-batch take in the core's BLAS library.

Each shape is timed with the library's own threads, cut over the core's threads, and, where there is
one product for each head, as one product a thread. The fastest way counts.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import find_blas
from bench.products import Product
from bench.worker import SideError, cores

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112
Floats = np.ndarray[Any, np.dtype[np.float32]]
Call = Callable[[], None]
Way = Callable[[int], float]  # seconds of so many products
_SAMPLES = 3
_LEAST_SECONDS = 0.01  # of one sample of one shape, where it occurs that often


class Blas:
    """cblas_sgemm of the library that the C core opens."""

    def __init__(self) -> None:
        path = find_blas()
        if path is None:
            raise SideError("there is no BLAS library; install scipy-openblas32")
        self._library = ctypes.CDLL(path)
        self._sgemm = self._find("cblas_sgemm")
        self._sgemm.restype = None
        self._set_threads = self._find("openblas_set_num_threads")

    def _find(self, name: str) -> Any:
        renamed = getattr(self._library, f"scipy_{name}", None)
        return renamed or getattr(self._library, name)

    @property
    def name(self) -> str:
        """Version and kernel, such as "OpenBLAS 0.3.34 SkylakeX"."""
        texts = []
        for name in ("openblas_get_config", "openblas_get_corename"):
            function = self._find(name)
            function.restype = ctypes.c_char_p
            texts.append(function().decode())
        return " ".join([*texts[0].split()[:2], texts[1]])

    def use_threads(self, count: int) -> None:
        """How many threads one product takes."""
        self._set_threads(ctypes.c_int(count))

    def product(self, shape: Product, a: Floats, b: Floats, c: Floats) -> Call:
        """The product of matrices that begin the three arrays, without gaps."""
        number, flag = ctypes.c_int, {True: _TRANSPOSED, False: _PLAIN}
        arguments = (
            *(number(_ROW_MAJOR), number(flag[shape.transpose_a]), number(flag[shape.transpose_b])),
            *(number(shape.m), number(shape.n), number(shape.k), ctypes.c_float(1.0)),
            *(ctypes.c_void_p(a.ctypes.data), number(shape.m if shape.transpose_a else shape.k)),
            *(ctypes.c_void_p(b.ctypes.data), number(shape.k if shape.transpose_b else shape.n)),
            *(ctypes.c_float(shape.beta), ctypes.c_void_p(c.ctypes.data), number(shape.n)),
        )

        def run(_kept: tuple[Floats, ...] = (a, b, c)) -> None:
            self._sgemm(*arguments)

        return run


class Floor:
    """Times one product of each shape, given as the fields of a Product."""

    def __init__(self, products: list[list[Any]]) -> None:
        self.blas, self._context, self._count = Blas(), Context(), cores()
        self.facts = {"blas": self.blas.name, "threads": str(self._count)}
        self._pool = ThreadPoolExecutor(self._count)
        shapes = [Product(*fields) for fields in products]
        whole = _operands(shapes)
        parts = [_operands([s for s in shapes if s.independent > 1]) for _ in range(self._count)]
        self._shapes = [self._prepared(shape, whole, parts) for shape in shapes]

    def run(self) -> dict[str, Any]:
        """The median seconds of one product of each shape by its fastest way, in their order."""
        return {
            "seconds": [
                min(median(way(repeats) for _ in range(_SAMPLES)) / repeats for way in ways)
                for ways, repeats in self._shapes
            ]
        }

    def _prepared(
        self, shape: Product, whole: list[Floats], parts: list[list[Floats]]
    ) -> tuple[list[Way], int]:
        """The ways to compute a shape, and how many products one sample of it takes."""
        ways = [
            self._in_turn(self.blas.product(shape, *whole), self._count),
            self._in_turn(by_the_core(self._context, shape, *whole), 1),
        ]
        if shape.independent > 1:
            ways.append(self._side_by_side([self.blas.product(shape, *part) for part in parts]))
        return ways, _repeats(shape.count, min(way(1) for way in ways[:2]), self._count)

    def _in_turn(self, product: Call, threads: int) -> Way:
        def run(repeats: int) -> float:
            self.blas.use_threads(threads)
            start = time.perf_counter()
            for _ in range(repeats):
                product()
            return time.perf_counter() - start

        return run

    def _side_by_side(self, products: list[Call]) -> Way:
        def share(product: Call, repeats: int) -> None:
            for _ in range(repeats):
                product()

        def run(repeats: int) -> float:
            self.blas.use_threads(1)
            start = time.perf_counter()
            list(self._pool.map(share, products, [repeats // len(products)] * len(products)))
            return time.perf_counter() - start

        return run


def by_the_core(context: Context, shape: Product, a: Floats, b: Floats, c: Floats) -> Call:
    """The product as the core cuts it over its threads, each of which calls the library."""
    m, n, k = shape.m, shape.n, shape.k
    left = a[: m * k].reshape((k, m) if shape.transpose_a else (m, k))
    right = b[: k * n].reshape((n, k) if shape.transpose_b else (k, n))
    out = c[: m * n].reshape(m, n)
    flags = shape.transpose_a, shape.transpose_b
    return lambda: arithmetic.gemm(context, left, right, out, *flags, beta=shape.beta)


def _operands(shapes: list[Product]) -> list[Floats]:
    """Arrays for A, B and C that are large enough for all of the shapes."""
    rng = np.random.default_rng(0)
    sizes = [(s.m * s.k, s.k * s.n, s.m * s.n) for s in shapes] or [(1, 1, 1)]
    return [rng.uniform(-1, 1, max(size)).astype(np.float32) for size in zip(*sizes, strict=True)]


def _repeats(count: int, seconds: float, threads: int) -> int:
    """As many as take long enough to be timed, and fill the threads; about as many as there are."""
    wanted = min(count, int(_LEAST_SECONDS / seconds) + 1)
    return -(-wanted // threads) * threads if count >= threads else wanted


def seconds_of(shapes: list[Product], seconds: list[float]) -> float:
    """Seconds of all products of a micro-batch, from those of one product of each shape."""
    return sum(shape.count * each for shape, each in zip(shapes, seconds, strict=True))
