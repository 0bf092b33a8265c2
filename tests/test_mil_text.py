"""MIL text: canonical, in both dialects, and as exact as the values that it prints."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ane_train import mil
from ane_train.mil.text import float_literal

IOS18 = """\
program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, \
{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, \
{"coremltools-version", "9.0"}})]
{
    func main<ios18>(tensor<fp16, [1, 64, 1, 64]> x, tensor<fp16, [1, 64, 1, 64]> w) {
            tensor<int32, [4]> perm_0 = const()[name = string("perm_0"), \
val = tensor<int32, [4]>([0, 1, 3, 2])];
            tensor<fp16, [1, 64, 64, 1]> t = transpose(perm = perm_0, x = x)[name = string("t")];
            fp16 y_0 = const()[name = string("y_0"), val = fp16(0x1.4p-3)];
            tensor<fp16, [1, 64, 64, 1]> mul_0 = mul(x = t, y = y_0)[name = string("mul_0")];
            string dtype_0 = const()[name = string("dtype_0"), val = string("fp32")];
            tensor<fp32, [1, 64, 64, 1]> wide = cast(dtype = dtype_0, x = mul_0)\
[name = string("wide")];
            tensor<fp32, [2]> pair = const()[name = string("pair"), \
val = tensor<fp32, [2]>([0x1p+0, -0x1.8p+1])];
            tensor<fp32, [1, 64, 64, 2]> add_0 = add(x = wide, y = pair)[name = string("add_0")];
            int32 axis_0 = const()[name = string("axis_0"), val = int32(-1)];
            int32 num_splits_0 = const()[name = string("num_splits_0"), val = int32(2)];
            tensor<fp32, [1, 64, 64, 1]> half_0, tensor<fp32, [1, 64, 64, 1]> half_1 = \
split(axis = axis_0, num_splits = num_splits_0, x = add_0)[name = string("half")];
            tensor<fp32, [64, 1]> table = const()[name = string("table"), val = \
tensor<fp32, [64, 1]>(BLOBFILE(path = string("@model_path/weights/table.bin"), \
offset = uint64(64)))];
            tensor<fp32, [1, 64, 64, 1]> sub_0 = sub(x = half_0, y = table)\
[name = string("sub_0")];
            int32 axis_1 = const()[name = string("axis_1"), val = int32(1)];
            bool interleave_0 = const()[name = string("interleave_0"), val = bool(false)];
            tensor<fp32, [1, 128, 64, 1]> both = concat(axis = axis_1, \
interleave = interleave_0, values = (sub_0, half_1))[name = string("both")];
            tensor<fp32, [1, 64, 64, 1]> one = concat(axis = axis_1, \
interleave = interleave_0, values = half_1)[name = string("one")];
            tensor<fp16, [64, 64]> q = constexpr_affine_dequantize()[axis = int32(0), \
name = string("q"), quantized_data = tensor<int8, [64, 64]>(BLOBFILE(path = \
string("@model_path/weights/q8.bin"), offset = uint64(64))), scale = fp16(0x1p-1), \
zero_point = int8(0)];
            bool transpose_x_0 = const()[name = string("transpose_x_0"), val = bool(false)];
            bool transpose_y_0 = const()[name = string("transpose_y_0"), val = bool(true)];
            tensor<fp16, [1, 64, 1, 64]> wq = matmul(transpose_x = transpose_x_0, \
transpose_y = transpose_y_0, x = w, y = q)[name = string("wq")];
        } -> (both, one, wq);
}
"""


def sample(opset: str) -> mil.Program:
    b = mil.Builder(opset=opset)
    x, w = (b.input(name, (1, 64, 1, 64)) for name in ("x", "w"))
    t = b.mul(b.transpose(x, (0, 1, 3, 2), name="t"), 0.15625)
    wide = b.add(b.cast(t, "fp32", name="wide"), b.constant([1.0, -3.0], "fp32", name="pair"))
    first, second = b.split(wide, 2, axis=-1, name="half")
    first = b.sub(first, b.constant(np.ones((64, 1)), "fp32", name="table"))
    both, one = b.concat([first, second], 1, name="both"), b.concat([second], 1, name="one")
    data = b.constant(np.ones((64, 64), np.int8), "int8", name="q8")
    scale, zero = b.constant(0.5, "fp16"), b.constant(0, "int8")
    q = b.constexpr_affine_dequantize(data, scale, zero, name="q")
    return b.build([both, one, b.matmul(w, q, transpose_y=True, name="wq")])


def as_program_1_0(text: str) -> str:
    """The other dialect by its rule: every scalar type becomes a tensor of rank 0."""
    text = text.replace("program(1.3)", "program(1.0)").replace("main<ios18>", "main<ios16>")
    text = text.replace("dict<string, string>", "dict<tensor<string, []>, tensor<string, []>>")
    literal = re.compile(r"(?<![<\w\"])(string|fp16|fp32|int8|int32|uint64|bool)(?=\()")
    result = re.compile(r"^( {12})(string|fp16|int32|bool) ", re.MULTILINE)
    return result.sub(r"\1tensor<\2, []> ", literal.sub(r"tensor<\1, []>", text))


def test_canonical_text_of_ios18() -> None:
    assert mil.print_program(sample("ios18")) == IOS18


def test_the_dialect_of_ios16_wraps_every_scalar() -> None:
    assert mil.print_program(sample("ios16")) == as_program_1_0(IOS18)


def test_a_shared_constant_is_printed_once_before_its_first_use() -> None:
    b = mil.Builder()
    x = b.input("x", (64, 64))
    shared = b.constant(np.ones((64, 64)), "fp16", name="shared")
    text = mil.print_program(b.build([b.add(b.mul(x, shared), shared)]))
    assert text.count("shared = const()") == 1
    assert text.index("shared = const()") < text.index("mul(") < text.index("add(")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_literal_is_exact_in_fp32(value: float) -> None:
    literal = float_literal(value)
    assert float.fromhex(literal) == value
    assert re.fullmatch(r"-?0x[01](\.[0-9a-f]*[1-9a-f])?p[+-]\d+", literal)


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (1.0, "0x1p+0"),
        (-0.0, "-0x0p+0"),
        (0.1, "0x1.99999ap-4"),
        (-65504.0, "-0x1.ffcp+15"),
        (2.0**-24, "0x1p-24"),
        (1e-5, "0x1.4f8b58p-17"),
    ],
)
def test_float_literals_are_those_of_c(value: float, literal: str) -> None:
    assert float_literal(value) == literal


def test_an_immediate_declared_fp16_keeps_the_precision_of_fp32() -> None:
    b = mil.Builder()
    text = mil.print_program(b.build([b.mul(b.input("x", (4,)), 0.1)]))
    assert 'fp16 y_0 = const()[name = string("y_0"), val = fp16(0x1.99999ap-4)];' in text
