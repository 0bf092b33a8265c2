"""Runs of ours on random tokens: their settings, as flags, and as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ane_train.model.spec import ModelSpec, load_model
from bench.worker import ROOT, clean_environment

COMMAND = (sys.executable, "-m", "ane_train")
_TOKENS = 60_000


def run_settings(folder: Path, model: str, batch: int, sequence: int) -> dict[str, Any]:
    """The settings of a run in `folder`, which is made, from random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = max(_TOKENS, 40 * batch * (sequence + 1))
    return {
        "model": model,
        "scratch": True,
        "engine": "cpu",
        "batch_size": batch,
        "seq": sequence,
        "eval_every": 0,
        "out": str(folder / "run"),
        "cache": str(folder / "cache"),
        **_write_tokens(folder / "tokens.bin", load_model(model), tokens),
    }


def _write_tokens(path: Path, spec: ModelSpec, count: int) -> dict[str, str]:
    """Random tokens as a .bin file; the settings with which a run reads it."""
    dtype = np.dtype("<u2" if spec.vocabulary <= 1 << 16 else "<u4")
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary, count).astype(dtype)
    path.write_bytes(tokens.tobytes())
    return {"data": str(path), "token_dtype": f"u{8 * dtype.itemsize}"}


def train_command(settings: Mapping[str, object]) -> list[str]:
    """The command line of a run."""
    flags: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return [*COMMAND, "train", *flags]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """A process at the top of the checkout, in a clean environment; its stdout goes to nowhere."""
    return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL)
