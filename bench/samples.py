"""Measured numbers, their statistics, and what a measure gives: series, ratios with bars, notes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, le
from typing import Any

WIDE = 0.1  # a spread of more than this share of the median tells of other work on the machine
_COMPARE = {">=": ge, "<=": le}


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one quantity. `unit` is "s", "GB/s", "tokens/s", ...; `note` its settings."""

    name: str
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range; 0 of a single sample."""
        if len(self.samples) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return third - first

    @property
    def is_wide(self) -> bool:
        """Whether the samples differ too much for the median to be trusted."""
        return self.spread > WIDE * self.median

    def to_dict(self) -> dict[str, Any]:
        """As bench.json has it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "spread": self.spread,
            "samples": list(self.samples),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """A comparison and its bar, such as ">= 2.0"."""

    name: str
    value: float
    bar: str

    @property
    def is_met(self) -> bool:
        """Whether the value is on the right side of the bar."""
        sign, limit = self.bar.split()
        return bool(_COMPARE[sign](self.value, float(limit)))

    def to_dict(self) -> dict[str, Any]:
        """As bench.json has it."""
        return {"name": self.name, "value": self.value, "bar": self.bar, "met": self.is_met}


@dataclass(slots=True)
class Result:
    """What one measure gives."""

    series: list[Series] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As bench.json has it; a series whose spread is wide is among the notes."""
        wide = [
            f"the spread of {each.name} is wide ({each.spread / each.median:.0%} of the median): "
            "the machine was busy"
            for each in self.series
            if each.is_wide
        ]
        return {
            "series": [each.to_dict() for each in self.series],
            "ratios": [each.to_dict() for each in self.ratios],
            "notes": [*self.notes, *wide],
            "facts": self.facts,
        }


def interleaved(
    sides: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Samples of each side, taken in turn (A B A B ...), so that a disturbance meets all alike."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            samples[name].append(run())
    return {name: tuple(values) for name, values in samples.items()}


def steady(run: Callable[[], float]) -> Callable[[], float]:
    """Runs twice and takes the second: training goes on without the pauses of a comparison."""

    def second() -> float:
        run()
        return run()

    return second


def rounds_within(budget: float, round_seconds: float, least: int = 5, most: int = 15) -> int:
    """How many rounds fit `budget` seconds, within limits."""
    return max(least, min(most, int(budget / max(round_seconds, 1e-9))))


def fitted(x: Sequence[float], y: Sequence[float], powers: Sequence[int]) -> list[float]:
    """Coefficients c of y = sum c[i] x^powers[i] with the least squares of relative errors."""
    import numpy as np

    weight = 1 / np.asarray(y, float)
    columns = np.stack([np.asarray(x, float) ** power * weight for power in powers], axis=1)
    found, *_ = np.linalg.lstsq(columns, np.ones(len(y)), rcond=None)
    return [float(value) for value in found]
