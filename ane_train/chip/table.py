"""The table of benchmarks, by their names on the command line. A new one is a row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ane_train.chip import peak
from ane_train.chip.case import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        row.name: row
        for row in (
            Benchmark("peak", "throughput of convolutions and products, fp16 and int8", peak.cases),
        )
    }
)
