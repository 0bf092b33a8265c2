"""The stand-in framework refuses what the real one is known to refuse, in Apple's own words.

A copy of the driver breaks each rule; sources of the rules: the comments of tests/apple/standin.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from apple.build import HERE, build_tools
from apple.faults import Fault, altered, build_all, outcome
from test_apple_driver import FAILURES, THROWN, UNLOADS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

DOMAIN = "com.apple.appleneuralengine"
WITHOUT_ATTRIBUTES = {"ANE_STANDIN_TYPES": "-_ANEModel"}


@dataclass(frozen=True, slots=True)
class Breach:
    """A fault of the driver, what the stand-in makes of it, and as what the stand-in runs."""

    fault: Fault
    words: str
    environment: dict[str, str] = field(default_factory=dict)


BREACHES = {
    "a quality of service that there is none of": Breach(
        Fault("calls.h", "CALL_QOS = 21;", "CALL_QOS = 64;"),
        f"quality of service 64 ({DOMAIN} 1)",
    ),
    "options that are no dictionary": Breach(
        Fault(
            "calls.h",
            "@selector(compileWithQoS:options:error:), CALL_QOS, @{}",
            "@selector(compileWithQoS:options:error:), CALL_QOS, @[]",
        ),
        "NSInvalidArgumentException: options must be a dictionary",
    ),
    "MIL that is not data": Breach(
        Fault("calls.h", "optionsPlist:), text, weights", 'optionsPlist:), @"text", weights'),
        "the system takes no descriptor",
    ),
    "no dictionary of weights": Breach(
        Fault("calls.h", "optionsPlist:), text, weights", "optionsPlist:), text, nil"),
        "the system takes no descriptor",
    ),
    "a compile without the staged text": Breach(
        Fault("program.m", "MODEL_FILE, text.bytes, text.length,", "MODEL_FILE, text.bytes, 1,"),
        f"Cannot load network: model.mil ({DOMAIN}.espresso -1)",
    ),
    "an evaluation of what is not loaded": Breach(
        Fault("program.m", "    if (!load_patiently(program->model, &cause))", "    if (cause)"),
        f"Program Inference error: not loaded ({DOMAIN} 8)",
    ),
    "a surface below the smallest size": Breach(
        Fault("surface.m", "#define SMALLEST_ALLOCATION 49152", "#define SMALLEST_ALLOCATION 64"),
        "Failed with status=0x1d",
    ),
    "rows of less than 64 bytes": Breach(
        Fault("surface.m", "#define ROW_ALIGNMENT 64", "#define ROW_ALIGNMENT 16"),
        "the loaded program has RowStride 64, the surface 16",
    ),
    "inputs that are not in alphabetical order": Breach(
        Fault("layout.m", ".name) < 0) position++;", ".name) > 0) position++;"),
        "Arrays are not equal",
        WITHOUT_ATTRIBUTES,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {
        name: altered(tmp_path_factory.mktemp("copy"), breach.fault)
        for name, breach in BREACHES.items()
    }
    build_all((build_tools(), copy) for copy in made.values())
    return made


@pytest.mark.parametrize("name", BREACHES)
def test_the_stand_in_refuses(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    breach = BREACHES[name]
    said = outcome(copies[name], tmp_path, **breach.environment)
    assert breach.words in said, said[-2000:]


def test_every_call_of_the_stand_in_is_made_to_fail_by_a_test() -> None:
    sources = [*(HERE / "standin").glob("*.m"), *(HERE / "runtime").glob("*.m")]
    gate = re.compile(r'(?:standin_go_on|standin_gives_object|runtime_next_failure)\("(\w+)"')
    calls = {name for path in sources for name in gate.findall(path.read_text())}
    made = [failure for failure, *_ in FAILURES] + [*THROWN, *UNLOADS]
    assert {failure.partition(":")[0] for failure in made} == calls
