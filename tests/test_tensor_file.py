"""Tensor files are safetensors files: the library reads ours, and we read the library's."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ane_train.storage.tensor_file import FileRecord, check_tensors, read_tensors, write_tensors

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
tables = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(shapes, st.sampled_from(["<f4", "<f2", "<f8", "<i4", "<i8"])),
    max_size=5,
)


def arrays_of(table: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(table))
    return {
        name: np.asarray(rng.standard_normal(shape) * 100, dtype)
        for name, (shape, dtype) in table.items()
    }


@settings(deadline=None)
@given(table=tables, metadata=st.dictionaries(st.text(), st.text(), max_size=3))
def test_safetensors_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any], metadata: dict[str, str]
) -> None:
    path, arrays = tmp_path_factory.mktemp("written") / "x.safetensors", arrays_of(table)
    record = write_tensors(path, arrays, metadata)
    assert record == FileRecord(path.stat().st_size, zlib.crc32(path.read_bytes()))
    found = safetensors.numpy.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    with safetensors.safe_open(path, "np") as file:
        assert (file.metadata() or {}) == metadata


@settings(deadline=None)
@given(table=tables)
def test_we_read_what_safetensors_writes(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    path, arrays = tmp_path_factory.mktemp("read") / "x.safetensors", arrays_of(table)
    safetensors.numpy.save_file(arrays, path, {"made": "elsewhere"})
    found = {name: np.full_like(array, 3) for name, array in arrays.items()}
    expected = FileRecord(path.stat().st_size, zlib.crc32(path.read_bytes()))
    assert read_tensors(path, found) == expected
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_arrays_are_aligned_in_the_file(tmp_path: Path) -> None:
    for length in range(1, 10):
        path = tmp_path / f"{length}.safetensors"
        write_tensors(path, {"n" * length: np.zeros(1, np.float32)}, {})
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def entry(shape: list[int], *places: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(places)}


def file_of(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12345",
        bytes(8),
        (2**63).to_bytes(8, "little") + b"{}",
        file_of(b"{", b""),
        file_of(b"[]", b""),
        file_of(b"\xff\xff", b""),
        file_of({"a": 5}),
        file_of({"a": {"dtype": "F32", "shape": [2]}}),
        file_of({"a": entry([2], 0)}),
        file_of({"a": entry([2], 0, 4)}),
        file_of({"a": entry([2], 0, 8)}, bytes(7)),
        file_of({"a": entry([2], 0, 8)}, bytes(9)),
        file_of({"a": entry([1], 0, 8)}),
        file_of({"a": entry([2], 4, 12)}, bytes(12)),
        file_of({"a": entry([-2], 0, 8)}),
        file_of({"a": entry([2], 8, 0)}),
        file_of({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}),
        file_of({"a": entry([2], 0, 8), "b": entry([1], 12, 16)}, bytes(16)),
    ],
)
def test_what_safetensors_refuses_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load_file(path)
    for length in (1, 2):
        arrays = {"a": np.zeros(length, np.float32)}
        with pytest.raises(ValueError, match="it"):
            check_tensors(path, arrays)
        with pytest.raises(ValueError, match="it"):
            read_tensors(path, arrays)
