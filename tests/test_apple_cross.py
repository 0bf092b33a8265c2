"""The driver compiled and linked for macOS on arm64: what is in the library and what is not."""

from __future__ import annotations

import re
import sys

import lief
import pytest
from apple.build import CSRC
from apple.cross import allowed
from apple.cross.casts import check_cast, check_file
from apple.cross.macho import (
    build_driver,
    build_library,
    build_smallest,
    exports,
    image_name,
    imports,
    libraries,
    parse,
    selectors,
    strings,
)
from apple.private_api import BY_SELECTOR, CLASSES, METHODS

from ane_train.native.library import lib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built there by Apple's compiler")


@pytest.fixture(scope="module")
def driver() -> lief.MachO.Binary:
    return parse(build_driver())


@pytest.fixture(scope="module")
def library() -> lief.MachO.Binary:
    return parse(build_library())


@pytest.fixture(scope="module")
def smallest() -> lief.MachO.Binary:
    """What is in here beside a call of dlerror is in every library that this linker makes."""
    return parse(build_smallest())


@pytest.mark.parametrize("name", ["driver", "library"])
def test_what_is_built_is_a_signed_library_for_macos_14_on_arm64(
    name: str, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(name)
    assert image.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64
    assert image.header.file_type == lief.MachO.Header.FILE_TYPE.DYLIB
    assert image.build_version.platform == lief.MachO.BuildVersion.PLATFORMS.MACOS
    assert list(image.build_version.minos)[:2] == [14, 0]
    assert image.has_code_signature
    assert image_name(image) == {"driver": "libane_driver.dylib", "library": "libane.dylib"}[name]


def test_one_symbol_is_exported(driver: lief.MachO.Binary, smallest: lief.MachO.Binary) -> None:
    assert exports(driver) - exports(smallest) == allowed.EXPORTS


def test_the_library_for_c_programs_exports_the_header_and_the_driver(
    library: lief.MachO.Binary, smallest: lief.MachO.Binary
) -> None:
    functions = {f"_{name}" for name in dir(lib) if name.startswith("ane_")}
    assert exports(library) - exports(smallest) == functions | allowed.EXPORTS


def test_what_is_imported_is_exactly_what_is_allowed(
    driver: lief.MachO.Binary, smallest: lief.MachO.Binary
) -> None:
    found, wanted = imports(driver), allowed.importable()
    linkers = imports(smallest) - {"_dlerror"}
    assert sorted(found - wanted - linkers) == []
    assert sorted(wanted - found) == []
    assert libraries(driver) == {each.path for each in allowed.LIBRARIES}


def test_selectors_are_exactly_the_known_private_and_the_allowed_public_ones(
    driver: lief.MachO.Binary,
) -> None:
    assert sorted(selectors(driver)) == sorted({*BY_SELECTOR, *allowed.PUBLIC_SELECTORS})


def test_the_private_framework_and_its_classes_are_those_known(driver: lief.MachO.Binary) -> None:
    words = strings(driver, "__cstring")
    assert {text for text in words if text.startswith("_ANE")} == CLASSES | {allowed.PREFIX}
    assert {text for text in words if "Frameworks/" in text} == {allowed.FRAMEWORK}


def test_every_known_method_is_sent_and_cast_as_it_is_known() -> None:
    results = [check_file(path) for path in sorted((CSRC / "apple").glob("*.m"))]
    assert [words for _, wrong in results for words in wrong] == []
    assert set().union(*(sent for sent, _ in results)) == set(BY_SELECTOR)


@pytest.mark.parametrize(
    ("cast", "words"),
    [
        ("BOOL (*)(id, SEL, unsigned int, NSError **)", None),
        ("BOOL (*)(id, SEL, unsigned int, NSError *__autoreleasing *)", None),
        ("BOOL (*)(id, SEL, long, NSError **)", "unloadWithQoS:error: is sent as"),
        ("id (*)(id, SEL, unsigned int, NSError **)", "known is BOOL"),
        ("BOOL (*)(id, SEL, ...)", "known is BOOL"),
    ],
)
def test_a_cast_is_right_only_if_every_type_is(cast: str, words: str | None) -> None:
    found = check_cast("unloadWithQoS:error:", cast)
    assert (found is None) == (words is None)
    assert words is None or words in str(found)


def test_the_drivers_own_table_of_methods_says_the_same() -> None:
    code = {"id": "@", "BOOL": "B", "unsigned int": "I", "NSError **": "^@"}
    code["IOSurfaceRef"] = "^{__IOSurface=}"
    text = re.sub(r"\s+", " ", (CSRC / "apple" / "framework.m").read_text())
    row = r"'([+-])', \"(\w+)\", \"([\w:]+)\", \"([^\"]+)\""
    wanted = set()
    for each in METHODS:
        arguments = "".join(code[argument] for argument in each.arguments)
        encoding = f"{code[each.result]}@:{arguments}"
        wanted.add((each.kind, each.class_name, each.selector, encoding))
    assert set(re.findall(row, text)) == wanted
