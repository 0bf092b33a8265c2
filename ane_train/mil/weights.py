"""Weight files (MILBlob storage version 2), byte for byte as Apple's writer lays them out.

A 64-byte header (count, version), then for each array a 64-byte record and its data, both at
multiples of 64. BLOBFILE offsets name the record, never the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import EngineError
from .types import DTYPES, FLOATS, Value

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
DIRECTORY = "@model_path/weights/"
PRECISIONS = FLOATS

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_CODES = {np.dtype(d.numpy): d.blob_code for d in DTYPES.values() if d.blob_code is not None}


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def record_offsets(sizes: Iterable[int]) -> list[int]:
    """Offsets of the records of arrays of these sizes in bytes: what BLOBFILE(offset=...) says."""
    offsets = []
    position = _HEADER.size
    for size in sizes:
        offsets.append(position)
        position = _aligned(position + _RECORD.size + size)
    return offsets


def blob_file(arrays: Sequence[np.ndarray]) -> bytes:
    """One weight file of the arrays, in order, in their own dtypes (fp16, fp32, (u)int8, 16, 32).

    ValueError for a dtype that the format cannot hold.
    """
    offsets = record_offsets(array.nbytes for array in arrays)
    size = offsets[-1] + _RECORD.size + arrays[-1].nbytes if arrays else _HEADER.size
    file = bytearray(size)
    _HEADER.pack_into(file, 0, len(arrays), VERSION)
    for array, offset in zip(arrays, offsets, strict=True):
        code = _CODES.get(array.dtype)
        if code is None:
            raise ValueError(f"a weight file cannot hold {array.dtype}")
        data = offset + _RECORD.size
        _RECORD.pack_into(file, offset, SENTINEL, code, array.nbytes, data, 0)
        file[data : data + array.nbytes] = np.ascontiguousarray(array).tobytes()
    return bytes(file)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """The constants that share one weight file, in the order of their records."""

    path: str
    constants: tuple[Value, ...]

    def offsets(self, precision: str = "fp16") -> list[int]:
        """Record offsets of the constants when written with this precision."""
        return record_offsets(_stored_bytes(value, precision) for value in self.constants)

    def encode(self, precision: str = "fp16") -> bytes:
        """The file itself; EngineError where a constant does not fit its dtype."""
        return blob_file([_stored(value, precision) for value in self.constants])


def group_files(constants: Iterable[Value]) -> list[WeightFile]:
    """The weight files of a program's constants; immediates are in none."""
    groups: dict[str, list[Value]] = {}
    for value in constants:
        if value.file is not None:
            groups.setdefault(value.file, []).append(value)
    return [WeightFile(f"{DIRECTORY}{stem}.bin", tuple(group)) for stem, group in groups.items()]


def stored_dtype(value: Value, precision: str) -> np.dtype:
    """Element type of the constant's record: with "fp32", constants declared fp16 are kept wide."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    widened = precision == "fp32" and value.dtype == "fp16"
    return np.dtype(DTYPES["fp32" if widened else value.dtype].numpy)


def _stored_bytes(value: Value, precision: str) -> int:
    return value.type.elements * stored_dtype(value, precision).itemsize


def _stored(value: Value, precision: str) -> np.ndarray:
    assert isinstance(value.data, np.ndarray)
    with np.errstate(over="ignore"):
        array = value.data.astype(stored_dtype(value, precision), copy=False)
    if value.dtype in FLOATS and not np.isfinite(array).all():
        raise EngineError(
            f"constant {value.name!r} does not fit {array.dtype}: "
            "keep its values finite and within the range"
        )
    return array
