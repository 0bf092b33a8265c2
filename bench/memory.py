"""The peak memory of a training run against what it has to hold, and against PyTorch's.

Each is the largest resident size of a process of its own that trains for a few steps and saves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ane_train.model.parameters import parameters
from ane_train.model.spec import ModelSpec, load_model
from bench.runs import run_settings, train_command
from bench.samples import Ratio, Result, Series
from bench.step import Case
from bench.worker import ROOT, SideError, clean_environment

STEPS = 3
BAR = "<= 1.15"


def needed_bytes(spec: ModelSpec, batch: int, sequence: int) -> dict[str, int]:
    """What training has to hold, by purpose.

    Matrices of layers are staged in fp16 twice: in the programs of the forward pass and of the
    backward pass. The backward pass needs, of each layer and token, the residual stream before
    attention and feed-forward (fp32), and queries, keys, values, the heads' outputs, gate and up
    (fp16); besides the residual stream after the last layer. Norms and probabilities are made
    again from these, and logits come tile by tile.
    """
    table, tokens = parameters(spec), batch * sequence
    staged = sum(p.size for p in table if p.layer is not None and len(p.shape) == 2)
    query, key = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    layer = 2 * 4 * spec.dim + 2 * (2 * query + 2 * key + 2 * spec.ffn)
    return {
        "weights, gradients and two moments": 16 * sum(p.size for p in table),
        "staged weights": 2 * 2 * staged,
        "activations": tokens * (spec.layers * layer + 4 * spec.dim),
    }


def peak_memory(case: Case, folder: Path, _rounds: int | None = None) -> Result:
    """A run of the command line and a loop of PyTorch's (fp32, eager, fused AdamW)."""
    spec = load_model(case.model)
    bound = sum(needed_bytes(spec, case.batch, case.sequence).values())
    settings = run_settings(folder, **case.sizes) | {"steps": STEPS}
    ours = peak_of(train_command(settings))
    theirs = peak_of([sys.executable, "-m", "bench.peer_training", json.dumps(case.sizes)])
    return Result(
        [
            Series("ours", "GiB", (ours / 2**30,)),
            Series("needed", "GiB", (bound / 2**30,)),
            Series("torch fp32 eager", "GiB", (theirs / 2**30,)),
        ],
        [
            Ratio("peak_memory", ours / bound, BAR),
            Ratio("torch_peak_memory", theirs / ours, ">= 1.0"),
        ],
    )


def peak_of(command: list[str]) -> int:
    """The largest resident size of a process in bytes. SideError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.peak", *command],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SideError(f"{' '.join(command[1:4])} ended with {done.returncode}")
    return int(done.stdout)
