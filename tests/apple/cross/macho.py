"""Runs the project's own build for macOS on arm64, on Linux, and reads the libraries it makes.

`xcrun` is ziglang's clang with our headers of Apple's frameworks, stubs of what may be imported of
them, and warnings as errors; `uname` says Darwin.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import lief

from apple.build import CACHE, CSRC, HERE, ROOT, WARNINGS, cached, digest, sources_of, zig
from apple.cross import allowed

FRAMEWORKS = (allowed.FOUNDATION, allowed.CORE_FOUNDATION, allowed.IOSURFACE)
TARGET = ("-target", "aarch64-macos.14.0")
SMALLEST = """#include <dlfcn.h>
__attribute__((constructor)) static void call(void) {
    dlerror();
}
"""
BUILD_DRIVER = "import pathlib, sys; from ane_train._build import build_driver; "
BUILD_DRIVER += "build_driver(pathlib.Path(sys.argv[1]))"


def stub_text(library: allowed.Library) -> str:
    """A .tbd file that names what may be imported of one library."""
    names = ", ".join(repr(name) for name in sorted(library.symbols))
    lines = [
        "--- !tapi-tbd",
        "tbd-version: 4",
        "targets: [ arm64-macos ]",
        f"install-name: '{library.path}'",
        "exports:",
        "  - targets: [ arm64-macos ]",
        f"    symbols: [ {names} ]",
    ]
    if library.classes:
        lines.append(f"    objc-classes: [ {', '.join(sorted(library.classes))} ]")
    return "\n".join([*lines, "...", ""])


def write_stubs(folder: Path) -> None:
    """Stubs of everything but libSystem, which ziglang has itself."""
    for library in FRAMEWORKS:
        name = Path(library.path).name
        stub = folder / f"{name}.framework" / f"{name}.tbd"
        stub.parent.mkdir(parents=True)
        stub.write_text(stub_text(library))
    (folder / "libobjc.tbd").write_text(stub_text(allowed.OBJC))


def write_program(path: Path, line: str) -> None:
    """A shell script of one line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def write_toolchain(folder: Path) -> None:
    """Puts xcrun and uname into folder/bin. Foundation brings libobjc along, as on a Mac."""
    stubs = folder / "stubs"
    write_stubs(stubs)
    own = [f"-I{HERE / 'include'}", f"-F{stubs}", f"-L{stubs}"]
    command = shlex.join([*zig(), *TARGET, *WARNINGS, *own])
    write_program(folder / "bin" / "xcrun", f'shift; exec {command} "$@" -lobjc')
    write_program(folder / "bin" / "uname", "echo Darwin")


def run_with_toolchain(folder: Path, *command: object) -> None:
    """Runs a build as on a Mac; raises with its words."""
    cache = str(CACHE / "zig")
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    environment |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)}\n{done.stdout}{done.stderr}")


def build_key(folders: Iterable[str]) -> str:
    """A digest of all that a build for macOS reads."""
    sources = sources_of(*(CSRC / name for name in folders), HERE / "include", HERE / "cross")
    build = [ROOT / "Makefile", ROOT / "ane_train" / "_build.py"]
    return digest([*sources, CSRC / "ane.h", CSRC / "flags.txt", *build])


def build_driver() -> Path:
    """The driver library that `pip install` builds on a Mac."""

    def make(folder: Path) -> None:
        write_toolchain(folder)
        run_with_toolchain(folder, sys.executable, "-c", BUILD_DRIVER, folder)

    name = f"macos-driver-{build_key(('apple', 'base', 'engine'))}"
    return cached(name, make) / "libane_driver.dylib"


def build_library() -> Path:
    """The library for C programs that `make lib` builds on a Mac, core and driver in one."""

    def make(folder: Path) -> None:
        write_toolchain(folder)
        jobs, options = f"-j{os.cpu_count()}", [f"BUILD={folder}", f"VENV={folder}/none"]
        run_with_toolchain(folder, "make", "--no-print-directory", jobs, *options, "lib")

    name = f"macos-lib-{build_key(('.',))}"
    return cached(name, make) / "lib" / "libane.dylib"


def build_smallest() -> Path:
    """A library that exports nothing and calls dlerror: all else in it is the linker's own."""

    def make(folder: Path) -> None:
        write_toolchain(folder)
        source, output = folder / "smallest.c", folder / "smallest.dylib"
        source.write_text(SMALLEST)
        run_with_toolchain(folder, "xcrun", "clang", "-dynamiclib", source, "-o", output)

    return cached(f"macos-smallest-{build_key(())}", make) / "smallest.dylib"


def parse(library: Path) -> lief.MachO.Binary:
    """The one image of the file."""
    images = lief.MachO.parse(str(library))
    assert images is not None
    assert images.size == 1
    image = images.at(0)
    assert image is not None
    return image


def strings(image: lief.MachO.Binary, section: str) -> set[str]:
    """The zero-terminated strings of a section of __TEXT."""
    found = image.get_section("__TEXT", section)
    content = bytes(found.content) if found else b""
    return {text.decode() for text in content.split(b"\0") if text}


def selectors(image: lief.MachO.Binary) -> set[str]:
    """What the messages that the library sends are called."""
    section = image.get_section("__DATA", "__objc_selrefs")
    content = bytes(section.content) if section else b""
    return {text_at(image, address) for (address,) in struct.iter_unpack("<Q", content)}


def text_at(image: lief.MachO.Binary, address: int) -> str:
    """The zero-terminated string at an address."""
    content = bytes(image.get_content_from_virtual_address(address, 256))
    return content.split(b"\0")[0].decode()


def exports(image: lief.MachO.Binary) -> set[str]:
    """The symbols that the library offers."""
    return {str(symbol.name) for symbol in image.exported_symbols}


def imports(image: lief.MachO.Binary) -> set[str]:
    """The symbols that the library takes from others."""
    return {str(symbol.name) for symbol in image.imported_symbols}


def libraries(image: lief.MachO.Binary) -> set[str]:
    """The libraries that it is linked with."""
    return {str(each.name) for each in image.libraries} - {f"@rpath/{image_name(image)}"}


def image_name(image: lief.MachO.Binary) -> str:
    """The name that the library has for others, without its folder."""
    own = [each for each in image.commands if each.command == lief.MachO.LoadCommand.TYPE.ID_DYLIB]
    assert len(own) == 1
    assert isinstance(own[0], lief.MachO.DylibCommand)
    return Path(str(own[0].name)).name
