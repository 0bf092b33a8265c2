"""The private methods that the driver may send, as published: one table for every check.

Selectors: tmc/apple, machine-extracted; the four core classes agree with maderix/ANE, Orion and
libane, the client's paths with a fork of maderix/ANE by dev-erik and with libane.
"""

from __future__ import annotations

from dataclasses import dataclass

CORE = "maderix/ANE, Orion, libane, tmc/apple"
CLIENT = "dev-erik, libane, tmc/apple"
TMC = "tmc/apple"

ERROR = "NSError **"
QOS = "unsigned int"


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its types after self and _cmd."""

    class_name: str
    kind: str
    selector: str
    result: str
    arguments: tuple[str, ...]
    source: str


def _objects(count: int) -> tuple[str, ...]:
    return ("id",) * count


_DESCRIPTOR, _MODEL = "_ANEInMemoryModelDescriptor", "_ANEInMemoryModel"
_REQUEST, _SURFACE = "_ANERequest", "_ANEIOSurfaceObject"
_BIND = "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:"
_BIND += "procedureIndex:"
_DIRECT = "doEvaluateDirectWithModel:options:request:qos:error:"
_REALTIME = "evaluateRealTimeWithModel:options:request:error:"

METHODS = (
    Method(_DESCRIPTOR, "+", "modelWithMILText:weights:optionsPlist:", "id", _objects(3), CORE),
    Method(_MODEL, "+", "inMemoryModelWithDescriptor:", "id", _objects(1), CORE),
    Method(_MODEL, "-", "hexStringIdentifier", "id", (), CORE),
    Method(_MODEL, "-", "compileWithQoS:options:error:", "BOOL", (QOS, "id", ERROR), CORE),
    Method(_MODEL, "-", "loadWithQoS:options:error:", "BOOL", (QOS, "id", ERROR), CORE),
    Method(
        _MODEL,
        "-",
        "evaluateWithQoS:options:request:error:",
        "BOOL",
        (QOS, "id", "id", ERROR),
        CORE,
    ),
    Method(_MODEL, "-", "unloadWithQoS:error:", "BOOL", (QOS, ERROR), CORE),
    Method(_MODEL, "-", "model", "id", (), TMC),
    Method("_ANEModel", "-", "modelAttributes", "id", (), TMC),
    Method(_REQUEST, "+", _BIND, "id", _objects(7), CORE),
    Method(_SURFACE, "+", "objectWithIOSurface:", "id", ("IOSurfaceRef",), CORE),
    Method("_ANEClient", "+", "sharedConnection", "id", (), CLIENT),
    Method("_ANEClient", "-", _DIRECT, "BOOL", (*_objects(3), QOS, ERROR), CLIENT),
    Method(
        "_ANEClient",
        "-",
        "loadRealTimeModel:options:qos:error:",
        "BOOL",
        (*_objects(2), QOS, ERROR),
        CLIENT,
    ),
    Method(
        "_ANEClient",
        "-",
        "unloadRealTimeModel:options:qos:error:",
        "BOOL",
        (*_objects(2), QOS, ERROR),
        CLIENT,
    ),
    Method("_ANEClient", "-", _REALTIME, "BOOL", (*_objects(3), ERROR), CLIENT),
    Method("_ANEDeviceInfo", "+", "hasANE", "BOOL", (), TMC),
    Method("_ANEDeviceInfo", "+", "isVirtualMachine", "BOOL", (), TMC),
    Method("_ANEDeviceInfo", "+", "numANEs", "unsigned int", (), TMC),
    Method("_ANEDeviceInfo", "+", "numANECores", "unsigned int", (), TMC),
    Method("_ANEDeviceInfo", "+", "aneArchitectureType", "id", (), TMC),
    Method("_ANEDeviceInfo", "+", "aneSubType", "id", (), TMC),
    Method("_ANEDeviceInfo", "+", "productName", "id", (), TMC),
    Method("_ANEDeviceInfo", "+", "buildVersion", "id", (), TMC),
)

BY_SELECTOR = {method.selector: method for method in METHODS}
CLASSES = {method.class_name for method in METHODS}
