"""Weight files are Apple's: the bytes that its writer makes, and its reader reads them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools_oracle import blob_arrays, storage

from ane_train import mil
from ane_train.errors import EngineError
from ane_train.mil.weights import record_offsets

WRITERS = {
    "float16": "fp16",
    "float32": "float",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
}


def random_array(rng: np.random.Generator, dtype: str) -> np.ndarray:
    shape = tuple(rng.integers(1, 40, size=rng.integers(1, 3)))
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 100, size=shape).astype(dtype)


def apple_file(arrays: list[np.ndarray], path: Path) -> tuple[bytes, list[int]]:
    writer = storage()._BlobStorageWriter(str(path))
    offsets = []
    for array in arrays:
        flat = array.ravel()
        data = flat.view(np.uint16) if flat.dtype == np.float16 else flat
        offsets.append(getattr(writer, f"write_{WRITERS[str(array.dtype)]}_data")(data))
    del writer
    return path.read_bytes(), offsets


def weight_program(width: int = 64, **constants: tuple[np.ndarray, str | None]) -> mil.Program:
    b = mil.Builder()
    value = b.input("x", (1, 64, 1, width))
    for name, (data, file) in constants.items():
        value = b.mul(value, b.constant(data, "fp16", name=name, file=file))
    return b.build([value])


@pytest.mark.parametrize("dtype", WRITERS)
def test_a_file_of_one_array_is_byte_identical_to_apples(dtype: str, tmp_path: Path) -> None:
    for seed in range(8):
        array = random_array(np.random.default_rng(seed), dtype)
        expected, offsets = apple_file([array], tmp_path / f"{seed}.bin")
        assert mil.blob_file([array]) == expected
        assert offsets == [64]


@pytest.mark.parametrize("seed", range(8))
def test_a_file_of_several_arrays_is_byte_identical_to_apples(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    arrays = [random_array(rng, str(rng.choice(list(WRITERS)))) for _ in range(rng.integers(2, 7))]
    expected, offsets = apple_file(arrays, tmp_path / "apple.bin")
    assert mil.blob_file(arrays) == expected
    assert record_offsets(array.nbytes for array in arrays) == offsets


def test_apples_reader_gives_the_arrays_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [random_array(rng, dtype) for dtype in WRITERS]
    for ours, read in zip(arrays, blob_arrays(mil.blob_file(arrays), tmp_path / "w"), strict=True):
        np.testing.assert_array_equal(ours.ravel(), read)


def test_a_transposed_array_is_written_in_row_major_order(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    (read,) = blob_arrays(mil.blob_file([array]), tmp_path / "w")
    np.testing.assert_array_equal(read, array.ravel())


def test_a_dtype_without_a_code_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold float64"):
        mil.blob_file([np.zeros(3)])


def test_constants_are_rounded_once_to_fp16_or_kept_as_fp32(tmp_path: Path) -> None:
    data = np.random.default_rng(1).standard_normal((64, 64))
    program = weight_program(w=(data, None))
    for precision, dtype in (("fp16", np.float16), ("fp32", np.float32)):
        files = program.weight_files(precision)
        assert list(files) == ["@model_path/weights/w.bin"]
        (read,) = blob_arrays(files["@model_path/weights/w.bin"], tmp_path / precision)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, data.astype(dtype).ravel())


def test_text_names_the_record_of_each_constant_of_a_shared_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    data = {name: (rng.standard_normal((64, 1, 33)), "shared") for name in ("a", "b", "c")}
    program = weight_program(33, **data)
    for precision in ("fp16", "fp32"):
        (blob,) = program.weight_files(precision).values()
        text = mil.print_program(program, precision)
        sizes = [array.nbytes for array in blob_arrays(blob, tmp_path / precision)]
        for offset in record_offsets(sizes):
            assert text.count(f"offset = uint64({offset})") == 1


@pytest.mark.parametrize(("precision", "value"), [("fp16", 65520.0), ("fp32", 1e39)])
def test_a_constant_beyond_the_range_is_an_error_that_names_it(
    precision: str, value: float
) -> None:
    program = weight_program(too_big=(np.full((64, 64), value), None))
    with pytest.raises(EngineError, match="'too_big' does not fit"):
        program.weight_files(precision)


def test_small_vectors_and_scalars_are_in_no_file() -> None:
    assert weight_program(a=(np.ones(1), None), b=(np.array(2.0), None)).weight_files() == {}


def test_precision_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="precision is one of"):
        weight_program(w=(np.ones((64, 64)), None)).weight_files("fp8")
