"""The driver of the Neural Engine as source: its private calls agree with its one table of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from setuptools.errors import CompileError

from ane_train import _build

ROOT = Path(__file__).parent.parent
APPLE = ROOT / "csrc" / "apple"
CAST = re.compile(
    r"\(\(([^()]+?)\s*\(\*\)\(([^()]*)\)\)\s*objc_msgSend\)\(\s*\w+,\s*@selector\(([^()]*)\)"
)
ROW = re.compile(r'\{[A-Z_]+, \'([+-])\', "(\w+)",\s*"([^"]+)",\s*"([^"]+)"')
ENCODINGS = {
    "id": "@",
    "SEL": ":",
    "BOOL": "B",
    "unsigned int": "I",
    "NSError **": "^@",
    "IOSurfaceRef": "^{__IOSurface=}",
}


def cast_encodings() -> dict[str, str]:
    """Type encoding of every cast in calls.h, by selector."""
    found = {}
    for result, arguments, selector in CAST.findall((APPLE / "calls.h").read_text()):
        types = [result, *(argument.strip() for argument in arguments.split(","))]
        found[re.sub(r"\s", "", selector)] = "".join(ENCODINGS[name] for name in types)
    return found


def table_encodings() -> dict[str, str]:
    rows = ROW.findall((APPLE / "framework.m").read_text())
    return {selector: encoding for _, _, selector, encoding in rows}


def test_every_private_call_is_cast_to_the_encoding_that_is_checked_before() -> None:
    calls = (APPLE / "calls.h").read_text()
    assert len(cast_encodings()) == calls.count("objc_msgSend)") > 0
    assert cast_encodings() == table_encodings()


def test_every_selector_takes_as_many_arguments_as_its_encoding() -> None:
    for selector, encoding in table_encodings().items():
        arguments = re.findall(r"\^\{[^}]*\}|\^?.", encoding)[3:]
        assert len(arguments) == selector.count(":"), selector


def test_private_messages_are_sent_in_one_file_only() -> None:
    for path in APPLE.iterdir():
        if path.name != "calls.h":
            assert "objc_msgSend" not in path.read_text(), path.name
            assert "@selector" not in path.read_text(), path.name


def test_the_driver_prints_nothing_and_neither_forks_nor_exits() -> None:
    banned = re.compile(r"\b(?:(?:printf|NSLog|puts|fputs|fork|exit|abort|system)\(|stderr|stdout)")
    for path in APPLE.iterdir():
        assert not banned.search(path.read_text()), path.name


def stand_in_for_xcrun(folder: Path, script: str) -> None:
    program = folder / "xcrun"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_driver_library_is_built_of_all_its_sources_with_arc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_xcrun(tmp_path, f'echo "$@" > {tmp_path}/arguments; eval "touch \\${{$#}}"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    built = _build.build_driver(tmp_path)
    assert built == tmp_path / "libane_driver.dylib"
    assert built.exists()
    words = (tmp_path / "arguments").read_text().split()
    assert {str(path) for path in APPLE.glob("*.[mc]")} < set(words)
    assert {"-dynamiclib", "-fobjc-arc", "-fobjc-arc-exceptions", "-fvisibility=hidden"} < set(
        words
    )


@pytest.mark.parametrize("script", [None, "echo 'driver.m:1: broken' >&2; exit 1"])
def test_a_failed_build_of_the_driver_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script:
        stand_in_for_xcrun(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    with pytest.raises(CompileError, match="xcode-select --install") as caught:
        _build.build_driver(tmp_path)
    assert ("broken" in str(caught.value)) == bool(script)
