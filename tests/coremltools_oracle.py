"""Apple's own type inference and weight-file reader, as judges of our programs and files.

`infer` maps a program onto coremltools' builder calls; `blob_arrays` reads a weight file through
the C++ reader that coremltools ships.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from ane_train import mil

READERS = {1: "fp16", 2: "float", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32"}


def infer(program: mil.Program) -> None:
    """AssertionError with the op's name where coremltools infers another type than is declared."""
    from coremltools.converters.mil.mil import Builder, Function

    inputs = {
        value.name: Builder.placeholder(value.shape, _builtin(value.dtype))
        for value in program.inputs
    }
    with Function(inputs, opset_version=_target(program.opset)) as function:
        known: dict[mil.Value, Any] = {
            value: function.inputs[value.name] for value in program.inputs
        }
        for value in program.constants:
            known[value] = Builder.const(val=_constant(value), name=value.name)
        for op in program.ops:
            _infer_op(op, known)


def _infer_op(op: mil.Op, known: dict[mil.Value, Any]) -> None:
    from coremltools.converters.mil.mil import Builder

    arguments = {
        name: tuple(known[item] for item in value) if isinstance(value, tuple) else known[value]
        for name, value in op.arguments.items()
    }
    try:
        results = getattr(Builder, op.kind)(**arguments, name=op.name)
    except Exception as error:
        raise AssertionError(f"{op.kind} {op.name}: coremltools refuses it: {error}") from error
    found = results if isinstance(results, (tuple, list)) else (results,)
    assert len(found) == len(op.outputs), f"{op.kind} {op.name}: {len(found)} results"
    for value, var in zip(op.outputs, found, strict=True):
        inferred = (_dtype(var), tuple(int(size) for size in var.shape))
        declared = (value.dtype, value.shape)
        assert inferred == declared, f"{op.kind} {op.name}: {inferred} is declared {declared}"
        known[value] = var


def _target(opset: str) -> Any:
    import coremltools

    return {"ios16": coremltools.target.iOS16, "ios18": coremltools.target.iOS18}[opset]


def _builtin(dtype: str) -> Any:
    from coremltools.converters.mil.mil import types as mil_types

    return mil_types.string_to_builtin(dtype)


def _dtype(var: Any) -> str:
    from coremltools.converters.mil.mil import types as mil_types

    return str(mil_types.builtin_to_string(var.dtype))


def _constant(value: mil.Value) -> Any:
    if not isinstance(value.data, np.ndarray):
        return value.data
    array = value.data.astype(mil.DTYPES[value.dtype].numpy)
    return array if array.ndim else array[()]


def blob_arrays(blob: bytes, path: Path) -> list[np.ndarray]:
    """Every array of a weight file, in order, as Apple's reader finds it at `path`."""
    path.write_bytes(blob)
    reader = storage()._BlobStorageReader(str(path))
    (count,) = struct.unpack_from("<I", blob)
    arrays, offset = [], 64
    for _ in range(count):
        code, size, data = struct.unpack_from("<4xIQQ", blob, offset)
        array = getattr(reader, f"read_{READERS[code]}_data")(offset)
        arrays.append(array.view(np.float16) if READERS[code] == "fp16" else array)
        offset = -(-(data + size) // 64) * 64
    return arrays


def storage() -> types.ModuleType:
    """coremltools' compiled weight-file module, loaded without the rest of the package."""
    name = "coremltools.libmilstoragepython"
    if name not in sys.modules:
        package = importlib.util.find_spec("coremltools")
        assert package is not None
        assert package.submodule_search_locations is not None
        (library,) = Path(package.submodule_search_locations[0]).glob("libmilstoragepython*.so")
        spec = importlib.util.spec_from_file_location(name, library)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
