"""The stand-in framework refuses what the real one is known to refuse, in Apple's own words.

A copy of the driver breaks each rule; sources of the rules: the comments of tests/apple/standin.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from apple.build import HERE, build_probe, build_tools
from apple.faults import Fault, altered, build_all, outcome
from apple.session import TEXT, WEIGHTS, StandIn
from test_apple_driver import FAILURES, SPOILT, THROWN, UNLOADS

from ane_train.native.library import find_blas

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
    "rows of less than 64 bytes where nothing is told": Breach(
        Fault("surface.m", "#define ROW_ALIGNMENT 64", "#define ROW_ALIGNMENT 16"),
        "Arrays are not equal",
        WITHOUT_ATTRIBUTES,
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
    made = [failure for failure, *_ in FAILURES] + [*THROWN, *UNLOADS, SPOILT]
    assert {failure.partition(":")[0] for failure in made} == calls


LEFT = ("live", "loaded", "unpooled", "surface_violations")
TAKEN = "taken"
NOT_A_QUALITY = f"{DOMAIN} 1: quality of service 64"
NOT_OPTIONS = "NSInvalidArgumentException: options must be a dictionary"
NOT_STAGED = f"{DOMAIN}.espresso -1: "
NOT_LOADED = f"{DOMAIN} 8: Program Inference error"
DO_NOT_FIT = f"{DOMAIN} 8: ANEProgramProcessRequestDirect() Failed with status=0x1d"
# A rule of probe/standin_probe.m that is broken, and the beginning of the answer.
RULES = {
    "all_as_known": TAKEN,
    "lowest_quality": TAKEN,
    "highest_quality": TAKEN,
    "default_quality": TAKEN,
    "quality_to_compile": NOT_A_QUALITY,
    "quality_to_load": NOT_A_QUALITY,
    "quality_to_evaluate": NOT_A_QUALITY,
    "quality_to_unload": NOT_A_QUALITY,
    "options_to_compile": NOT_OPTIONS,
    "options_to_load": NOT_OPTIONS,
    "options_to_evaluate": NOT_OPTIONS,
    "known_option": TAKEN,
    "unknown_option": f"{DOMAIN} 1: unknown option",
    "text_as_string": "nil",
    "text_of_nothing": "nil",
    "weights_of_nil": "nil",
    "weight_path": "nil",
    "weight_offset": "nil",
    "weight_data": "nil",
    "weight_without_entry": "nil",
    "nothing_staged": f"{NOT_STAGED}_ANEEspressoIRTranslator : error Cannot load network",
    "other_text_staged": f"{NOT_STAGED}_ANEEspressoIRTranslator : error Cannot load network",
    "other_weights_staged": f"{NOT_STAGED}Cannot load network: weights/w.bin",
    "malformed_text": f"{DOMAIN}.compiler 1: _ANECompiler : ANECCompile() FAILED: "
    "err=(InvalidMILProgram)",
    "load_before_compile": f"{DOMAIN} 10: verifyBundleAtPath: invalid model",
    "load_twice": f"{DOMAIN} 1: the program is loaded",
    "unload_before_load": f"{DOMAIN} 1: the program is not loaded",
    "evaluate_before_load": NOT_LOADED,
    "evaluate_stale": NOT_LOADED,
    "no_request": f"{DOMAIN} 8: ANEProgramProcessRequestDirect() Failed with status=0x16",
    "statistics": "NSInvalidArgumentException: -[",
    "procedure": "nil",
    "indices_missing": "nil",
    "indices_of_strings": "nil",
    "surfaces_unwrapped": "nil",
    "one_input": DO_NOT_FIT,
    "index_beyond": DO_NOT_FIT,
    "index_twice": DO_NOT_FIT,
    "small_surface": DO_NOT_FIT,
}


@pytest.fixture(scope="module")
def probe() -> Iterator[ctypes.CDLL]:
    """The probe with TEXT and its weight file at hand, beside a stand-in that is loaded."""
    tools = build_tools()
    ctypes.CDLL(str(tools.standin))
    library = ctypes.CDLL(str(build_probe(tools, "standin_probe.m")))
    text, (weights,) = TEXT.encode(), WEIGHTS.values()
    size = ctypes.c_size_t
    library.probe_prepare(text, size(len(text)), weights, size(len(weights)))
    yield library
    library.probe_finish()


@pytest.mark.parametrize("rule", RULES)
def test_the_stand_in_answers_who_breaks_a_rule(
    rule: str, probe: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    ask = getattr(probe, f"probe_{rule}")
    ask.restype = ctypes.c_char_p
    standin = StandIn(build_tools().standin)
    before = standin.report()
    assert ask().decode().startswith(RULES[rule])
    after = standin.report()
    assert [after[name] for name in LEFT] == [before[name] for name in LEFT]
