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
            Benchmark("peak", peak.cases),
            Benchmark("latency", latency.cases),
            Benchmark("sram", sram.cases, sram.fits),
            Benchmark("update", update.cases),
            Benchmark("io", io.cases),
            Benchmark("limits", limits.cases, alone=True),
            Benchmark("train", training.cases),
        )
    }
)
