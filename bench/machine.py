"""What was measured on: processor, memory, versions, libraries. No names, paths, serial numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ane_train import __version__
from ane_train.engine.machine import this_machine
from ane_train.native.engine import Context
from ane_train.native.library import compiler
from bench.worker import cores

PACKAGES = ("numpy", "scipy-openblas32", "torch", "transformers")


def machine() -> dict[str, str | int | float]:
    """Chip, cores, memory in GiB, operating system, architecture."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "chip": this_machine().chip,
        "cores": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Of this package, its compiler, Python and what is measured beside us."""
    return {
        "ane-train": __version__,
        "compiler": compiler(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def libraries() -> dict[str, str]:
    """Kernels that really run: of our BLAS, and of PyTorch's."""
    return {"blas": Context().blas_name, **_of_torch()}


def load() -> float:
    """Processes that wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _of_torch() -> dict[str, str]:
    """Lines of torch.__config__ about MKL, oneDNN and the instruction set."""
    import torch

    wanted = {"Math Kernel Library": "torch MKL", "MKL-DNN": "torch oneDNN"}
    wanted |= {"CPU capability": "torch instructions"}
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return {
        name: line.removeprefix("CPU capability usage: ")
        for line in lines
        for text, name in wanted.items()
        if text in line
    }
