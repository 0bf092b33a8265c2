"""A prediction as tables of plain words, and as JSON of one schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ane_train.plan.predict import PhaseTime, Prediction, RowTime
from ane_train.plan.work import CATEGORIES, StepPlan

SCHEMA = 1
# Of predictions of `measurements.SEQUENCES`, also of those that the fit had not seen.
MEDIAN_ERROR, LARGEST_ERROR = 0.16, 0.36
_MEBIBYTE = 1 << 20
_HIDDEN = 0.01e-3  # seconds that are not worth a word


@dataclass(frozen=True, slots=True)
class Table:
    """The first column is names, the others are numbers; `notes` are lines below.

    spare: columns that may be left out where there is no room, the first one first.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    spare: tuple[int, ...] = ()


def tables(prediction: Prediction) -> list[Table]:
    """Programs, times, phases, and the total."""
    return [_programs(prediction.plan), _times(prediction), _phases(prediction)]


def summary(prediction: Prediction) -> list[str]:
    """What it comes to, in a few lines."""
    plan, total = prediction.plan, prediction.total
    tokens = plan.sequences * plan.sequence
    dispatches = plan.evaluations * prediction.machine.dispatch.value
    engine = prediction.of("engine")
    return [
        f"{_ms(total)} ms a step of {tokens:,} tokens: {tokens / total:,.0f} tokens/s, "
        f"{_ms(prediction.sequence)} ms a sequence",
        f"programs reach {prediction.share_of_peak:.1%} of the engine's "
        f"{prediction.machine.engine.peak_tflops:g} TFLOP/s; "
        f"{_ms(engine)} ms of the step are theirs, {_ms(dispatches)} ms of these dispatch",
        "predicted, not measured; published times of another project's sequences are predicted "
        f"within {MEDIAN_ERROR:.0%} in the median, and {LARGEST_ERROR:.0%} at most",
    ]


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Everything, in SI units; constants with their sources."""
    plan, machine = prediction.plan, prediction.machine
    return {
        "schema": SCHEMA,
        "plan": plan.title,
        "chip": machine.name,
        "sequence": plan.sequence,
        "sequences": plan.sequences,
        "passes": plan.passes,
        "evaluations": plan.evaluations,
        "flops": plan.flops,
        "staged_bytes": plan.staged,
        "programs_compiled": plan.compiles,
        "seconds": {
            "step": prediction.total,
            "sequence": prediction.sequence,
            **{name: prediction.of(name) for name in CATEGORIES},
            "compile": prediction.compile,
            "waiting_for_compile": prediction.waiting,
        },
        "share_of_peak": prediction.share_of_peak,
        "rows": [_row_json(plan, time) for time in prediction.rows],
        "phases": [_phase_json(phase) for phase in prediction.phases],
        "constants": {
            name: {"value": constant.value, "source": constant.source}
            for name, constant in machine.constants().items()
        },
    }


def _row_json(plan: StepPlan, time: RowTime) -> dict[str, Any]:
    row, evaluation = time.row, time.row.evaluation
    found: dict[str, Any] = {"name": row.name, "phase": row.phase, "times": plan.times(row)}
    if evaluation is not None:
        found |= {
            "flops": evaluation.flops,
            "bytes_in": evaluation.bytes_in,
            "bytes_out": evaluation.bytes_out,
            "constant_bytes": evaluation.constants,
            "staged_bytes": plan.staged_by(row),
        }
    return found | {"seconds": dict(time.seconds), "beside_seconds": time.gradients}


def _phase_json(phase: PhaseTime) -> dict[str, Any]:
    return {
        "name": phase.name,
        "main_seconds": phase.main,
        "beside_seconds": phase.gradients,
        "seconds": phase.total,
    }


def _programs(plan: StepPlan) -> Table:
    rows = [
        (
            row.name,
            str(plan.times(row)),
            f"{evaluation.flops / 1e9:.2f}",
            _mib(evaluation.bytes_in),
            _mib(evaluation.bytes_out),
            _mib(evaluation.constants),
            _mib(plan.staged_by(row)),
        )
        for row in plan.rows
        if (evaluation := row.evaluation) is not None
    ]
    total = ("step", str(plan.evaluations), f"{_engine_flops(plan) / 1e9:.2f}", "", "", "")
    header = ("program", "evaluations", "GFLOP", "in", "out", "constants", "staged")
    notes = ("a line is one evaluation, in MiB; staged, and all of the last line, are of the step",)
    return Table("Programs", header, (*rows, (*total, _mib(plan.staged))), notes, spare=(5, 4, 3))


def _engine_flops(plan: StepPlan) -> float:
    return sum(plan.times(row) * row.evaluation.flops for row in plan.rows if row.evaluation)


def _times(prediction: Prediction) -> Table:
    rows = [
        (
            time.row.name,
            *(_blank(time.seconds[category]) for category in CATEGORIES),
            _blank(time.gradients),
        )
        for time in prediction.rows
    ]
    beside = sum(time.gradients for time in prediction.rows)
    total = ("step", *(_ms(prediction.of(category)) for category in CATEGORIES), _ms(beside))
    header = ("ms in the step", "engine", "copies", "BLAS", "elementwise", "beside")
    notes = ("beside: weight gradients, on a thread of their own while the engine works",)
    return Table("Times", header, (*rows, total), notes, spare=(5, 2))


def _phases(prediction: Prediction) -> Table:
    rows = [
        (phase.name, _ms(phase.main), _blank(phase.gradients), _ms(phase.total))
        for phase in prediction.phases
    ]
    if prediction.compile:
        compiled = _ms(prediction.compile)
        rows.append(("waiting for compiles", "", compiled, _ms(prediction.waiting)))
    rows.append(("step", "", "", _ms(prediction.total)))
    return Table("Phases", ("ms", "in turn", "beside", "takes"), tuple(rows), _overlaps(prediction))


def _overlaps(prediction: Prediction) -> tuple[str, ...]:
    notes = []
    for phase in prediction.phases:
        if phase.gradients > _HIDDEN:
            hidden = min(phase.main, phase.gradients)
            notes.append(
                f"{phase.name}: {_ms(hidden)} ms of the {_ms(phase.gradients)} ms beside "
                f"are hidden; {'BLAS' if phase.gradients > phase.main else 'the rest'} is longer"
            )
    if prediction.compile:
        notes.append(
            f"{prediction.plan.compiles} programs are compiled beside the first pass, "
            f"which waits for them; a process compiles {prediction.machine.engine.compile_guard} "
            "at most, and starting another is not counted"
        )
    return tuple(notes)


def _mib(size: float) -> str:
    return f"{size / _MEBIBYTE:.1f}" if size else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


def _blank(seconds: float) -> str:
    return _ms(seconds) if seconds >= _HIDDEN else ""
