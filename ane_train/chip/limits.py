"""`limits`: what the compiler and the chip take, each question in a process of its own.

Surface alignment, program versions and opsets, the largest dynamic matrix, the largest surface of
weights. That something is refused, wrong, or ends its process is an answer.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ane_train import mil
from ane_train.chip.case import QUEUE, Bench, Case, Measured
from ane_train.chip.chains import draw_columns, repeated
from ane_train.chip.products import draw_product
from ane_train.chip.proof import ULP, Experiment, Trial, experiment, require_memory
from ane_train.chip.results import series
from ane_train.chip.settings import Settings
from ane_train.chip.surfaces import SMALLEST, plus_one
from ane_train.chip.timing import time_calls
from ane_train.chip.update import packed_product
from ane_train.model.memory import available

# Rows of so many bytes and no multiple of more, and an odd number of them: so the whole surface,
# too, is aligned to no more. The memory itself is whole pages.
ALIGNMENTS, ROWS = (64, 128, 16384), 65
# (program version, opset) in the dialect of the version's own time.
VERSIONS = (
    *(("1.0", opset) for opset in ("ios15", "ios16", "ios17")),
    *(("1.3", opset) for opset in ("ios16", "ios17", "ios18")),
    ("1.5", "ios18"),
)
BRIEF_VERSIONS = (("1.0", "ios16"), ("1.3", "ios18"))
DIMENSIONS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 12288, 16384)
BRIEF_DIMENSIONS = (64, 256)
# Outputs of a product with 1024 inputs, of which the weights take 2 MiB and more of one surface.
ROWS_OF_WEIGHTS = 1024
COLUMNS_OF_WEIGHTS = tuple(1024 * 2**power for power in range(8))
BRIEF_COLUMNS = (1024, 2048)
SEED = 11


def cases(settings: Settings) -> list[Case]:
    """Every question; of sizes, from the smallest to the first that fails."""
    dimensions = BRIEF_DIMENSIONS if settings.quick else DIMENSIONS
    versions = BRIEF_VERSIONS if settings.quick else VERSIONS
    columns = BRIEF_COLUMNS if settings.quick else COLUMNS_OF_WEIGHTS
    return [
        *(_alignment_case(alignment) for alignment in ALIGNMENTS),
        *(_version_case(*version) for version in versions),
        *(_product_case("dynamic matrix", size, size) for size in dimensions),
        *(_product_case("weight surface", ROWS_OF_WEIGHTS, size) for size in columns),
    ]


def _evaluate(bench: Bench, trial: Trial) -> Measured:
    effort = replace(bench.effort, seconds=min(bench.effort.seconds, 0.2))
    return Measured((series("evaluate", time_calls(trial.evaluate, effort)),))


def _alignment_case(alignment: int) -> Case:
    width = alignment // 2
    sizes = {"alignment": alignment, "channels": ROWS, "width": width}

    def build(_: Bench) -> Experiment:
        return plus_one(ROWS, width)

    return Case(f"surface aligned to {alignment} bytes", QUEUE, sizes, build, _evaluate)


def _version_case(version: str, opset: str) -> Case:
    """x + x in the dialect of 1.0 or of the later versions."""

    def build(_: Bench) -> Experiment:
        b = mil.Builder(opset="ios16" if version == "1.0" else "ios18")
        x = b.input("x", (1, SMALLEST, 1, SMALLEST))
        values = repeated(draw_columns(np.random.default_rng(SEED), SMALLEST), SMALLEST)
        made = experiment(b.build([b.add(x, x)]), [values], lambda: [2 * values], ULP)
        text = re.sub(r"^program\([\d.]+\)", f"program({version})", made.text)
        return replace(made, text=re.sub(r"<ios\d+>\(", f"<{opset}>(", text, count=1))

    return Case(f"program({version})", opset, {}, build, _evaluate)


def _product_case(name: str, rows: int, columns: int) -> Case:
    """A product with weights [rows, columns] beside 64 columns of x, all in one input."""
    sizes = {"in": rows, "out": columns, "bytes": 2 * rows * columns}

    def build(_: Bench) -> Experiment:
        require_memory(32 * rows * columns, available())
        return packed_product(draw_product(rows, columns, SMALLEST, SEED))

    return Case(f"{rows} x {columns}", name, sizes, build, _evaluate, ends_sweep=True)
