"""How long a user waits: for `ane-train --help`, and for the first step of a run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.runs import COMMAND, run_settings, start, train_command
from bench.samples import Ratio, Result, Series, interleaved
from bench.worker import ROOT, SideError, clean_environment

_LOOK = 0.005  # seconds between looks at the run's folder


def help_screen(_folder: Path, rounds: int | None = None) -> Result:
    """`ane-train --help`, and Python alone."""
    sides = {
        "ane-train --help": _timed([*COMMAND, "--help"]),
        "python": _timed([sys.executable, "-c", "pass"]),
    }
    samples = interleaved(sides, rounds or 15)
    series = [Series(name, "s", samples[name]) for name in sides]
    return Result(series, [Ratio("help", series[0].median, "<= 0.2")])


def first_step(model: str, folder: Path, rounds: int | None = None) -> Result:
    """From the start of the process until the first step is reported, with that step."""
    settings = run_settings(folder, model, 1, 256) | {"steps": 1}
    sides = {
        "to the first step": lambda: _seconds_to_first_step(settings, folder),
        "import numpy": _timed([sys.executable, "-c", "import numpy"]),
    }
    for side in sides.values():  # reads the files from the disk
        side()
    samples = interleaved(sides, rounds or 7)
    series = [Series(name, "s", samples[name]) for name in sides]
    beyond = series[0].median - series[1].median
    return Result(series, [Ratio("start", beyond, "<= 3.0")])


def _timed(command: list[str]) -> Callable[[], float]:
    """Runs a command to its end; its seconds."""

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True, capture_output=True)
        return time.perf_counter() - start

    return run


def _seconds_to_first_step(settings: dict[str, object], folder: Path) -> float:
    with TemporaryDirectory(dir=folder) as out:
        metrics = Path(out) / "run" / "metrics.jsonl"
        command = train_command(settings | {"out": str(metrics.parent)})
        began = time.perf_counter()
        process = start(command)
        while not (metrics.exists() and '"type": "step"' in metrics.read_text()):
            if process.poll() is not None:
                raise SideError(f"the run ended with {process.returncode} before its first step")
            time.sleep(_LOOK)
        seconds = time.perf_counter() - began
        process.wait()
    return seconds
