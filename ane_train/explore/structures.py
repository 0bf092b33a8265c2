"""The structs and unions of many encodings as C definitions, each once and before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ane_train.explore.encoding import (
    Array,
    Object,
    Pointer,
    Qualified,
    Record,
    Type,
    declare,
    record_name,
)

NO_NAME = "?"


class Structures:
    """What a set of types needs to be defined.

    Of records that have one name the one that tells most counts: names of fields are in the
    encodings of variables only, and behind two pointers there are no fields at all.
    """

    def __init__(self, types: Iterable[Type]) -> None:
        self.objects: set[str] = set()
        self.protocols: set[str] = set()
        self.anonymous: dict[Record, str] = {}
        self._numbers: dict[Type, int] = {}
        self._best: dict[tuple[str, str], Record] = {}
        self._whole: set[tuple[str, str]] = set()  # of which more than a pointer is needed
        for each in types:
            self._add(each, whole=True)

    def _add(self, found: Type, whole: bool) -> None:
        match found:
            case Pointer(target):
                self._add(target, whole=False)
            case Array(_, target) | Qualified(_, target):
                self._add(target, whole)
            case Object(name, protocols):
                self.objects |= {name} - {""}
                self.protocols |= set(protocols)
            case Record():
                self._add_record(found, whole)

    def _add_record(self, record: Record, whole: bool) -> None:
        for _, kind in record.fields or ():
            self._add(kind, whole=True)
        if record.name == NO_NAME:
            self._add_anonymous(record)
            return
        key = record.kind, record.name
        if whole:
            self._whole.add(key)
        known = self._best.get(key)
        if known is None or _told(record) > _told(known):
            self._best[key] = record

    def _add_anonymous(self, record: Record) -> None:
        """Under the number of those that are equal except for names of fields."""
        bare = _without_labels(record)
        number = self._numbers.setdefault(bare, len(self._numbers) + 1)
        self.anonymous[record] = f"anonymous_{number}"

    def definitions(self) -> Iterator[str]:
        """C text: first all names, then the definitions of what has fields."""
        for record in sorted(self._best.values(), key=lambda each: (each.kind, each.name)):
            yield f"{record_name(record, {})};"
        done: set[str] = set()
        for record in (*self._best.values(), *sorted(self.anonymous, key=_told, reverse=True)):
            yield from self._defined(record, done)

    def _defined(self, record: Record, done: set[str]) -> Iterator[str]:
        if record.name != NO_NAME:
            record = self._best[record.kind, record.name]
        name = record_name(record, self.anonymous)
        if name in done:
            return
        done.add(name)
        for _, kind in record.fields or ():
            for inner in _held(kind):
                yield from self._defined(inner, done)
        if record.name == NO_NAME:
            yield f"typedef {record.kind} {{\n{self._fields(record)}}} {name};"
        elif record.fields or (record.kind, record.name) in self._whole:
            yield f"{name} {{\n{self._fields(record)}}};"

    def _fields(self, record: Record) -> str:
        lines = [
            f"    {declare(kind, label or f'field{index}', self.anonymous)};\n"
            for index, (label, kind) in enumerate(record.fields or ())
        ]
        return "".join(lines)


def _told(record: Record) -> tuple[int, int]:
    fields = record.fields or ()
    return len(fields), sum(bool(label) for label, _ in fields)


def _without_labels(kind: Type) -> Type:
    match kind:
        case Record(fields=fields) if fields is not None:
            bare = tuple(("", _without_labels(inner)) for _, inner in fields)
            return replace(kind, fields=bare)
        case Pointer(target) | Qualified(_, target):
            return replace(kind, target=_without_labels(target))
        case Array(_, element):
            return replace(kind, element=_without_labels(element))
    return kind


def _held(kind: Type) -> Iterator[Record]:
    """The record that a value of the type contains, or points to if that has no name."""
    match kind:
        case Record():
            yield kind
        case Array(_, target) | Qualified(_, target):
            yield from _held(target)
        case Pointer(target):
            yield from (each for each in _held(target) if each.name == NO_NAME)
