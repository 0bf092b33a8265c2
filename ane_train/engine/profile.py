"""What was measured of the Neural Engine on this machine, kept for later runs.

One file for a user, with what holds for one chip, system build and version of ane-train; for any
other it is void. Written by `ane-train doctor` and by the quick check of --engine auto.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ane_train.engine.machine import Machine, built_in_chip, this_machine
from ane_train.mil import Chip, Hazard
from ane_train.records import RecordError, from_json, to_json

SCHEMA = 1
FILE_NAME = "ane-profile.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What `doctor` found out. Times in milliseconds.

    hazards: names of mil.Hazard; refuted: names of chip rules that do not hold here; refused: MIL
    by `digest`, with the reason, that the ANE refuses or computes wrongly; dispatch: the fastest
    path that is right.
    """

    hazards: tuple[str, ...] = ()
    refuted: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    dispatch: str = "queue"
    dispatch_ms: Mapping[str, float] = field(default_factory=dict)
    compile_guard: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """quick: "" (not checked), "holds", or "pid N" of a process that is, or died, checking."""

    schema: int
    machine: Machine
    quick: str = ""
    measured: Measured | None = None


def digest(text: str) -> str:
    """What a program's MIL text is known by."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def new_profile() -> Profile:
    """A profile of this machine that says nothing yet."""
    return Profile(SCHEMA, this_machine())


def read_profile(folder: Path) -> tuple[Profile, str]:
    """The profile of this machine, and a note why one that was found is not used, or ""."""
    empty, path = new_profile(), folder / FILE_NAME
    try:
        data = json.loads(path.read_text())
        if isinstance(data, dict) and data.get("schema") != SCHEMA:
            return empty, f"{path} is of another version of ane-train: {_AGAIN}"
        found = from_json(Profile, data)
    except FileNotFoundError:
        return empty, ""
    except (OSError, ValueError, RecordError) as error:
        return empty, f"{path} cannot be used ({error}): {_AGAIN}"
    if found.machine != empty.machine:
        return empty, f"the profile is of {_difference(found.machine, empty.machine)}: {_AGAIN}"
    return found, ""


def write_profile(folder: Path, profile: Profile) -> Path:
    """Replaces the profile in one step. OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}-{os.getpid()}")
    temporary.write_text(json.dumps(to_json(profile), indent=1) + "\n")
    os.replace(temporary, path)
    return path


def measured_chip(profile: Profile) -> Chip | None:
    """The chip as it was measured, or None if `doctor` has not run here."""
    measured = profile.measured
    if measured is None:
        return None
    hazards = Hazard(0)
    for name in measured.hazards:
        hazards |= Hazard[name]
    chip = built_in_chip(profile.machine.chip)
    return replace(
        chip,
        hazards=hazards,
        refuted=frozenset(measured.refuted),
        compile_guard=measured.compile_guard or chip.compile_guard,
    )


_AGAIN = "run `ane-train doctor` to measure again"


def _difference(found: Machine, here: Machine) -> str:
    if found.build != here.build:
        return f"another system build ({found.build}, this is {here.build})"
    if found.chip != here.chip:
        return f"another chip ({found.chip})"
    return f"ane-train {found.version}"
