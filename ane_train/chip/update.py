"""`update`: new weights by a copy into a surface, against a program that is compiled anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ane_train.chip.case import Bench, Build, Case, Measure, Measured
from ane_train.chip.chains import chain_program, repeated, to_fp16
from ane_train.chip.products import Product, draw_product, product_program
from ane_train.chip.proof import ULP, Experiment, Trial, check, experiment
from ane_train.chip.results import series
from ane_train.chip.settings import Settings

SIZES, BRIEF_SIZES = ((768, 768), (768, 2048), (1024, 3072)), ((128, 256),)  # in, out
WIDTH = 256
UPDATES, BRIEF_UPDATES = 15, 5
SEED = 10
TOLERANCE = 2 * ULP


def cases(settings: Settings) -> list[Case]:
    """Both ways at each size."""
    sizes = BRIEF_SIZES if settings.quick else SIZES
    return [case for size in sizes for case in (_copy_case(*size), _recompile_case(*size))]


def _copy_case(rows: int, columns: int) -> Case:
    """The weights are beside x in the input: staged, and then one evaluation."""

    def build(_: Bench) -> Experiment:
        return packed_product(draw_product(rows, columns, WIDTH, SEED))

    def measure(bench: Bench, trial: Trial) -> Measured:
        staged, whole = [], []
        for product in _updates(bench, rows, columns):
            start = time.perf_counter()
            trial.sources[0].write(product.weights, column=WIDTH)
            between = time.perf_counter()
            trial.evaluate()
            end = time.perf_counter()
            _require_right(trial, product)
            staged.append(1e3 * (between - start))
            whole.append(1e3 * (end - start))
        return Measured((series("copy", staged), series("copy, evaluate", whole)))

    return _case("copy", rows, columns, (build, measure))


def _recompile_case(rows: int, columns: int) -> Case:
    """The weights are constants: compiled, loaded, bound, and then one evaluation."""

    def build(_: Bench) -> Experiment:
        return _constant_product(draw_product(rows, columns, WIDTH, SEED))

    def measure(bench: Bench, trial: Trial) -> Measured:
        compiled, whole = [], []
        for product in _updates(bench, rows, columns):
            made = _constant_product(product)
            with ExitStack() as stack:
                start = time.perf_counter()
                program = trial.context.compile(made.text, made.files)
                between = time.perf_counter()
                request = program.request(trial.sources, trial.targets)
                request.evaluate()
                end = time.perf_counter()
                stack.callback(program.close)
                stack.callback(request.close)
            _require_right(trial, product)
            compiled.append(1e3 * (between - start))
            whole.append(1e3 * (end - start))
        return Measured((series("compile", compiled), series("compile, evaluate", whole)))

    return _case("recompile", rows, columns, (build, measure))


def _case(way: str, rows: int, columns: int, work: tuple[Build, Measure]) -> Case:
    sizes = {"in": rows, "out": columns, "width": WIDTH, "bytes": 2 * rows * columns}
    return Case(f"weights {rows} x {columns}", way, sizes, *work)


def packed_product(product: Product) -> Experiment:
    """The experiment on a product whose weights are an input."""
    program = product_program(product)
    return experiment(program, [product.packed()], lambda: [product.fp16_outputs()], TOLERANCE)


def _constant_product(product: Product) -> Experiment:
    rows, _ = product.weights.shape
    program = chain_program([np.ascontiguousarray(product.weights.T)], (1, rows, 1, WIDTH))
    inputs = [repeated(product.columns, WIDTH)]
    return experiment(program, inputs, lambda: [product.fp16_outputs()], TOLERANCE)


def _updates(bench: Bench, rows: int, columns: int) -> Iterator[Product]:
    """The product that was proved, with other weights each time."""
    first = draw_product(rows, columns, WIDTH, SEED)
    for index in range(BRIEF_UPDATES if bench.settings.quick else UPDATES):
        random = np.random.default_rng([SEED, index])
        weights = random.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)
        yield replace(first, weights=to_fp16(weights))


def _require_right(trial: Trial, product: Product) -> None:
    """UnprovedError unless the outputs are those of the new weights."""
    check([trial.targets[0].read()], [product.fp16_outputs()], TOLERANCE)
