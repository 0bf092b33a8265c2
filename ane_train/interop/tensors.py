"""Arrays of other programs' files, read into fp32 memory that is there already.

Invariant: besides the memory to be filled, reading takes one chunk, whatever a tensor's size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ane_train.errors import CheckpointError, ModelError
from ane_train.storage.tensor_file import TensorEntry, read_header

Array = npt.NDArray[np.float32]

CHUNK = 1 << 18  # elements
DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
    }
)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file whose header holds what it promises. `start` is where the arrays begin."""

    path: Path
    start: int
    entries: Mapping[str, TensorEntry]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """CheckpointError unless the file has this tensor, in this shape and a type we read."""
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path} has no tensor {name}, which the model has")
        if entry.shape != shape:
            raise CheckpointError(
                f"{self.path}: tensor {name} has the shape {list(entry.shape)}, "
                f"the configuration asks for {list(shape)}"
            )
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: tensor {name} is of type {entry.dtype}; "
                f"this version reads {', '.join(DTYPES)}"
            )
        if entry.end - entry.begin != prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{self.path}: tensor {name}: its header is damaged")

    def read(self, name: str, out: Array, first_row: int = 0) -> None:
        """Fills C-contiguous `out` with as many rows as it has, from `first_row` on.

        The tensor's shape has been checked.
        """
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        skipped = first_row * prod(entry.shape[1:]) * dtype.itemsize
        read_array(self.path, self.start + entry.begin + skipped, dtype, out)


def open_tensor_file(path: Path) -> TensorFile:
    """Reads the header alone. CheckpointError if the file is missing, truncated or damaged."""
    with reading_weights(path), open(path, "rb") as file:
        try:
            header, entries = read_header(file)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
    return TensorFile(path, len(header), MappingProxyType(entries))


def read_array(path: Path, offset: int, dtype: np.dtype, out: Array) -> None:
    """Fills C-contiguous `out` from bytes of `dtype` at `offset`. CheckpointError."""
    assert out.flags.c_contiguous, "only a C-contiguous array is its own bytes"
    flat = out.reshape(-1)
    with reading_weights(path), open(path, "rb") as file:
        file.seek(offset)
        for begin in range(0, flat.size, CHUNK):
            target = flat[begin : begin + CHUNK]
            chunk = target if dtype == np.dtype("<f4") else np.empty(target.size, dtype)
            if file.readinto(chunk.view(np.uint8).data) != chunk.nbytes:
                raise CheckpointError(f"{path} is truncated")
            if chunk is not target:
                target[:] = chunk


def converted(array: Array, dtype: np.dtype, name: str) -> Iterator[memoryview]:
    """The bytes of an array in another type, chunk by chunk.

    ModelError, naming the tensor, if a value is too large for the type.
    """
    flat = array.reshape(-1)
    for begin in range(0, flat.size, CHUNK):
        part = flat[begin : begin + CHUNK]
        with np.errstate(over="ignore"):
            chunk = part.astype(dtype, copy=False)
        if chunk is not part and not np.isfinite(chunk).all():
            raise ModelError(f"tensor {name} has values that are too large for {dtype.name}")
        yield chunk.view(np.uint8).data


def is_finite(array: Array) -> bool:
    """Whether no value is NaN or infinite; takes a chunk of memory."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + CHUNK]).all() for at in range(0, flat.size, CHUNK))


@contextmanager
def reading_weights(path: Path) -> Iterator[None]:
    """Turns what the system refuses into a CheckpointError of one line."""
    try:
        if not os.path.isfile(path):
            os.stat(path)
            raise CheckpointError(f"{path} is no regular file")
        yield
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
