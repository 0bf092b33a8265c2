"""One op at a time, as MIL text and as a call of coremltools' builder, to compare type rules.

An `OpCase` names its arguments; `text` declares the result types that are given, `infer` asks
coremltools for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mil_front import program

DTYPES = {
    "fp16": np.float16,
    "fp32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Type:
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"tensor<{self.dtype}, {list(self.shape)}>" if self.shape else self.dtype


@dataclass(frozen=True, slots=True)
class Constant:
    dtype: str
    value: Any  # numbers, nested lists of them, or a string

    @property
    def type(self) -> Type:
        return Type(self.dtype, np.shape(self.value))

    def __str__(self) -> str:
        shown = f'"{self.value}"' if self.dtype == "string" else str(self.value).lower()
        return f"{self.type}({shown})"

    def array(self) -> Any:
        return self.value if self.dtype == "string" else DTYPES[self.dtype](self.value)


Argument = Type | Constant | Sequence[Type]


@dataclass(frozen=True, slots=True)
class OpCase:
    kind: str
    arguments: Mapping[str, Argument]
    opset: int = 18
    results: int = 1

    def text(self, results: Sequence[Type]) -> str:
        inputs: list[str] = []

        def show(argument: Argument) -> str:
            if isinstance(argument, Constant):
                return str(argument)
            if isinstance(argument, Type):
                inputs.append(f"{argument} in{len(inputs)}")
                return f"in{len(inputs) - 1}"
            names = ", ".join(map(show, argument))
            return f"({names})" if len(argument) > 1 else names

        arguments = ", ".join(f"{name} = {show(value)}" for name, value in self.arguments.items())
        left = ", ".join(f"{type_} out{i}" for i, type_ in enumerate(results))
        outputs = ", ".join(f"out{i}" for i in range(len(results)))
        return program(
            f"{left} = {self.kind}({arguments})",
            inputs=", ".join(inputs),
            outputs=outputs,
            opset=f"ios{self.opset}",
        )


def infer(case: OpCase) -> list[Type] | None:
    """The result types that coremltools infers, or None where it refuses the op."""
    import coremltools
    from coremltools.converters.mil.mil import Builder, Function, types

    flat: list[Type] = []
    for argument in case.arguments.values():
        if isinstance(argument, Type):
            flat.append(argument)
        elif not isinstance(argument, Constant):
            flat.extend(argument)
    placeholders = {
        f"in{i}": Builder.placeholder(
            type_.shape, types.string_to_builtin(type_.dtype), allow_rank0_input=True
        )
        for i, type_ in enumerate(flat)
    }
    target = getattr(coremltools.target, f"iOS{case.opset}")
    with Function(placeholders, opset_version=target) as function:
        variables = iter([function.inputs[name] for name in placeholders])
        arguments: dict[str, Any] = {}
        for name, argument in case.arguments.items():
            if isinstance(argument, Type):
                arguments[name] = next(variables)
            elif isinstance(argument, Constant):
                arguments[name] = Builder.const(val=argument.array())
            else:
                arguments[name] = tuple(next(variables) for _ in argument)
        try:
            found = getattr(Builder, case.kind)(**arguments)
        except Exception:
            return None
    results = found if isinstance(found, (list, tuple)) else [found]
    return [
        Type(str(types.builtin_to_string(var.dtype)), tuple(int(dim) for dim in var.shape))
        for var in results
    ]
