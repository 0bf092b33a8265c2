"""The machine's rate of matrix products, which a run's FLOP/s are compared with."""

from __future__ import annotations

import time

import numpy as np

from ane_train.native import arithmetic
from ane_train.native.engine import Context

_SIZE = 1024
_RUNS = 5


def measure_peak(context: Context) -> float:
    """FLOP/s of the best of a few fp32 products of 1024 x 1024 matrices on all threads."""
    a, b = (np.full((_SIZE, _SIZE), 0.5, np.float32) for _ in range(2))
    out = np.empty_like(a)
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        arithmetic.gemm(context, a, b, out)
        seconds.append(time.perf_counter() - start)
    return 2 * _SIZE**3 / min(seconds)
