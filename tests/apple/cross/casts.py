"""Reads every cast of objc_msgSend from clang's syntax tree and compares it with the table."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apple.build import ARC_FLAGS, HERE, zig
from apple.private_api import BY_SELECTOR

Node = dict[str, Any]


def syntax_tree(source: Path) -> Node:
    """Clang's tree of one file, read with the C and Objective-C headers of macOS."""
    headers = Path(zig()[0]).parent / "lib"
    folders = [headers / "include", headers / "libc" / "include" / "any-macos-any"]
    includes = [f"-I{HERE / 'include'}", "-nostdinc"]
    includes += [word for folder in folders for word in ("-isystem", str(folder))]
    return parsed(source, "-target", "arm64-apple-macos14", *includes)


def parsed(source: Path, *options: str) -> Node:
    """Clang's tree of one file, read with these options."""
    command = [zig()[0], "clang", *ARC_FLAGS, *options]
    command += ["-fsyntax-only", "-Xclang", "-ast-dump=json", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tree: Node = json.loads(done.stdout)
    return tree


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in node.get("inner", []):
        yield from walk(child)


def normal(type_text: str) -> str:
    """A type without ownership and superfluous spaces."""
    text = re.sub(r"\b(__strong|__autoreleasing|__unsafe_unretained)\b", "", type_text)
    return re.sub(r"\s+", " ", text).replace("* *", "**").strip()


def sends_message(node: Node) -> bool:
    """Whether a call goes to objc_msgSend, cast or not."""
    if node.get("kind") != "CallExpr":
        return False
    named = (each.get("referencedDecl", {}).get("name") for each in walk(node["inner"][0]))
    return "objc_msgSend" in named


def selector_of(call: Node) -> str:
    """The selector that is spelt where a message is sent, or nothing."""
    spelt = (each for each in walk(call["inner"][2]) if each.get("kind") == "ObjCSelectorExpr")
    return next((str(each["selector"]) for each in spelt), "")


def check_call(call: Node) -> str | None:
    """What is wrong with one call, or None."""
    casts = [each for each in walk(call["inner"][0]) if each.get("kind") == "CStyleCastExpr"]
    if not casts:
        return "objc_msgSend is called without a cast"
    return check_cast(selector_of(call), casts[0]["type"]["qualType"])


def check_cast(selector: str, cast: str) -> str | None:
    """What is wrong with sending the selector through a function of this type, or None."""
    method = BY_SELECTOR.get(selector)
    if method is None:
        return f"{selector or 'a selector that is not spelt there'} is not a known method"
    match = re.fullmatch(r"(.*?) ?\(\*\)\((.*)\)", cast)
    if match is None:
        return f"{selector} is sent through {cast}"
    result = normal(match[1])
    found = [normal(part) for part in match[2].split(",")]
    if (result, found) == (method.result, ["id", "SEL", *method.arguments]):
        return None
    wanted = ", ".join(["id", "SEL", *method.arguments])
    return f"{selector} is sent as {cast}; known is {method.result} (*)({wanted})"


def check_file(source: Path) -> tuple[set[str], list[str]]:
    """The selectors that a file sends with objc_msgSend, and what is wrong with the calls."""
    calls = [each for each in walk(syntax_tree(source)) if sends_message(each)]
    wrong = [words for call in calls if (words := check_call(call))]
    return {selector_of(call) for call in calls}, wrong
