"""The header of a GGUF file: its values by key and where its tensors are.

Read here, and not by the gguf package, because that trusts every length: a damaged file could make
it fill the memory. Invariant: what is read is never more than the file has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from ane_train.errors import CheckpointError
from ane_train.interop.tensors import reading_weights

_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's shape as NumPy has it, its number among GGUF's types and its place in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything but the tensors' data; `size` is that of the file."""

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    size: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads all but the weights. CheckpointError if the file is truncated, damaged or no GGUF."""
    with reading_weights(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return _read(path, file, size)
        except (ValueError, struct.error, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is no GGUF file, or damaged: {error}") from None


def _read(path: Path, file: BinaryIO, size: int) -> GgufHeader:
    take = _taker(file, size)
    if take(4) != b"GGUF":
        raise ValueError("it does not begin as one")
    version, tensor_count, value_count = struct.unpack("<IQQ", take(20))
    if version not in (2, 3):
        raise ValueError(f"it is of version {version}, this program reads 2 and 3")
    values: dict[str, Any] = {}
    for _ in range(value_count):
        key = _string(take)
        values[key] = _value(take, struct.unpack("<I", take(4))[0])
    raw = {}
    for _ in range(tensor_count):
        name = _string(take)
        if name in raw:
            raise ValueError(f"tensor {name} is there twice")
        raw[name] = _tensor(take)
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"its alignment is {alignment}")
    start = -(-file.tell() // alignment) * alignment
    tensors = {n: GgufTensor(t.shape, t.kind, start + t.offset) for n, t in raw.items()}
    return GgufHeader(path, MappingProxyType(values), MappingProxyType(tensors), size)


Take = Callable[[int], bytes]


def _taker(file: BinaryIO, size: int) -> Take:
    def take(count: int) -> bytes:
        if count > size - file.tell():
            raise ValueError("it is truncated, or claims more than it has")
        return file.read(count)

    return take


def _string(take: Take) -> str:
    (length,) = struct.unpack("<Q", take(8))
    return take(length).decode("utf-8")


def _value(take: Take, kind: int) -> Any:
    if kind == _STRING:
        return _string(take)
    if kind == _ARRAY:
        inner, length = struct.unpack("<IQ", take(12))
        if inner == _STRING:
            return [_string(take) for _ in range(length)]
        letter = _letter(inner)
        raw = take(length * struct.calcsize(f"<{letter}"))
        return struct.unpack(f"<{length}{letter}", raw)
    letter = _letter(kind)
    return struct.unpack(f"<{letter}", take(struct.calcsize(f"<{letter}")))[0]


def _letter(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"a value is of the unknown type {kind}")
    return _SCALARS[kind]


def _tensor(take: Take) -> GgufTensor:
    (dimensions,) = struct.unpack("<I", take(4))
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", take(8 * dimensions))
    if prod(shape) == 0:
        raise ValueError("a tensor has no elements")
    kind, offset = struct.unpack("<IQ", take(12))
    return GgufTensor(tuple(reversed(shape)), kind, offset)
