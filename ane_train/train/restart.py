"""What one image of a process hands on to the one that takes its place by exec().

A marker in the run's folder holds it. It counts only for the process that wrote it: process id and
inherited descriptors must match, so a marker that a kill left behind means nothing to anyone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ane_train.errors import DiskError
from ane_train.metrics.events import RunStarted

MARKER = "restart.json"


@dataclass(frozen=True, slots=True)
class Restart:
    """Asks for a new process image. All but the budget of compiles goes on as it was.

    started: what the first image said. start, left: readings of perf_counter, which runs on, when
    the run was begun and when it was left. steps, tokens, timings: sums over all images. idle:
    restarts in a row between which no step was done. signals: of StopRequest.hold. memory: of
    the listeners.
    """

    started: RunStarted
    start: float
    left: float
    steps: int
    tokens: int
    timings: Mapping[str, float]
    idle: int
    signals: Sequence[int]
    memory: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.started.run_folder

    def leave(self) -> None:
        """Writes the marker for this process's next image. DiskError."""
        values = asdict(self) | {"owner": _owner(self.signals)}
        path = self.folder / MARKER
        try:
            path.write_text(json.dumps(values, default=str), encoding="utf-8")
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror}; free some space") from error


def inherited(folder: Path) -> Restart | None:
    """What this process's former image left in a run's folder; None if there was none."""
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if values.pop("owner") != _owner(values["signals"]):
            return None
        started = values["started"]
        values["started"] = RunStarted(**started | {"run_folder": Path(started["run_folder"])})
        return Restart(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _owner(descriptors: Sequence[int]) -> list[int]:
    """The process id, and what the descriptors stand for in this process."""
    status = [os.fstat(descriptor) for descriptor in descriptors]
    return [os.getpid(), *(number for each in status for number in (each.st_dev, each.st_ino))]
