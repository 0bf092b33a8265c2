"""How calls are timed: often enough for a median, and not longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Effort:
    """Samples to take: at least `fewest`, more until `seconds` are over, at most `most`.

    sustained: seconds without a break for a sustained rate.
    """

    fewest: int
    seconds: float
    most: int
    sustained: float


QUICK = Effort(5, 0.02, 40, 0.05)
FULL = Effort(7, 1.0, 300, 5.0)


def time_calls(
    call: Callable[[], object], effort: Effort, clock: Clock = time.perf_counter
) -> list[float]:
    """Milliseconds of each call, after one that is not counted."""
    call()
    samples: list[float] = []
    begin = clock()
    while len(samples) < effort.fewest or (
        clock() - begin < effort.seconds and len(samples) < effort.most
    ):
        start = clock()
        call()
        samples.append(1e3 * (clock() - start))
    return samples


def sustain(
    call: Callable[[], object], seconds: float, clock: Clock = time.perf_counter
) -> tuple[float, list[float]]:
    """The start, and the end of each call, of calls without a break for that many seconds."""
    start = clock()
    ends: list[float] = []
    while not ends or ends[-1] - start < seconds:
        call()
        ends.append(clock())
    return start, ends
