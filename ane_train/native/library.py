"""The cffi module, its errors as exceptions, and the BLAS library that the core opens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ane_train._native import ffi, lib
from ane_train.errors import EngineError

ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate"
DRIVER = "libane_driver.dylib"  # built beside the package's modules on a Mac
LIBRARY_SUFFIXES = {".so", ".dylib", ".dll"}

__all__ = ["NativeError", "address", "check", "compiler", "ffi", "find_blas", "find_driver", "lib"]


def compiler() -> str:
    """What the core was compiled by."""
    name: str = ffi.string(lib.ANE_COMPILER).decode("utf-8", "replace")
    return name


class NativeError(EngineError):
    """What the core refused: `status` as in ane.h ("parse", "limit", ...), and where in the MIL.

    `line` and `column` count from 1; both are 0 where there is none. `domain` and `code` are those
    of the system's own error; "" and 0 where there is none.
    """

    def __init__(self, text: str, status: str, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}: " if line else ""
        super().__init__(place + text)
        self.status = status
        self.line = line
        self.column = column
        self.domain = ""
        self.code = 0


def status_name(status: int) -> str:
    """ANE_ERROR_PARSE is "parse"; ANE_OK is "ok"."""
    name: str = ffi.typeof("ane_status").elements[status]
    return name.removeprefix("ANE_").removeprefix("ERROR_").lower()


def raise_error(info: Any) -> None:
    """Raises what an ane_error_info says."""
    text = ffi.string(info.text).decode("utf-8", "replace")
    error = NativeError(text, status_name(int(info.status)), info.line, info.column)
    error.domain = ffi.string(info.domain).decode("utf-8", "replace")
    error.code = int(info.code)
    raise error


def check(context: Any, status: int) -> None:
    """Raises the context's last error unless the status is ANE_OK."""
    if status == lib.ANE_OK:
        return
    info = ffi.new("ane_error_info *")
    lib.ane_context_error(context, info)
    if int(info.status) == status:
        raise_error(info)
    raise NativeError(f"the call failed ({status_name(status)})", status_name(status))


_POINTERS = {
    np.dtype(np.float32): "float *",
    np.dtype(np.float16): "uint16_t *",
    np.dtype(np.int32): "int32_t *",
    np.dtype(np.uint16): "uint16_t *",
    np.dtype(np.int8): "int8_t *",
}


def address(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> Any:
    """A pointer to a C-contiguous array of exactly that dtype; ValueError for any other."""
    if array.dtype != dtype:
        raise ValueError(f"an array of dtype {array.dtype} where {dtype} is needed")
    if not array.flags.c_contiguous:
        raise ValueError("an array that is not C-contiguous")
    return ffi.cast(_POINTERS[array.dtype], ffi.from_buffer(array))


def find_blas() -> str | None:
    """The shared library with cblas_sgemm, or None: then the built-in loops do the work, slowly."""
    from importlib.util import find_spec

    if sys.platform == "darwin":
        return ACCELERATE
    spec = find_spec("scipy_openblas32")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted((Path(folder) / "lib").glob("*openblas*")):
            if LIBRARY_SUFFIXES.intersection(path.suffixes):
                return str(path)
    return None


def reads_halves() -> bool:
    """Whether the software engine needs no fp32 copies of fp16 inputs on this processor."""
    path = find_blas()
    name = ffi.new("char[]", path.encode()) if path else ffi.NULL
    return bool(lib.ane_reads_halves(ffi.new("ane_options *", {"blas_path": name})))


def find_driver() -> str | None:
    """The library that drives the Apple Neural Engine, or None where it was not built."""
    path = Path(__file__).resolve().parent.parent / DRIVER
    return str(path) if path.exists() else None
