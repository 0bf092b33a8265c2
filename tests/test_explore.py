"""What `explore` finds in the stand-in, its header, and what it says of altered copies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apple.build import (
    ARC_FLAGS,
    CSRC,
    HERE,
    OBJC_FLAGS,
    Tools,
    build_driver,
    build_probe,
    build_tools,
    zig,
)
from apple.cross.casts import normal, parsed, walk
from apple.hollow import build_hollow, hollow_source
from apple_process import run_python
from runs import command, environment

from ane_train.cli.explore import classes_section, differences_section
from ane_train.cli.screen import WIDTH
from ane_train.cli.sections import section_lines
from ane_train.errors import ExitCode
from ane_train.explore.header import header
from ane_train.explore.listing import Listing
from ane_train.records import from_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")

Done = subprocess.CompletedProcess[str]
OWN = Path(zig()[0]).parent / "lib" / "include"  # clang's
INCLUDES = (
    *(f"-I{folder}" for folder in (HERE / "include-linux", HERE / "include", CSRC)),
    *("-isystem", str(OWN)),
)


@pytest.fixture(scope="module")
def tools() -> Tools:
    return build_tools()


@pytest.fixture(scope="module")
def listing(tools: Tools) -> Listing:
    return listed(tools)


@pytest.fixture(scope="module")
def probed(tools: Tools) -> Listing:
    return listed(tools, build_probe(tools, "explore_probe.m"))


def explored(
    tools: Tools, *arguments: object, framework: Path | None = None, **others: str
) -> Done:
    """The command, on the stand-in or on another framework."""
    if framework is not None:
        others["ANE_STANDIN_FRAMEWORK"] = str(framework)
    words = command("explore", "--driver", build_driver(tools), *arguments)
    return subprocess.run(words, env=environment(**others), capture_output=True, text=True)


def listed(tools: Tools, framework: Path | None = None) -> Listing:
    done = explored(tools, "--json", "-", framework=framework)
    assert done.stdout, done.stderr
    return from_json(Listing, json.loads(done.stdout))


# --- what is found ---

ENCODINGS = {
    "void": "v", "BOOL": "B", "bool": "B", "unsigned int": "I", "id": "@", "instancetype": "@",
    "IOSurfaceRef": "^{__IOSurface=}", "NSError **": "^@", "void **": "^^v",
}  # fmt: skip
COMPUTATION = (
    "^{computation=^{ane_program}^{ane_request}^{computation_port}^{computation_port}"
    "^^{ane_surface}^^{ane_surface}QQq}"
)


def encoded(type_text: str) -> str:
    """What clang's syntax tree says of a type, as the runtime would."""
    name = re.sub(r"<.*>", "", normal(type_text)).strip()
    if name == "computation *":
        return COMPUTATION
    known = ENCODINGS.get(name)
    assert known or re.fullmatch(r"\w+ \*", name), f"{type_text} has no encoding here"
    return known or "@"


def methods_in_source() -> dict[str, dict[str, str]]:
    """Of the stand-in's classes, as clang reads their sources."""
    found: dict[str, dict[str, str]] = {}
    for source in sorted((HERE / "standin").glob("_ANE*.m")):
        for node in walk(parsed(source, *INCLUDES, "-D_GNU_SOURCE")):
            if node.get("kind") != "ObjCImplementationDecl":
                continue
            methods = found.setdefault(node["name"], {})
            for each in node["inner"]:
                if each["kind"] == "ObjCMethodDecl":
                    kind = "-" if each["instance"] else "+"
                    methods[kind + each["name"]] = method_encoding(each)
    return found


def method_encoding(node: dict[str, Any]) -> str:
    inner = node.get("inner", [])
    types = [each["type"]["qualType"] for each in inner if each["kind"] == "ParmVarDecl"]
    arguments = "".join(encoded(each) for each in types)
    return f"{encoded(node['returnType']['qualType'])}@:{arguments}"


def test_every_class_and_method_of_the_stand_in_is_found_with_its_encoding(
    listing: Listing,
) -> None:
    found = {
        each.name: {m.kind + m.name: m.encoding for m in each.methods if m.name[0] != "."}
        for each in listing.classes
    }
    assert found == methods_in_source()
    assert {each.superclass for each in listing.classes} == {"NSObject"}
    assert {each.image for each in listing.classes} == {"libstandin.so"}


def test_everything_that_a_class_can_declare_is_found(probed: Listing) -> None:
    child, probe = sorted(probed.classes, key=lambda each: -len(each.name))
    assert (child.name, child.superclass, child.methods) == ("_ANEProbeChild", "_ANEProbe", ())
    assert probe.protocols == ("Strange", "_ANEProbing")
    attributes = {each.kind + each.name: each.attributes for each in probe.properties}
    assert attributes["+shared"] == "TB,R,N"
    assert attributes["-url"] == 'T@"NSURL",&,V_url'
    assert attributes["-ready"] == "TB,N,GisReady,SmakeReady:,V_ready"
    assert attributes["-mark"] == "T{?=[8I]},N,V_mark"
    variables = {each.name: each.encoding for each in probe.variables}
    assert variables["_grid"] == "[2[3i]]"
    assert variables["_any"] == '@"<Strange>"'
    (protocol,) = probed.protocols
    optional = {each.kind + each.name: each.optional for each in protocol.methods}
    required = ("-probe:error:", "+prober", "-probed")
    assert optional == dict.fromkeys(required, False) | {"-reply:": True, "+forget": True}


def test_a_listing_is_sorted_and_names_no_place(tools: Tools) -> None:
    done = explored(tools, "--json", "-")
    again = explored(tools, "--json", "-")
    assert done.stdout == again.stdout
    assert "/" not in done.stdout.replace("tmc/apple", "")
    classes = [each["name"] for each in json.loads(done.stdout)["classes"]]
    assert classes == sorted(classes)


# --- the header ---


@pytest.mark.parametrize("flags", [OBJC_FLAGS, ARC_FLAGS], ids=["by hand", "counted"])
@pytest.mark.parametrize("name", ["listing", "probed"])
def test_clang_takes_the_header_without_a_warning(
    name: str, flags: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "listed.h"
    path.write_text(header(request.getfixturevalue(name)))
    strict = ["-x", "objective-c", *flags, "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    words = [zig()[0], "clang", *strict, *INCLUDES, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/*" not in path.read_text().split("\n", 1)[1], "something could not be declared"


@pytest.mark.parametrize("name", ["listing", "probed"])
def test_the_compiled_header_is_explored_to_the_same_listing(
    name: str, tools: Tools, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = request.getfixturevalue(name)
    found = listed(tools, build_hollow(tools, hollow_source(wanted), tmp_path))
    assert without_images(found) == without_images(wanted)


def without_images(listing: Listing) -> Listing:
    classes = tuple(replace(each, image="") for each in listing.classes)
    return replace(listing, classes=classes)


# --- differences ---


def an_encoding_changed(source: str) -> str:
    old = "- (BOOL)unloadWithQoS:(unsigned int)argument1"
    assert source.count(old) == 2
    return source.replace(old, old.replace("unsigned int", "long"))


def a_method_removed(source: str) -> str:
    line = r"- \(BOOL\)compiledModelExists(;| \{ __builtin_trap\(\); \})\n"
    source, count = re.subn(line, "", source)
    assert count == 2
    return source


NEW_CLASS = """@interface _ANENew : NSObject
@end
@implementation _ANENew
+ (int)one { return 1; }
@end
"""


def a_class_added(source: str) -> str:
    return source + NEW_CLASS


def a_variable_added(source: str) -> str:
    line = "@interface _ANEModel : NSObject {\n"
    return source.replace(line, f"{line}    short _extra;\n")


ALTERATIONS: dict[str, tuple[Callable[[str], str], tuple[str, ...], int]] = {
    "nothing": (str, ("same  in everything", "0 added, 0 removed, 0 changed"), 0),
    "encoding": (
        an_encoding_changed,
        (
            "changed  -[_ANEInMemoryModel unloadWithQoS:error:] is B@:q^@, was B@:I^@",
            "0 added, 0 removed, 1 changed",
            "23 of 24 as expected",
            "training             not as the driver knows it",
        ),
        ExitCode.ENGINE,
    ),
    "method": (
        a_method_removed,
        (
            "removed  -[_ANEInMemoryModel compiledModelExists] B@:",
            "0 added, 1 removed, 0 changed",
            "training             there",
        ),
        0,
    ),
    "class": (
        a_class_added,
        ("added  class _ANENew with 1 method", "1 added, 0 removed, 0 changed"),
        0,
    ),
    "variable": (
        a_variable_added,
        ("added  _ANEModel->_extra s", "1 added, 0 removed, 0 changed"),
        0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_is_altered_shows_in_the_difference(
    name: str, tools: Tools, listing: Listing, tmp_path: Path
) -> None:
    alter, words, code = ALTERATIONS[name]
    framework = build_hollow(tools, alter(hollow_source(listing)), tmp_path)
    saved = tmp_path / "saved.json"
    saved.write_text(listing.to_text())
    done = explored(tools, "--diff", saved, framework=framework)
    assert done.returncode == code, done.stderr
    for each in words:
        assert each in done.stdout


def test_the_known_list_is_compared_by_names_and_by_the_types_that_are_known(
    tools: Tools, listing: Listing, tmp_path: Path
) -> None:
    framework = build_hollow(tools, an_encoding_changed(hollow_source(listing)), tmp_path)
    said = explored(tools, "--diff", "known", framework=framework).stdout
    said = re.sub(" +", " ", said)
    assert "removed class _ANEBuffer with 11 methods" in said
    assert "removed -[_ANEInMemoryModel saveModelFiles]" in said
    assert "-[_ANEInMemoryModel unloadWithQoS:error:] is B@:q^@, was B@:I^@" in said
    assert "added -[_ANEModel evaluate:error:] B@:@^@" in said
    assert "@property" not in said
    assert ", 1 changed" in said
    assert "against Version 26.3 (Build 25D125), by tmc/ane-training-experiments" in said
    assert "of that one system: on another, a difference need not be a fault" in said


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_is_wide_enough_for_all_but_long_names(
    width: int, listing: Listing, probed: Listing
) -> None:
    for section in (classes_section(probed), differences_section(listing, probed)):
        for line in section_lines(section, min(width, WIDTH)):
            assert len(line.plain) <= width or len(line.plain.split()) <= 2, line.plain


# --- mistakes ---


def test_no_private_class_is_called(tools: Tools, listing: Listing, tmp_path: Path) -> None:
    """In a hollow framework every call ends the process, as asking for the chip does."""
    framework = str(build_hollow(tools, hollow_source(listing), tmp_path))
    ask = (
        "import sys; from ane_train.native.engine import *; "
        "print({}_engine(ContextOptions(engine='hardware', driver=sys.argv[1]))['system'])"
    )
    driver = str(build_driver(tools))
    codes = [
        run_python(ask.format(verb), driver, ANE_STANDIN_FRAMEWORK=framework).returncode
        for verb in ("explore", "describe")
    ]
    assert codes[0] == 0
    assert -codes[1] in (signal.SIGILL, signal.SIGTRAP)


def test_without_a_framework_one_line_says_so(tools: Tools, tmp_path: Path) -> None:
    done = explored(tools, ANE_STANDIN_ABSENT="1")
    assert done.returncode == ExitCode.ENGINE
    assert done.stderr.startswith("error: no AppleNeuralEngine framework: ")
    assert done.stderr.count("\n") == 1
    bare = subprocess.run(command("explore"), env=environment(), capture_output=True, text=True)
    assert bare.returncode == ExitCode.ENGINE
    assert bare.stderr == "error: Linux has no Apple Neural Engine\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{}", "not a listing of schema 1"),
        ("[", "is not what"),
        ("[" * 100_000, "is not what"),
    ],
)
def test_another_file_than_a_listing_is_refused(
    content: str | None, words: str, tools: Tools, tmp_path: Path
) -> None:
    """Before anything is written."""
    path, saved = tmp_path / "other.json", tmp_path / "saved.json"
    if content is not None:
        path.write_text(content)
    done = explored(tools, "--diff", path, "--json", saved)
    assert done.returncode == ExitCode.DATA
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not saved.exists()


def test_whatever_is_asked_for_the_exit_code_says_whether_training_can_use_it(
    tools: Tools, listing: Listing, tmp_path: Path
) -> None:
    framework = build_hollow(tools, an_encoding_changed(hollow_source(listing)), tmp_path)
    for arguments in (("--header",), ("--json", "-"), ()):
        done = explored(tools, *arguments, framework=framework)
        assert done.returncode == ExitCode.ENGINE
        assert "unloadWithQoS" in done.stdout or not arguments
    assert explored(tools, "--header").returncode == 0
    done = explored(tools, "--header", framework=framework)
    assert done.stdout.rstrip().endswith("@end")
    assert done.stderr == (
        "note: what training needs is not as the driver knows it: see `ane-train explore`\n"
    )


def test_a_listing_that_cannot_be_written_is_shown_all_the_same(tools: Tools) -> None:
    done = explored(tools, "--json", "/proc/a.json")
    assert done.returncode == ExitCode.DISK
    assert "_ANEInMemoryModelDescriptor" in done.stdout
    assert done.stderr.startswith("error: /proc/a.json cannot be written")


def test_a_header_comes_alone(tools: Tools) -> None:
    done = explored(tools, "--header", "--diff", "known")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("\n") == 1
