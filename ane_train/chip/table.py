"""The table of benchmarks, by their names on the command line. A new one is a row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ane_train.chip import io, latency, limits, peak, sram, training, update
from ane_train.chip.case import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        row.name: row
        for row in (
            Benchmark("peak", "throughput of convolutions and products", peak.cases),
            Benchmark("latency", "calls that compute next to nothing, compiling", latency.cases),
            Benchmark("sram", "time over working set, and the knee", sram.cases, sram.fits),
            Benchmark("update", "new weights: copied, or compiled anew", update.cases),
            Benchmark("io", "numbers into and out of surfaces", io.cases),
            Benchmark("limits", "what compiler and chip take", limits.cases, alone=True),
            Benchmark("train", "a micro-batch and its update", training.cases),
        )
    }
)
