"""The rate of writing a checkpoint against the disk's own, and whether training goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ane_train.metrics.jsonl import read_records
from ane_train.model.parameters import parameters
from ane_train.model.spec import load_model
from bench.runs import run_settings, start, train_command
from bench.samples import Ratio, Result, Series, interleaved
from bench.worker import SideError, Worker

_BLOCK = 16 << 20
_STEPS, _SAVE_EVERY = 13, 4


def checkpoint(model: str, folder: Path, rounds: int | None = None) -> Result:
    """Saving, and writing as many bytes to a file and through to the disk, in turn."""
    size = 12 * sum(parameter.size for parameter in parameters(load_model(model)))
    with Worker("ours", folder=str(folder / "saved"), model=model, batch=1, sequence=256) as ours:
        sides: dict[str, Callable[[], float]] = {
            "checkpoint": lambda: ours.seconds(task="save"),
            "disk": lambda: _written(folder / "written", size),
        }
        samples = interleaved(sides, rounds or 5)
    series = [
        Series(name, "GB/s", tuple(size / value / 1e9 for value in samples[name])) for name in sides
    ]
    share = series[0].median / series[1].median
    meanwhile = overlap(_run(model, folder))
    return Result(
        series,
        [
            Ratio("checkpoint", share, ">= 0.5"),
            Ratio("training_meanwhile", meanwhile, ">= 0.5"),
        ],
        ["training_meanwhile is the share of the time of saving in which steps went on"],
    )


def overlap(records: Sequence[Mapping[str, Any]]) -> float:
    """The share of the time of saving that did not hold up steps, of a run's metrics.

    Between the end of one step and the start of the next lies what was waited for.
    """
    steps = [each for each in records if each["type"] == "step"]
    end = _time(steps[-1])
    saves = [each for each in records if each["type"] == "save" and _time(each) < end]
    saving = sum(float(each["ms"]) for each in saves) / 1000
    between = sum(
        _time(after) - _time(before) - float(after["ms"]) / 1000
        for before, after in pairwise(steps)
    )
    return max(0.0, 1 - between / saving)


def _time(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["time"]).timestamp()


def _run(model: str, folder: Path) -> list[dict[str, Any]]:
    settings = run_settings(folder, model, 1, 256)
    settings |= {"steps": _STEPS, "save_every": _SAVE_EVERY, "keep": 1}
    code = start(train_command(settings)).wait()
    if code != 0:
        raise SideError(f"the run ended with {code}")
    return list(read_records(folder / "run"))


def _written(path: Path, size: int) -> float:
    """Seconds until `size` bytes of a new file are on the disk."""
    block = memoryview(os.urandom(_BLOCK))
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, _BLOCK):
            file.write(block[: size - at])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds
