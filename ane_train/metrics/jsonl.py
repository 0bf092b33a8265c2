"""metrics.jsonl: one strict JSON object a line, and the arrays it is read back as.

`type` is start, step, eval, save, warning or end; `time` is UTC, `ms` and `t_*` are milliseconds; a
number that is not finite is null. A save has `ms`, how long it took to write, and `waited_ms`, how
much of that held training up; its line comes when it is complete, among those of later steps.
However often a run was killed and resumed, the file reads as one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ane_train.errors import DataError, DiskError
from ane_train.metrics.events import (
    Evaluated,
    Event,
    Notice,
    RunContinued,
    RunEnded,
    RunStarted,
    Sampled,
    Saved,
    StepDone,
    Warned,
)

FILE_NAME = "metrics.jsonl"
_TYPES = {
    RunStarted: "start",
    StepDone: "step",
    Evaluated: "eval",
    Saved: "save",
    Sampled: "sample",
    Warned: "warning",
    RunEnded: "end",
}
_SECONDS = {"seconds": "ms", "waited": "waited_ms"}


class JsonlFile:
    """The listener that appends to the metrics.jsonl of the run's folder."""

    name = FILE_NAME

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._file: TextIO | None = None
        self._step = 0

    def handle(self, event: Event) -> None:
        """Write the event; raises DiskError when the disk is full or gone."""
        try:
            if isinstance(event, RunContinued):
                self._step = event.memory[self.name]["step"]
                self._file = (event.started.run_folder / FILE_NAME).open("a", encoding="utf-8")
                return
            if isinstance(event, RunStarted):
                self._open(event)
            if self._file is None or isinstance(event, Sampled):
                return
            line = record(event, self._now(), self._step)
            self._step = max(self._step, line["step"])
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise DiskError(f"{FILE_NAME} cannot be written: {error.strerror}") from None

    def hand_over(self) -> dict[str, Any]:
        """The last step of which there is a line."""
        return {"step": self._step}

    def close(self) -> None:
        """Close the file."""
        close_quietly(self._file)
        self._file = None

    def _open(self, event: RunStarted) -> None:
        path = event.run_folder / FILE_NAME
        if path.exists():
            drop_after(path, event.first_step, event.repeats)
        self._file = path.open("a", encoding="utf-8")
        self._step = event.first_step


def close_quietly(file: TextIO | None) -> None:
    """Close a file whose lines are flushed; what a full disk says now was said before."""
    if file is not None:
        with suppress(OSError):
            file.close()


def record(
    event: RunStarted | StepDone | Notice | RunEnded, now: datetime, step: int
) -> dict[str, Any]:
    """The event as what one line holds; `step` stands for events that have none of their own."""
    result: dict[str, Any] = {"type": _TYPES[type(event)], "step": step, "time": _utc(now)}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name in _SECONDS:
            result[_SECONDS[field.name]] = _number(1000 * value)
        elif field.name == "timings":
            result |= {f"t_{part}": _number(1000 * value[part]) for part in value}
        else:
            result[field.name] = _plain(value)
    return result


def drop_after(path: Path, step: int, repeats: bool = False) -> None:
    """Remove what a killed process wrote about steps after `step`, and torn lines; atomically.

    With `repeats` also the evaluation and the saving after `step` itself, which are done again.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _is_kept(line, step, repeats)]
    if kept == lines:
        return
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The objects of a metrics.jsonl, or of the one in a run's folder; torn lines are left out."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    for line in text.splitlines():
        parsed = _parsed(line)
        if parsed is not None:
            yield parsed


def read_metrics(
    path: str | os.PathLike[str], kind: str = "step"
) -> dict[str, np.ndarray[Any, Any]]:
    """The lines of one type as columns: key -> array [lines].

    `step` and other whole numbers are int64, other numbers float64 with NaN for null or missing,
    and what is no number is an array of objects.
    """
    records = [each for each in read_records(path) if each.get("type") == kind]
    names = dict.fromkeys(name for each in records for name in each)
    return {name: _column([each.get(name) for each in records]) for name in names}


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    kinds = {type(value) for value in values}
    if kinds == {bool} or kinds == {int}:
        return np.array(values)
    if kinds <= {int, float, type(None)}:
        return np.array([math.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _is_kept(line: str, step: int, repeats: bool) -> bool:
    parsed = _parsed(line)
    if parsed is None or not line.endswith("\n"):
        return False
    at = parsed.get("step", 0)
    if repeats and at == step and parsed.get("type") in ("eval", "save", "sample"):
        return False
    return not isinstance(at, int) or at <= step


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return _number(value)


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _utc(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
