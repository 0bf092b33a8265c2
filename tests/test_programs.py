"""Every generated program is valid MIL with the types it declares, within the limits of chips."""

from __future__ import annotations

from pathlib import Path

import coremltools_oracle
import numpy as np
import pytest

from ane_train import mil
from ane_train.model.layer import layer_shape
from ane_train.model.spec import list_models
from ane_train.native.engine import Context
from ane_train.programs import LayerProgram, LayerShape, layer_programs

SHAPES = {spec.name: layer_shape(spec, spec.sequence) for spec in list_models()} | {
    "odd": LayerShape(17, 40, 6, 2, 24, 72, 1e4, 1e-5, True),
    "multi-head": LayerShape(32, 64, 4, 4, 16, 160, 1e4, 1e-5, False),
    "group of all": LayerShape(64, 64, 8, 1, 8, 128, 5e5, 1e-6, False),
}
PROGRAMS = [
    pytest.param(program, id=f"{name} {program.name}")
    for name, shape in SHAPES.items()
    for program in layer_programs(shape)
]


@pytest.mark.parametrize("layer_program", PROGRAMS)
def test_coremltools_infers_the_declared_types(layer_program: LayerProgram) -> None:
    coremltools_oracle.infer(layer_program.program)


@pytest.mark.parametrize("layer_program", PROGRAMS)
def test_print_after_parse_is_the_identity(layer_program: LayerProgram) -> None:
    text = mil.print_program(layer_program.program)
    with Context() as context:
        assert context.print(text) == text


@pytest.mark.parametrize("layer_program", PROGRAMS)
def test_coremltools_reads_every_weight_file(layer_program: LayerProgram, tmp_path: Path) -> None:
    program = layer_program.program
    blobs = program.weight_files("fp16")
    assert len(blobs) == len(program.files)
    for file in program.files:
        arrays = coremltools_oracle.blob_arrays(blobs[file.path], tmp_path / "weights.bin")
        for array, value in zip(arrays, file.constants, strict=True):
            assert np.array_equal(array.ravel(), value.data.astype(np.float16).ravel())


@pytest.mark.parametrize("chip", ["m3", "m4", "m5"])
@pytest.mark.parametrize("name", ["stories110m", "qwen3_06b", "stories15m", "tiny"])
def test_no_chip_from_m3_on_refuses_a_program_of_a_shipped_model(name: str, chip: str) -> None:
    for layer_program in layer_programs(SHAPES[name]):
        mil.require(layer_program.program, chip)


@pytest.mark.parametrize("layer_program", PROGRAMS)
def test_one_packed_input_and_one_stacked_output(layer_program: LayerProgram) -> None:
    with Context() as context:
        text = mil.print_program(layer_program.program)
        compiled = context.compile(text, layer_program.program.weight_files("fp16"))
        (source,), (target,) = compiled.inputs, compiled.outputs
        assert tuple(source.shape) == layer_program.input.shape
        assert tuple(target.shape) == layer_program.output.shape
        assert (source.dtype, target.dtype) == ("fp16", "fp16")
