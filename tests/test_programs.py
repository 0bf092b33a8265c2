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
from ane_train.programs import Constants, LayerProgram, LayerShape, layer_programs

SHAPES = {spec.name: layer_shape(spec, spec.sequence) for spec in list_models()} | {
    "odd": LayerShape(17, 40, 6, 2, 24, 72, 1e4, 1e-5, True),
    "multi-head": LayerShape(32, 64, 4, 4, 16, 160, 1e4, 1e-5, False),
    "group of all": LayerShape(64, 64, 8, 1, 8, 128, 5e5, 1e-6, False),
}


def constants(shape: LayerShape, file: str | None = None) -> Constants:
    """Weights of a layer of this shape."""
    d, f, q, kv, e = shape.dim, shape.ffn, shape.query, shape.key, shape.head_size
    shapes = {"query": (q, d), "key": (kv, d), "value": (kv, d), "output": (d, q)}
    shapes |= {"gate": (f, d), "up": (f, d), "down": (d, f), "query_norm": (e,), "key_norm": (e,)}
    shapes |= {"attention_norm": (d,), "ffn_norm": (d,)}
    draw = np.random.default_rng(0).random
    return Constants({name: draw(size, np.float32) for name, size in shapes.items()}, file)


STATIC = {name: constants(shape) for name, shape in SHAPES.items()}
PROGRAMS = [
    pytest.param(program, id=f"{name} {kind} {program.name}")
    for name, shape in SHAPES.items()
    for kind, given in (("dynamic", None), ("static", STATIC[name]))
    for program in layer_programs(shape, given)
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


@pytest.mark.parametrize("chip", ["m2", "m3", "m4", "m5"])
@pytest.mark.parametrize("name", ["stories110m", "qwen3_06b", "stories15m", "tiny"])
def test_no_chip_from_m2_on_refuses_a_program_of_a_shipped_model(name: str, chip: str) -> None:
    for given in (None, STATIC[name]):
        for layer_program in layer_programs(SHAPES[name], given):
            mil.require(layer_program.program, chip)


def test_static_programs_apply_weights_as_convolutions_with_a_file_each() -> None:
    for layer_program in layer_programs(SHAPES["odd"], STATIC["odd"]):
        program = layer_program.program
        convolved = {op.constant("weight") for op in program.ops if op.kind == "conv"}
        matrices = {value for value in program.constants if value.name.endswith("_weight")}
        assert matrices <= convolved
        assert all(len(file.constants) == 1 for file in program.files)


def test_static_texts_are_the_same_for_all_weights_and_layers() -> None:
    doubled = {name: 2 * values for name, values in STATIC["odd"].values.items()}
    for ours, theirs in zip(
        layer_programs(SHAPES["odd"], STATIC["odd"]),
        layer_programs(SHAPES["odd"], Constants(doubled)),
        strict=True,
    ):
        assert mil.print_program(ours.program) == mil.print_program(theirs.program)
        assert ours.program.weight_files() != theirs.program.weight_files()


def test_all_constants_of_a_program_fit_one_file() -> None:
    for layer_program in layer_programs(SHAPES["odd"], constants(SHAPES["odd"], "weights")):
        (file,) = layer_program.program.files
        assert file.path == "@model_path/weights/weights.bin"


@pytest.mark.parametrize("layer_program", PROGRAMS)
def test_one_packed_input_and_one_stacked_output(layer_program: LayerProgram) -> None:
    with Context() as context:
        text = mil.print_program(layer_program.program)
        compiled = context.compile(text, layer_program.program.weight_files("fp16"))
        (source,), (target,) = compiled.inputs, compiled.outputs
        assert tuple(source.shape) == layer_program.input.shape
        assert tuple(target.shape) == layer_program.output.shape
        assert (source.dtype, target.dtype) == ("fp16", "fp16")
