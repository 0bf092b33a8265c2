"""From a plan and a machine to times.

An evaluation takes dispatch + FLOP / rate + bytes / bandwidth: its parts do not overlap, as chains
of products on M4 show. The lanes of a phase run beside each other; phases follow one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ane_train.plan.machines import Constant, Machine
from ane_train.plan.work import (
    CATEGORIES,
    GRADIENTS,
    KINDS,
    MAIN,
    PHASES,
    Evaluation,
    Row,
    StepPlan,
    Work,
)


@dataclass(frozen=True, slots=True)
class RowTime:
    """Seconds of a row in the step: on the main lane by category, and hidden behind it."""

    row: Row
    seconds: Mapping[str, float]
    gradients: float


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Seconds of a phase in the step: those of its lanes, and what they take together."""

    name: str
    main: float
    gradients: float

    @property
    def total(self) -> float:
        """The longer lane."""
        return max(self.main, self.gradients)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a step takes. `compile`: seconds on a thread of its own; `waiting` of them are felt."""

    plan: StepPlan
    machine: Machine
    rows: tuple[RowTime, ...]
    phases: tuple[PhaseTime, ...]
    compile: float
    waiting: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(phase.total for phase in self.phases) + self.waiting

    @property
    def sequence(self) -> float:
        """Seconds of one sequence, forward and backward, without the update."""
        felt = sum(phase.total for phase in self.phases if phase.name != "update")
        return felt / self.plan.sequences

    @property
    def share_of_peak(self) -> float:
        """FLOP/s of the programs over the whole step, as a share of the engine's peak."""
        plan = self.plan
        flops = sum(plan.times(row) * row.evaluation.flops for row in plan.rows if row.evaluation)
        return flops / self.total / (self.machine.engine.peak_tflops * 1e12)

    def of(self, category: str) -> float:
        """Seconds of one of CATEGORIES on the main lane."""
        return sum(row.seconds[category] for row in self.rows)


def evaluation_seconds(evaluation: Evaluation, machine: Machine) -> float:
    """Of one evaluation. A cast of fp32 reads four bytes, writes two and reads these again."""
    moved = evaluation.bytes_in + evaluation.bytes_out
    cast = 2.0 if evaluation.element_size == 4 else 1.0
    work = evaluation.flops / machine.rate.value
    work += evaluation.constants / machine.constant_bandwidth.value
    work += cast * moved / machine.surface_bandwidth.value
    if moved + evaluation.constants > machine.sram.value:
        work *= machine.spill.value
    return machine.dispatch.value + work


def work_seconds(work: Work, machine: Machine) -> float:
    """Of an amount of CPU work. Sums of products are read and written as copies are."""
    if work.kind == "blas":
        return work.amount / machine.blas.value
    constant: Constant = getattr(machine, "copy" if work.kind == "accumulate" else work.kind)
    return work.amount * constant.value


def predict(plan: StepPlan, machine: Machine) -> Prediction:
    """The times of all rows and phases."""
    rows = tuple(_row_time(plan, row, machine) for row in plan.rows)
    phases = tuple(_phase_time(name, rows) for name in PHASES)
    compiled = plan.compiles * machine.compile.value
    passes = sum(phase.total for phase in phases if phase.name != "update")
    waiting = max(0.0, compiled - passes / plan.passes)
    return Prediction(plan, machine, rows, phases, compiled, waiting)


def _row_time(plan: StepPlan, row: Row, machine: Machine) -> RowTime:
    times = plan.times(row)
    seconds = dict.fromkeys(CATEGORIES, 0.0)
    if row.evaluation is not None:
        seconds["engine"] = times * evaluation_seconds(row.evaluation, machine)
    for work in row.works:
        if work.lane == MAIN:
            seconds[KINDS[work.kind]] += times * work_seconds(work, machine)
    hidden = (work_seconds(work, machine) for work in row.works if work.lane == GRADIENTS)
    return RowTime(row, seconds, times * sum(hidden))


def _phase_time(name: str, rows: tuple[RowTime, ...]) -> PhaseTime:
    found = [row for row in rows if row.row.phase == name]
    main = sum(sum(row.seconds.values()) for row in found)
    return PhaseTime(name, main, sum(row.gradients for row in found))
