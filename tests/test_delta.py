"""`--delta`: new weights in compiled programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apple.build import Tools, build_driver, build_tools
from apple.session import StandIn
from runs import TINY, ane_train, arrays, losses, metrics, same_bits, trained

from ane_train.engine import EngineOptions, check_delta, open_engine
from ane_train.errors import EngineError
from ane_train.model.spec import load_model
from ane_train.native.engine import Context, Program
from ane_train.native.library import find_blas
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import TrainingStep

Files = Mapping[str, bytes]
STATIC = (*TINY, "--pipeline", "static", "--threads", 2, "--out", "run")
TEN = (*STATIC, "--steps", 10)
PROGRAMS = 8  # of the tiny model's two layers
QUICK, TESTED = 2, 1  # compiles of the quick check and of the test of --delta

linux = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")


@pytest.fixture(scope="module")
def tools() -> Tools:
    return build_tools()


@pytest.fixture(scope="module")
def driver(tools: Tools) -> Path:
    return build_driver(tools)


@pytest.fixture(scope="module")
def software(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps on the software engine, all programs compiled anew each time."""
    return trained(tmp_path_factory.mktemp("software"), *TEN, "--engine", "cpu")


@pytest.fixture
def report(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in writes what it counted; runs leave their other files beside it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    monkeypatch.setenv("ANE_STANDIN_REPORT", str(tmp_path / "report.json"))
    return tmp_path / "report.json"


def assert_same(run: Path, wanted: Path) -> None:
    assert losses(run) == losses(wanted)
    assert same_bits(arrays(run), arrays(wanted))


def test_a_limit_that_needs_restarts_needs_none_with_delta(software: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, *TEN, "--engine", "cpu", "--compile-limit", 10, "--delta")
    assert_same(run, software)
    (end,) = metrics(run, "end")
    assert "t_restart" not in end


@pytest.mark.parametrize("extras", [(), ("--engine-extras",)])
def test_delta_changes_no_bit_of_fp32(extras: tuple[str, ...], tmp_path: Path) -> None:
    runs = []
    for name, delta in (("anew", ()), ("delta", ("--delta",))):
        settings = (*STATIC, "--steps", 3, "--numerics", "fp32", "--engine", "cpu")
        (tmp_path / name).mkdir()
        runs.append(trained(tmp_path / name, *settings, *extras, *delta))
    assert_same(*runs)


def test_delta_needs_constants(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--delta")
    assert result.returncode == 2
    assert "--delta needs weights as constants: add --pipeline static" in result.stderr


@linux
def test_delta_on_the_stand_in_compiles_once_and_gives_the_same_bits(
    driver: Path, report: Path, software: Path, tmp_path: Path
) -> None:
    run = trained(tmp_path, *TEN, "--engine", "ane", "--driver", driver, "--delta")
    assert_same(run, software)
    counted = json.loads(report.read_text())
    assert counted["compiles"] == QUICK + TESTED + PROGRAMS
    assert counted["loaded"] == 0
    assert counted["live"] == {}


@linux
@pytest.mark.parametrize(
    ("way", "words"),
    [("stale", "a program goes on with its old weights"), ("refused", "verifyBundleAtPath")],
)
def test_delta_is_refused_where_its_test_fails(
    way: str,
    words: str,
    driver: Path,
    report: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANE_STANDIN_DELTA", way)
    result = ane_train(tmp_path, *TEN, "--engine", "ane", "--driver", driver, "--delta")
    assert result.returncode == 8
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: --delta cannot be used here: ")
    assert words in line
    assert not (tmp_path / "run").exists()


@linux
def test_equal_weights_are_no_change(driver: Path, tools: Tools, report: Path) -> None:
    standin = StandIn(tools.standin)
    engine = open_engine(EngineOptions("ane", driver=str(driver)))
    spec = load_model("tiny")
    step = TrainingStep(spec, engine, 32, pipeline=PipelineOptions("static", delta=True))
    step.initialize(3)
    step.refresh()
    step.refresh()
    step.close()
    assert check_delta(engine.context) == ""
    compiles = standin.report()["compiles"]
    assert check_delta(engine.context) == ""
    assert standin.report()["compiles"] == compiles + TESTED
    engine.close()


class Misled:
    """An engine whose programs get of all weight files so far those that `choose` takes."""

    def __init__(self, context: Context, choose: Callable[[list[Files]], Files]) -> None:
        self._context, self._choose = context, choose
        self.given: list[Files] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._context, name)

    def compile(self, text: str, files: Files, donor: Program | None = None) -> Program:
        self.given.append(files)
        return self._context.compile(text, self._choose(self.given), donor=donor)


OLD = "a program goes on with its old weights"


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda given: given[-1], ""),
        (lambda given: given[0], OLD),
        (lambda given: given[min(len(given) - 1, 1)], OLD),
        (lambda given: given[-1 if len(given) < 3 else 0], "computes wrongly once its weights"),
    ],
    ids=["its own", "the first", "the donor's, if that had a donor", "the donor's donor's"],
)
@pytest.mark.parametrize("numerics", ["fp16", "fp32", "hazard"])
def test_the_check_tells_whose_weights_a_program_computes_with(
    choose: Callable[[list[Files]], Files], words: str, numerics: str
) -> None:
    with Context(numerics) as context:
        misled: Any = Misled(context, choose)
        problem = check_delta(misled)
        assert words in problem
        assert bool(words) == bool(problem)
        assert (context.counts().compiled, context.counts().loaded) == (1, 0)
        assert context.counts().surfaces == 0


def test_the_check_tells_that_even_a_compiled_program_is_wrong() -> None:
    with Context() as context:
        honest: Any = Misled(context, lambda given: given[-1])
        assert check_delta(honest) == ""
        other: Any = Misled(context, lambda _: honest.given[1])
        assert check_delta(other) == "a program computes wrongly before its weights are replaced"


def test_delta_needs_room_for_one_program_more_than_a_step_holds() -> None:
    spec = load_model("tiny")
    delta = PipelineOptions("static", delta=True)

    def step_within(load_limit: int) -> TrainingStep:
        engine = open_engine(EngineOptions("cpu", load_limit=load_limit))
        return TrainingStep(spec, engine, 32, pipeline=delta)

    with pytest.raises(EngineError, match="needs 9 programs loaded at a time, and the limit is 8"):
        step_within(PROGRAMS)
    step = step_within(PROGRAMS + 1)
    tokens = np.zeros((1, 32), np.int32)
    for seed in (1, 2):
        step.initialize(seed)
        assert step.pipeline.ready
        step.micro_batch(tokens, tokens)  # returns once every program is there
    other = step.engine.compile(step.pipeline.programs[0].program)
    step.initialize(3)
    assert not step.pipeline.ready
    other.close()
    step.close()
