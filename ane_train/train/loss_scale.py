"""The loss scale: a power of two that keeps small gradients representable in fp16.

A frozen state machine: it grows while gradients stay finite and halves when one does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ane_train.errors import CheckpointError, ConfigError

START = 2.0**10
LARGEST = 2.0**16
SMALLEST = 1.0
GROW_AFTER = 500
MAX_SKIPPED = 10


@dataclass(frozen=True, slots=True)
class LossScale:
    """The scale of the next step, and what led to it.

    `good_steps` counts since the scale last changed, `skipped_in_row` the non-finite steps up to
    now, `skipped` all of the run's. A fixed scale counts but keeps its value.
    """

    value: float = START
    good_steps: int = 0
    skipped_in_row: int = 0
    skipped: int = 0
    fixed: bool = False

    @classmethod
    def from_setting(cls, setting: str | float) -> LossScale:
        """The state a run starts with: "dynamic", or a number for a fixed scale. ConfigError."""
        if setting == "dynamic":
            return cls()
        try:
            value = float(setting)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"--loss-scale must be 'dynamic' or a number above 0, not '{setting}'"
            )
        return cls(value=value, fixed=True)

    def after(self, finite: bool) -> LossScale:
        """The state after a step whose gradients were all finite, or were not."""
        if not finite:
            value = self.value if self.fixed else max(self.value / 2, SMALLEST)
            skipped_in_row = self.skipped_in_row + 1
            return LossScale(value, 0, skipped_in_row, self.skipped + 1, self.fixed)
        good_steps = self.good_steps + 1
        if self.fixed or good_steps < GROW_AFTER:
            return LossScale(self.value, good_steps, 0, self.skipped, self.fixed)
        return LossScale(min(self.value * 2, LARGEST), 0, 0, self.skipped)

    @property
    def diverged(self) -> bool:
        """So many steps in a row were skipped that no smaller scale will help."""
        return self.skipped_in_row >= MAX_SKIPPED

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LossScale:
        """The inverse of to_dict. CheckpointError if `state` is not a loss scale's."""
        if {field.name: field.type for field in fields(cls)} != {
            name: type(value).__name__ for name, value in state.items()
        }:
            raise CheckpointError(
                f"the checkpoint's loss scale {dict(state)} is unusable; resume from an earlier one"
            )
        return cls(**state)
