"""Files of named arrays in the safetensors format, written and read with no whole copy in memory.

The format: the header's length as 8 little-endian bytes, a JSON header (name, dtype, shape, place),
then the arrays' bytes without gaps. The safetensors library is not used here because a checkpoint
needs what it does not offer: reading into memory that is already there, a checksum taken on the way
(not by a second pass over gigabytes) and an fsync of what was written. The checksum is zlib's
CRC-32, by a library that takes a fifth of its time: training beside a save would lose the rest.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng.zlib_ng import crc32

from ane_train.storage.direct_file import DirectFile

Array = npt.NDArray[Any]

# Bytes; few enough for the copy that is written to be made while they are in a cache.
_CHUNK = 1 << 18
_LARGEST_HEADER = 100_000_000
_DTYPES = MappingProxyType({"<f4": "F32", "<f2": "F16", "<f8": "F64", "<i4": "I32", "<i8": "I64"})


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a written file can be recognised by."""

    size: int
    checksum: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's line in the header; `begin` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> FileRecord:
    """Writes C-contiguous arrays to a new file and waits until they are on the disk. OSError."""
    with DirectFile(path) as file:
        record = put_tensors(file, tensors, metadata)
        file.synchronize()
    return record


def put_tensors(
    file: DirectFile, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> FileRecord:
    """Writes C-contiguous arrays to a new file and finishes it; the caller synchronises. OSError.

    The system has all of their bytes when this returns, so that they may change from then on.
    """
    rows = [(name, _DTYPES[a.dtype.str], a.shape, a.nbytes) for name, a in tensors.items()]
    header = encode_header(rows, metadata)
    size, checksum = len(header), crc32(header)
    file.write(header)
    for array in tensors.values():
        for chunk in _chunks(array):
            file.write(chunk)
            size, checksum = size + len(chunk), crc32(chunk, checksum)
    file.finish()
    return FileRecord(size, checksum)


def check_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """ValueError, saying what is wrong, unless the file has these names, shapes and dtypes."""
    with open(path, "rb") as file:
        _check_entries(read_header(file)[1], tensors)


def read_tensors(path: Path, tensors: Mapping[str, Array]) -> FileRecord:
    """Fills the given C-contiguous arrays from the file; returns what the file is recognised by.

    ValueError, saying what is wrong, if the file has other arrays or is damaged; the given ones may
    be partly overwritten then. OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        header, entries = read_header(file)
        _check_entries(entries, tensors)
        size, checksum = len(header), crc32(header)
        for name in sorted(entries, key=lambda name: (entries[name].begin, entries[name].end)):
            for chunk in _chunks(tensors[name]):
                if file.readinto(chunk) != len(chunk):
                    raise ValueError("it is truncated")
                size, checksum = size + len(chunk), crc32(chunk, checksum)
    return FileRecord(size, checksum)


def encode_header(
    rows: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> bytes:
    """The header, its length included, of arrays that follow each other.

    A row has an array's name, type, shape and size in bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape, size in rows:
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    return len(text).to_bytes(8, "little") + text


def read_header(file: io.BufferedReader) -> tuple[bytes, dict[str, TensorEntry]]:
    """The header's bytes, its length included, and its tensors, proved to fill the file exactly.

    ValueError, saying what is wrong, if it is no such file; OSError if it cannot be read.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    file_size = os.fstat(file.fileno()).st_size
    if len(prefix) < 8 or not 2 <= length <= min(file_size - 8, _LARGEST_HEADER):
        raise ValueError("it is no safetensors file, or truncated")
    text = file.read(length)
    try:
        fields = json.loads(text)
        fields.pop("__metadata__", None)
        entries = {name: _decode_entry(field) for name, field in fields.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("its header is damaged") from None
    _check_places(entries, file_size - 8 - length)
    return prefix + text, entries


def _decode_entry(field: Mapping[str, Any]) -> TensorEntry:
    begin, end = field["data_offsets"]
    shape = tuple(field["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError
    return TensorEntry(str(field["dtype"]), shape, begin, end)


def _check_places(entries: Mapping[str, TensorEntry], data_size: int) -> None:
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise ValueError("its header is damaged")
        end = entry.end
    if end > data_size:
        raise ValueError(f"it is truncated: {data_size} bytes of arrays where {end} should be")
    if end < data_size:
        raise ValueError(f"it is damaged: {data_size - end} bytes too many")


def _check_entries(entries: Mapping[str, TensorEntry], tensors: Mapping[str, Array]) -> None:
    for missing in sorted(tensors.keys() - entries.keys()):
        raise ValueError(f"it has no tensor '{missing}', which the model has")
    for extra in sorted(entries.keys() - tensors.keys()):
        raise ValueError(f"it has a tensor '{extra}', which the model has not")
    for name, array in tensors.items():
        entry, dtype = entries[name], _DTYPES[array.dtype.str]
        if entry.shape != array.shape:
            raise ValueError(
                f"its tensor '{name}' has the shape {list(entry.shape)}, "
                f"the model's has {list(array.shape)}"
            )
        if entry.dtype != dtype:
            raise ValueError(f"its tensor '{name}' is of type {entry.dtype} and not {dtype}")
        if entry.end - entry.begin != math.prod(entry.shape) * array.itemsize:
            raise ValueError("its header is damaged")


def _chunks(array: Array) -> Iterator[memoryview]:
    """The array's own bytes, piece by piece; never a copy of them."""
    assert array.flags.c_contiguous, "only a C-contiguous array is its own bytes"
    view = array.reshape(-1).view(np.uint8).data
    for begin in range(0, len(view), _CHUNK):
        yield view[begin : begin + _CHUNK]
