"""Helpers for tests that run the command line for real: start it, read what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TINY = ("--model", "tiny", "--seq", "32", "--eval-every", "5", "--eval-batches", "2")
KINDS = ("weights", "first_moment", "second_moment")


def command(*arguments: object) -> list[str]:
    """The command line of `ane-train arguments...` in this environment."""
    return [sys.executable, "-m", "ane_train", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """The environment without anything that configures ane-train or colours output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ANE_TRAIN_")}
    return kept | {"NO_COLOR": "1"} | variables


def ane_train(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs ane-train in `folder` to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def trained(folder: Path, *arguments: object) -> Path:
    """Runs a tiny training into `folder`/run (or resumes it), which has to succeed."""
    result = ane_train(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def arrays(run: Path, checkpoint: str = "last") -> dict[str, np.ndarray]:
    """Every array of a checkpoint as the safetensors library reads it, by "kind/name"."""
    folder = run / "checkpoints" / checkpoint
    return {
        f"{kind}/{name}": array
        for kind in KINDS
        for name, array in load_file(folder / f"{kind}.safetensors").items()
    }


def same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Whether two checkpoints hold the same arrays to the bit."""
    return ours.keys() == theirs.keys() and all(
        array.tobytes() == theirs[name].tobytes() for name, array in ours.items()
    )


def metrics(run: Path, kind: str) -> list[dict[str, object]]:
    """The lines of one type in metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def losses(run: Path) -> list[tuple[object, object]]:
    """(step, loss) of every training step, in the order of the file."""
    return [(row["step"], row["loss"]) for row in metrics(run, "step")]
