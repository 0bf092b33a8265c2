"""Mistakes made on purpose in a copy of the driver, each of which a check finds.

Every check passes on the driver as it is, in the same way of running it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from apple.build import CSRC, build_driver, build_tools, sanitized_environment
from apple.cross.casts import check_file
from apple_process import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

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
LONG_TYPES = f"_ANEModel modelAttributes={'^' * 200}v16@0:8"


@dataclass(frozen=True, slots=True)
class Fault:
    """A replacement of text, what then finds it, and what that says."""

    file: str
    old: str
    new: str
    check: Callable[[Path, Path], str]
    words: str


def altered(folder: Path, fault: Fault) -> Path:
    """A copy of csrc with the fault in it; the text to replace has to be there once."""
    copy = folder / "csrc"
    shutil.copytree(CSRC, copy)
    path = copy / "apple" / fault.file
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.file} no longer has: {fault.old}"
    path.write_text(text.replace(fault.old, fault.new))
    return copy


def outcome(csrc: Path, folder: Path, *ways: str, **environment: str) -> str:
    """What a round trip through the driver ends with: nothing, or all that it says."""
    tools = build_tools(SANITIZED in ways)
    if SANITIZED in ways:
        environment |= sanitized_environment()
    if STRICT in ways:
        environment |= {"RUNTIME_STRICT_SURFACES": "1"}
    driver, temporary = build_driver(tools, csrc), folder / "temporary"
    temporary.mkdir(exist_ok=True)
    done = run_python(ROUND_TRIP, str(driver), str(tools.standin), TMPDIR=str(temporary),
                      PYTHONFAULTHANDLER="1", **environment)  # fmt: skip
    return done.stderr if done.returncode else ""


def plainly(csrc: Path, folder: Path) -> str:
    """Results, and what is left behind."""
    return outcome(csrc, folder)


def strictly(csrc: Path, folder: Path) -> str:
    """The same where a surface's memory can be touched under its lock only."""
    return outcome(csrc, folder, STRICT)


def sanitized(csrc: Path, folder: Path) -> str:
    """The same under AddressSanitizer and UBSan."""
    return outcome(csrc, folder, SANITIZED)


def with_long_types(csrc: Path, folder: Path) -> str:
    """Under sanitizers, on a system with a type encoding that is longer than any known one."""
    said = outcome(csrc, folder, SANITIZED, ANE_STANDIN_TYPES=LONG_TYPES)
    return "" if "has the type encoding" in said else said


def by_casts(csrc: Path, folder: Path) -> str:
    """Casts and selectors as clang reads them."""
    return "\n".join(check_file(csrc / "apple" / "driver.m")[1])


CHECKS = (plainly, strictly, sanitized, with_long_types, by_casts)
FAULTS = {
    "a wrong cast": Fault(
        "calls.h",
        "(BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(\n"
        "        model, @selector(compileWithQoS",
        "(BOOL (*)(id, SEL, long, id, NSError **))objc_msgSend)(\n"
        "        model, @selector(compileWithQoS",
        by_casts,
        "compileWithQoS:options:error: is sent as BOOL (*)(__strong id, SEL, long,",
    ),
    "a misspelt selector": Fault(
        "calls.h",
        "@selector(unloadWithQoS:error:)",
        "@selector(unloadWithQos:error:)",
        by_casts,
        "unloadWithQos:error: is not a known method",
    ),
    "a missing unload": Fault(
        "program.m",
        "    program->loaded = !call_unload(program->model, &cause);\n",
        "    program->loaded = false;\n",
        plainly,
        "before and after: ['loaded 0, 1'",
    ),
    "a missing autorelease pool": Fault(
        "errors.m",
        "    @autoreleasepool {\n        @try {",
        "    {\n        @try {",
        plainly,
        "'unpooled 0, ",
    ),
    "a double release": Fault(
        "surface.m",
        "if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n",
        "if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n"
        "        if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n",
        plainly,
        "message release sent to a deallocated object",
    ),
    "a missing bounds check": Fault(
        "framework.m",
        "*encoding && length + 1 < ENCODING_SIZE;",
        "*encoding;",
        with_long_types,
        "stack-buffer-overflow",
    ),
    "an unlocked access": Fault(
        "surface.m",
        "    memset(memory->base, 0, memory->size);\n    return unlock(memory, false, error);\n",
        "    status = unlock(memory, false, error);\n"
        "    memset(memory->base, 0, memory->size);\n    return status;\n",
        strictly,
        "Segmentation fault",
    ),
    "weights not staged": Fault(
        "program.m",
        "status = staging_write(program->place, name, file->data, file->size, error);\n    }\n",
        "(void)file;\n    }\n",
        plainly,
        "cannot compile a program",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every altered copy; what runs of them is built side by side, with the tools once before."""
    copies = {name: altered(tmp_path_factory.mktemp("copy"), FAULTS[name]) for name in FAULTS}
    tools = {way: build_tools(way) for way in (False, True)}
    jobs = [
        (tools[fault.check in (sanitized, with_long_types)], copies[name])
        for name, fault in FAULTS.items()
        if fault.check is not by_casts
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: build_driver(*job), jobs))
    return copies


@pytest.mark.parametrize("check", CHECKS)
def test_the_driver_as_it_is_passes(check: Callable[[Path, Path], str], tmp_path: Path) -> None:
    assert check(CSRC, tmp_path) == ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_check_finds(name: str, built: dict[str, Path], tmp_path: Path) -> None:
    said = FAULTS[name].check(built[name], tmp_path)
    assert FAULTS[name].words in said, said[-2000:]
