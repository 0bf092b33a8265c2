"""The C API's builder of weight files, for tests: arrays in, records and the file out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ane_train.native.engine import Context
from ane_train.native.library import address, check, ffi, lib


class WeightBuilder:
    def __init__(self, context: Context) -> None:
        made = ffi.new("ane_weight_builder **")
        self.context = context._pointer
        self.check(lib.ane_weight_builder_create(self.context, made))
        self.pointer = ffi.gc(made[0], lib.ane_weight_builder_free)

    def check(self, status: int) -> None:
        check(self.context, status)

    def fp16(self, matrix: np.ndarray, *, transposed: bool = False) -> int:
        """The offset of a record of `matrix`, or of its transpose."""
        offset = ffi.new("uint64_t *")
        source, _ = _source(matrix, transposed)
        self.check(lib.ane_weight_builder_fp16(self.pointer, source, offset))
        return int(offset[0])

    def int8(self, values: np.ndarray) -> int:
        """The offset of a record of the values as they are."""
        offset = ffi.new("uint64_t *")
        data = ffi.from_buffer("int8_t[]", values)
        self.check(lib.ane_weight_builder_int8(self.pointer, data, values.size, offset))
        return int(offset[0])

    def quantized(self, matrix: np.ndarray, *, transposed: bool = False) -> tuple[int, int]:
        """The offsets of the int8 record and of its scales."""
        offsets = ffi.new("uint64_t[2]", [0, 0])
        source, _ = _source(matrix, transposed)
        status = lib.ane_weight_builder_quantized(self.pointer, source, offsets, offsets + 1)
        self.check(status)
        return int(offsets[0]), int(offsets[1])

    def file(self) -> bytes:
        """A copy of the file so far."""
        file, path = ffi.new("ane_weight_file *"), ffi.new("char[]", b"w.bin")
        self.check(lib.ane_weight_builder_file(self.pointer, path, file))
        assert file.path == path
        return bytes(ffi.buffer(file.data, file.size))


def _source(matrix: np.ndarray, transposed: bool) -> tuple[Any, np.ndarray]:
    """The C struct, and the array that has to outlive it."""
    rows, columns = matrix.shape[::-1] if transposed else matrix.shape
    values = address(matrix, np.dtype(np.float32))
    return ffi.new("ane_weight_source *", [values, rows, columns, transposed]), matrix
