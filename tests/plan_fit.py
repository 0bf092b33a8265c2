"""Fits the fitted constants of ane_train.plan.machines to published times, each to its own kind.

A constant is the median of what single measurements ask for, the others being known by then; so the
order below matters, and outliers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import median

from ane_train.model.spec import load_model
from ane_train.plan.machines import MACHINES, Constant, Machine
from ane_train.plan.measurements import PARTS, PLANS, Measurement
from ane_train.plan.predict import Prediction, predict
from ane_train.plan.work import StepPlan

SEQUENCE = 256
Constants = Mapping[str, float]
ROTATING = ("dynamic-eight", "dynamic-ten")


def _is_engine(found: Measurement) -> bool:
    return found.part in ("engine forward", "engine backward")


def _copies_of(plan: str) -> Callable[[Measurement], bool]:
    return lambda found: found.plan == plan and str(found.part).startswith("copies")


def _is_part(*names: str) -> Callable[[Measurement], bool]:
    return lambda found: found.part in names


# Each fitted constant and the measurements it is fitted to, in the order of the fit.
FITTED: Mapping[str, Callable[[Measurement], bool]] = {
    "surface_bandwidth": _is_engine,
    "convert": _copies_of("static"),
    "copy": _copies_of("dynamic-fp32"),
    "elementwise": _is_part("norms", "norm forward", "norm backward"),
    "exp": _is_part("silu"),
    "strided": _is_part("classifier"),
    "transpose": _is_part("elementwise"),
    "rotation": lambda found: found.part is None and found.plan in ROTATING,
}


@cache
def plan_of(plan: str, model: str) -> StepPlan:
    return PLANS[plan](load_model(model), SEQUENCE)


def with_constants(machine: Machine, constants: Constants) -> Machine:
    values = {name: Constant(value, "fitted") for name, value in constants.items()}
    return replace(machine, **values)  # type: ignore[arg-type]


def predicted(found: Measurement, machine: Machine) -> float:
    """Seconds of what was measured."""
    prediction = predict(plan_of(found.plan, found.model), machine)
    return prediction.total if found.part is None else part_seconds(prediction, found.part)


def part_seconds(prediction: Prediction, name: str) -> float:
    part = PARTS[name]
    return sum(
        time.seconds[category]
        for time in prediction.rows
        for category in part.categories
        if time.row.phase in part.phases
        and (not part.rows or time.row.name in part.rows)
        and time.row.name not in part.without
    )


def _asked(found: Measurement, name: str, constants: Constants) -> float:
    """The value of a constant with which the prediction is what was measured; at least 0."""
    machine = MACHINES[found.machine]
    inverse = name.endswith("bandwidth")

    def seconds(value: float) -> float:
        given = 1 / value if inverse else value
        return predicted(found, with_constants(machine, {**constants, name: given}))

    low, high = 1e-15, 1e-6
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if seconds(middle) < found.seconds else (low, middle)
    return 1 / low if inverse else low


def fit(measurements: Iterable[Measurement]) -> dict[str, float]:
    """All fitted constants."""
    given: Sequence[Measurement] = tuple(measurements)
    constants: dict[str, float] = {}
    for name, is_for in FITTED.items():
        constants[name] = median(_asked(found, name, constants) for found in given if is_for(found))
    return constants


# Machines whose rate of BLAS is from a log of their own; the others take it from M4.
TIMED_BLAS = ("m1-max", "m3-ultra", "m4")


def left_out(found: Measurement, measurements: Iterable[Measurement]) -> Machine:
    """The machine of a measurement as it looks without any time of that machine and model.

    Where its rate of BLAS is from its own log, it gets that of a cluster of the others.
    """
    others = [
        each for each in measurements if (each.machine, each.model) != (found.machine, found.model)
    ]
    machine = with_constants(MACHINES[found.machine], fit(others))
    if found.machine not in TIMED_BLAS:
        return machine
    rates = [
        MACHINES[name].blas.value / MACHINES[name].clusters
        for name in TIMED_BLAS
        if name != found.machine
    ]
    rate = machine.clusters * sum(rates) / len(rates)
    return replace(machine, blas=Constant(rate, "of the others"))
