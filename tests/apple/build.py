"""Builds the runtime, the stand-in framework and the driver for Linux, with clang from ziglang.

Everything lands in build/apple, in folders named after a digest of what went in, so that one build
serves all tests and all processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ane_train._build import compiler_flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "apple"

WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
COMMON = ("-O1", "-g", "-fPIC", "-fexceptions", "-D_GNU_SOURCE")
C_FLAGS = ("-std=gnu11",)
OBJC_FLAGS = ("-std=gnu11", "-fobjc-runtime=macosx-14.0", "-fobjc-exceptions", "-fblocks")
ARC_FLAGS = (*OBJC_FLAGS, "-fobjc-arc", "-fobjc-arc-exceptions")
# zig's front end understands these one by one only, and checks undefined behaviour unasked.
SANITIZE = (
    "-fsanitize=address",
    "-fsanitize=undefined",
    "-fno-sanitize=function",
    "-fno-sanitize-recover=all",
)
PLAIN = ("-fno-sanitize=undefined",)
INCLUDE = re.compile(r'^#(?:include|import) "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a driver is linked with."""

    runtime: Path
    standin: Path
    sanitized: bool


def zig() -> list[str]:
    """The command of ziglang's clang, which takes the arguments of clang."""
    import ziglang

    return [str(Path(ziglang.__file__).parent / "zig"), "cc"]


def run(command: Sequence[str]) -> None:
    """Runs a compiler; raises with its words."""
    cache = str(CACHE / "zig")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def digest(sources: Iterable[Path], *words: str) -> str:
    """Twenty hexadecimal digits of the files' contents and the words."""
    state = hashlib.sha256("\0".join(words).encode())
    for path in sorted(sources):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:20]


def sources_of(*folders: Path) -> list[Path]:
    """Every file under the folders that a build may read."""
    kinds = {".c", ".m", ".h", ".S", ".def", ".py"}
    return [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder build/apple/<name>, filled by `make` if nobody has filled it yet."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
                make(Path(unfinished))
                shutil.copytree(unfinished, folder)
    return folder


def compile_file(source: Path, folder: Path, command: Sequence[str], flags: Sequence[str]) -> Path:
    """Compiles one file to an object file in `folder`."""
    output = folder / f"{source.parent.name}_{source.name}.o"
    run([*command, *flags, "-c", str(source), "-o", str(output)])
    return output


def compile_all(
    sources: Iterable[Path], folder: Path, arc: bool, flags: Sequence[str]
) -> list[Path]:
    """Compiles C, Objective-C and assembly with clang."""
    kinds = {".c": C_FLAGS, ".m": ARC_FLAGS if arc else OBJC_FLAGS, ".S": ()}
    includes = [f"-I{HERE / 'include-linux'}", f"-I{HERE / 'include'}", f"-I{CSRC}"]

    def compile_one(source: Path) -> Path:
        language = kinds[source.suffix]
        return compile_file(source, folder, zig(), [*language, *COMMON, *flags, *includes])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sorted(sources)))


def system_library(name: str) -> str:
    """Where the system's compiler finds a library; only gcc is asked for."""
    answer = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(answer):
        raise RuntimeError(f"gcc knows no {name}")
    return os.path.realpath(answer)


def link(output: Path, objects: Sequence[Path], *arguments: str) -> None:
    """Links a shared object that stays loaded, as Apple's do with Objective-C in them."""
    name = f"-Wl,-soname,{output.name},-z,nodelete"
    files = [str(path) for path in objects]
    run(["gcc", "-shared", name, "-o", str(output), *files, *arguments, "-lpthread", "-ldl"])


def sanitizer_flags(sanitized: bool) -> tuple[str, ...]:
    """For clang."""
    return SANITIZE if sanitized else PLAIN


def sanitizer_libraries(sanitized: bool) -> list[str]:
    """The system compiler's sanitizers serve what ziglang's clang has instrumented."""
    return [system_library("libasan.so"), system_library("libubsan.so")] if sanitized else []


def sanitized_environment() -> dict[str, str]:
    """What a process needs to open a sanitised driver; Python's own leaks are not looked for."""
    return {
        "LD_PRELOAD": " ".join(sanitizer_libraries(True)),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
    }


def core_objects(csrc: Path) -> list[Path]:
    """The software engine, compiled by the system's compiler as for the extension."""
    folders = [csrc / name for name in ("base", "cpu", "engine")]
    sources = [path for folder in folders for path in folder.glob("*.c")]
    name = f"core-{digest([*sources_of(*folders), csrc / 'ane.h'], *compiler_flags())}"

    def make(folder: Path) -> None:
        def compile_one(source: Path) -> Path:
            return compile_file(
                source, folder, ["gcc"], [*compiler_flags(), "-g", "-fPIC", f"-I{csrc}"]
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, sources))

    return sorted(cached(name, make).glob("*.o"))


def image_object(folder: Path) -> Path:
    """What hands the Objective-C of one shared object to the runtime."""
    return compile_all([HERE / "runtime" / "image.c"], folder, True, PLAIN)[0]


def build_tools(sanitized: bool = False) -> Tools:
    """The runtime and the stand-in with the software engine inside, built if need be."""
    sources = [*sources_of(HERE / "runtime", HERE / "standin"), *sources_of(HERE / "include")]
    core = core_objects(CSRC)
    words = (str(sanitized), core[0].parent.name, *COMMON)
    name = f"tools-{digest([*sources, *sources_of(HERE / 'include-linux')], *words)}"

    def make(folder: Path) -> None:
        flags = [*WARNINGS, *sanitizer_flags(sanitized)]
        objects = folder / "objects"
        objects.mkdir()
        libraries = [system_library("libstdc++.so.6"), system_library("libgcc_s.so.1")]
        libraries += sanitizer_libraries(sanitized)
        runtime = [path for path in (HERE / "runtime").iterdir() if path.suffix != ".h"]
        link(folder / "libruntime.so", compile_all(runtime, objects, False, flags), *libraries)
        standin = [path for path in (HERE / "standin").iterdir() if path.suffix != ".h"]
        standin.remove(HERE / "standin" / "redirect.c")
        made = compile_all(standin, objects, True, flags)
        made += [image_object(objects), *core]
        against = [f"-L{folder}", "-lruntime", "-Wl,-rpath,$ORIGIN", "-Wl,-Bsymbolic", "-lm"]
        link(folder / "libstandin.so", made, *against, *sanitizer_libraries(sanitized))

    folder = cached(name, make)
    return Tools(folder / "libruntime.so", folder / "libstandin.so", sanitized)


def reads(source: Path) -> set[Path]:
    """A source and the files of the project that it includes, directly or not."""
    found, waiting = set[Path](), [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found and path.exists():
            found.add(path)
            waiting += [
                (path.parent / name).resolve() for name in INCLUDE.findall(path.read_text())
            ]
    return found


def driver_objects(csrc: Path, flags: Sequence[str]) -> list[Path]:
    """The driver's object files; a copy with one altered file shares the others."""
    words = (digest(sources_of(HERE / "include", HERE / "include-linux")), *flags, *COMMON)
    sources = [path for path in (csrc / "apple").iterdir() if path.suffix in (".c", ".m")]

    def compile_one(source: Path) -> Path:
        def make(folder: Path) -> None:
            compile_all([source], folder, True, flags)

        (made,) = cached(f"object-{digest(reads(source), source.name, *words)}", make).iterdir()
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sorted([*sources, csrc / "base" / "error.c"])))


def build_driver(tools: Tools, csrc: Path = CSRC, flags: Sequence[str] = ()) -> Path:
    """The driver library from csrc/apple, its object files compiled as they are.

    `csrc` may be an altered copy. Only when linking is the path of Apple's framework turned into
    that of the stand-in.
    """
    objects = driver_objects(
        csrc, [*sanitizer_flags(tools.sanitized), *flags, "-fvisibility=hidden"]
    )
    redirect = HERE / "standin" / "redirect.c"
    names = (path.parent.name for path in objects)
    name = f"driver-{digest([redirect], str(tools.runtime), *names)}"

    def make(folder: Path) -> None:
        path = f'-DSTANDIN_PATH="{tools.standin}"'
        made = [*compile_all([redirect], folder, True, [*PLAIN, path]), image_object(folder)]
        link(
            folder / "libdriver.so",
            [*objects, *made],
            "-Wl,--wrap=dlopen,-z,defs" if not tools.sanitized else "-Wl,--wrap=dlopen",
            str(tools.runtime),
            f"-Wl,-rpath,{tools.runtime.parent}",
            system_library("libgcc_s.so.1"),
            *sanitizer_libraries(tools.sanitized),
        )

    return cached(name, make) / "libdriver.so"


def build_probe(tools: Tools, name: str) -> Path:
    """A file of probe/ as a shared object, for tests of the runtime and the stand-in themselves."""
    return build_image(tools, HERE / "probe" / name)


def build_image(tools: Tools, source: Path) -> Path:
    """One file of Objective-C as a shared object."""
    key = f"probe-{digest(reads(source), str(tools.runtime), *COMMON)}"

    def make(folder: Path) -> None:
        flags = [*WARNINGS, *sanitizer_flags(tools.sanitized)]
        made = [*compile_all([source], folder, True, flags), image_object(folder)]
        rpath = f"-Wl,-rpath,{tools.runtime.parent}"
        libraries = [system_library("libgcc_s.so.1"), *sanitizer_libraries(tools.sanitized)]
        link(folder / "libprobe.so", made, str(tools.runtime), rpath, *libraries)

    return cached(key, make) / "libprobe.so"


def build_leaks() -> Path:
    """probe/leaks.c with the core, as a program that looks for lost memory when it ends."""
    source = HERE / "probe" / "leaks.c"
    core = core_objects(CSRC)
    name = f"leaks-{digest([source, CSRC / 'ane.h', Path(__file__)], core[0].parent.name)}"

    def make(folder: Path) -> None:
        files = [str(source), *(str(path) for path in core)]
        strict = [*WARNINGS, "-std=gnu11", "-g", "-fsanitize=address", f"-I{CSRC}"]
        thrower = ["-Wl,--no-as-needed", system_library("libstdc++.so.6")]  # before ASan starts
        libraries = [*thrower, "-lm", "-ldl", "-lpthread"]
        run(["gcc", *strict, *files, *libraries, "-o", str(folder / "leaks")])

    return cached(name, make) / "leaks"


def main() -> None:
    """Builds everything and prints the path of the driver."""
    print(build_driver(build_tools("--sanitized" in sys.argv)))


if __name__ == "__main__":
    main()
