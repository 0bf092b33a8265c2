"""Every generated program is valid MIL with the types it declares, within the limits of chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import coremltools_oracle
import numpy as np
import pytest
from layer_programs import DECODE, SHAPES, constants

from ane_train import mil
from ane_train.native.engine import Context
from ane_train.programs import (
    Constants,
    LayerProgram,
    LayerShape,
    classifier,
    final_norm_backward,
    layer_programs,
    softmax,
)


def extra_programs(
    shape: LayerShape, given: Constants, vocabulary: int = 2_000
) -> tuple[LayerProgram, ...]:
    """What runs on the engine with --engine-extras instead of, or besides, a layer's programs."""
    draw = np.random.default_rng(1).random
    matrix = draw((vocabulary, shape.dim), np.float32)
    values: Mapping[str, np.ndarray] = {"norm": draw(shape.dim, np.float32), "classifier": matrix}
    head = classifier(shape, Constants(values, given.file))
    backward = layer_programs(shape, replace(given, norm_backward=True))[2:]
    norm = final_norm_backward(shape, Constants(values, given.file))
    return (head, softmax(head.output), norm, *backward)


STATIC = {name: constants(shape) for name, shape in SHAPES.items()}
EXTRAS = {name: extra_programs(shape, STATIC[name]) for name, shape in SHAPES.items()}
PROGRAMS = [
    pytest.param(program, id=f"{name} {kind} {program.name}")
    for name, shape in SHAPES.items()
    for kind, programs in (
        ("dynamic", layer_programs(shape)),
        ("static", layer_programs(shape, STATIC[name])),
        ("extra", EXTRAS[name]),
    )
    for program in programs
]
PROGRAMS += [pytest.param(program, id=f"decode {name}") for name, program in DECODE.items()]


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
            stored = np.int8 if value.dtype == "int8" else np.float16
            assert np.array_equal(array.ravel(), value.data.astype(stored).ravel())


@pytest.mark.parametrize("chip", ["m2", "m3", "m4", "m5"])
@pytest.mark.parametrize("name", ["stories110m", "qwen3_06b", "stories15m", "tiny"])
def test_no_chip_from_m2_on_refuses_a_program_of_a_shipped_model(name: str, chip: str) -> None:
    given = [layer_programs(SHAPES[name], weights) for weights in (None, STATIC[name])]
    for layer_program in (*given[0], *given[1], *EXTRAS[name]):
        mil.require(layer_program.program, chip)


def test_sequences_side_by_side_share_masks_rotations_and_gains() -> None:
    name = "three side by side"
    three, one = SHAPES[name], replace(SHAPES[name], batch=1)
    for weights in (None, STATIC[name]):
        ours, theirs = (
            {v.name: v.type for p in layer_programs(shape, weights) for v in p.program.constants}
            for shape in (three, one)
        )
        for table in ("mask", "query_cos", "key_sin"):
            assert ours[table] == theirs[table]
    for program in layer_programs(three):
        if "gamma" in program.input.blocks:
            assert program.input["gamma"].columns == three.sequence


def test_static_programs_apply_weights_as_convolutions_with_a_file_each() -> None:
    static = layer_programs(SHAPES["odd"], STATIC["odd"])
    for layer_program in (*static, *EXTRAS["odd"]):
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
    given = constants(SHAPES["odd"], "weights")
    extras = [p for p in extra_programs(SHAPES["odd"], given, 97) if p.name != "softmax"]
    for layer_program in (*layer_programs(SHAPES["odd"], given), *extras):
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
