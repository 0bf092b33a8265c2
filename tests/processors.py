"""Where probes of tests/c run: on this processor, or on an emulated 64-bit Arm.

The emulated one has no operating system, and of a C library what tests/c/bare.c has. Its probes are
compiled with ziglang's clang, with the flags of the core.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import lief
import numpy as np
import unicorn
from apple.build import CSRC, ROOT, cached, digest, run, zig
from compiled import compile_c
from unicorn import arm64_const as arm

from ane_train._build import compiler_flags

TARGET = ("-target", "aarch64-linux-musl")
PAGE = 4096
STACK = 1 << 40  # its end
STACK_BYTES = 1 << 20
RETURN = STACK  # nothing is there: a call ends when it arrives
MEMORY = 1 << 41  # for arrays
TEXT_BYTES = 64


class Processor(Protocol):
    """Something that calls functions of a probe. All arguments are whole numbers and addresses."""

    def place(self, array: np.ndarray) -> int:
        """The address of the array's elements for the probe, until the next `clear`."""

    def fetch(self, address: int, array: np.ndarray) -> None:
        """Brings back what the probe made of an array."""

    def clear(self) -> None:
        """Takes all arrays out of the probe's memory."""

    def call(self, name: str, *arguments: int) -> int:
        """Calls a function and returns its int, if it has one."""

    def text(self, name: str, *arguments: int) -> str:
        """Calls a function that returns a string."""


class Native:
    """The processor of the tests. Arrays stay where they are."""

    def __init__(self, folder: Path, probe: str, sources: Sequence[Path], flags: Sequence[str]):
        path = folder / f"{probe}.so"
        flags = [*flags, "-shared", "-fPIC"]
        self.library = ctypes.CDLL(str(compile_c(path, f"{probe}.c", sources, flags)))

    def place(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def fetch(self, address: int, array: np.ndarray) -> None:
        assert address == array.ctypes.data

    def clear(self) -> None:
        pass

    def call(self, name: str, *arguments: int) -> int:
        return self.library[name](*map(ctypes.c_size_t, arguments))

    def text(self, name: str, *arguments: int) -> str:
        function = self.library[name]
        function.restype = ctypes.c_char_p
        return function(*map(ctypes.c_size_t, arguments)).decode()


class EmulatedArm:
    """A 64-bit Arm. Arrays are copied to where the memory ends, so whatever reads on is found."""

    def __init__(self, probe: str, sources: Sequence[Path]):
        image = lief.ELF.parse(str(build_for_arm(probe, sources)))
        assert image is not None
        self.machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        for segment in image.segments:
            if segment.type == lief.ELF.Segment.TYPE.LOAD:
                self._map(segment.virtual_address, segment.virtual_size)
                self.machine.mem_write(segment.virtual_address, bytes(segment.content))
        self.machine.mem_map(STACK - STACK_BYTES, STACK_BYTES)
        self.symbols = {str(symbol.name): symbol.value for symbol in image.symbols}
        self.mapped: list[tuple[int, int]] = []
        self.free = MEMORY

    def place(self, array: np.ndarray) -> int:
        content = array.tobytes()
        size = -(-len(content) // PAGE) * PAGE
        if size:
            self.machine.mem_map(self.free, size)
            self.mapped.append((self.free, size))
        address = self.free + size - len(content)
        self.machine.mem_write(address, content)
        self.free += size + PAGE
        return address

    def fetch(self, address: int, array: np.ndarray) -> None:
        content = np.frombuffer(self.machine.mem_read(address, array.nbytes), array.dtype)
        array[...] = content.reshape(array.shape)

    def clear(self) -> None:
        for start, size in self.mapped:
            self.machine.mem_unmap(start, size)
        self.mapped, self.free = [], MEMORY

    def call(self, name: str, *arguments: int) -> int:
        return ctypes.c_int(self._call(name, arguments)).value

    def text(self, name: str, *arguments: int) -> str:
        return (
            bytes(self.machine.mem_read(self._call(name, arguments), 64)).split(b"\0")[0].decode()
        )

    def _call(self, name: str, arguments: Sequence[int]) -> int:
        for i, value in enumerate(arguments):
            self.machine.reg_write(arm.UC_ARM64_REG_X0 + i, value)
        self.machine.reg_write(arm.UC_ARM64_REG_SP, STACK)
        self.machine.reg_write(arm.UC_ARM64_REG_LR, RETURN)
        self.machine.emu_start(self.symbols[name], RETURN)
        return int(self.machine.reg_read(arm.UC_ARM64_REG_X0))

    def _map(self, start: int, size: int) -> None:
        first, end = start // PAGE * PAGE, -(-(start + size) // PAGE) * PAGE
        self.machine.mem_map(first, end - first)


def build_for_arm(probe: str, sources: Sequence[Path]) -> Path:
    """tests/c/<probe>.c with the sources and tests/c/bare.c as a program without a beginning."""
    own = ROOT / "tests" / "c"
    files = [own / f"{probe}.c", own / "bare.c", *sources]
    headers = [path for path in CSRC.rglob("*") if path.suffix in {".h", ".c"}]
    flags = [*compiler_flags(), "-fno-sanitize=undefined", "-Wall", "-Wextra", "-Werror"]
    command = [*zig(), *TARGET]

    def make(folder: Path) -> None:
        objects = []
        for path in files:
            objects.append(str(folder / f"{path.stem}.o"))
            run([*command, *flags, f"-I{CSRC}", "-c", str(path), "-o", objects[-1]])
        link = ["-nostdlib", "-static", "-Wl,--no-gc-sections,-e,memset"]
        run([*command, *link, *objects, "-o", str(folder / "probe")])

    key = digest([*files, *headers, Path(__file__)], *flags, *command)
    return cached(f"arm-{probe}-{key}", make) / "probe"
