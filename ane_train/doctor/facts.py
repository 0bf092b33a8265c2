"""Facts about the machine and what runs on it; nothing about whose it is."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from ane_train.doctor.report import Facts
from ane_train.engine.machine import cpu_facts, this_machine
from ane_train.native.engine import Context
from ane_train.native.library import compiler
from ane_train.native.system import sysctl_number

# Instruction sets that the core and BLAS choose kernels by: as Linux and macOS call them.
_LINUX_SETS = ("avx", "avx2", "avx512f", "avx512_bf16", "f16c", "fma", "asimd", "fphp", "asimdhp")
_MAC_SETS = ("FEAT_FP16", "FEAT_BF16", "FEAT_I8MM", "FEAT_SME")


def gather(threads: int = 0) -> Facts:
    """The machine at hand."""
    machine = this_machine()
    with Context(threads=threads) as context:
        blas = context.blas_name
    return Facts(
        chip=machine.chip,
        machine=platform.machine(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=_system(),
        build=machine.build,
        instructions=_instructions(),
        python=platform.python_version(),
        numpy=metadata.version("numpy"),
        compiler=compiler(),
        blas=blas,
        ane_train=machine.version,
    )


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}"


def _instructions() -> tuple[str, ...]:
    if sys.platform == "darwin":
        return tuple(name for name in _MAC_SETS if sysctl_number(f"hw.optional.arm.{name}"))
    facts = cpu_facts()
    there = set((facts.get("flags") or facts.get("Features") or "").split())
    return tuple(name for name in _LINUX_SETS if name in there)
