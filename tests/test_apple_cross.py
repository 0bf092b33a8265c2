"""The driver compiled and linked for macOS on arm64: what is in the library and what is not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import lief
import pytest
from apple.build import CSRC
from apple.cross import allowed
from apple.cross.casts import check_cast, check_file
from apple.cross.macho import (
    build_library,
    build_macos,
    exports,
    imports,
    parse,
    strings,
    stub_text,
)
from apple.private_api import BY_SELECTOR, CLASSES, METHODS

from ane_train.native.library import lib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built there by Apple's compiler")


@pytest.fixture(scope="module")
def library() -> Path:
    return build_macos()


@pytest.fixture(scope="module")
def image(library: Path) -> lief.MachO.Binary:
    return parse(library)


def test_the_library_is_a_signed_one_for_macos_14_on_arm64(image: lief.MachO.Binary) -> None:
    assert image.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64
    assert image.header.file_type == lief.MachO.Header.FILE_TYPE.DYLIB
    assert image.build_version.platform == lief.MachO.BuildVersion.PLATFORMS.MACOS
    assert list(image.build_version.minos)[:2] == [14, 0]
    assert image.has_code_signature


def test_one_symbol_is_exported(image: lief.MachO.Binary) -> None:
    assert exports(image) == allowed.EXPORTS


def test_the_whole_library_for_c_programs_links_with_the_driver_in_it() -> None:
    functions = {f"_{name}" for name in dir(lib) if name.startswith("ane_")}
    assert exports(parse(build_library())) == functions | allowed.EXPORTS


def test_what_is_imported_is_exactly_what_is_allowed(image: lief.MachO.Binary) -> None:
    assert imports(image) == allowed.importable()
    linked = {str(each.name) for each in image.libraries} - {"@rpath/libane_driver.dylib"}
    assert linked == {each.path for each in allowed.LIBRARIES}


def test_every_selector_is_a_known_private_or_an_allowed_public_one(
    image: lief.MachO.Binary,
) -> None:
    selectors, others = strings(image, "__objc_methname"), strings(image, "__cstring")
    assert selectors <= set(BY_SELECTOR) | allowed.PUBLIC_SELECTORS
    assert selectors | others >= allowed.PUBLIC_SELECTORS, "the linker keeps equal texts once"
    assert {each for each in others if each.startswith("_ANE")} == CLASSES
    assert allowed.FRAMEWORK in others


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


def test_stubs_name_nothing_but_what_may_be_imported() -> None:
    text = stub_text(allowed.IOSURFACE)
    assert "'_IOSurfaceLock'" in text
    assert "IOSurfaceLookup" not in text
