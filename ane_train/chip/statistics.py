"""What a row of timings says: median, spread, sustained rate, and the knee between two lines.

Medians and quartiles, not means: on a machine that does other work too, some timings are far off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WIDE = 0.1  # of the median: where the spread is more, other work or the clock disturbed the timing
FEWEST_POINTS = 6  # for a knee: two lines joined have four parameters
SURE = 20.0  # how much less the two lines must leave over, as an F statistic
STEEPER = 1.05  # the second line over the first: a knee is where something becomes slower
_GRID, _REFINEMENTS = 200, 3

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of samples in any unit: the median, and the distance between the quartiles."""

    median: float
    spread: float

    @property
    def is_wide(self) -> bool:
        """Whether the spread is too large for the median to be trusted to a tenth."""
        return self.spread > WIDE * abs(self.median)


def summarize(samples: Sequence[float]) -> Summary:
    """The summary of one sample or more; ValueError for none, or for one that is not finite."""
    values = np.asarray(samples, np.float64)
    if not len(values):
        raise ValueError("there is nothing to summarize")
    if not np.isfinite(values).all():
        raise ValueError("a sample is not finite")
    low, middle, high = np.percentile(values, (25, 50, 75))
    return Summary(float(middle), float(high - low))


def sustained_rate(work: float, ends: Sequence[float], start: float) -> float:
    """Work per second of evaluations of `work` each, done one after another since `start`.

    ends: the time at which each was done, in seconds, so that what lies between them counts.
    """
    if not ends or ends[-1] <= start:
        raise ValueError("no time has passed")
    return work * len(ends) / (ends[-1] - start)


@dataclass(frozen=True, slots=True)
class Knee:
    """Two lines joined at `place`: offset + before * x, and steeper by `after - before` beyond."""

    place: float
    offset: float
    before: float
    after: float


def find_knee(x: Sequence[float], y: Sequence[float]) -> Knee | None:
    """The knee of y over x by least squares of relative errors; None where there is none.

    x rises; ValueError unless y is positive. There is none where one line leaves about as little
    over as two, or where the second is no steeper.
    """
    places, values = _points(x, y)
    if len(places) < FEWEST_POINTS:
        return None
    one_line = _left_over(_columns(places, None), values)[0]
    low, high = places[1], places[-2]
    for _ in range(_REFINEMENTS):
        grid = np.geomspace(low, high, _GRID)
        errors = [_left_over(_columns(places, place), values)[0] for place in grid]
        best = int(np.argmin(errors))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    two_lines, parameters = _left_over(_columns(places, grid[best]), values)
    offset, before, bend = (float(value) for value in parameters)
    knee = Knee(float(grid[best]), offset, before, before + bend)
    statistic = (one_line - two_lines) / 2 * (len(places) - 4)
    is_sure = statistic > SURE * max(two_lines, np.finfo(float).eps)
    return knee if is_sure and knee.after > STEEPER * max(before, 0.0) else None


def _points(x: Sequence[float], y: Sequence[float]) -> tuple[Vector, Vector]:
    places, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("a value is not positive, and has no relative error")
    return places, values


def _columns(x: Vector, place: float | None) -> Vector:
    """Of the linear problem: 1, x and, with a knee, how far x is beyond it."""
    columns = [np.ones_like(x), x] + ([] if place is None else [np.maximum(x - place, 0)])
    return np.stack(columns, 1)


def _left_over(columns: Vector, y: Vector) -> tuple[float, Any]:
    """Sum of squared relative errors, and the parameters of the best fit."""
    weighted = columns / y[:, None]
    scale = np.abs(weighted).max(0)  # bytes beside ones: keeps the problem well conditioned
    parameters = np.linalg.lstsq(weighted / scale, np.ones_like(y), rcond=None)[0] / scale
    return float(((weighted @ parameters - 1) ** 2).sum()), parameters


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Offset and slope of one line by least squares of relative errors; y as in `find_knee`."""
    places, values = _points(x, y)
    offset, slope = _left_over(_columns(places, None), values)[1]
    return float(offset), float(slope)
