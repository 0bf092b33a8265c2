"""Pointers stay in `native`.

Nothing else imports cffi, nothing hands a pointer out, and a closed object is an error everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled import ROOT
from native_calls import CLASSES, MEMBERS, Call, Handles, arguments_of, arithmetic_calls, use

from ane_train.errors import EngineError
from ane_train.native.library import ffi

PACKAGE = ROOT / "ane_train"
MODULES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = [path for path in MODULES if PACKAGE / "native" not in path.parents]
ARITHMETIC = dict(arithmetic_calls())
MAY_BE_IMPORTED = {"NativeError", "compiler", "find_blas", "find_driver", "reads_halves"}
ORDERS = {"itself": (False, True), "its context first": (True, True)}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, relative ones resolved; the name is "" for a whole module."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_outside_native_knows_cffi_or_a_pointer(path: Path) -> None:
    foreign = {"ctypes", "_cffi_backend"} | ({"cffi"} if path.name != "_build.py" else set())
    for module, name in imports(path):
        whole = f"{module}.{name}".strip(".")
        assert whole.split(".")[0] not in foreign
        assert not whole.startswith("ane_train._native")
        if whole.startswith("ane_train.native.library"):
            assert name in MAY_BE_IMPORTED
    nodes = ast.walk(ast.parse(path.read_text()))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not names & {"_pointer", "ffi"}


def test_native_itself_is_seen_to_import_the_core() -> None:
    assert ("ane_train._native", "ffi") in set(imports(PACKAGE / "native" / "library.py"))


def pointers_in(value: Any) -> bool:
    if isinstance(value, ffi.CData):
        return True
    if dataclasses.is_dataclass(value):
        return any(pointers_in(getattr(value, each.name)) for each in dataclasses.fields(value))
    if isinstance(value, dict):
        return any(map(pointers_in, [*value, *value.values()]))
    return isinstance(value, list | tuple | set) and any(map(pointers_in, value))


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_an_open_object_answers_and_hands_out_no_pointer(kind: str, name: str) -> None:
    handles = Handles()
    handle = handles.make(kind)
    assert not pointers_in(use(handle, name, arguments_of(handles, kind, name)))


@pytest.mark.parametrize("kind", CLASSES)
def test_no_public_attribute_is_a_pointer(kind: str) -> None:
    handle = Handles().make(kind)
    public = [name for name in dir(handle) if not name.startswith("_")]
    assert not [name for name in public if pointers_in(getattr(handle, name))]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_a_closed_object_is_an_error_in_every_method(kind: str, name: str, order: str) -> None:
    handles = Handles()
    handle = handles.make(kind)
    arguments = arguments_of(handles, kind, name)
    context_closed, closed = ORDERS[order]
    if context_closed:
        handles.context.close()
    if closed:
        handle.close()
    with pytest.raises(EngineError, match="is closed"):
        use(handle, name, arguments)
    handle.close()


def closed_arguments(arguments: dict[str, Any]) -> list[str]:
    """Closes the objects among the arguments; their names."""
    named = [(name, each) for name, value in arguments.items()
             for each in (value if isinstance(value, list) else [value])]  # fmt: skip
    found = [(name, each) for name, each in named if isinstance(each, tuple(CLASSES.values()))]
    for _, each in found:
        each.close()
    return [name for name, _ in found]


def takes_objects(kind: str, name: str) -> bool:
    return bool(closed_arguments(arguments_of(Handles(), kind, name)))


@pytest.mark.parametrize(("kind", "name"), [each for each in MEMBERS if takes_objects(*each)])
def test_a_closed_object_is_an_error_as_an_argument(kind: str, name: str) -> None:
    handles = Handles()
    handle = handles.make(kind)
    arguments = arguments_of(handles, kind, name)
    assert closed_arguments(arguments)
    with pytest.raises(EngineError, match="is closed"):
        use(handle, name, arguments)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind != "Context"])
def test_what_a_context_made_outlives_it(kind: str) -> None:
    handles = Handles()
    handle = handles.make(kind)
    needed = {name: arguments_of(handles, k, name) for k, name in MEMBERS if k == kind}
    handles.context.close()
    for name, arguments in needed.items():
        use(handle, name, arguments)


@pytest.mark.parametrize("call", ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_arithmetic_on_a_closed_context_is_an_error(call: Call) -> None:
    context = Handles().context
    call(context)
    context.close()
    with pytest.raises(EngineError, match="this engine is closed"):
        call(context)
