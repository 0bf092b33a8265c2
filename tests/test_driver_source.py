"""The driver of the Neural Engine as source, and its build on macOS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from setuptools.errors import CompileError

from ane_train import _build

ROOT = Path(__file__).parent.parent
APPLE = ROOT / "csrc" / "apple"


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
