"""Types and values of MIL. A value is assigned once: its name and its type never change.

Constants keep the precision they were given in; rounding to the declared type happens where they
leave the program, in `text` and `weights`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED_NAMES = frozenset(
    {"program", "func", "tensor", "dict", "string", "true", "false", "const"}
)


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: NumPy's name for it, and its code in a weight file (None: not storable)."""

    numpy: str
    blob_code: int | None = None


# Codes: MILBlob StorageFormat.hpp of coremltools (mil_and_oracles.md, weight file).
DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        "fp16": DType("float16", 1),
        "fp32": DType("float32", 2),
        "int8": DType("int8", 4),
        "uint8": DType("uint8", 3),
        "int16": DType("int16", 6),
        "uint16": DType("uint16", 7),
        "int32": DType("int32", 14),
        "uint32": DType("uint32", 15),
        "int64": DType("int64"),
        "uint64": DType("uint64"),
        "bool": DType("bool"),
        "string": DType("str"),
    }
)
FLOATS = ("fp16", "fp32")


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element; a bool takes one. A string has none and is refused."""
    if dtype == "string":
        raise ValueError("a string has no element size")
    return np.dtype(DTYPES[dtype].numpy).itemsize


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape; the shape () is a scalar."""

    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; one of {', '.join(DTYPES)}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"every dimension is at least 1, not {list(self.shape)}")

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements, without padding."""
        return self.elements * dtype_bytes(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A function input, the result of an op, or (with `data`) a constant. Compared by identity.

    data: an array of the value's shape in the precision it was given in, or text for a string.
    file: stem of the weight file that holds the data; None for an immediate.
    """

    name: str
    type: TensorType
    data: np.ndarray | str | None = field(default=None, repr=False)
    file: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the type."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.type.dtype

    @property
    def is_constant(self) -> bool:
        """Whether the value is known before the program runs."""
        return self.data is not None


def is_valid_name(name: str) -> bool:
    """Whether MIL's grammar accepts the name and no keyword is spelt like it."""
    return NAME_PATTERN.fullmatch(name) is not None and name not in RESERVED_NAMES
