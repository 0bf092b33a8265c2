"""Prints a program as MIL text in the canonical form.

It follows what Apple's tools print, and the software engine's printer gives back the same bytes.
Two dialects: program(1.3) for ios18; program(1.0) for ios16, where a scalar is a tensor of rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .ops import OPS
from .program import Op, Program
from .types import FLOATS, TensorType, Value

_VERSIONS = {"ios16": "1.0", "ios18": "1.3"}
_BUILD_INFO = {
    "coremlc-component-MIL": "3510.2.1",
    "coremlc-version": "3505.4.1",
    "coremltools-component-milinternal": "",
    "coremltools-version": "9.0",
}


def print_program(program: Program, precision: str = "fp16") -> str:
    """MIL text of the program.

    precision: that of the weight files that go with it; it matters only to the offsets of constants
    that share a file.
    """
    return "\n".join(_Printer(program, precision).lines()) + "\n"


def float_literal(value: float) -> str:
    """A C99 hex float of the value rounded to fp32: 0x1.8p+1, -0x1p-24, 0x0p+0."""
    mantissa, exponent = float(np.float32(value)).hex().split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{exponent}"


class _Printer:
    """Knows the dialect and where in the weight files each constant lies."""

    def __init__(self, program: Program, precision: str) -> None:
        self._program = program
        self._wraps_scalars = program.opset == "ios16"
        self._places = {
            value: (file.path, offset)
            for file in program.files
            for value, offset in zip(file.constants, file.offsets(precision), strict=True)
        }

    def lines(self) -> Iterator[str]:
        program = self._program
        inputs = ", ".join(f"{self._type(value.type)} {value.name}" for value in program.inputs)
        yield f"program({_VERSIONS[program.opset]})"
        yield f"[buildInfo = {self._build_info()}]"
        yield "{"
        yield f"    func {program.function}<{program.opset}>({inputs}) {{"
        yield from self._body()
        yield f"        }} -> ({', '.join(value.name for value in program.outputs)});"
        yield "}"

    def _build_info(self) -> str:
        text = self._type(TensorType("string"))
        pairs = ", ".join(f'{{"{key}", "{value}"}}' for key, value in _BUILD_INFO.items())
        return f"dict<{text}, {text}>({{{pairs}}})"

    def _body(self) -> Iterator[str]:
        printed: set[Value] = set()
        for op in self._program.ops:
            inline = OPS[op.kind].attributes if op.kind in OPS else False
            for value in () if inline else op.operands:
                if value.is_constant and value not in printed:
                    printed.add(value)
                    yield self._constant(value)
            yield self._op(op, inline)

    def _constant(self, value: Value) -> str:
        attributes = f"name = {self._text(value.name)}, val = {self._literal(value)}"
        return f"            {self._type(value.type)} {value.name} = const()[{attributes}];"

    def _op(self, op: Op, inline: bool) -> str:
        results = ", ".join(f"{self._type(value.type)} {value.name}" for value in op.outputs)
        show: Callable[[Value], str] = self._literal if inline else lambda value: value.name
        arguments = [
            (name, ", ".join(map(show, values)) if len(values) == 1 else f"({_names(values)})")
            for name, values in op.sorted_arguments()
        ]
        name = ("name", self._text(op.name))
        attributes = sorted([*arguments, name]) if inline else [name]
        inside = "" if inline else _pairs(arguments)
        return f"            {results} = {op.kind}({inside})[{_pairs(attributes)}];"

    def _type(self, type_: TensorType) -> str:
        if not type_.shape and not self._wraps_scalars:
            return type_.dtype
        return f"tensor<{type_.dtype}, {list(type_.shape)}>"

    def _text(self, text: str) -> str:
        return f'{self._type(TensorType("string"))}("{text}")'

    def _literal(self, value: Value) -> str:
        return f"{self._type(value.type)}({self._content(value)})"

    def _content(self, value: Value) -> str:
        if value in self._places:
            path, offset = self._places[value]
            number = f"{self._type(TensorType('uint64'))}({offset})"
            return f"BLOBFILE(path = {self._text(path)}, offset = {number})"
        if not isinstance(value.data, np.ndarray):
            return f'"{value.data}"'
        return _elements(value.data, value.dtype)


def _elements(data: np.ndarray, dtype: str) -> str:
    if data.ndim:
        return f"[{', '.join(_elements(item, dtype) for item in map(np.asarray, data))}]"
    if dtype in FLOATS:
        return float_literal(float(data))
    return str(data.item()).lower()


def _names(values: tuple[Value, ...]) -> str:
    return ", ".join(value.name for value in values)


def _pairs(items: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} = {text}" for name, text in items)
