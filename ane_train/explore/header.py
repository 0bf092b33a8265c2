"""A listing as an Objective-C header: what its encodings say, written as declarations.

Names of arguments are not in a listing, nor which class an object is of where a method takes or
gives it. What cannot be declared stands in a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ane_train.explore.encoding import (
    Block,
    EncodingError,
    Object,
    Type,
    declare,
    read_leading_type,
    read_method,
    read_type,
)
from ane_train.explore.listing import Class, Listing, Method, Property, Protocol, Variable
from ane_train.explore.structures import Structures

_ROOT = "NSObject"
_FOUNDATION = "NS"  # what begins so is declared by Foundation
_MEMORY = {"C": "copy", "&": "strong", "W": "weak"}


def header(listing: Listing) -> str:
    """The whole header."""
    structures = structures_of(listing)
    own = {each.name for each in listing.classes}
    paragraphs = [
        [f"/* {listing.framework} of macOS, {listing.system}, listed by {listing.source}. */"],
        ["#import <Foundation/Foundation.h>"],
        [f"@class {name};" for name in sorted(own | structures.objects)],
        [f"@protocol {name};" for name in sorted(structures.protocols)],
        list(structures.definitions()),
        [f"@protocol {name}\n@end" for name in _strange_protocols(listing)],
        [f"@interface {name} : {_ROOT}\n@end" for name in _strange_parents(listing, own)],
        *(_protocol(each, structures) for each in listing.protocols),
        *(_interface(each, structures) for each in _parents_first(listing.classes)),
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines) + "\n"


def structures_of(listing: Listing) -> Structures:
    """The structs, classes and protocols that the types of a listing name."""
    return Structures(_types(listing))


# --- what is declared ---


@dataclass(frozen=True, slots=True)
class _Attributes:
    """Of a property: its type, the letters that are flags, the names that follow other letters."""

    type: Type
    flags: frozenset[str]
    names: dict[str, str]


def _method_types(method: Method) -> tuple[Type, ...] | None:
    """Of the result and the arguments; None if the encoding does not tell."""
    try:
        return read_method(method.encoding, method.name.count(":"))
    except EncodingError:
        return None


def _variable_type(variable: Variable) -> Type | None:
    try:
        return read_type(variable.encoding)
    except EncodingError:
        return None


def _attributes(each: Property) -> _Attributes | None:
    """Of a text such as "TQ,R,N,V_state"; None if the type is not known."""
    try:
        kind, rest = read_leading_type(each.attributes.removeprefix("T"))
    except EncodingError:
        return None
    words = [word for word in rest.split(",") if word]
    flags = frozenset(word for word in words if len(word) == 1)
    return _Attributes(kind, flags, {word[0]: word[1:] for word in words if len(word) > 1})


def _types(listing: Listing) -> Iterator[Type]:
    declared = [each.methods for each in listing.classes]
    declared += [each.methods for each in listing.protocols]
    for methods in declared:
        for method in methods:
            yield from _method_types(method) or ()
    for each in listing.classes:
        found = [_variable_type(variable) for variable in each.variables]
        told = [_attributes(one) for one in each.properties]
        found += [one.type for one in told if one is not None]
        yield from (kind for kind in found if kind is not None)


def _strange_protocols(listing: Listing) -> list[str]:
    """Those that are adopted and declared neither here nor by Foundation."""
    adopted = {name for each in listing.classes for name in each.protocols}
    adopted -= {each.name for each in listing.protocols}
    return sorted(name for name in adopted if not name.startswith(_FOUNDATION))


def _strange_parents(listing: Listing, own: set[str]) -> list[str]:
    parents = {each.superclass for each in listing.classes} - own - {""}
    return sorted(name for name in parents if not name.startswith(_FOUNDATION))


def _parents_first(classes: Iterable[Class]) -> list[Class]:
    by_name = {each.name: each for each in classes}
    ordered: dict[str, Class] = {}

    def add(each: Class) -> None:
        parent = by_name.get(each.superclass)
        if parent is not None and parent.name not in ordered:
            add(parent)
        ordered[each.name] = each

    for each in by_name.values():
        add(each)
    return list(ordered.values())


# --- how it is declared ---


def _protocol(each: Protocol, structures: Structures) -> list[str]:
    lines = [f"@protocol {each.name}"]
    for word, optional in (("@required", False), ("@optional", True)):
        methods = [method for method in each.methods if method.optional == optional]
        lines += [word] * bool(methods)
        lines += [declare_method(method, structures) for method in methods]
    return [*lines, "@end"]


def _interface(each: Class, structures: Structures) -> list[str]:
    adopted = f" <{', '.join(each.protocols)}>" if each.protocols else ""
    root = [] if each.superclass else ["__attribute__((objc_root_class))"]
    parent = f" : {each.superclass}" if each.superclass else ""
    variables = [_variable(variable, structures) for variable in each.variables]
    braces = [" {", *variables, "}"] if variables else [""]
    implied = {name for one in each.properties for name in accessors(one)}
    methods = [
        declare_method(method, structures)
        for method in each.methods
        if (method.kind, method.name) not in implied and not method.name.startswith(".")
    ]
    properties = [_property(one, structures) for one in each.properties]
    first = f"@interface {each.name}{parent}{adopted}{braces[0]}"
    return [*root, first, *braces[1:], *properties, *methods, "@end"]


def _variable(variable: Variable, structures: Structures) -> str:
    kind = _variable_type(variable)
    if kind is None or not variable.name:
        return f"    /* {variable.name}: {variable.encoding or 'no encoding'} */"
    return f"    {declare(kind, variable.name, structures.anonymous)};"


def accessors(each: Property) -> list[tuple[str, str]]:
    """Kind and name of the methods that a declaration of the property declares as well."""
    found = _attributes(each)
    if found is None:
        return []
    setter = f"set{each.name[:1].upper()}{each.name[1:]}:"
    names = [found.names.get("G", each.name)]
    names += [] if "R" in found.flags else [found.names.get("S", setter)]
    return [(each.kind, name) for name in names]


def _property(each: Property, structures: Structures) -> str:
    found = _attributes(each)
    if found is None:
        return f"/* @property {each.name}: {each.attributes or 'no attributes'} */"
    managed = isinstance(found.type, Object | Block)
    words = ["class"] * (each.kind == "+") + ["nonatomic"] * ("N" in found.flags)
    words += ["readonly"] * ("R" in found.flags)
    memory = [word for letter, word in _MEMORY.items() if letter in found.flags and managed]
    words += memory or ["assign"] * (managed and "R" not in found.flags)
    renamed = {"getter": found.names.get("G"), "setter": found.names.get("S")}
    words += [f"{word}={name}" for word, name in renamed.items() if name]
    listed = f" ({', '.join(words)})" if words else ""
    return f"@property{listed} {declare(found.type, each.name, structures.anonymous)};"


def declare_method(method: Method, structures: Structures) -> str:
    """The line that declares a method; a comment where its encoding does not tell."""
    types = _method_types(method)
    if types is None:
        return f"/* {method.kind} {method.name}: {method.encoding or 'no encoding'} */"
    result, *arguments = (declare(kind, "", structures.anonymous) for kind in types)
    if not arguments:
        return f"{method.kind} ({result}){method.name};"
    words = method.name.split(":")
    numbered = enumerate(zip(words, arguments, strict=False), 1)
    parts = (f"{word}:({kind})argument{number}" for number, (word, kind) in numbered)
    return f"{method.kind} ({result}){' '.join(parts)};"
