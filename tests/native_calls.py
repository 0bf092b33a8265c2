"""Valid calls of every public method and arithmetic function of `native`, found by introspection.

Arguments follow from annotations and, for arrays of the arithmetic, from names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from native_arrays import OPTIONS

from ane_train.native import arithmetic, engine
from ane_train.native.engine import Context

PORT = "tensor<fp16, [1, 4, 1, 32]>"
MIL = (
    "program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
    f"    func main<ios18>({PORT} x) {{\n"
    f"        {PORT} y = add(x = x, y = x);\n    }} -> (y);\n}}\n"
)
Call = Callable[[Any], Any]


@dataclass(slots=True)
class Handles:
    """One open object of each class, by the class's name."""

    context: Context = field(default_factory=lambda: Context(threads=1, blas=None))

    def make(self, kind: str) -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "Context": lambda: self.context,
            "Surface": lambda: self.context.surface(4, 32, 2),
            "Program": lambda: self.context.compile(MIL),
            "Request": lambda: self.make("Program").request(
                [self.make("Surface")], [self.make("Surface")]
            ),
        }
        return makers[kind]()

    def argument(self, annotation: str) -> Any:
        """Something valid for a parameter with this annotation."""
        if annotation == "Sequence[Surface]":
            return [self.make("Surface")]
        if annotation in CLASSES:
            return self.make(annotation)
        return {"int": 2, "str": MIL, "Array": np.zeros((1, 1), np.float32)}[annotation]

    def arguments(self, method: Any) -> dict[str, Any]:
        """Those without a default."""
        parameters = list(inspect.signature(method).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty]
        return {p.name: self.argument(p.annotation) for p in needed}


def _public(module: Any) -> dict[str, Any]:
    """What a module defines itself under public names."""
    items = vars(module).items()
    return {
        n: v for n, v in items if n[0] != "_" and getattr(v, "__module__", "") == module.__name__
    }


CLASSES = {n: c for n, c in _public(engine).items() if inspect.isclass(c) and hasattr(c, "close")}


def members(kind: str) -> list[str]:
    """Public methods and properties but `close`."""
    found = {n: v for n, v in vars(CLASSES[kind]).items() if n[0] != "_" and n != "close"}
    return [n for n, v in found.items() if callable(v) or isinstance(v, property)]


MEMBERS = [(kind, name) for kind in CLASSES for name in members(kind)]


def use(handle: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Calls a method, reads a property, enters a context manager."""
    value = getattr(handle, name)
    value = value(**arguments) if callable(value) else value
    if not hasattr(value, "__enter__") or isinstance(value, tuple(CLASSES.values())):
        return value
    with value as entered:
        return entered


def arguments_of(handles: Handles, kind: str, name: str) -> dict[str, Any]:
    member = vars(CLASSES[kind])[name]
    return handles.arguments(member) if callable(member) else {}


def _array(name: str) -> Any:
    if name in ("tokens", "targets"):
        return np.zeros(2, np.int32)
    if name == "stored":
        return np.ones((2, 2), np.float16)
    vector = name in ("gamma", "dgamma", "inverse_rms", "losses", "vector", "result")
    return np.ones(2 if vector else (2, 2), np.float32)


def arithmetic_calls() -> Iterator[tuple[str, Call]]:
    """Every public function of `arithmetic` that takes a context, as a function of that alone."""
    functions = {
        name: function
        for name, function in _public(arithmetic).items()
        if inspect.isfunction(function) and "context" in inspect.signature(function).parameters
    }
    for name, function in functions.items():
        arguments: dict[str, Any] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= OPTIONS
            elif parameter.default is parameter.empty:
                is_array = parameter.annotation == "Array"
                arguments[parameter.name] = _array(parameter.name) if is_array else 0.5
        yield name, lambda context, f=function, a=arguments: f(context, **a)
