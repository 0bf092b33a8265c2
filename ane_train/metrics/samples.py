"""samples.jsonl: what the model wrote in the course of a run, one object a line.

A line has `step`, `time` (UTC), `prompt`, `text`, `tokens` and `ms`. Like metrics.jsonl it reads as
one however often the run was resumed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ane_train.errors import DiskError
from ane_train.metrics.events import Event, RunContinued, RunStarted, Sampled
from ane_train.metrics.jsonl import drop_after, record

FILE_NAME = "samples.jsonl"


class SampleFile:
    """The listener that appends to the samples.jsonl of the run's folder."""

    name = FILE_NAME

    def __init__(self) -> None:
        self._path: Path | None = None

    def handle(self, event: Event) -> None:
        """Write a sample; raises DiskError when the disk is full or gone."""
        try:
            if isinstance(event, RunContinued):
                self._path = event.started.run_folder / FILE_NAME
            elif isinstance(event, RunStarted):
                self._path = event.run_folder / FILE_NAME
                if self._path.exists():
                    drop_after(self._path, event.first_step, event.repeats)
            elif isinstance(event, Sampled) and self._path is not None:
                line = record(event, datetime.now(UTC), event.step)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DiskError(f"{FILE_NAME} cannot be written: {error.strerror}") from None

    def hand_over(self) -> dict[str, Any]:
        """Nothing: each line stands alone."""
        return {}

    def close(self) -> None:
        """Nothing is open between lines."""
