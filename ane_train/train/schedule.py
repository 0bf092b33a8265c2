"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ane_train.errors import ConfigError

ScheduleKind = Literal["cosine", "linear", "constant", "wsd"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up from 0 to `peak` in `warmup` steps, then by `kind` down to `minimum` at step `steps`.

    cosine and linear descend over all that is left; wsd stays at the peak and descends linearly in
    the last `decay_fraction` of `steps` (warm-up, stable, decay: arXiv:2404.06395); constant never
    descends. `steps` = 0 means no horizon, which only constant can do. ConfigError if the values
    make no schedule.
    """

    kind: ScheduleKind
    peak: float
    minimum: float = 0.0
    warmup: int = 0
    steps: int = 0
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        for problem in (_rate_problem(self), _horizon_problem(self)):
            if problem:
                raise ConfigError(problem)

    def rate(self, step: int) -> float:
        """The rate that optimizer step number `step` uses; the first step is number 1.

        So no step of the warm-up is wasted on a rate of 0; step `warmup` has `peak`, step `steps`
        has `minimum`, both exactly. rate(0) is where the warm-up starts; beyond `steps` the rate
        stays at `minimum`.
        """
        if step < self.warmup:
            return self.peak * step / self.warmup
        height = _HEIGHTS[self.kind](self, step)
        return height * self.peak + (1.0 - height) * self.minimum

    @property
    def decay_steps(self) -> int:
        """How many steps the descent of wsd takes: at least one."""
        return max(1, round(self.decay_fraction * self.steps))


def _progress(step: int, first: int, last: int) -> float:
    """0 up to step `first`, 1 from step `last` on, a straight line between."""
    return min(max((step - first) / (last - first), 0.0), 1.0)


def _cosine(schedule: Schedule, step: int) -> float:
    progress = _progress(step, schedule.warmup, schedule.steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(schedule: Schedule, step: int) -> float:
    return 1.0 - _progress(step, schedule.warmup, schedule.steps)


def _constant(_schedule: Schedule, _step: int) -> float:
    return 1.0


def _wsd(schedule: Schedule, step: int) -> float:
    return 1.0 - _progress(step, schedule.steps - schedule.decay_steps, schedule.steps)


# Height between minimum (0) and peak (1) after the warm-up.
_HEIGHTS: Mapping[str, Callable[[Schedule, int], float]] = MappingProxyType(
    {"cosine": _cosine, "linear": _linear, "constant": _constant, "wsd": _wsd}
)


def _rate_problem(schedule: Schedule) -> str | None:
    if schedule.kind not in _HEIGHTS:
        return f"unknown schedule '{schedule.kind}'; there are: {', '.join(_HEIGHTS)}"
    if not (math.isfinite(schedule.peak) and schedule.peak > 0):
        return f"the learning rate must be a number above 0, not {schedule.peak}; change --lr"
    if not 0 <= schedule.minimum <= schedule.peak:
        return (
            f"the minimal learning rate {schedule.minimum} must lie between 0 and the learning "
            f"rate {schedule.peak}; change --min-lr"
        )
    return None


def _horizon_problem(schedule: Schedule) -> str | None:
    if schedule.warmup < 0 or schedule.steps < 0:
        return "--warmup and --steps cannot be negative"
    if schedule.kind == "constant":
        return None
    if schedule.steps == 0:
        return (
            f"the {schedule.kind} schedule must know where it ends: give --steps, "
            "or use --schedule constant"
        )
    if schedule.warmup >= schedule.steps:
        return (
            f"a warm-up of {schedule.warmup} steps leaves none of the run's {schedule.steps} for "
            f"the {schedule.kind} schedule; give a smaller --warmup"
        )
    return _decay_problem(schedule) if schedule.kind == "wsd" else None


def _decay_problem(schedule: Schedule) -> str | None:
    fraction = schedule.decay_fraction
    if not 0 < fraction <= 1:
        return f"--decay-fraction must be above 0 and at most 1, not {fraction}"
    if schedule.warmup + schedule.decay_steps > schedule.steps:
        return (
            f"a warm-up of {schedule.warmup} and a decay of {schedule.decay_steps} steps are more "
            f"than the run's {schedule.steps}; give a smaller --warmup or --decay-fraction"
        )
    return None
