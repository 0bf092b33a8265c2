"""Weight files built through the C API: Apple's bytes, and the values that programs then see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from coremltools_oracle import blob_arrays
from engine_cases import evaluate
from test_mil_weights import apple_file
from weight_builder import WeightBuilder

from ane_train import mil
from ane_train.native.engine import Context
from ane_train.native.library import NativeError, ffi, lib

# Rows and columns on both sides of 512, the length of the parts that rows are converted in.
SHAPES = [(1, 1), (3, 5), (64, 64), (7, 513), (1030, 3), (2, 1024)]
PATH = "@model_path/weights/w.bin"


@pytest.fixture
def context() -> Iterator[Context]:
    with Context(threads=1, blas=None) as opened:
        yield opened


def matrix(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape[1]).standard_normal(shape).astype(np.float32)


def quantized(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and fp16 scales, as ane.h defines them."""
    most = np.abs(values.astype(np.float64)).max(axis=1)
    scales = (most / 127).astype(np.float16)
    up = np.nextafter(scales, np.float16(np.inf))
    scales = np.where(scales.astype(np.float64) * 127 < most, up, scales)
    scales[most == 0] = 1
    return np.rint(values / scales.astype(np.float32)[:, None]).astype(np.int8), scales


@pytest.mark.parametrize("shape", SHAPES)
def test_each_builder_writes_apples_bytes(
    context: Context, shape: tuple[int, int], tmp_path: Path
) -> None:
    values, integers = matrix(shape), np.arange(shape[0], dtype=np.int8)
    narrow = values.astype(np.float16)
    whole, scales = quantized(values)
    cases = [
        ([narrow], lambda b: b.fp16(values)),
        ([np.ascontiguousarray(narrow.T)], lambda b: b.fp16(values, transposed=True)),
        ([integers], lambda b: b.int8(integers)),
        ([whole, scales], lambda b: b.quantized(values)[0]),
    ]
    for index, (arrays, build) in enumerate(cases):
        builder = WeightBuilder(context)
        assert build(builder) == 64
        expected, _ = apple_file(arrays, tmp_path / f"{index}.bin")
        assert builder.file() == expected


def test_records_of_all_kinds_share_a_file_that_apples_reader_reads(
    context: Context, tmp_path: Path
) -> None:
    builder, arrays, offsets = WeightBuilder(context), [], []
    for shape in SHAPES:
        values = matrix(shape)
        integers = np.arange(-3, shape[1], dtype=np.int8)
        narrow = values.astype(np.float16)
        arrays += [narrow, np.ascontiguousarray(narrow.T), integers, *quantized(values)]
        offsets += [builder.fp16(values), builder.fp16(values, transposed=True)]
        offsets += [builder.int8(integers), *builder.quantized(values)]
    expected, theirs = apple_file(arrays, tmp_path / "apple.bin")
    assert offsets == theirs
    assert builder.file() == expected == mil.blob_file(arrays)
    found = blob_arrays(builder.file(), tmp_path / "ours.bin")
    for ours, read in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(ours.ravel(), read)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("magnitude", [1e-44, 1e-7, 4e-6, 1e-3, 1.0, 300.0, 8e6])
def test_quantisation_equals_the_model_for_every_magnitude(
    context: Context, magnitude: float, transposed: bool, tmp_path: Path
) -> None:
    values = matrix((40, 96)) * np.float32(magnitude / 6)
    values[7] = 0
    values[8] = np.float32(magnitude) * np.arange(-48, 48) / 48
    builder = WeightBuilder(context)
    builder.quantized(np.ascontiguousarray(values.T) if transposed else values,
                      transposed=transposed)  # fmt: skip
    whole, scales = blob_arrays(builder.file(), tmp_path / "w.bin")
    expected, expected_scales = quantized(values)
    np.testing.assert_array_equal(whole.reshape(values.shape), expected)
    np.testing.assert_array_equal(scales, expected_scales)
    assert scales[7] == 1
    assert np.abs(whole.astype(int)).max() <= 127
    wide = scales.astype(np.float64)[:, None]
    error = np.abs(whole.reshape(values.shape) * wide - values)
    assert np.all(error <= wide / 2 * (1 + 1e-5))


def program(shape: tuple[int, int], weight: str) -> str:
    type_ = f"tensor<fp16, [1, {shape[0]}, 1, {shape[1]}]>"
    return (
        "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
        f"    func main<ios18>({type_} x) {{\n"
        f"        {type_} w = {weight};\n        {type_} y = add(x = x, y = w);\n"
        "    } -> (y);\n}\n"
    )


def blob(dtype: str, dims: str, offset: int) -> str:
    place = f'BLOBFILE(path = string("{PATH}"), offset = uint64({offset}))'
    return f"tensor<{dtype}, [{dims}]>({place})"


def added_to_zero(context: Context, text: str, file: bytes, shape: tuple[int, int]) -> np.ndarray:
    compiled = context.compile(text, {PATH: file})
    (found,) = evaluate(context, compiled, [np.zeros((1, shape[0], 1, shape[1]), np.float16)])
    return found.reshape(shape)


def test_the_engine_reads_fp16_records(context: Context) -> None:
    values = matrix((24, 40))
    builder = WeightBuilder(context)
    for transposed in (False, True):
        offset = builder.fp16(values, transposed=transposed)
        want = values.T if transposed else values
        dims = f"1, {want.shape[0]}, 1, {want.shape[1]}"
        text = program(want.shape, f"const()[val = {blob('fp16', dims, offset)}]")
        found = added_to_zero(context, text, builder.file(), want.shape)
        np.testing.assert_array_equal(found, want.astype(np.float16))


def test_constexpr_affine_dequantize_gives_quantised_weights_back(context: Context) -> None:
    values = matrix((24, 40)) * np.geomspace(1e-4, 1e3, 24, dtype=np.float32)[:, None]
    builder = WeightBuilder(context)
    builder.fp16(values)
    offset, scale_offset = builder.quantized(values)
    weight = (
        "constexpr_affine_dequantize()[axis = int32(1), "
        f"quantized_data = {blob('int8', '1, 24, 1, 40', offset)}, "
        f"scale = {blob('fp16', '24', scale_offset)}, zero_point = int8(0)]"
    )
    found = added_to_zero(context, program((24, 40), weight), builder.file(), (24, 40))
    whole, scales = quantized(values)
    exact = whole.astype(np.float32) * scales.astype(np.float32)[:, None]
    np.testing.assert_array_equal(found, exact.astype(np.float16))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_a_weight_beyond_fp16_is_refused_by_its_place_and_adds_nothing(
    context: Context, wrong: float
) -> None:
    values = np.zeros((4, 6), np.float32)
    builder = WeightBuilder(context)
    builder.fp16(values + 65519)
    before = builder.file()
    values[1, 2] = wrong
    with pytest.raises(NativeError, match="row 1, column 2 does not fit"):
        builder.fp16(values)
    with pytest.raises(NativeError, match="row 2, column 1 does not fit"):
        builder.fp16(values, transposed=True)
    assert builder.file() == before


def test_quantised_weights_reach_as_far_as_fp16_scales(context: Context) -> None:
    limit = np.float32(127 * 65504)
    builder = WeightBuilder(context)
    builder.quantized(np.full((2, 2), limit))
    before = builder.file()
    for wrong in (np.nextafter(limit, np.float32(np.inf)), np.float32(np.nan)):
        with pytest.raises(NativeError, match="does not fit"):
            builder.quantized(np.full((2, 2), wrong))
    assert builder.file() == before


def test_sizes_that_no_memory_holds_are_refused(context: Context) -> None:
    builder, offset = WeightBuilder(context), ffi.new("uint64_t *")
    value = ffi.new("float *")
    for rows, columns in [(0, 1), (1, 0), (2**63, 2), (2**62, 1), (2**64 - 1, 2**64 - 1)]:
        source = ffi.new("ane_weight_source *", [value, rows, columns, False])
        assert lib.ane_weight_builder_fp16(builder.pointer, source, offset) != lib.ANE_OK
        assert (
            lib.ane_weight_builder_quantized(builder.pointer, source, offset, offset) != lib.ANE_OK
        )
    integer = ffi.new("int8_t *")
    for count in (0, 2**64 - 1, 2**64 - 128):
        assert lib.ane_weight_builder_int8(builder.pointer, integer, count, offset) != lib.ANE_OK
