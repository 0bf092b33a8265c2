"""Reports as a chip would give them, made up: full sizes with times of a simple model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ane_train.chip import NAMES
from ane_train.chip.case import Case
from ane_train.chip.results import KIND, OK, SCHEMA, EngineFacts, Proof, Report, Result, series
from ane_train.chip.settings import Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.doctor.facts import gather

DISPATCH, PEAK, NEAR, FAR, KNEE = 0.095, {"fp16": 19.0, "int8": 38.0}, 160.0, 78.0, 32 << 20


def made_up(names: Sequence[str] = NAMES, noise: float = 0.01) -> Report:
    """Of an M4 with a knee at KNEE bytes of weights and of activations."""
    random = np.random.default_rng(3)
    results = tuple(row for name in names for row in _results(name, noise, random))
    fits = [
        fit
        for name in names
        for fit in BENCHMARKS[name].fits([row for row in results if row.benchmark == name])
    ]
    machine = replace(gather(), chip="Apple M4", system="macOS 26.3", build="25D125")
    engine = EngineFacts("auto", "ane", "two small programs are right", "m4", "m4")
    return Report(KIND, SCHEMA, machine, engine, False, results, tuple(fits))


def _results(name: str, noise: float, random: np.random.Generator) -> Iterator[Result]:
    for case in BENCHMARKS[name].cases(Settings(chip="m4")):
        time, values = _times(name, case)
        samples = np.abs(time * (1 + noise * random.standard_normal(9)))
        found = series(_quantity(name, case), list(samples), time if name == "train" else None)
        proof = Proof("NumPy", 1e-4, 1e-3)
        yield Result(name, case.name, case.variant, case.sizes, OK, "", proof, (found,), values)


def _quantity(name: str, case: Case) -> str:
    return case.variant if name == "io" else "evaluate"


def _times(name: str, case: Case) -> tuple[float, dict[str, float]]:
    """Milliseconds, and the values that come with them."""
    sizes = case.sizes
    if name == "peak" and "depth" in sizes:
        places = sizes["height"] * sizes["width"]
        weights = sizes["depth"] * sizes["channels"] ** 2
        gflop = 2e-9 * weights * places
        bytes_ = weights * (2 if case.variant == "fp16" else 1) + 4 * sizes["channels"] * places
        peak = PEAK[case.variant]
        time = DISPATCH + gflop / peak + bytes_ / (FAR * 1e6)
        rate = gflop / time
        values = {"gflop": gflop, "bytes": bytes_, "tflops": rate, "peak_tflops": peak}
        return time, values | {"share_of_peak": rate / peak, "sustained_tflops": 0.9 * rate}
    if name == "sram":
        moved = sizes["bytes"] * (1 if case.variant == "weights" else 4)
        beyond = max(0, sizes["bytes"] - KNEE) / sizes["bytes"]
        time = DISPATCH + moved / 1e6 * ((1 - beyond) / NEAR + beyond / FAR)
        return time, {"bytes": float(moved), "gbps": moved / 1e6 / time}
    return DISPATCH * (1 + math.log10(1 + sum(sizes.values()))), {}
