"""Chip profiles as data: generation, limits, hazards and peak of the Neural Engines of M1 to M5.

Every number is somebody else's measurement or claim; the projects are those that `rules` cites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType

# The most output channels of a convolution that is reported to run: GPT-2's classifier (cgane).
SHOWN_CHANNELS = 50257


class Hazard(IntFlag):
    """Measured numeric defects; the values are those of `ane_hazard` in csrc/ane.h."""

    MATMUL_RANGE = 1  # results beyond 32752 become infinite: M1 to M5, ANEForge#115
    REDUCE_FP16 = 2  # sums accumulate in fp16: M1, M2 and M5, ANEForge
    WIDTH_SLICE = 4  # |v| > 4094 becomes infinite in a slice along the last axis: ANEForge


@dataclass(frozen=True, slots=True)
class Chip:
    """What is known about the Neural Engine of one generation of chips.

    spatial_limit: largest size of the last two axes, and of a contraction; channel_limit: of the
    axes before them (ANEForge).
    compile_limit: programs that a process can compile before it breaks; compile_guard: where to
    stop before that (maderix, Orion, libane); load_limit: of programs that are loaded at a time,
    since the same number is published as theirs (field guide by skyfallsin).
    peak_tflops: fp16, one engine: measured on M4 and M5 (maderix), else Apple's rated figure.
    refuted: names of rules (`rules`) that were measured not to hold on the machine at hand.
    """

    name: str
    generation: str
    opset: str
    spatial_limit: int
    hazards: Hazard
    peak_tflops: float
    channel_limit: int = 65536
    compile_limit: int = 119
    compile_guard: int = 100
    load_limit: int = 119
    refuted: frozenset[str] = frozenset()


_EVERYWHERE = Hazard.MATMUL_RANGE | Hazard.REDUCE_FP16
_EARLY = _EVERYWHERE | Hazard.WIDTH_SLICE

CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "m1": Chip("m1", "H13", "ios16", 16384, _EARLY, 11.0),
        "m2": Chip("m2", "H14", "ios18", 16384, _EARLY, 15.8),
        "m3": Chip("m3", "H15", "ios18", 16384, _EVERYWHERE, 18.0),
        "m4": Chip("m4", "H16", "ios18", 65536, _EVERYWHERE, 19.0),
        "m5": Chip("m5", "H17", "ios18", 65536, _EVERYWHERE, 19.3),
    }
)


def get_chip(name: str | Chip) -> Chip:
    """The profile of "m1" to "m5", or the measured one that is given; ValueError for no such."""
    if isinstance(name, Chip):
        return name
    chip = CHIPS.get(name)
    if chip is None:
        raise ValueError(f"unknown chip {name!r}; one of {', '.join(CHIPS)}")
    return chip


def most_channels(chip: str | Chip | None) -> int:
    """The most channels that a value may have on a chip; where it is unknown, that were shown."""
    return SHOWN_CHANNELS if chip is None else get_chip(chip).channel_limit


def most_columns(chip: str | Chip | None) -> int:
    """The longest last axis that a value may have on a chip; where it is unknown, on any chip."""
    if chip is None:
        return min(each.spatial_limit for each in CHIPS.values())
    return get_chip(chip).spatial_limit


def hazards(name: str | Chip) -> int:
    """The chip's hazards as the or-ed flags that the software engine takes."""
    return int(get_chip(name).hazards)
