"""What `ane-train plan` says of the things that `train` measures, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ane_train.errors import ConfigError
from ane_train.model.spec import ModelSpec
from ane_train.plan.machines import get_machine
from ane_train.plan.ours import PlanOptions, step_plan
from ane_train.plan.predict import Prediction, RowTime, predict
from ane_train.plan.work import CATEGORIES

UPDATE = "update"
# Kinds of work as `train.timings` calls them.
_KINDS = {"engine": "engine", "copies": "io", "blas": "blas", "elementwise": "elementwise"}


def machine_name(chip: str) -> str:
    """The plan's name of a chip's full name; "" where it has no constants for it."""
    try:
        return get_machine(chip).name
    except ConfigError:
        return ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A prediction of a step of one sequence."""

    prediction: Prediction

    def evaluation_ms(self, program: str) -> float | None:
        """Of one evaluation of a program; None for one that is not in the plan."""
        plan = self.prediction.plan
        rows = [row for row in self.prediction.rows if row.row.name == program]
        return 1e3 * rows[0].seconds["engine"] / plan.times(rows[0].row) if rows else None

    @property
    def micro_batch_ms(self) -> Mapping[str, float]:
        """Of a micro-batch, by kind of work, and of all of it as ""."""
        rows = [row for row in self.prediction.rows if row.row.phase != UPDATE]
        hidden = sum(row.gradients for row in rows)
        found = {"": self.prediction.sequence, **_by_kind(rows), "overlapped": hidden}
        return {kind: 1e3 * seconds for kind, seconds in found.items()}

    @property
    def update_ms(self) -> Mapping[str, float]:
        """Of an update: all of it, AdamW, and the weights on their way into the programs."""
        rows = [row for row in self.prediction.rows if row.row.phase == UPDATE]
        spent = {row.row.name: sum(row.seconds.values()) for row in rows}
        whole, adamw = sum(spent.values()), spent.get("optimizer", 0.0)
        return {"": 1e3 * whole, "optimizer": 1e3 * adamw, "io": 1e3 * (whole - adamw)}


def _by_kind(rows: list[RowTime]) -> dict[str, float]:
    return {_KINDS[category]: sum(row.seconds[category] for row in rows) for category in CATEGORIES}


def planned(spec: ModelSpec, chip: str) -> Planned | None:
    """The plan of a step on the chip of that name; None for "". ConfigError for an unknown one."""
    if not chip:
        return None
    machine = get_machine(chip)
    plan = step_plan(spec, spec.sequence, PlanOptions(), machine.chip)
    return Planned(predict(plan, machine))
