"""Frozen dataclasses to JSON and back; what does not fit the classes is refused by its place.

Fields are numbers, text, flags, other records, tuples of one kind, mappings from text, or None
where the type says so.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


class RecordError(ValueError):
    """JSON that is not what the record's class describes."""


def to_json(value: Any) -> Any:
    """The record as dicts, lists, numbers and text; numbers that are not finite become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(kind: type[Record], data: Any) -> Record:
    """The record of class `kind` that `data` describes; RecordError names the first wrong place."""
    return typing.cast(Record, _decoded(kind, data, kind.__name__))


def _decoded(kind: Any, data: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _record(kind, data, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if data is None else _decoded(inner[0], data, place)
    if origin is tuple:
        items = _expect(list, data, place)
        numbered = enumerate(items)
        return tuple(_decoded(arguments[0], item, f"{place}[{i}]") for i, item in numbered)
    if origin is not None and issubclass(origin, Mapping):
        items = _expect(dict, data, place)
        return {key: _decoded(arguments[1], item, f"{place}.{key}") for key, item in items.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _expect(kind, data, place)


def _record(kind: Any, data: Any, place: str) -> Any:
    items = _expect(dict, data, place)
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if items.keys() != names:
        odd = sorted(items.keys() ^ names)[0]
        raise RecordError(f"{place}.{odd} is {'unknown' if odd in items else 'missing'}")
    values = {name: _decoded(hints[name], items[name], f"{place}.{name}") for name in names}
    return kind(**values)


def _expect(kind: type, data: Any, place: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise RecordError(f"{place} is {type(data).__name__}, not {kind.__name__}")
    return data
