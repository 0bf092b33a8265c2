"""What the driver says of the Neural Engine before anything is opened, as records.

Owns the names in the driver's description (`ane_engine_describe`); nothing else reads that.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ane_train.native.engine import ContextOptions, describe_engine
from ane_train.native.library import NativeError, find_driver

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
    known to be in the way.
    """

    present: bool
    problem: str
    framework: str = ""
    system: str = ""
    classes: Mapping[str, bool] = field(default_factory=dict)
    methods: tuple[Method, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def look(driver: str | None) -> Device:
    """Asks the driver library at `driver`, or the usual one. Never raises an EngineError."""
    path = driver or find_driver()
    if path is None and sys.platform != "darwin":
        return Device(False, f"{platform.system()} has no Apple Neural Engine")
    if path is None:
        return Device(False, "the library that drives the ANE is not in this installation")
    try:
        found = describe_engine(ContextOptions(engine=HARDWARE, driver=path))
    except NativeError as error:
        return Device(False, str(error))
    return parse(found)


def parse(found: Mapping[str, Any]) -> Device:
    """The record of a driver's description."""
    framework = found.get("framework") or {}
    classes = {str(name): bool(there) for name, there in (found.get("classes") or {}).items()}
    methods = tuple(_method(row) for row in found.get("methods") or ())
    facts = {str(key): str(value) for key, value in (found.get("device") or {}).items()}
    system = str(found.get("system") or "")
    problem = _problem(bool(framework.get("loaded", True)), facts)
    return Device(True, problem, str(framework.get("path") or ""), system, classes, methods, facts)


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
