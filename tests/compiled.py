"""Compiles C drivers of tests/c together with parts of the core, for what Python cannot reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-g", "-fno-math-errno")
LIBRARIES = ("-lm", "-lpthread") if sys.platform == "darwin" else ("-lm", "-ldl", "-lpthread")


def core(*folders: str) -> list[Path]:
    """The C files of folders of csrc."""
    return [path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.c"))]


def compile_c(output: Path, driver: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """Compiles tests/c/<driver> with the sources to `output`; raises with the compiler's words."""
    files = [str(ROOT / "tests" / "c" / driver), *map(str, sources)]
    include = f"-I{ROOT / 'csrc'}"
    command = [os.environ.get("CC", "cc"), *FLAGS, include, *flags, *files, "-o", str(output)]
    done = subprocess.run([*command, *LIBRARIES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def run_driver(program: Path, *arguments: str) -> str:
    """Runs a driver, which must succeed and write nothing to stderr; returns its output.

    The thread sanitizer of older compilers dies of some layouts of the address space; then the
    driver runs again without randomisation of it.
    """
    command = [str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        command = ["setarch", "-R", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
