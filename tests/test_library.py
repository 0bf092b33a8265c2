"""`make lib`: the library for C programs exports ane.h and nothing else, and programs use it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from compiled import ROOT

from ane_train.native.library import lib

DARWIN = sys.platform == "darwin"
NAME = "libane.dylib" if DARWIN else "libane.so"
CC = os.environ.get("CC", "cc")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
FUNCTIONS = {name for name in dir(lib) if name.startswith("ane_")}
DRIVER = {"ane_hardware_driver"} if DARWIN else set()
CPP = """
#include <cstddef>
#include <cstdint>
#include <cstdio>
extern "C" {
#include <ane.h>
}
int main() {
    ane_options options = {};
    ane_context *context = nullptr;
    if (ane_context_open(&options, &context, nullptr) != ANE_OK) return 1;
    std::puts(ane_context_blas(context));
    ane_context_free(context);
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """Where `make install` was told to put things."""

    prefix: Path

    @property
    def library(self) -> Path:
        return self.prefix / "lib" / NAME

    def link(self, *inputs: object, output: Path) -> Path:
        """Compiles or links a program against the library as a user would."""
        folder = self.prefix / "lib"
        place = [f"-I{self.prefix}/include", f"-L{folder}", f"-Wl,-rpath,{folder}"]
        output_of(CC, *STRICT, "-std=c11", *inputs, *place, "-lane", "-o", output)
        return output


def output_of(*command: object) -> str:
    """What a command prints, which must succeed and write nothing to stderr.

    A make that runs the tests hands nothing down to the make that is tested.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        [str(c) for c in command], env=kept, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from nothing, with warnings as errors, where `python` is a program that fails."""
    folder = tmp_path_factory.mktemp("library")
    options = [f"BUILD={folder}/build", f"PREFIX={folder}/usr", "PYTHON=false"]
    options += [f"VENV={folder}/none", "CFLAGS=-Werror"]
    output_of("make", "-C", ROOT, "-j2", "--no-print-directory", *options, "install")
    return Installed(folder / "usr")


def test_the_library_exports_the_functions_of_the_header_and_nothing_else(
    installed: Installed,
) -> None:
    flags = ["-gU"] if DARWIN else ["-D", "--defined-only"]
    lines = output_of("nm", *flags, installed.library).splitlines()
    prefix = "_" if DARWIN else ""
    assert {line.split()[-1].removeprefix(prefix) for line in lines} == FUNCTIONS | DRIVER


def test_the_library_is_known_by_its_name(installed: Installed) -> None:
    if DARWIN:
        assert f"@rpath/{NAME}" in output_of("otool", "-D", installed.library)
    else:
        assert f"soname: [{NAME}]" in output_of("readelf", "-d", installed.library)


def test_the_installed_header_is_the_one_that_cffi_reads(installed: Installed) -> None:
    header = (installed.prefix / "include" / "ane.h").read_bytes()
    assert header == (ROOT / "csrc" / "ane.h").read_bytes()


def test_the_example_prints_what_numpy_computes(installed: Installed, tmp_path: Path) -> None:
    example = ROOT / "examples" / "evaluate.c"
    printed = output_of(installed.link(example, output=tmp_path / "evaluate"))
    weight = np.array([[1, -0.5, 0.1], [3, 0, -2]], np.float16).astype(np.float64)
    product = weight @ np.arange(1.0, 13).reshape(3, 4)
    rounded = product.astype(np.float16)
    assert printed == "".join(" ".join(f"{v:g}" for v in row) + "\n" for row in rounded)


def test_a_cpp_program_calls_the_library(installed: Installed, tmp_path: Path) -> None:
    source, compiled = tmp_path / "program.cpp", tmp_path / "program.o"
    source.write_text(CPP)
    compiler = [sys.executable, "-m", "ziglang", "c++", "-std=c++17", "-fno-sanitize=undefined"]
    include = f"-I{installed.prefix}/include"
    output_of(*compiler, *STRICT, include, "-c", source, "-o", compiled)
    program = installed.link(compiled, output=tmp_path / "program")
    assert output_of(program) == "reference\n"
