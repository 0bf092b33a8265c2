"""The build hook: compiles csrc/ and the binding that cffi derives from csrc/ane.h into one module.

On macOS it also builds the library that drives the Neural Engine, which the core opens at run time.
Nothing is linked against BLAS: the C core opens it at run time, so a wheel fits any installation.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "csrc"
FOLDERS = ("base", "cpu", "engine", "train")
DRIVER = "libane_driver.dylib"
DRIVER_FRAMEWORKS = ("Foundation", "CoreFoundation", "IOSurface")
ADVICE = "is Xcode or its command line tools there (xcode-select --install)?"
DRIVER_FLAGS = ("-fobjc-arc", "-fobjc-arc-exceptions", "-Wall", "-Wextra")
BINDING = """\
#include "base/base.h"
#ifdef __clang__
#define ANE_COMPILER __VERSION__
#else
#define ANE_COMPILER "GCC " __VERSION__
#endif
"""


def c_sources() -> list[Path]:
    """Every C file of the core, in a fixed order."""
    return sorted(path for folder in FOLDERS for path in (SOURCE / folder).glob("*.c"))


def compiler_flags() -> list[str]:
    """What the core is compiled with, here and by `make lib`.

    Without contraction a result does not depend on which clone of a loop a machine runs.
    """
    return (SOURCE / "flags.txt").read_text().split()


def driver_sources() -> list[Path]:
    """The sources of the driver library: Objective-C, and the C that it shares with the core."""
    apple = SOURCE / "apple"
    return [*sorted(apple.glob("*.m")), *sorted(apple.glob("*.c")), SOURCE / "base" / "error.c"]


def build_driver(folder: Path) -> Path:
    """Builds the driver library into `folder` with Apple's compiler; CompileError if that fails."""
    target = folder / DRIVER
    frameworks = [word for name in DRIVER_FRAMEWORKS for word in ("-framework", name)]
    flags = [*compiler_flags(), *DRIVER_FLAGS, "-install_name", f"@rpath/{DRIVER}"]
    sources = map(str, driver_sources())
    command = ["xcrun", "clang", "-dynamiclib", *flags, *sources, *frameworks, "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"cannot build {DRIVER}: xcrun: {error.strerror}; {ADVICE}") from error
    if done.returncode != 0:
        raise CompileError(f"cannot build {DRIVER}; {ADVICE}\n{done.stderr}")
    return target


class BuildExt(build_ext):  # type: ignore[misc]
    """Generates the cffi module and compiles it together with the C core."""

    def finalize_options(self) -> None:
        """Fills in the sources of the one extension, which pyproject.toml leaves empty."""
        super().finalize_options()
        (extension,) = self.extensions
        kinds = ("h", "def", "m", "txt")
        headers = [path for kind in kinds for path in SOURCE.rglob(f"*.{kind}")]
        extension.sources = [str(path.relative_to(ROOT)) for path in c_sources()]
        extension.depends = [str(path.relative_to(ROOT)) for path in headers]
        extension.include_dirs = [str(SOURCE)]
        extension.extra_compile_args = compiler_flags()
        extension.libraries = [] if sys.platform == "darwin" else ["m", "dl", "pthread"]

    def run(self) -> None:
        """Builds the extension, and on macOS the driver library into the same folder."""
        super().run()
        if sys.platform == "darwin":
            (extension,) = self.extensions
            build_driver(Path(self.get_ext_fullpath(extension.name)).parent)

    def build_extension(self, ext) -> None:  # type: ignore[no-untyped-def]
        """Emits the binding beside the object files and builds it as one more source."""
        from cffi import FFI

        ffi = FFI()
        ffi.cdef((SOURCE / "ane.h").read_text())
        ffi.cdef("static char *const ANE_COMPILER;")
        ffi.set_source(ext.name, BINDING)
        binding = Path(self.build_temp) / "native_binding.c"
        binding.parent.mkdir(parents=True, exist_ok=True)
        ffi.emit_c_code(str(binding))
        ext.sources = [*ext.sources, str(binding)]
        super().build_extension(ext)
