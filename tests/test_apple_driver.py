"""The driver of the Neural Engine, run on Linux against the stand-in framework."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from apple.build import Tools, build_driver, build_tools, sanitized_environment
from apple.session import (
    CHANNELS,
    TEXT,
    WEIGHTS,
    WIDTH,
    StandIn,
    error_of,
    evaluate,
    expected,
    open_driver,
    round_trip,
    weight_file,
)
from apple_process import run_python
from runs import TINY, ane_train, arrays, losses, metrics, same_bits, trained

from ane_train.native.engine import ContextOptions, describe_engine
from ane_train.native.library import find_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

SURVIVE = "from apple.session import *; from pathlib import Path; import ast, sys; "
SURVIVE += "survive(Path(sys.argv[1]), Path(sys.argv[2]), ast.literal_eval(sys.argv[3]))"
ROUND_TRIP = "from apple.session import *; from pathlib import Path; import sys; "
ROUND_TRIP += "print([a.tolist() for a in round_trip(Path(sys.argv[1]))])"


@pytest.fixture(scope="module")
def tools() -> Tools:
    return build_tools()


@pytest.fixture(scope="module")
def driver(tools: Tools) -> Path:
    return build_driver(tools)


@pytest.fixture
def standin(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    standin = StandIn(tools.standin)
    standin.reset()
    return standin


def assert_equal(results: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for result, want in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(result.view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize("dispatch", ["queue", "direct", "realtime"])
def test_a_program_gives_the_software_engines_bits_and_leaves_nothing(
    dispatch: str, driver: Path, standin: StandIn
) -> None:
    with standin.leaving_nothing():
        assert_equal(round_trip(driver, dispatch=dispatch), expected())
    assert standin.report()["compiles"] == 1
    assert standin.report()["evaluations"] == 1


def test_programs_of_equal_text_and_weights_live_side_by_side(
    driver: Path, standin: StandIn
) -> None:
    with standin.leaving_nothing(), open_driver(driver) as context:
        first, second = (context.compile(TEXT, WEIGHTS) for _ in range(2))
        first.close()
        assert_equal(evaluate(context, second), expected())
        second.close()


def test_a_donor_gives_its_compiled_form_to_other_weights(driver: Path, standin: StandIn) -> None:
    other = weight_file(-1, 4, 8, 0.25)
    with standin.leaving_nothing(), open_driver(driver) as context:
        donor = context.compile(TEXT, WEIGHTS)
        program = context.compile(TEXT, other, donor=donor)
        assert_equal(evaluate(context, program), expected(other))
        assert_equal(evaluate(context, donor), expected())
        program.close()
        donor.close()
    assert standin.report()["compiles"] == 1


def test_the_order_that_a_loaded_program_tells_is_used(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_ORDER", "reversed")
    with standin.leaving_nothing():
        assert_equal(round_trip(driver), expected())


# What a loaded program is made to tell of its ports (standin/tale.m), and the error that it gives.
TALES = {
    "symbols=y,?": "output 1 of the loaded program is '?', not one of its text's, or twice",
    "symbols=y,y": "output 1 of the loaded program is 'y', not one of its text's, or twice",
    "symbols=x,y,z": "the loaded program has 3 outputs, its text 2",
    "symbols=y": "the loaded program has 1 outputs, its text 2",
    "Name=?;Symbol=?": "the loaded program has no output 'y'",
    "Type=Float32": "port 'y': the loaded program has bytes per element 4, the surface 2",
    "Interleave=4": "port 'y': the loaded program has Interleave 4, the surface 1",
    "Width=9": "port 'y': the loaded program has Width 9, the surface 8",
    "Height=2": "port 'y': the loaded program has rows 8, the surface 4",
    "RowStride=128": "port 'y': the loaded program has RowStride 128, the surface 64",
    "PlaneStride=128": "port 'y': the loaded program has PlaneStride 128, the surface 64",
    "BatchStride=1048576": "port 'y': the loaded program has bytes 1048576, the surface 49152",
}


@pytest.mark.parametrize("tale", TALES)
def test_a_loaded_program_that_tells_of_other_ports_is_refused(
    tale: str, driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_TALE", tale)
    with standin.leaving_nothing():
        error = error_of(lambda: round_trip(driver))
    assert error.status == "unsupported"
    assert TALES[tale] in str(error)


def test_attributes_of_unknown_types_tell_nothing(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_TALE", "types=")
    with standin.leaving_nothing():
        assert_equal(round_trip(driver), expected())


# call that fails, dispatch, status of the error, and what its text says
FAILURES = [
    ("descriptor:1", "queue", "compile", "takes no descriptor"),
    ("model:1", "queue", "compile", "takes no model"),
    ("identifier:1", "queue", "missing", "no identifier"),
    ("compile:1", "queue", "compile", "compile was made to fail"),
    ("load:2", "queue", "limit", "load was made to fail"),
    ("wrap:1", "queue", "evaluate", "takes no surface"),
    ("wrap:1@3", "queue", "evaluate", "takes no surface"),
    ("request:1", "queue", "evaluate", "request"),
    ("evaluate:1", "queue", "evaluate", "evaluate was made to fail"),
    ("evaluate:1", "direct", "evaluate", "evaluate was made to fail"),
    ("evaluate:1", "realtime", "evaluate", "evaluate was made to fail"),
    ("realtime_load:1", "realtime", "system", "realtime_load was made to fail"),
    ("connection:1", "realtime", "system", "no reason"),
    ("surface:1", "queue", "memory", "no surface"),
    ("surface:1@3", "queue", "memory", "no surface"),
    ("lock:1", "queue", "system", "lock an IOSurface"),
    ("lock:1@4", "queue", "system", "lock an IOSurface"),
    ("unlock:1", "queue", "system", "unlock an IOSurface"),
    ("unlock:1@5", "queue", "system", "unlock an IOSurface"),
    ("inner_model:1", "direct", "missing", "no inner model"),
    ("device:1", "queue", "missing", "no Neural Engine"),
]
THROWN = ["descriptor", "model", "identifier", "compile", "load", "inner_model", "attributes"]
THROWN += ["device", "wrap", "request", "evaluate"]
SPOILT = "results"  # no call: an evaluation succeeds and one number is wrong
UNLOADS = {"unload": "queue", "realtime_unload": "realtime"}


@pytest.mark.parametrize(("failure", "dispatch", "status", "words"), FAILURES)
def test_each_call_that_fails_is_an_error_that_leaves_nothing(
    failure: str,
    dispatch: str,
    status: str,
    words: str,
    driver: Path,
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", failure)
    with standin.leaving_nothing():
        error = error_of(lambda: round_trip(driver, dispatch=dispatch))
    assert error.status == status
    assert words in str(error)


@pytest.mark.parametrize("call", THROWN)
def test_each_call_that_throws_is_an_error_that_leaves_nothing(
    call: str, driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", f"{call}:9:throw")
    with standin.leaving_nothing():
        error = error_of(lambda: round_trip(driver))
    assert error.domain == "NSGenericException"
    assert f"{call} was made to fail" in str(error)


def test_an_evaluation_can_be_made_to_give_one_wrong_number(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", f"{SPOILT}:1")
    with standin.leaving_nothing():
        pairs = zip(round_trip(driver), expected(), strict=True)
        wrong = [int((got.view(np.uint16) != want.view(np.uint16)).sum()) for got, want in pairs]
    assert sorted(wrong) == [0, 1]


def test_a_load_that_fails_once_is_tried_again(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", "load:1")
    with standin.leaving_nothing():
        assert_equal(round_trip(driver), expected())


@pytest.mark.parametrize(("call", "dispatch"), UNLOADS.items())
def test_a_program_that_cannot_be_unloaded_says_so_and_is_unloaded_when_freed(
    call: str, dispatch: str, driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", f"{call}:1")
    with standin.leaving_nothing(), open_driver(driver, dispatch=dispatch) as context:
        program = context.compile(TEXT, WEIGHTS)
        assert f"{call} was made to fail" in str(error_of(program.unload))
        program.close()


def test_the_systems_compile_limit_is_an_error_with_domain_and_code(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_COMPILE_LIMIT", "2")
    with standin.leaving_nothing(), open_driver(driver) as context:
        for value in range(2):
            context.compile(TEXT, weight_file(1, 2, 3, value)).close()
        error = error_of(lambda: context.compile(TEXT, WEIGHTS))
    assert (error.domain, error.code) == ("com.apple.appleneuralengine.compiler", 1)
    assert "ANECCompile" in str(error)


def test_the_systems_load_limit_is_an_error_with_domain_and_code(
    driver: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_LOAD_LIMIT", "1")
    with standin.leaving_nothing(), open_driver(driver) as context:
        program = context.compile(TEXT, WEIGHTS)
        error = error_of(lambda: context.compile(TEXT, weight_file(1, 2, 3, 4)))
        program.close()
    assert (error.domain, error.code) == ("com.apple.appleneuralengine", 0x50004)
    assert error.status == "limit"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ANE_STANDIN_ABSENT", "1", "no AppleNeuralEngine framework"),
        ("ANE_STANDIN_HAS_ANE", "0", "no Neural Engine"),
        ("ANE_STANDIN_VIRTUAL", "1", "virtual machine"),
        ("ANE_STANDIN_TYPES", "-_ANERequest", "no class _ANERequest"),
        (
            "ANE_STANDIN_TYPES",
            "_ANEInMemoryModel unloadWithQoS:error:=c28@0:8q16^@20",
            r"unloadWithQoS:error:.*'c@:q\^@'.*'B@:I\^@'",
        ),
        ("ANE_STANDIN_TYPES", "_ANEModel modelAttributes=^v16@0:8", "modelAttributes"),
    ],
)
def test_a_system_that_is_not_as_known_is_refused_by_name(
    variable: str, value: str, words: str, driver: Path, tmp_path: Path
) -> None:
    done = run_python(ROUND_TRIP, str(driver), TMPDIR=str(tmp_path), **{variable: value})
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ane_train.native.library.NativeError: ")
    assert re.search(words, last), last
    assert list(tmp_path.iterdir()) == []


def test_a_description_names_every_class_and_method(driver: Path, standin: StandIn) -> None:
    options = ContextOptions(engine="hardware", driver=str(driver))
    with standin.leaving_nothing():
        described = describe_engine(options)
    assert "_ANEInMemoryModel" in str(described)
    assert "h16g" in str(described)


def test_memory_is_touched_under_a_lock_only(driver: Path, tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "RUNTIME_STRICT_SURFACES": "1"}
    done = run_python(ROUND_TRIP, str(driver), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str([result.tolist() for result in expected()])


def test_surfaces_satisfy_every_published_rule(driver: Path, standin: StandIn) -> None:
    with standin.leaving_nothing(), open_driver(driver) as context:
        surface = context.surface(CHANNELS, WIDTH, 2)
        assert context.counts().surface_bytes >= 49152
        assert context.counts().surface_bytes % 16384 == 0
        surface.close()


def test_failures_and_exceptions_are_clean_under_sanitizers(tmp_path: Path) -> None:
    tools = build_tools(sanitized=True)
    driver = build_driver(tools)
    failures = [(failure, dispatch) for failure, dispatch, *_ in FAILURES]
    failures += [(f"{call}:9:throw", "queue") for call in THROWN]
    environment = sanitized_environment() | {"TMPDIR": str(tmp_path)}
    done = run_python(SURVIVE, str(driver), str(tools.standin), str(failures), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_ten_steps_through_driver_and_stand_in_are_the_software_engines_to_the_bit(
    batch: int, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, temporary = tmp_path / "report.json", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    monkeypatch.setenv("ANE_STANDIN_REPORT", str(report))
    settings = (*TINY, "--steps", 10, "--batch-size", batch, "--threads", 2, "--out", "run")
    folders = [tmp_path / "software", tmp_path / "hardware"]
    for folder in folders:
        folder.mkdir()
    software = trained(folders[0], *settings, "--engine", "cpu")
    hardware = trained(folders[1], *settings, "--engine", "ane", "--driver", driver)
    assert losses(hardware) == losses(software)
    assert same_bits(arrays(hardware), arrays(software))
    hidden = [metrics(run, "end")[-1]["t_overlapped"] for run in (hardware, software)]
    assert hidden[0] > hidden[1] == 0
    left = json.loads(report.read_text())
    assert left["evaluations"] > 100
    assert left["live"] == {}
    assert left["loaded"] == left["unpooled"] == left["surface_violations"] == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("way", "action"),
    [("direct", "evaluate a program"), ("realtime", "load a program for real-time evaluation")],
)
def test_a_run_evaluates_in_the_way_that_is_asked_for(
    way: str, action: str, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_FAIL", "connection:1000000")
    settings = (*TINY, "--steps", 1, "--engine", "ane", "--driver", driver, "--dispatch")
    queue, other = (ane_train(tmp_path, *settings, each) for each in ("queue", way))
    assert queue.returncode == 0, queue.stderr
    assert other.returncode == 8
    assert f"cannot {action}: the system gives no reason" in other.stderr
