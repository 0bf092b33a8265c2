"""Which chip and which system this is, without a look at the Neural Engine itself."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ane_train import __version__
from ane_train.mil import CHIPS, Chip
from ane_train.native.system import sysctl_text

_BRAND = re.compile(r"Apple M(\d+)")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a profile holds for: another of these makes it void.

    chip: as its maker calls it ("Apple M4 Max"); build: of the operating system.
    """

    chip: str
    build: str
    version: str


def this_machine() -> Machine:
    """The machine at hand."""
    if sys.platform == "darwin":
        chip, build = sysctl_text("machdep.cpu.brand_string"), sysctl_text("kern.osversion")
    else:
        chip, build = cpu_facts().get("model name", ""), platform.release()
    return Machine(chip or platform.machine(), build or "unknown", __version__)


def built_in_chip(name: str) -> Chip:
    """The profile of the table for a chip's full name; for a later or unknown one, the newest's."""
    return known_chip(name) or list(CHIPS.values())[-1]


def known_chip(name: str) -> Chip | None:
    """The profile of the table for a chip's full name; None for a later or unknown one."""
    found = _BRAND.match(name)
    return CHIPS.get(f"m{found[1]}") if found else None


def cpu_facts() -> dict[str, str]:
    """What Linux says of its first processor; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
