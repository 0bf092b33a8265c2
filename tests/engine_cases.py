"""Runs small MIL programs on the software engine: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ane_train.native.engine import Context, Program, Surface

NUMPY = {
    "fp16": np.float16,
    "fp32": np.float32,
    "int32": np.int32,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
MIL = {np.dtype(value): key for key, value in NUMPY.items()}
FLOATS = ("fp16", "fp32")


def type_text(dtype: str, shape: Sequence[int]) -> str:
    """tensor<fp16, [1, 2]>, or the bare dtype of a scalar."""
    return f"tensor<{dtype}, {list(shape)}>" if len(shape) else dtype


def literal(value: object, dtype: str | None = None) -> str:
    """A typed immediate value: of an array, a number, a bool, a string, or a list of them."""
    if isinstance(value, str):
        return f'string("{value}")'
    array = np.asarray(value)
    if dtype is None:
        kinds = {"b": "bool", "i": "int32", "f": "fp32"}
        typed = isinstance(value, (np.ndarray, np.generic))
        dtype = MIL[array.dtype] if typed else kinds[array.dtype.kind]
    return f"{type_text(dtype, array.shape)}({_body(array)})"


def _body(array: np.ndarray) -> str:
    if array.ndim:
        return "[" + ", ".join(_body(part) for part in array) + "]"
    value = array.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.hex() if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Op:
    """One statement: results (name, dtype, shape) = kind(arguments), each a name or a literal."""

    kind: str
    arguments: Mapping[str, str]
    results: Sequence[tuple[str, str, tuple[int, ...]]]

    def text(self) -> str:
        left = ", ".join(f"{type_text(dtype, shape)} {name}" for name, dtype, shape in self.results)
        if self.kind == "constexpr_affine_dequantize":
            inside = "".join(f", {key} = {value}" for key, value in self.arguments.items())
            return f'{left} = {self.kind}()[name = string("{self.results[0][0]}"){inside}];'
        inside = ", ".join(f"{key} = {value}" for key, value in self.arguments.items())
        return f'{left} = {self.kind}({inside})[name = string("{self.results[0][0]}")];'


def program_text(
    inputs: Mapping[str, np.ndarray],
    ops: Sequence[Op],
    outputs: Sequence[str],
    opset: str = "ios18",
) -> str:
    """A program of one function with the inputs' dtypes and shapes."""
    parameters = ", ".join(
        f"{type_text(MIL[array.dtype], array.shape)} {name}" for name, array in inputs.items()
    )
    body = "\n".join(f"        {op.text()}" for op in ops)
    return (
        "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
        f"    func main<{opset}>({parameters}) {{\n{body}\n    }} -> ({', '.join(outputs)});\n}}\n"
    )


def geometry(shape: Sequence[int]) -> tuple[int, int]:
    """Channels and width of the surface of a port."""
    return (int(np.prod(shape[:-1])), shape[-1]) if len(shape) else (1, 1)


def element_size(dtype: str, numerics: str) -> int:
    return 2 if dtype == "fp16" and numerics != "fp32" else 4


def port_surface(context: Context, dtype: str, shape: Sequence[int]) -> Surface:
    return context.surface(*geometry(shape), element_size(dtype, context.numerics))


def put(surface: Surface, array: np.ndarray) -> None:
    """Writes an array of any dtype into the surface of its port."""
    flat = array.reshape(geometry(array.shape))
    with surface.locked() as memory:
        if array.dtype.kind == "f":
            memory[...] = flat
        else:
            memory.view(np.int32)[...] = flat


def get(surface: Surface, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Reads a port's surface as an array of what the port declares (fp32 numerics: float32)."""
    memory = surface.array
    if dtype not in FLOATS:
        return memory.view(np.int32).reshape(shape).astype(NUMPY[dtype])
    return memory.reshape(shape).copy()


def evaluate(context: Context, program: Program, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One evaluation on fresh surfaces."""
    sources = [port_surface(context, port.dtype, port.shape) for port in program.inputs]
    targets = [port_surface(context, port.dtype, port.shape) for port in program.outputs]
    for surface, array in zip(sources, inputs, strict=True):
        put(surface, array)
    program.request(sources, targets).evaluate()
    return [get(s, p.dtype, p.shape) for s, p in zip(targets, program.outputs, strict=True)]


def run(context: Context, text: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compiles and evaluates once."""
    program = context.compile(text)
    try:
        return evaluate(context, program, list(inputs.values()))
    finally:
        program.close()
