"""The memory that a run asks for is what it takes, also with sequences side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import environment

from ane_train.mil import print_program
from ane_train.model.adapters import lora_of
from ane_train.model.layer import layer_shape
from ane_train.model.memory import estimate
from ane_train.model.spec import load_model
from ane_train.native.engine import Context
from ane_train.native.library import find_blas
from ane_train.programs import layer_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def taken(*arguments: object) -> int:
    """Bytes that training took in a process of its own, at its peak."""
    script = Path(__file__).with_name("training_memory.py")
    result = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.parametrize("sequences", [1, 4])
def test_the_estimate_is_what_is_used(sequences: int) -> None:
    spec = load_model("stories15m")
    expected = estimate(spec, layer_shape(spec, 256, sequences))
    used = taken("stories15m", 256, sequences)
    assert used == pytest.approx(expected.total - expected.parts["process"], rel=0.1)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize(
    ("name", "sequence", "sequences"),
    [("tiny", 64, 8), ("stories110m", 1024, 1), ("stories110m", 256, 4), ("qwen3_06b", 1024, 1)],
)
def test_the_estimate_has_room_for_what_programs_compute_with(
    name: str, sequence: int, sequences: int, threads: int
) -> None:
    spec = load_model(name)
    shape = layer_shape(spec, sequence, sequences)
    expected = estimate(spec, shape, threads=threads).parts["scratch"]
    with Context("fp16", threads=threads, blas=find_blas()) as context:
        used = max(
            context.compile(print_program(p.program), p.program.weight_files()).cost.scratch_bytes
            for p in layer_programs(shape)
        )
    assert used <= expected <= 2 * used


def test_the_estimate_for_adapters_is_what_is_used() -> None:
    spec, sequence = load_model("stories110m"), 64
    shape = layer_shape(spec, sequence)
    expected = estimate(spec, shape, lora=lora_of(spec, 8, 16.0, ["all-linear"]))
    used = taken("stories110m", sequence, 1, "all-linear")
    assert used == pytest.approx(expected.total - expected.parts["process"], rel=0.15)
    assert expected.total < 0.75 * estimate(spec, shape).total
