"""The classes and protocols of a system as records, of which the JSON file consists.

They are sorted, and hold no addresses and not a word of whose system it is. Types are Objective-C
type encodings without offsets; what is not known of a thing is "".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ane_train import __version__
from ane_train.engine.device import Device, driver_options, parse
from ane_train.errors import DataError
from ane_train.native.engine import explore_engine
from ane_train.records import RecordError, from_json, to_json

SCHEMA = 1
KNOWN = Path(__file__).with_name("known.json")


@dataclass(frozen=True, slots=True)
class Method:
    """kind: "+" of the class, "-" of its objects; optional: in a protocol."""

    kind: str
    name: str
    encoding: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Property:
    """attributes: as the runtime tells them, such as "TQ,R,N,V_state"."""

    kind: str
    name: str
    attributes: str


@dataclass(frozen=True, slots=True)
class Variable:
    """An instance variable, in the order of memory."""

    name: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Class:
    """image: the file that it comes from, without its folder."""

    name: str
    image: str = ""
    superclass: str = ""
    protocols: tuple[str, ...] = ()
    methods: tuple[Method, ...] = ()
    properties: tuple[Property, ...] = ()
    variables: tuple[Variable, ...] = ()


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a class that adopts it must have, or may have."""

    name: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """source: who looked: this program, or those who published it.

    partial: what a class has none of was not looked for; else there is none.
    """

    schema: int
    source: str
    system: str
    framework: str
    partial: bool
    classes: tuple[Class, ...]
    protocols: tuple[Protocol, ...]

    def to_text(self) -> str:
        """The listing as JSON."""
        return json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Explored:
    """What is there, and beside it what the driver makes of it (`device.methods`, `usable`)."""

    listing: Listing
    device: Device


def explore(driver: str | None = None) -> Explored:
    """Looks at this system through the driver at `driver`, or the usual one.

    EngineError, in one line, where there is no driver or no framework.
    """
    found = explore_engine(driver_options(driver))
    device = parse(found)
    listing = Listing(
        schema=SCHEMA,
        source=f"ane-train {__version__}",
        system=device.system,
        framework=PurePosixPath(device.framework).name,
        partial=False,
        classes=_sorted(_class(row) for row in found["explored"]),
        protocols=_sorted(_protocol(row) for row in found["protocols"]),
    )
    return Explored(listing, device)


Named = TypeVar("Named", Class, Protocol)


def _sorted(items: Iterable[Named]) -> tuple[Named, ...]:
    return tuple(sorted(items, key=lambda item: item.name))


def _class(row: Mapping[str, Any]) -> Class:
    properties = {
        (each["kind"], each["name"]): Property(each["kind"], each["name"], each["attributes"] or "")
        for each in row["properties"]
    }
    variables = (Variable(each["name"] or "", each["encoding"] or "") for each in row["variables"])
    return Class(
        name=row["name"],
        image=row["image"],
        superclass=row["superclass"] or "",
        protocols=tuple(sorted(row["protocols"])),
        methods=_methods(row["methods"]),
        properties=tuple(properties[key] for key in sorted(properties)),
        variables=tuple(variables),
    )


def _protocol(row: Mapping[str, Any]) -> Protocol:
    return Protocol(row["name"], _methods(row["methods"]))


def _methods(rows: Iterable[Mapping[str, Any]]) -> tuple[Method, ...]:
    """Of methods of one name, as a category may add, the first is the one that is called."""
    methods: dict[tuple[str, str], Method] = {}
    for row in rows:
        kind, name = row["kind"], row["name"]
        optional = not row.get("required", True)
        methods.setdefault((kind, name), Method(kind, name, row["encoding"] or "", optional))
    return tuple(methods[key] for key in sorted(methods))


def read_listing(path: Path) -> Listing:
    """The listing that was written to a file. DataError where it is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise RecordError(f"not a listing of schema {SCHEMA}")
        return from_json(Listing, data)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise DataError(f"{path} is not what `ane-train explore --json` writes") from None
    except ValueError as error:
        raise DataError(f"{path} is not what `ane-train explore --json` writes: {error}") from None


def known_listing(device: Device) -> Listing:
    """What others have published of the framework, with the encodings that the driver relies on."""
    data = json.loads(KNOWN.read_text("utf-8"))
    encodings = {(each.owner, each.name): each.expected for each in device.methods}

    def methods(owner: str, names: Iterable[str]) -> tuple[Method, ...]:
        found = ((name, encodings.get((owner, name), "")) for name in names)
        return tuple(Method(name[0], name[1:], encoding) for name, encoding in found)

    return Listing(
        schema=SCHEMA,
        source=data["source"],
        system=data["system"],
        framework=data["framework"],
        partial=True,
        classes=_sorted(Class(k, methods=methods(k, v)) for k, v in data["classes"].items()),
        protocols=_sorted(Protocol(k, methods(k, v)) for k, v in data["protocols"].items()),
    )
