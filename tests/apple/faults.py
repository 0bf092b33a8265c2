"""Copies of the driver with a mistake in them, and what running them ends with."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from apple_process import run_python

from apple.build import CSRC, Tools, build_driver, build_tools, sanitized_environment

SANITIZED, STRICT = "sanitized", "strict"
ROUND_TRIP = """
import sys
from apple.session import *
standin = StandIn(Path(sys.argv[2]))
with standin.leaving_nothing():
    results = round_trip(Path(sys.argv[1]))
for result, wanted in zip(results, expected(), strict=True):
    np.testing.assert_array_equal(result.view(np.uint16), wanted.view(np.uint16))
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A replacement of text in a file of csrc/apple."""

    file: str
    old: str
    new: str


def altered(folder: Path, fault: Fault) -> Path:
    """A copy of csrc with the fault in it; the text to replace has to be there once."""
    copy = folder / "csrc"
    shutil.copytree(CSRC, copy)
    path = copy / "apple" / fault.file
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.file} no longer has: {fault.old}"
    path.write_text(text.replace(fault.old, fault.new))
    return copy


def build_all(jobs: Iterable[tuple[Tools, Path]]) -> None:
    """Builds drivers side by side, for those who ask for them later."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: build_driver(*job), jobs))


def outcome(csrc: Path, folder: Path, *ways: str, **environment: str) -> str:
    """What a round trip through the driver ends with: nothing, or all that it says."""
    tools = build_tools(SANITIZED in ways)
    if SANITIZED in ways:
        environment |= sanitized_environment()
    if STRICT in ways:
        environment |= {"RUNTIME_STRICT_SURFACES": "1"}
    driver, temporary = build_driver(tools, csrc), folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment |= {"TMPDIR": str(temporary), "PYTHONFAULTHANDLER": "1"}
    done = run_python(ROUND_TRIP, str(driver), str(tools.standin), **environment)
    return done.stderr if done.returncode else ""
