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
from ane_train.train.timings import KINDS

TIMED = {
    ("latency", "request"): ("same request", "new request"),
    ("latency", "compile"): ("compile, cold", "load", "unload", "compile, warm"),
    ("latency", "surface lock"): ("lock to read", "lock to write"),
    ("latency", "input and output"): ("write", "evaluate", "read", "write, evaluate, read"),
    ("update", "copy"): ("copy", "copy, evaluate"),
    ("update", "recompile"): ("compile", "compile, evaluate"),
    ("train", "step"): (
        *("micro-batch", *(f"micro-batch, {kind}" for kind in (*KINDS, "overlapped"))),
        *("update", "update, io", "update, optimizer"),
    ),
}
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
        predicted = time if name == "train" else None
        found = tuple(
            series(quantity, np.abs(time * (1 + noise * random.standard_normal(9))), predicted)
            for quantity in _quantities(name, case)
        )
        proof = Proof("NumPy", 1e-4, 1e-3)
        yield Result(name, case.name, case.variant, case.sizes, OK, "", proof, found, values)


def _quantities(name: str, case: Case) -> Sequence[str]:
    """What a case times, as `ane-train bench` names it."""
    if name == "io":
        return (case.variant,)
    return TIMED.get((name, case.name), TIMED.get((name, case.variant), ("evaluate",)))


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
        values |= {"share_of_peak": rate / peak, "sustained_tflops": 0.9 * rate}
        return time, values | ({"relative_error": 0.162} if case.variant == "int8" else {})
    if name == "train" and case.name != "step":
        return DISPATCH, {"gflop": 0.3, "bytes": 2e6, "tflops": 3.1, "evaluations": 12.0}
    if name == "io":
        return 0.01, {"bytes": 4e5, "gbps": 39.3}
    if name == "sram":
        moved = sizes["bytes"] * (1 if case.variant == "weights" else 4)
        beyond = max(0, sizes["bytes"] - KNEE) / sizes["bytes"]
        time = DISPATCH + moved / 1e6 * ((1 - beyond) / NEAR + beyond / FAR)
        return time, {"bytes": float(moved), "gbps": moved / 1e6 / time}
    return DISPATCH * (1 + math.log10(1 + sum(sizes.values()))), {}
