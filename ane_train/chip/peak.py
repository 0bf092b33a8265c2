"""`peak`: throughput of chains of 1x1 convolutions and of large products, in fp16 and int8."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ane_train import mil
from ane_train.chip import FP16, INT8, PRECISIONS
from ane_train.chip.case import Bench, Case, Measured
from ane_train.chip.chains import (
    Array,
    Chain,
    chain_program,
    draw_chain,
    repeated,
)
from ane_train.chip.products import draw_product, product_program
from ane_train.chip.proof import ULP, Accuracy, Experiment, Trial, experiment, require_memory
from ane_train.chip.results import series
from ane_train.chip.settings import Settings, Sweep
from ane_train.chip.statistics import sustained_rate
from ane_train.chip.timing import sustain, time_calls
from ane_train.engine.machine import known_chip, this_machine
from ane_train.model.memory import available

SEED = 6
MARGIN = 2.0  # times the error that the arithmetic adds: what one outlying draw may take
SPATIAL = "64x64"
# (depth, channels, spatial): the published figure, and one size at a time changed from it.
USUAL = (
    (128, 512, SPATIAL),
    *((depth, 512, SPATIAL) for depth in (32, 64)),
    *((128, channels, SPATIAL) for channels in (128, 256)),
    *((128, 512, spatial) for spatial in ("16x16", "32x32")),
)
BRIEF = ((16, 64, "16x16"), (64, 64, "8x8"))
MATMULS, BRIEF_MATMULS = (2048, 4096), (256,)
# From this generation on the chip has twice the rate for int8 (maderix/ANE: M4, M5 Max).
TWICE_FOR_INT8 = ("m4", "m5")


def cases(settings: Settings) -> list[Case]:
    """Convolutions of all sizes and then products, each in all precisions."""
    sweep = settings.sweep
    precisions = sweep.precisions or PRECISIONS
    sizes = _sizes(sweep, settings.quick)
    found = [_chain_case(*size, precision) for size in sizes for precision in precisions]
    if sweep.is_usual:
        matmuls = BRIEF_MATMULS if settings.quick else MATMULS
        found += [_matmul_case(size, precision) for size in matmuls for precision in precisions]
    return found


def _sizes(sweep: Sweep, quick: bool) -> Sequence[tuple[int, int, str]]:
    if sweep.is_usual:
        return BRIEF if quick else USUAL
    depth, channels, spatial = (BRIEF if quick else USUAL)[0]
    return list(
        itertools.product(
            sweep.depths or (depth,), sweep.channels or (channels,), sweep.spatial or (spatial,)
        )
    )


def _chain_case(depth: int, channels: int, spatial: str, precision: str) -> Case:
    height, width = (int(size) for size in spatial.split("x"))
    places = height * width
    size = 1 if precision == INT8 else 2
    weights = depth * channels * channels
    sizes = {"depth": depth, "channels": channels, "height": height, "width": width}

    def build(bench: Bench) -> Experiment:
        require_memory(16 * weights + 24 * channels * places, available())
        chain = draw_chain(depth, channels, SEED)
        scales = chain.scales if precision == INT8 else ()
        program = chain_program(chain.matrices, (1, channels, height, width), scales)
        inputs = [repeated(chain.columns, places).reshape(channels * height, width)]

        def spread(columns: Array) -> list[Array]:
            return [repeated(columns, places).reshape(channels * height, width)]

        if precision == FP16:
            tolerance = MARGIN * ULP * depth**0.5
            return experiment(program, inputs, lambda: spread(chain.fp16_outputs()), tolerance)
        return _int8_experiment(program, inputs, chain, spread, bench)

    measure = _rated(2.0 * weights * places, size * weights + 4 * channels * places, precision)
    name = f"conv {depth} x {channels} at {spatial}"
    return Case(name, precision, sizes, build, measure)


def _int8_experiment(
    program: mil.Program,
    inputs: list[Array],
    chain: Chain,
    spread: Callable[[Array], list[Array]],
    bench: Bench,
) -> Experiment:
    """To rounding on the software engine.

    How an ANE rounds a tie is not published, and one that is rounded the other way changes all
    that follows as quantising itself does: there the outputs may differ by that noise, twice.
    """
    activations, weights = chain.noise()
    tolerance = ULP if bench.chip is None else 2**0.5 * activations
    bound = MARGIN * float(np.hypot(activations, weights))
    accuracy = Accuracy(lambda: spread(chain.fp16_outputs()), bound)
    return experiment(program, inputs, lambda: spread(chain.int8_outputs()), tolerance, accuracy)


def _matmul_case(size: int, precision: str) -> Case:
    def build(bench: Bench) -> Experiment:
        require_memory(32 * size * size, available())
        product = draw_product(size, size, size, SEED)
        program = product_program(product, int8=precision == INT8)
        inputs = [product.packed()]
        if precision == FP16:
            model = product.fp16_outputs
            return experiment(program, inputs, lambda: [model()], MARGIN * ULP)
        noise = product.noise()
        tolerance = ULP if bench.chip is None else 2**0.5 * noise
        accuracy = Accuracy(lambda: [product.fp16_outputs()], MARGIN * noise)
        return experiment(program, inputs, lambda: [product.int8_outputs()], tolerance, accuracy)

    measure = _rated(2.0 * size**3, 6 * size * size, precision)
    return Case(f"matmul {size}", precision, {"rows": size}, build, measure)


def _rated(flop: float, touched: int, precision: str) -> Callable[[Bench, Trial], Measured]:
    """Times evaluations of so many operations and bytes, and holds them against the chip."""

    def measure(bench: Bench, trial: Trial) -> Measured:
        timings = series("evaluate", time_calls(trial.evaluate, bench.effort))
        start, ends = sustain(trial.evaluate, bench.effort.sustained)
        rate = flop / (1e9 * timings.median)
        values = {
            "gflop": flop / 1e9,
            "bytes": float(touched),
            "tflops": rate,
            "sustained_tflops": sustained_rate(flop / 1e12, ends, start),
            "sustained_seconds": ends[-1] - start,
            **dict(_share(rate, bench, precision)),
        }
        return Measured((timings,), values)

    return measure


def _share(rate: float, bench: Bench, precision: str) -> Iterator[tuple[str, float]]:
    """Of the chip's rated peak; nothing for the software engine, which has none, or a new chip."""
    chip = None if bench.chip is None else known_chip(this_machine().chip)
    if chip is not None:
        twice = precision == INT8 and chip.name in TWICE_FOR_INT8
        peak = chip.peak_tflops * (2 if twice else 1)
        yield "peak_tflops", peak
        yield "share_of_peak", rate / peak
