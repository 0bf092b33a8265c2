"""A listing turned back into a framework: its header, and methods that do nothing but end."""

from __future__ import annotations

import re
from pathlib import Path

from ane_train.explore.header import accessors, declare_method, header, structures_of
from ane_train.explore.listing import Class, Listing
from ane_train.explore.structures import Structures
from apple.build import Tools, build_image


def hollow_source(listing: Listing) -> str:
    """Objective-C that declares and defines every class of the listing."""
    structures = structures_of(listing)
    declared = _owned(header(listing), listing)
    return "\n".join([declared, *(_implementation(each, structures) for each in listing.classes)])


def _owned(text: str, listing: Listing) -> str:
    """With the ownership of variables, which is in no encoding and which properties have to fit."""
    for one in (each for owner in listing.classes for each in owner.properties):
        found = re.fullmatch(r"T@[^,]*,(?!.*[CR&],)(.*,)?V(\w+)", one.attributes)
        if found is not None:
            weak = "W" in one.attributes.split(",")
            word = "__weak" if weak else "__unsafe_unretained"
            text = re.sub(rf"^    (.*\W{found[2]};)$", rf"    {word} \1", text, flags=re.MULTILINE)
    return text


def _implementation(each: Class, structures: Structures) -> str:
    """Accessors of a property with a variable are the compiler's."""
    made = {name for one in each.properties if ",V" in one.attributes for name in accessors(one)}
    methods = [
        declare_method(method, structures).replace(";", " { __builtin_trap(); }")
        for method in each.methods
        if (method.kind, method.name) not in made and not method.name.startswith(".")
    ]
    return "\n".join([f"@implementation {each.name}", *methods, "@end", ""])


def build_hollow(tools: Tools, source: str, folder: Path) -> Path:
    """The framework, for ANE_STANDIN_FRAMEWORK."""
    path = folder / "hollow.m"
    path.write_text(source)
    return build_image(tools, path)
