"""Calls every function of ane.h with NULLs, in a process of its own since it may crash.

Prints one line per call before it is made ("name what"), and its result behind a tab after it:
"ok" or another status, "0", "NULL", "void", or "value" for anything else. Arguments follow from
the types that cffi knows, so a new function needs no word here unless a 1 makes no sense to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ane_train.native.library import ffi, lib, status_name

MIL = (
    b"program(1.3)\n[buildInfo = dict<string, string>({})]\n{\n"
    b"    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {\n"
    b"        tensor<fp16, [1, 4, 1, 32]> y = add(x = x, y = x);\n    } -> (y);\n}\n"
)
# What numbers are, where 1 would be refused.
NUMBERS = {("ane_surface_create", 3): 2, ("ane_program_input", 1): 0, ("ane_program_output", 1): 0}


@dataclass(frozen=True, slots=True)
class Function:
    name: str

    @property
    def type(self) -> Any:
        return ffi.typeof(getattr(lib, self.name))

    @property
    def pointers(self) -> list[int]:
        return [i for i, argument in enumerate(self.type.args) if argument.kind == "pointer"]


class Values:
    """Makes valid arguments, all in one context; keeps what it made."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.context = self.handle("ane_context")

    def keep(self, value: Any) -> Any:
        self.kept.append(value)
        return value

    def handle(self, kind: str) -> Any:
        """A new object of an opaque type; the context is always the same."""
        if kind == "ane_context" and self.kept:
            return self.context
        made = self.keep(ffi.new(f"{kind} **"))
        makers = {
            "ane_context": lambda: lib.ane_context_open(
                self.keep(ffi.new("ane_options *", {"threads": 1})), made, ffi.NULL
            ),
            "ane_surface": lambda: lib.ane_surface_create(self.context, 4, 32, 2, made),
            "ane_program": lambda: lib.ane_program_compile(
                self.context, MIL, len(MIL), ffi.NULL, 0, ffi.NULL, made
            ),
            "ane_request": lambda: lib.ane_request_create(
                self.handle("ane_program"),
                [self.handle("ane_surface")], 1, [self.handle("ane_surface")], 1, made,
            ),
            "ane_weight_builder": lambda: lib.ane_weight_builder_create(self.context, made),
        }  # fmt: skip
        assert makers[kind]() == lib.ANE_OK, kind
        return made[0]

    def pointer(self, target: Any) -> Any:
        """What a pointer argument to this type may be."""
        if target.cname == "char":
            return self.keep(ffi.new("char[]", MIL))
        if target.kind == "pointer" and _is_opaque(target.item):
            kind = _name(target.item)
            return self.keep(ffi.new(f"{kind} *[1]", [self.handle(kind)]))
        if _is_opaque(target):
            return self.handle(_name(target))
        if target.kind == "struct":
            return self.struct(target)
        return self.keep(ffi.new(f"{target.cname}[64]" if target.kind != "void" else "char[64]"))

    def struct(self, target: Any) -> Any:
        """One with memory behind its pointers; options have every field 0 where it is one."""
        made = self.keep(ffi.new(f"{_name(target)} *"))
        for name, field in target.fields if _name(target) != "ane_options" else ():
            if field.type.kind == "pointer":
                setattr(made, name, self.pointer(field.type.item))
            elif field.type.kind == "primitive":
                setattr(made, name, 0.5 if field.type.cname in ("float", "double") else 1)
        return made

    def arguments(self, function: Function) -> list[Any]:
        values: list[Any] = []
        for index, argument in enumerate(function.type.args):
            after_text = index and function.type.args[index - 1].cname == "char *"
            if argument.kind == "pointer":
                values.append(self.pointer(argument.item))
            elif after_text and argument.cname == "size_t":
                values.append(len(MIL))
            else:
                values.append(NUMBERS.get((function.name, index), 1))
        return values


def _name(target: Any) -> str:
    return str(target.cname).removeprefix("struct ")


def _is_opaque(target: Any) -> bool:
    try:
        return target.kind == "struct" and not ffi.sizeof(target)
    except ffi.error:
        return True


def call(function: Function, what: str, arguments: list[Any]) -> None:
    print(f"{function.name} {what}", end="", flush=True)
    result = getattr(lib, function.name)(*arguments)
    print(f"\t{_described(function, result)}", flush=True)


def _described(function: Function, result: Any) -> str:
    if function.type.result.cname == "enum ane_status":
        return status_name(result)
    if function.type.result.kind == "void":
        return "void"
    if function.type.result.kind == "pointer":
        return "NULL" if result == ffi.NULL else "value"
    return "0" if result == 0 else "value"


def replaced(arguments: list[Any], indices: list[int], value: Any) -> list[Any]:
    return [value if i in indices else argument for i, argument in enumerate(arguments)]


def variants(function: Function) -> Iterator[tuple[str, list[Any]]]:
    """All pointers NULL; where there are several, none, each, and what they point to zeroed."""
    values = Values()
    pointers = function.pointers
    yield "all", replaced(values.arguments(function), pointers, ffi.NULL)
    if len(pointers) < 2:
        return
    yield "none", values.arguments(function)
    for index in pointers:
        arguments = values.arguments(function)
        yield f"{index}", replaced(arguments, [index], ffi.NULL)
        target = function.type.args[index].item
        if not _is_opaque(target) and target.kind in ("struct", "pointer"):
            zeros = ffi.new(f"{_name(target)}[1]")
            yield f"zero-{index}", replaced(arguments, [index], zeros)


if __name__ == "__main__":
    for name in dir(lib):
        if name.startswith("ane_"):
            for what, arguments in variants(Function(name)):
                call(Function(name), what, arguments)
