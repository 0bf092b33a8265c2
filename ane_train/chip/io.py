"""`io`: how fast numbers get into surfaces and out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ane_train.chip.case import Bench, Case, Measured
from ane_train.chip.chains import Array
from ane_train.chip.proof import Experiment, Trial, UnprovedError
from ane_train.chip.results import WRONG, series
from ane_train.chip.settings import Settings
from ane_train.chip.surfaces import plus_one
from ane_train.chip.timing import time_calls
from ane_train.native.engine import Surface

SIZES, BRIEF_SIZES = ((768, 256), (2048, 4096)), ((64, 512),)  # channels and width
SEED = 9
HALF = 2  # bytes of fp16

Call = Callable[[], object]


def cases(settings: Settings) -> list[Case]:
    """Each way in or out at each size."""
    sizes = BRIEF_SIZES if settings.quick else SIZES
    return [_case(way, *size) for size in sizes for way in WAYS]


def _case(way: str, channels: int, width: int) -> Case:
    def build(_: Bench) -> Experiment:
        return plus_one(channels, width)

    def measure(bench: Bench, trial: Trial) -> Measured:
        values = np.random.default_rng(SEED).standard_normal((channels, width), np.float32)
        values[:2, :2] = [[1 + 2.0**-11, 2.0**-25], [65519.0, -0.0]]  # ties, and the range's end
        with WAYS[way](trial, values) as (call, result):
            call()
            _require_equal(result(), values)
            timings = series(way, time_calls(call, bench.effort))
        moved = HALF * channels * width
        return Measured((timings,), {"bytes": float(moved), "gbps": moved / (1e6 * timings.median)})

    sizes = {"channels": channels, "width": width}
    return Case(f"{channels} x {width}", way, sizes, build, measure)


def _require_equal(found: Array, values: Array) -> None:
    """Surfaces hold what NumPy's rounding to fp16 gives, to the bit."""
    if found.astype(np.float16).tobytes() != values.astype(np.float16).tobytes():
        raise UnprovedError(WRONG, "not timed: the numbers do not come through as they should")


Way = Iterator[tuple[Call, Callable[[], Array]]]


@contextmanager
def _write(trial: Trial, values: Array) -> Way:
    source = trial.sources[0]
    yield lambda: source.write(values), lambda: source.array


@contextmanager
def _write_transposed(trial: Trial, values: Array) -> Way:
    source, turned = trial.sources[0], np.ascontiguousarray(values.T)
    yield lambda: source.write(turned, transposed=True), lambda: source.array


@contextmanager
def _read(trial: Trial, values: Array) -> Way:
    source, out = trial.sources[0], np.empty_like(values)
    source.write(values)
    yield lambda: source.read(out=out), lambda: out


@contextmanager
def _copy_bytes(trial: Trial, values: Array) -> Way:
    """fp16 numbers as they are, into memory that is locked each time."""
    source, halves = trial.sources[0], values.astype(np.float16)

    def call() -> None:
        with source.locked() as memory:
            memory[:] = halves

    yield call, lambda: source.array


@contextmanager
def _copy_surface(trial: Trial, values: Array) -> Way:
    source = trial.sources[0]
    target: Surface = trial.context.surface(source.channels, source.width, source.element_size)
    source.write(values)
    shape = (0, 0, source.channels, source.width)
    try:
        yield lambda: target.copy_from(0, 0, source, *shape), lambda: target.array
    finally:
        target.close()


# Each lends a call that moves the values, and one that shows what came of it.
WAYS = {
    "write": _write,
    "write transposed": _write_transposed,
    "read": _read,
    "copy fp16": _copy_bytes,
    "copy surface": _copy_surface,
}
