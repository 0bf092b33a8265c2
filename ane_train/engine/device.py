"""What the driver says of the Neural Engine before anything is opened, as records.

Owns the names in the driver's description (`ane_engine_describe`); nothing else reads those.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ane_train.errors import EngineError
from ane_train.native.engine import ContextOptions, describe_engine
from ane_train.native.library import find_driver

HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Method:
    """A private method with the type encoding that is expected and the one that is there."""

    owner: str
    name: str
    expected: str
    found: str
    matches: bool


@dataclass(frozen=True, slots=True)
class Device:
    """The Neural Engine as far as it can be told without opening it.

    present: whether there is a driver at all; problem: why it cannot be used, "" if nothing is
    known to be in the way; usable: whether all methods of a part of the driver are as known, of
    which training needs "core".
    """

    present: bool
    problem: str
    framework: str = ""
    system: str = ""
    classes: Mapping[str, bool] = field(default_factory=dict)
    methods: tuple[Method, ...] = ()
    usable: Mapping[str, bool] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def look(driver: str | None) -> Device:
    """Asks the driver library at `driver`, or the usual one. Never raises an EngineError."""
    try:
        return parse(describe_engine(driver_options(driver)))
    except EngineError as error:
        return Device(False, str(error))


def driver_options(driver: str | None) -> ContextOptions:
    """The hardware through the driver library at `driver`, or the usual one.

    EngineError where there is none.
    """
    path = driver or find_driver()
    if path is None and sys.platform != "darwin":
        raise EngineError(f"{platform.system()} has no Apple Neural Engine")
    if path is None:
        raise EngineError("the library that drives the ANE is not in this installation")
    return ContextOptions(engine=HARDWARE, driver=path)


def parse(found: Mapping[str, Any]) -> Device:
    """The record of a driver's description, or of its exploration, which has no facts."""
    framework = found.get("framework") or {}
    classes = {str(name): bool(there) for name, there in (found.get("classes") or {}).items()}
    methods = tuple(_method(row) for row in found.get("methods") or ())
    usable = {str(part): bool(whole) for part, whole in (found.get("usable") or {}).items()}
    facts = {str(key): str(value) for key, value in (found.get("device") or {}).items()}
    system = str(found.get("system") or "")
    problem = _problem(bool(framework.get("loaded", True)), facts)
    path = str(framework.get("path") or "")
    return Device(True, problem, path, system, classes, methods, usable, facts)


def _method(row: Mapping[str, Any]) -> Method:
    return Method(
        owner=str(row.get("class", "")),
        name=f"{row.get('kind', '')}{row.get('selector', '')}",
        expected=str(row.get("expected", "")),
        found=str(row.get("found") or ""),
        matches=row.get("verdict") == "same",
    )


def _problem(loaded: bool, facts: Mapping[str, str]) -> str:
    """What rules the hardware out; whether a method that differs is needed, opening it says."""
    if not loaded:
        return "the framework AppleNeuralEngine does not load"
    if _is(facts, "isVirtualMachine", True):
        return "this is a virtual machine, which has no Neural Engine"
    if _is(facts, "hasANE", False):
        return "this machine has no Neural Engine"
    return ""


def _is(facts: Mapping[str, str], name: str, wanted: bool) -> bool:
    answer = facts.get(name, "").lower()
    return answer in (("true", "1", "yes") if wanted else ("false", "0", "no"))
