"""Links the driver for macOS 14 on arm64 against stubs of our own, and reads the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lief

from ane_train._build import c_sources, compiler_flags
from apple.build import CSRC, HERE, WARNINGS, cached, digest, run, sources_of, zig
from apple.cross import allowed

TARGET = ("-target", "aarch64-macos.14.0")
COMPILE = (*compiler_flags(), "-fexceptions", f"-I{HERE / 'include'}", f"-I{CSRC}")
ARC = ("-fobjc-arc", "-fobjc-arc-exceptions", "-fblocks")
FRAMEWORKS = (allowed.FOUNDATION, allowed.CORE_FOUNDATION, allowed.IOSURFACE)
# What the linker adds to every library.
LINKER_SYMBOLS = {"dyld_stub_binder", "__mh_dylib_header", "___dso_handle"}


def stub_text(library: allowed.Library) -> str:
    """A .tbd file that names what may be imported of one library."""
    lines = [
        "--- !tapi-tbd",
        "tbd-version: 4",
        "targets: [ arm64-macos ]",
        f"install-name: '{library.path}'",
        "exports:",
        "  - targets: [ arm64-macos ]",
        f"    symbols: [ {', '.join(repr(name) for name in sorted(library.symbols))} ]",
    ]
    if library.classes:
        lines.append(f"    objc-classes: [ {', '.join(sorted(library.classes))} ]")
    return "\n".join([*lines, "...", ""])


def write_stubs(folder: Path) -> list[str]:
    """Writes the stubs and gives the linker's arguments that find them."""
    for library in FRAMEWORKS:
        name = Path(library.path).name
        stub = folder / f"{name}.framework" / f"{name}.tbd"
        stub.parent.mkdir(parents=True)
        stub.write_text(stub_text(library))
    (folder / "libobjc.tbd").write_text(stub_text(allowed.OBJC))
    names = [Path(library.path).name for library in FRAMEWORKS]
    found = [f"-F{folder}", f"-L{folder}", "-lobjc"]
    return found + [word for name in names for word in ("-framework", name)]


def compile_macos(source: Path, output: Path) -> None:
    """Compiles one file for macOS with warnings as errors; raises with the compiler's words."""
    arc = ARC if source.suffix == ".m" else ()
    run([*zig(), *TARGET, *COMPILE, *WARNINGS, *arc, "-c", str(source), "-o", str(output)])


def apple_sources(csrc: Path) -> list[Path]:
    """What belongs to the driver alone."""
    return sorted(path for path in (csrc / "apple").iterdir() if path.suffix in (".c", ".m"))


def link_macos(name: str, sources: Sequence[Path]) -> Path:
    """A library for macOS on arm64, against stubs that hold nothing but what is allowed."""
    headers = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".def")]
    read = [*sources, *headers, *sources_of(HERE / "include", Path(__file__).parent)]

    def make(folder: Path) -> None:
        objects = [folder / f"{source.parent.name}_{source.name}.o" for source in sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_macos, sources, objects))
        arguments = write_stubs(folder / "stubs")
        shared = ["-dynamiclib", "-install_name", f"@rpath/{name}"]
        files = [str(path) for path in objects]
        run([*zig(), *TARGET, *shared, *files, *arguments, "-o", str(folder / name)])

    return cached(f"macos-{digest(read, name)}", make) / name


def build_macos(csrc: Path = CSRC) -> Path:
    """The driver."""
    return link_macos("libane_driver.dylib", [*apple_sources(csrc), csrc / "base" / "error.c"])


def build_library() -> Path:
    """What `make lib` makes on a Mac: the core with the driver in it."""
    return link_macos("libane.dylib", [*c_sources(), *apple_sources(CSRC)])


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


def exports(image: lief.MachO.Binary) -> set[str]:
    """The symbols that the library offers, without the linker's own."""
    return {str(symbol.name) for symbol in image.exported_symbols} - LINKER_SYMBOLS


def imports(image: lief.MachO.Binary) -> set[str]:
    """The symbols that the library takes from others, without the linker's own."""
    return {str(symbol.name) for symbol in image.imported_symbols} - LINKER_SYMBOLS
