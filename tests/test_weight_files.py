"""Weight files: what Apple's writer writes is read as it was, and anything else is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools_oracle import storage as apple
from mil_front import FP16, FP32, TYPE, WEIGHTS, Case, Outcome, front, program
from mil_seeds import storage

PATH = "@model_path/weights/w.bin"
DTYPES = {"fp16": np.float16, "fp32": np.float32, "int8": np.int8, "uint8": np.uint8}
DTYPES |= {"int16": np.int16, "uint16": np.uint16}
WRITERS = {"fp32": "float"}


def arrays_of_every_dtype() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for count, (name, dtype) in enumerate(DTYPES.items(), start=29):
        if np.issubdtype(dtype, np.floating):
            arrays[name] = rng.standard_normal(count).astype(dtype)
            arrays[name][:4] = [0, -0.0, np.inf, np.finfo(dtype).tiny / 4]
        else:
            limits = np.iinfo(dtype)
            arrays[name] = rng.integers(limits.min, limits.max, count, dtype, endpoint=True)
            arrays[name][:2] = limits.min, limits.max
    return arrays


def written_by_apple(arrays: dict[str, np.ndarray], path: Path) -> tuple[bytes, list[int]]:
    """The bytes of a file that coremltools writes, and the offset of each record."""
    writer: Any = apple()._BlobStorageWriter(str(path))
    offsets = []
    for name, array in arrays.items():
        data = array.view(np.uint16) if name == "fp16" else array
        offsets.append(getattr(writer, f"write_{WRITERS.get(name, name)}_data")(data))
    del writer
    return path.read_bytes(), offsets


def constant(name: str, dtype: str, count: int, offset: int) -> str:
    type_ = f"tensor<{dtype}, [{count}]>"
    blob = f'BLOBFILE(path = string("{PATH}"), offset = uint64({offset}))'
    return f"{type_} {name} = const()[val = {type_}({blob})]"


def test_every_dtype_that_apple_writes_is_read_bit_for_bit(tmp_path: Path) -> None:
    arrays = arrays_of_every_dtype()
    data, offsets = written_by_apple(arrays, tmp_path / "w.bin")
    body = [
        constant(name, name, len(array), offset)
        for (name, array), offset in zip(arrays.items(), offsets, strict=True)
    ]
    outcome = front().one(program(*body, outputs="fp16"), files={PATH: data})
    assert outcome.error is None
    for name, array in arrays.items():
        read = np.array(outcome.value(name).data).astype(array.dtype)
        assert read.tobytes() == array.tobytes(), name


def test_files_of_the_tests_equal_apples(tmp_path: Path) -> None:
    arrays = arrays_of_every_dtype()
    data, _ = written_by_apple(arrays, tmp_path / "w.bin")
    assert data == storage(*arrays.values())[: len(data)]


def read(data: bytes, dtype: str = "fp16", count: int = 4, *, numerics: int = FP16,
         offset: int = 64) -> Outcome:  # fmt: skip
    text = program(constant("y", dtype, count, offset))
    return front().one(text, files={PATH: data}, numerics=numerics)


def test_an_fp32_record_backs_an_fp16_constant_in_fp32_numerics_alone() -> None:
    values = np.array([1 + 2**-20, -3, 0.1, 1e4], np.float32)
    assert read(storage(values), numerics=FP32).value("y").data == tuple(values.tolist())
    error = read(storage(values)).error
    assert error is not None
    assert error.status == WEIGHTS
    halves = values.astype(np.float16)
    assert read(storage(halves), numerics=FP32).value("y").data == tuple(halves.tolist())


def test_a_record_named_twice_is_read_twice_even_where_a_declaration_is_wrong() -> None:
    files = {PATH: storage(np.arange(4, dtype=np.float16))}
    same = [constant(name, "fp16", 4, 64) for name in "ab"]
    outcome = front().one(program(*same, outputs="a"), files=files)
    assert outcome.value("a").data == outcome.value("b").data == (0, 1, 2, 3)
    wrong = constant("c", "fp16", 5, 64)
    error = front().one(program(*same, wrong, outputs="a"), files=files).error
    assert error is not None
    assert (error.status, error.line) == (WEIGHTS, 6)


GOOD = storage(np.arange(4, dtype=np.float16))


def patched(place: int, layout: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(layout, data, place, value)
    return bytes(data)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "header"),
    "half a header": (GOOD[:32], "header"),
    "a header alone": (GOOD[:64], "outside the file"),
    "version 1": (patched(4, "<I", 1), "version 1"),
    "a count of 0": (patched(0, "<I", 0), "none of the 0"),
    "a count of 2": (patched(0, "<I", 2), "outside the file"),
    "a count of 2^32 - 1": (patched(0, "<I", 2**32 - 1), "outside the file"),
    "reserved bytes in the header": (patched(60, "<I", 1), "file header"),
    "no sentinel": (patched(64, "<I", 0xBEEFDEAD), "0xDEADBEEF"),
    "an unknown dtype": (patched(68, "<I", 99), "dtype 99"),
    "bfloat16": (patched(68, "<I", 5), "dtype 5"),
    "another dtype": (patched(68, "<I", 6), "int16"),
    "a size too small": (patched(72, "<Q", 6), "6 bytes"),
    "a size too large": (patched(72, "<Q", 128), "leaves the file"),
    "a size of 2^64 - 1": (patched(72, "<Q", 2**64 - 1), "leaves the file"),
    "data at 0": (patched(80, "<Q", 0), "misplaced"),
    "data in its own record": (patched(80, "<Q", 64), "misplaced"),
    "data not aligned": (patched(80, "<Q", 136), "misplaced"),
    "data past the end": (patched(80, "<Q", 192), "leaves the file"),
    "data at 2^64 - 64": (patched(80, "<Q", 2**64 - 64), "leaves the file"),
    "padding bits": (patched(88, "<Q", 4), "reserved"),
    "reserved bytes in the record": (patched(96, "<I", 1), "reserved"),
    "cut data": (GOOD[:132], "leaves the file"),
    "a bare sentinel and data": (GOOD[64:], "version"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_file_is_refused_at_the_constant(what: str) -> None:
    data, message = MALFORMED[what]
    error = read(data).error
    assert error is not None
    assert (error.status, error.line) == (WEIGHTS, 4)
    assert error.column > 12
    assert message in error.text, error


@pytest.mark.parametrize("offset", [0, 1, 65, 128, 192, 2**63, 2**64 - 64])
def test_an_offset_that_is_no_record_is_refused(offset: int) -> None:
    error = read(GOOD, offset=offset).error
    assert error is not None
    assert (error.status, error.line) == (WEIGHTS, 4)


def test_an_offset_into_data_that_looks_like_a_record_is_refused() -> None:
    disguised = storage(np.frombuffer(GOOD[64:], np.uint8))
    assert read(disguised, "uint8", len(GOOD) - 64).error is None
    error = read(disguised, offset=128).error
    assert error is not None
    assert error.status == WEIGHTS


@pytest.mark.parametrize(
    ("dtype", "count"), [("fp16", 3), ("fp16", 8), ("int16", 4), ("fp32", 2), ("int8", 8)]
)
def test_a_record_of_another_dtype_or_size_than_declared_is_refused(dtype: str, count: int) -> None:
    error = read(GOOD, dtype, count).error
    assert error is not None
    assert error.status == WEIGHTS


def each_flipped_bit(data: bytes) -> list[bytes]:
    """The file with one bit of its header or record flipped, for each of them."""
    flipped = []
    for bit in range(128 * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    return flipped


def test_no_flipped_bit_of_header_or_record_goes_unseen() -> None:
    text = program(constant("y", "fp16", 4, 64))
    found = front().run([Case(text, {PATH: data}) for data in each_flipped_bit(GOOD)])
    assert {outcome.error and outcome.error.status for outcome in found} == {WEIGHTS}


def test_a_file_cut_anywhere_before_the_end_of_its_data_is_refused() -> None:
    text = program(constant("y", "fp16", 4, 64))
    found = front().run([Case(text, {PATH: GOOD[:end]}) for end in range(136)])
    assert {outcome.error and outcome.error.status for outcome in found} == {WEIGHTS}


def test_a_count_with_a_declared_size_beyond_the_file_costs_no_memory() -> None:
    error = read(GOOD, count=2**31 - 1).error
    assert error is not None
    assert error.status in (WEIGHTS, TYPE)
