"""The static pipeline on the driver and the stand-in: its budget, refused programs, failures."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from apple.build import build_driver, build_tools
from runs import TINY, ane_train, arrays, losses, metrics, same_bits, trained

from ane_train import mil
from ane_train.engine import EngineOptions, open_engine
from ane_train.engine.profile import Measured, new_profile, write_profile
from ane_train.errors import ExitCode
from ane_train.native.library import find_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

RUN = (*TINY, "--pipeline", "static", "--eval-every", 0, "--threads", 1, "--out", "run")
STEPS = (*RUN, "--steps", 6)
PROGRAMS = 8  # of the tiny model's two layers, all compiled anew and evaluated in each step


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the software engine makes of the steps."""
    return trained(tmp_path_factory.mktemp("software"), *STEPS, "--engine", "cpu")


@pytest.fixture(scope="module")
def home(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the quick check of the engine was done before, so that calls count from 0."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("TMPDIR", str(home))
        trained(home, *RUN, "--steps", 1, "--engine", "ane", "--driver", driver)
    return home


@pytest.fixture
def ane(
    driver: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[object, ...]:
    """Arguments that train on the stand-in, which reports into report.json and leaves no file."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    monkeypatch.setenv("ANE_STANDIN_REPORT", str(tmp_path / "report.json"))
    return (*STEPS, "--engine", "ane", "--driver", driver)


def assert_nothing_left(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["live"] == {}
    assert report["loaded"] == report["unpooled"] == report["surface_violations"] == 0
    assert list((folder / "temporary").iterdir()) == []


def assert_same_run(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    assert same_bits(arrays(run), arrays(whole))


def warnings_of(run: Path) -> list[object]:
    return [row["text"] for row in metrics(run, "warning")]


def test_limits_of_the_hardware_are_the_chips_unless_others_are_given(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = EngineOptions("ane", driver=str(driver), threads=1, profiles=tmp_path)

    def limits(options: EngineOptions) -> tuple[int | None, int | None]:
        with closing(open_engine(options)) as engine:
            asked = engine.context.options
            budget = engine.budget
        assert (asked.compile_limit, asked.load_limit) == (budget.compile_limit, budget.load_limit)
        return budget.compile_limit, budget.load_limit

    chip = mil.get_chip("m4")
    odd = replace(chip, compile_guard=33, load_limit=44)
    assert limits(options) == (chip.compile_guard, chip.load_limit)
    assert limits(replace(options, chip=odd)) == (33, 44)
    measured = replace(new_profile(), measured=Measured(compile_guard=55))
    write_profile(tmp_path, measured)
    assert limits(options) == (55, chip.load_limit)
    assert limits(replace(options, compile_limit=66, load_limit=77)) == (66, 77)


def test_the_limit_of_the_system_is_never_met_where_ours_is_as_low(
    ane: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_COMPILE_LIMIT", "20")
    run = trained(tmp_path, *ane, "--compile-limit", 20)
    assert_same_run(run, whole)
    assert warnings_of(run) == []
    assert metrics(run, "end")[0]["t_restart"] > 0
    assert_nothing_left(tmp_path)


def test_a_limit_of_the_system_below_ours_is_an_error_that_says_so(
    ane: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_COMPILE_LIMIT", "20")
    result = ane_train(tmp_path, *ane, "--save-every", 1)
    assert result.returncode == ExitCode.ENGINE
    assert result.stderr.count("\n") == 1
    assert "took feed_forward_backward before and fails at compile 21" in result.stderr
    assert "give a smaller --compile-limit" in result.stderr
    run = trained(tmp_path, "--resume", "run", "--compile-limit", 20)
    assert_same_run(run, whole)
    assert_nothing_left(tmp_path)


def test_a_refused_program_runs_in_software_and_is_named_once_over_restarts(
    ane: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", "compile:1@1")
    run = trained(tmp_path, *ane, "--compile-limit", 20)
    assert_same_run(run, whole)
    (warning,) = warnings_of(run)
    assert str(warning).startswith("feed_forward_forward runs on the software engine, not on")
    assert "compile was made to fail" in str(warning)
    assert metrics(run, "end")[0]["t_restart"] > 0
    assert_nothing_left(tmp_path)


def test_a_failing_evaluation_ends_the_run_with_its_last_checkpoint_intact(
    ane: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("ANE_STANDIN_FAIL", f"evaluate:1@{3 * PROGRAMS + 3}")
        result = ane_train(tmp_path, *ane, "--save-every", 2)
    assert result.returncode == ExitCode.ENGINE
    assert "evaluate was made to fail" in result.stderr
    assert result.stderr.count("\n") == 1
    run = tmp_path / "run"
    assert [step for step, _ in losses(run)] == [1, 2, 3]
    assert (run / "checkpoints" / "last").resolve().name == "step-000002"
    assert_nothing_left(tmp_path)
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)
