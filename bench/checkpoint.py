"""The rate of writing a checkpoint against the disk's own, and how far training goes on."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from ane_train.metrics.jsonl import read_records
from ane_train.model.parameters import parameters
from ane_train.model.spec import load_model
from bench.runs import run_settings, start, train_command
from bench.samples import Ratio, Result, Series, interleaved
from bench.worker import SideError, Worker

_THROUGH_CACHE = (0, 1 << 20)  # flags of opening, and the bytes of a write that are fastest so
_PAST_CACHE = (getattr(os, "O_DIRECT", 0), 4 << 20)
_STEPS, _SAVE_EVERY = 71, 12


def checkpoint(model: str, folder: Path, rounds: int | None = None) -> Result:
    """Saving, and writing as many bytes to a file and through to the disk, in turn.

    The disk's own rate is that of the faster way to write to it.
    """
    size = 12 * sum(parameter.size for parameter in parameters(load_model(model)))
    with Worker("ours", folder=str(folder / "saved"), model=model, batch=1, sequence=256) as ours:
        sides: dict[str, Callable[[], float]] = {
            "checkpoint": lambda: ours.seconds(task="save"),
            "disk": lambda: _written(folder / "written", size, *_THROUGH_CACHE),
        }
        if _takes_direct_writes(folder / "written"):
            sides["disk, no cache"] = lambda: _written(folder / "written", size, *_PAST_CACHE)
        samples = interleaved(sides, rounds or 5)
    series = [
        Series(name, "GB/s", tuple(size / value / 1e9 for value in samples[name])) for name in sides
    ]
    share = series[0].median / max(each.median for each in series[1:])
    saving, lost = beside_saves(_run(model, folder))
    standing_still = median(samples["checkpoint"])
    return Result(
        [*series, saving, lost],
        [
            Ratio("checkpoint", share, ">= 0.5"),
            Ratio("training_meanwhile", 1 - lost.median / standing_still, ">= 0.5"),
        ],
        [
            "training_meanwhile: one less what steps lost by the time of a checkpoint beside which "
            "nothing is trained; batch 1, 256 tokens, the default --accum"
        ],
    )


def beside_saves(records: Sequence[Mapping[str, Any]]) -> tuple[Series, Series]:
    """How long each save of a run's metrics took, but for the last, and what steps lost by it.

    A save begins where its step ends. From the end of one step to that of the next is the time of
    a step, so whatever holds it up counts: waiting, the writer's use of the processor, and what is
    done between steps. What is beyond the median of the steps beside which nothing was saved is
    lost. SideError if there are none.
    """
    ends = {int(each["step"]): _time(each) for each in records if each["type"] == "step"}
    seconds = {step: ends[step] - ends[step - 1] for step in ends if step - 1 in ends}
    saves = {int(each["step"]): each["ms"] / 1000 for each in records if each["type"] == "save"}
    saves.pop(max(ends), None)  # for which the run waits before it ends
    beside = {
        step: [later for later in seconds if ends[step] <= ends[later - 1] < ends[step] + saving]
        for step, saving in saves.items()
    }
    alone = seconds.keys() - {step for steps in beside.values() for step in steps}
    if not alone or not saves:
        raise SideError("the run has no steps beside a save, or no others to compare them with")
    usual = median(seconds[step] for step in alone)
    lost = [sum(seconds[step] - usual for step in steps) for steps in beside.values()]
    return (
        Series("saving beside training", "s", tuple(saves.values()), f"steps of {usual:.2f} s"),
        Series("time that steps lost", "s", tuple(lost)),
    )


def _time(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["time"]).timestamp()


def _run(model: str, folder: Path) -> list[dict[str, Any]]:
    settings = run_settings(folder, model, 1, 256)
    settings |= {"steps": _STEPS, "save_every": _SAVE_EVERY, "keep": 1}
    code = start(train_command(settings)).wait()
    if code != 0:
        raise SideError(f"the run ended with {code}")
    return list(read_records(folder / "run"))


def _takes_direct_writes(path: Path) -> bool:
    try:
        _written(path, 1, *_PAST_CACHE)
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return hasattr(os, "O_DIRECT")


def _written(path: Path, size: int, flags: int, block: int) -> float:
    """Seconds until `size` bytes of a new file, and what a block has more, are on the disk."""
    with mmap.mmap(-1, block) as aligned:
        aligned.write(os.urandom(block))
        start = time.perf_counter()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags, 0o666)
        try:
            for _ in range(0, size, block):
                os.write(descriptor, aligned)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        seconds = time.perf_counter() - start
    path.unlink()
    return seconds
