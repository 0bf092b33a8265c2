"""The build hook: compiles csrc/ and the binding that cffi derives from csrc/ane.h into one module.

Nothing is linked against BLAS: the C core opens it at run time, so a wheel fits any installation.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "csrc"
FOLDERS = ("base", "cpu", "engine", "train")


def c_sources() -> list[Path]:
    """Every C file of the core, in a fixed order."""
    return sorted(path for folder in FOLDERS for path in (SOURCE / folder).glob("*.c"))


def compiler_flags() -> list[str]:
    """What the core is compiled with, here and by `make lib`.

    Without contraction a result does not depend on which clone of a loop a machine runs.
    """
    return (SOURCE / "flags.txt").read_text().split()


class BuildExt(build_ext):  # type: ignore[misc]
    """Generates the cffi module and compiles it together with the C core."""

    def finalize_options(self) -> None:
        """Fills in the sources of the one extension, which pyproject.toml leaves empty."""
        super().finalize_options()
        (extension,) = self.extensions
        headers = [*SOURCE.rglob("*.h"), *SOURCE.rglob("*.def"), SOURCE / "flags.txt"]
        extension.sources = [str(path.relative_to(ROOT)) for path in c_sources()]
        extension.depends = [str(path.relative_to(ROOT)) for path in headers]
        extension.include_dirs = [str(SOURCE)]
        extension.extra_compile_args = compiler_flags()
        extension.libraries = [] if sys.platform == "darwin" else ["m", "dl", "pthread"]

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        """Emits the binding beside the object files and builds it as one more source."""
        from cffi import FFI

        ffi = FFI()
        ffi.cdef((SOURCE / "ane.h").read_text())
        ffi.set_source(ext.name, '#include "base/base.h"')
        binding = Path(self.build_temp) / "native_binding.c"
        binding.parent.mkdir(parents=True, exist_ok=True)
        ffi.emit_c_code(str(binding))
        ext.sources = [*ext.sources, str(binding)]
        super().build_extension(ext)
