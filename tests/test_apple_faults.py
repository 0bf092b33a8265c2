"""Mistakes made on purpose in a copy of the driver, each of which a check finds.

Every check passes on the driver as it is, in the same way of running it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from apple.build import CSRC, build_tools
from apple.cross.casts import check_file
from apple.faults import SANITIZED, STRICT, Fault, altered, build_all, outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

LONG_TYPES = f"_ANEModel modelAttributes={'^' * 200}v16@0:8"
Check = Callable[[Path, Path], str]


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


def with_another_port(csrc: Path, folder: Path) -> str:
    """Under sanitizers, where the loaded program tells of an output that its text has not."""
    said = outcome(csrc, folder, SANITIZED, ANE_STANDIN_TALE="symbols=y,?")
    return "" if "not one of its text's" in said else said


def by_casts(csrc: Path, folder: Path) -> str:
    """Casts and selectors as clang reads them."""
    return "\n".join(check_file(csrc / "apple" / "driver.m")[1])


@dataclass(frozen=True, slots=True)
class Mistake:
    """A fault, what finds it, and what that says."""

    fault: Fault
    check: Check
    words: str


UNDER_SANITIZERS = (sanitized, with_long_types, with_another_port)
CHECKS = (plainly, strictly, *UNDER_SANITIZERS, by_casts)
MISTAKES = {
    "a wrong cast": Mistake(
        Fault(
            "calls.h",
            "(BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(\n"
            "        model, @selector(compileWithQoS",
            "(BOOL (*)(id, SEL, long, id, NSError **))objc_msgSend)(\n"
            "        model, @selector(compileWithQoS",
        ),
        by_casts,
        "compileWithQoS:options:error: is sent as BOOL (*)(__strong id, SEL, long,",
    ),
    "a misspelt selector": Mistake(
        Fault(
            "calls.h",
            "@selector(unloadWithQoS:error:)",
            "@selector(unloadWithQos:error:)",
        ),
        by_casts,
        "unloadWithQos:error: is not a known method",
    ),
    "a missing unload": Mistake(
        Fault(
            "program.m",
            "    program->loaded = !call_unload(program->model, &cause);\n",
            "    program->loaded = false;\n",
        ),
        plainly,
        "before and after: ['loaded 0, 1'",
    ),
    "a missing autorelease pool": Mistake(
        Fault(
            "errors.m",
            "    @autoreleasepool {\n        @try {",
            "    {\n        @try {",
        ),
        plainly,
        "'unpooled 0, ",
    ),
    "a double release": Mistake(
        Fault(
            "surface.m",
            "if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n",
            "if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n"
            "        if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n",
        ),
        plainly,
        "message release sent to a deallocated object",
    ),
    "a missing bounds check": Mistake(
        Fault(
            "encoding.c",
            "*encoding && length + 1 < size;",
            "*encoding;",
        ),
        with_long_types,
        "stack-buffer-overflow",
    ),
    "a missing check of an index": Mistake(
        Fault("layout.m", "slots[i].port < side->count && !is_taken", "!is_taken"),
        with_another_port,
        "heap-buffer-overflow",
    ),
    "a missing release": Mistake(
        Fault(
            "surface.m",
            "if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);\n",
            "",
        ),
        plainly,
        "'IOSurface': 4",
    ),
    "a directory that is kept": Mistake(
        Fault("program.m", "    staging_free(program->place);\n", ""),
        plainly,
        "files [], ['/",
    ),
    "an access without any lock": Mistake(
        Fault(
            "surface.m",
            "int code = IOSurfaceLock(surface, lock_options(read_only), NULL);",
            "int code = lock_options(read_only) > 1;",
        ),
        plainly,
        "gave its address without a lock",
    ),
    "a lock that is kept": Mistake(
        Fault(
            "surface.m",
            "IOSurfaceUnlock((IOSurfaceRef)memory->handle, lock_options(read_only), NULL);\n"
            "    return",
            "(int)lock_options(read_only) > 1;\n    return",
        ),
        plainly,
        "was used by the engine while locked",
    ),
    "an unlocked access": Mistake(
        Fault(
            "surface.m",
            "    memset(memory->base, 0, memory->size);\n"
            "    return unlock(memory, false, error);\n",
            "    status = unlock(memory, false, error);\n"
            "    memset(memory->base, 0, memory->size);\n    return status;\n",
        ),
        strictly,
        "Segmentation fault",
    ),
    "weights not staged": Mistake(
        Fault(
            "program.m",
            "status = staging_write(program->place, name, file->data, file->size, error);\n    }\n",
            "(void)file;\n    }\n",
        ),
        plainly,
        "cannot compile a program",
    ),
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every altered copy, built where it is to be run."""
    made = {
        name: altered(tmp_path_factory.mktemp("copy"), mistake.fault)
        for name, mistake in MISTAKES.items()
    }
    tools = {way: build_tools(way) for way in (False, True)}
    build_all(
        (tools[mistake.check in UNDER_SANITIZERS], made[name])
        for name, mistake in MISTAKES.items()
        if mistake.check is not by_casts
    )
    return made


@pytest.mark.parametrize("check", CHECKS)
def test_the_driver_as_it_is_passes(check: Check, tmp_path: Path) -> None:
    assert check(CSRC, tmp_path) == ""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_check_finds(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    said = MISTAKES[name].check(copies[name], tmp_path)
    assert MISTAKES[name].words in said, said[-2000:]
