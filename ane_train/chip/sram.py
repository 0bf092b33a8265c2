"""`sram`: time over the size of a working set, of weights and of activations apart, and the knee.

Chains of 1x1 convolutions: many of few places, whose weights are read once, or few of many places,
whose values go from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from ane_train.chip.case import Bench, Case, Measured
from ane_train.chip.chains import chain_program, draw_chain, repeated
from ane_train.chip.proof import ULP, Experiment, Trial, experiment, require_memory
from ane_train.chip.results import OK, Fit, Result, series
from ane_train.chip.settings import Settings
from ane_train.chip.statistics import find_knee, fit_line
from ane_train.chip.timing import time_calls
from ane_train.model.memory import available

WEIGHTS, ACTIVATIONS = "weights", "activations"
MIB = 1 << 20
SIZES = tuple(size * MIB for size in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96))
BRIEF_SIZES = tuple(size * MIB // 16 for size in (1, 2, 4, 6, 8, 12))
CHANNELS, BRIEF_CHANNELS = 512, 128  # of the chain of weights
PLACES = 64  # of the chain of weights
ROW, FEW_CHANNELS, FEW = 256, 64, 4  # width, channels and depth of the chain of activations
SEED = 8
MARGIN = 2.0
RISE = 0.05  # of a line's offset, below which its slope is noise and no bandwidth


def cases(settings: Settings) -> list[Case]:
    """A row for each size of weights, then of activations."""
    sizes = BRIEF_SIZES if settings.quick else SIZES
    channels = BRIEF_CHANNELS if settings.quick else CHANNELS
    return [
        *(_weights_case(size, channels) for size in sizes),
        *(_activations_case(size) for size in sizes),
    ]


def _weights_case(size: int, channels: int) -> Case:
    depth = size // (2 * channels * channels)
    return _case(WEIGHTS, size, size, (depth, channels, 1, PLACES))


def _activations_case(size: int) -> Case:
    """What one convolution reads and writes has this size; each of the few does so."""
    height = size // (2 * 2 * FEW_CHANNELS * ROW)
    return _case(ACTIVATIONS, size, FEW * size, (FEW, FEW_CHANNELS, height, ROW))


def _case(variant: str, size: int, moved: int, shape: tuple[int, int, int, int]) -> Case:
    """shape: depth, channels, height, width. moved: bytes of one evaluation."""
    depth, channels, height, width = shape

    def build(_: Bench) -> Experiment:
        require_memory(16 * size, available())
        chain = draw_chain(depth, channels, SEED)
        program = chain_program(chain.matrices, (1, channels, height, width))
        rows, places = channels * height, height * width
        inputs = [repeated(chain.columns, places).reshape(rows, width)]
        tolerance = MARGIN * ULP * depth**0.5
        return experiment(
            program,
            inputs,
            lambda: [repeated(chain.fp16_outputs(), places).reshape(rows, width)],
            tolerance,
        )

    def measure(bench: Bench, trial: Trial) -> Measured:
        timings = series("evaluate", time_calls(trial.evaluate, bench.effort))
        values = {"bytes": float(moved), "gbps": moved / (1e6 * timings.median)}
        return Measured((timings,), values)

    sizes = {
        "bytes": size,
        **dict(zip(("depth", "channels", "height", "width"), shape, strict=True)),
    }
    return Case(f"{size / MIB:g} MiB", variant, sizes, build, measure)


def fits(results: Sequence[Result]) -> list[Fit]:
    """The lines through the times of each kind of working set that has two sizes or more."""
    found = []
    for variant in (WEIGHTS, ACTIVATIONS):
        rows = [
            row
            for row in results
            if row.variant == variant and row.status == OK and row.series[0].median > 0
        ]
        if len(rows) > 1:
            found.append(_fit(variant, rows))
    return found


def _fit(variant: str, rows: Sequence[Result]) -> Fit:
    sizes = [float(row.sizes["bytes"]) for row in rows]
    times = [row.series[0].median for row in rows]
    moved = rows[0].values["bytes"] / sizes[0]  # bytes for each byte of the working set
    knee = find_knee(sizes, times)
    if knee is None:
        offset, slope = fit_line(sizes, times)
        rate = _rate(moved, slope, offset / sizes[-1])
        return Fit(f"sram {variant}", None, offset, rate, rate)
    least = knee.offset / knee.place
    before, after = (_rate(moved, slope, least) for slope in (knee.before, knee.after))
    return Fit(f"sram {variant}", knee.place, knee.offset, before, after)


def _rate(moved: float, slope: float, offset: float) -> float | None:
    """GB/s of a slope in milliseconds per byte; None where time does not rise.

    offset: of the line, for each byte at its end.
    """
    return moved / (1e6 * slope) if slope > max(RISE * offset, 0) else None
