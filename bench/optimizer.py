"""AdamW on a model's parameters, against PyTorch's fused one and the memory bandwidth.

Both work on the very same arrays, in turn, so that neither has the better pages.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ane_train.model.arena import Arena, Array
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import load_model
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.train.step import stretches
from bench.samples import Ratio, Result, Series, interleaved
from bench.worker import cores

_ROUNDS = 15
_BYTES = 28  # of one parameter: weight, gradient and two moments read, all but the gradient written
_COPIED = 1 << 27  # bytes of one copy: far more than the caches hold
_OPTIONS = arithmetic.AdamWOptions(
    learning_rate=1e-4,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    gradient_scale=0.5,
    step=1,
)


def adamw(model: str, _folder: Path, rounds: int | None = None) -> Result:
    """Our update, PyTorch's on its best thread count, and copies, in turn."""
    context = Context()
    table = parameters(load_model(model))
    arenas = [_filled(table, start) for start in (1.0, 1e-2, 1e-3, 1e-4)]
    arrays = tuple(arena.flat for arena in arenas)
    total = sum(parameter.size for parameter in table)

    def ours() -> float:
        start = time.perf_counter()
        arithmetic.adamw(context, *arrays, stretches=stretches(arenas[0], table), **_OPTIONS)
        return time.perf_counter() - start

    theirs, threads = _fused(
        [[arena[parameter.name].reshape(-1) for parameter in table] for arena in arenas]
    )
    sides = {"ours": ours, "torch fused": theirs, "copy": _copy(), "sum": _sum()}
    samples = interleaved(sides, rounds or _ROUNDS)
    rates = [2 * _COPIED / value / 1e9 for value in samples["copy"]]
    result = Result(
        [
            Series("ours", "s", samples["ours"], f"{context.threads} threads"),
            Series("torch fused", "s", samples["torch fused"], f"{threads} threads"),
            Series("memory, copying", "GB/s", tuple(rates)),
            Series(
                "memory, adding two arrays",
                "GB/s",
                tuple(3 * _COPIED / value / 1e9 for value in samples["sum"]),
            ),
            Series("ours", "GB/s", tuple(_BYTES * total / v / 1e9 for v in samples["ours"])),
        ]
    )
    seconds, peer, copied, added, rate = (series.median for series in result.series)
    result.ratios = [
        Ratio("adamw", peer / seconds, ">= 1.0"),
        Ratio("memory_bandwidth", rate / max(copied, added), ">= 0.7"),
    ]
    return result


def _filled(table: Sequence[Parameter], value: float) -> Arena:
    """Parameters as training lays them out."""
    arena = Arena(table)
    arena.flat.fill(value)
    return arena


def _fused(arrays: list[list[Array]]) -> tuple[Callable[[], float], int]:
    """torch.optim.AdamW(fused=True) on the arrays, on the faster thread count, and that."""
    import torch

    weights, gradients, first, second = ([torch.from_numpy(a) for a in kind] for kind in arrays)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer = torch.optim.AdamW(
        weights, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    for weight, m, v in zip(weights, first, second, strict=True):
        state = {"step": torch.tensor(1.0), "exp_avg": m, "exp_avg_sq": v}
        optimizer.state[weight] = state

    def run(threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start

    best = min(sorted({1, cores()}), key=lambda threads: min(run(threads) for _ in range(3)))
    return lambda: run(best), best


def _copy() -> Callable[[], float]:
    """A copy of an array by the C library, a share on each thread."""
    source, target = np.ones(_COPIED, np.uint8), np.zeros(_COPIED, np.uint8)
    count = cores()
    pool, size = ThreadPoolExecutor(count), _COPIED // count

    def share(index: int) -> None:
        at = index * size
        ctypes.memmove(target.ctypes.data + at, source.ctypes.data + at, size)

    def run() -> float:
        start = time.perf_counter()
        list(pool.map(share, range(count)))
        return time.perf_counter() - start

    return run


def _sum() -> Callable[[], float]:
    """c = a + b, a share on each thread."""
    count = cores()
    a, b, c = (np.full(_COPIED // 4, 1.0, np.float32) for _ in range(3))
    parts = [tuple(np.array_split(each, count)[i] for each in (a, b, c)) for i in range(count)]
    pool = ThreadPoolExecutor(count)

    def run() -> float:
        start = time.perf_counter()
        list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))
        return time.perf_counter() - start

    return run
