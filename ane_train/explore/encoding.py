"""Objective-C type encodings: read into types, and the types written as C declarations.

The grammar is that of clang (ASTContext::getObjCEncodingForType) and of the runtime's manual, with
the names of classes and fields that instance variables and extended encodings have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCALARS = {
    "c": "char", "i": "int", "s": "short", "l": "int", "q": "long",
    "C": "unsigned char", "I": "unsigned int", "S": "unsigned short", "L": "unsigned int",
    "Q": "unsigned long", "f": "float", "d": "double", "D": "long double", "B": "BOOL",
    "v": "void", "#": "Class", ":": "SEL", "t": "__int128", "T": "unsigned __int128",
}  # fmt: skip
_QUALIFIERS = {
    "r": "const", "n": "in", "N": "inout", "o": "out", "O": "bycopy", "R": "byref", "V": "oneway",
    "A": "_Atomic", "j": "_Complex",
}  # fmt: skip
_RECORDS = {"{": ("struct", "}"), "(": ("union", ")")}
_OBJECT = re.compile(r"([\w.$]*)((?:<[\w.$]+>)*)")


class EncodingError(ValueError):
    """Text that is no type encoding."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type of one word; "?" is a function or something that has no encoding."""

    code: str


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a class, "" for any, with protocols."""

    class_name: str = ""
    protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A block; what it takes and gives is not kept."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The address of another type."""

    target: Type


@dataclass(frozen=True, slots=True)
class Array:
    """So many elements of a type in a row."""

    count: int
    element: Type


@dataclass(frozen=True, slots=True)
class Bits:
    """A field of so many bits."""

    width: int


@dataclass(frozen=True, slots=True)
class Qualified:
    """A type with a word of C or Objective-C before it."""

    word: str
    target: Type


@dataclass(frozen=True, slots=True)
class Record:
    """kind: "struct" or "union"; name "?" for none; fields None: not told."""

    kind: str
    name: str
    fields: tuple[tuple[str, Type], ...] | None


Type = Scalar | Object | Block | Pointer | Array | Bits | Qualified | Record


def read_type(encoding: str) -> Type:
    """The one type of an encoding. EncodingError."""
    (found,) = _expect(read_types(encoding), 1, encoding)
    return found


def read_leading_type(text: str) -> tuple[Type, str]:
    """The type that a text begins with, and the rest. EncodingError."""
    reader = _Reader(text)
    return reader.type(named=False), reader.left


def read_method(encoding: str, arguments: int) -> tuple[Type, ...]:
    """The result and the arguments of a method, without self and _cmd. EncodingError."""
    result, _self, _selector, *others = _expect(read_types(encoding), arguments + 3, encoding)
    return (result, *others)


def _expect(types: tuple[Type, ...], count: int, encoding: str) -> tuple[Type, ...]:
    if len(types) != count:
        raise EncodingError(f"{encoding!r} holds {len(types)} types, not {count}")
    return types


def read_types(encoding: str) -> tuple[Type, ...]:
    """The types of an encoding without offsets, one behind the other. EncodingError."""
    reader = _Reader(encoding)
    types = []
    while reader.left:
        types.append(reader.type(named=False))
    return tuple(types)


class _Reader:
    """Reads from the beginning of a text on."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    @property
    def left(self) -> str:
        return self._text[self._at :]

    def _take(self, pattern: str) -> str:
        match = re.compile(pattern).match(self._text, self._at)
        if match is None:
            raise EncodingError(f"{self._text!r} is no type encoding at {self.left[:20]!r}")
        self._at = match.end()
        return match[0]

    def type(self, named: bool) -> Type:
        """The next type; `named`: it is in a record whose fields have names."""
        code = self._take("(?s).")
        if code in _QUALIFIERS:
            return Qualified(_QUALIFIERS[code], self.type(named))
        if code in _RECORDS:
            return self._record(*_RECORDS[code])
        if code == "^":
            return Pointer(self.type(named))
        if code == "*":
            return Pointer(Scalar("c"))
        if code == "[":
            count = int(self._take(r"\d+"))
            element = self.type(named)
            self._take(r"\]")
            return Array(count, element)
        if code == "b":
            return Bits(int(self._take(r"\d+")))
        if code == "@":
            return self._object(named)
        if code in SCALARS or code == "?":
            return Scalar(code)
        raise EncodingError(f"{self._text!r} has a type {code!r} that is not known")

    def _object(self, named: bool) -> Type:
        if self.left.startswith("?"):
            self._take(r"\?")
            if self.left.startswith("<"):
                self._skip_signature()
            return Block()
        # Before another type the quoted word is the name of the next field.
        if not self.left.startswith('"') or (named and not re.match(r'"[^"]*"["})]', self.left)):
            return Object()
        match = _OBJECT.fullmatch(self._take(r'"[^"]*"')[1:-1])
        if match is None:
            raise EncodingError(f"{self._text!r} names no class")
        return Object(match[1], tuple(re.findall(r"[\w.$]+", match[2])))

    def _skip_signature(self) -> None:
        """Of an extended block, which may take other blocks."""
        self._take("<")
        while not self.left.startswith(">"):
            self.type(named=False)
        self._take(">")

    def _record(self, kind: str, end: str) -> Record:
        name = self._take(rf"[^={re.escape(end)}]*")
        if self._take(rf"[={re.escape(end)}]") == end:
            return Record(kind, name, None)
        fields = []
        while not self.left.startswith(end):
            named = self.left.startswith('"')
            label = self._take(r'"[^"]*"')[1:-1] if named else ""
            fields.append((label, self.type(named)))
        self._take(re.escape(end))
        return Record(kind, name, tuple(fields))


def declare(found: Type, name: str = "", anonymous: dict[Record, str] | None = None) -> str:
    """The declaration of `name` in C, or the type alone for "".

    anonymous: what records without a name are called.
    """
    match found:
        case Pointer(Array() | Qualified("const", Array()) as array):
            return declare(array, f"(*{name})", anonymous)
        case Pointer(target):
            return declare(target, f"*{name}", anonymous)
        case Qualified("const", Pointer(target)):
            return declare(Pointer(Qualified("const", target)), name, anonymous)
        case Qualified("_Atomic", target):
            return _spaced(f"_Atomic({declare(target, '', anonymous)})", name)
        case Qualified(word, target):
            return f"{word} {declare(target, name, anonymous)}"
        case Array(count, element):
            return declare(element, f"{name}[{count}]", anonymous)
        case Bits(width):
            return f"unsigned int {name} : {width}"
        case Block():
            return f"void (^{name})(void)"
        case Scalar("?"):
            return f"void ({name})(void)" if name else "void"
        case Scalar(code):
            return _spaced(SCALARS[code], name)
        case Object(class_name, protocols):
            listed = f"<{', '.join(protocols)}>" if protocols else ""
            return _spaced(f"{class_name or 'id'}{listed}", f"*{name}" if class_name else name)
        case Record():
            return _spaced(record_name(found, anonymous or {}), name)
    raise AssertionError(found)


def _spaced(word: str, name: str) -> str:
    return f"{word} {name}" if name else word


def record_name(record: Record, anonymous: dict[Record, str]) -> str:
    """As a type is named in C; templates of C++ become one word."""
    if record in anonymous:
        return anonymous[record]
    return f"{record.kind} {re.sub(r'[^A-Za-z0-9_]', '_', record.name)}"
