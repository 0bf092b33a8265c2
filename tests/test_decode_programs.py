"""Decode programs keep to the limits of chips and share surfaces; what is staged stays in range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from layer_programs import DECODE, SHAPES, constants, decode_shape

from ane_train import mil
from ane_train.programs import LayerProgram
from ane_train.programs.decode import (
    decode_input,
    decode_output,
    decode_program,
    token_scale,
)
from ane_train.programs.quantize import quantize


@pytest.mark.parametrize("chip", ["m2", "m3", "m4", "m5"])
@pytest.mark.parametrize("name", ["stories110m", "qwen3_06b", "stories15m", "tiny"])
def test_no_chip_from_m2_on_refuses_a_decode_program_of_a_shipped_model(
    name: str, chip: str
) -> None:
    form = decode_shape(name, layers=1)
    for int8 in (False, True):
        for each in (form, form.of_prompt()):
            program = decode_program(each, [constants(SHAPES[name])], int8=int8).program
            mil.require(program, chip)


@pytest.mark.parametrize("layer_program", DECODE.values(), ids=DECODE)
def test_one_packed_input_and_one_stacked_output_of_whole_widths(
    layer_program: LayerProgram,
) -> None:
    (source,), (target,) = layer_program.program.inputs, layer_program.program.outputs
    assert tuple(source.shape) == layer_program.input.shape
    assert tuple(target.shape) == layer_program.output.shape
    assert source.shape[-1] % 64 == target.shape[-1] % 64 == 0
    assert min(source.shape[1], target.shape[1]) >= 64


def test_programs_of_a_token_and_of_a_prompt_share_their_input_and_the_order_of_outputs() -> None:
    form = decode_shape("odd")
    assert decode_input(form) == decode_input(form.of_prompt())
    rows = [list(decode_output(each).blocks) for each in (form, form.of_prompt())]
    assert rows[0] == rows[1]


@given(
    arrays.arrays(
        np.float32,
        (3, 5),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    )
)
def test_tokens_are_scaled_by_powers_of_two_into_the_middle_of_fp16(x: np.ndarray) -> None:
    scale, epsilon = token_scale(x, 64, 1e-5)
    assert np.array_equal(np.exp2(np.round(np.log2(scale))), scale)
    largest = np.abs(x).max(axis=0) * scale
    assert (largest < 0.25).all()
    assert ((largest >= 0.125) | (epsilon > 1024) | (largest == 0)).all()
    assert (epsilon <= 2.0**12).all()


@given(
    arrays.arrays(
        np.float32, (4, 7), elements=st.floats(-8192, 8192, width=32, allow_subnormal=False)
    )
)
def test_quantised_weights_are_within_half_a_scale(matrix: np.ndarray) -> None:
    stored = quantize(matrix)
    assert np.array_equal(stored.scales, stored.scales.astype(np.float16).astype(np.float32))
    assert (stored.scales >= np.abs(matrix).max(axis=1) / np.float32(127)).all()
    error = np.abs(stored.dequantized().astype(np.float64) - matrix)
    assert (error <= 0.5001 * stored.scales[:, None]).all()
