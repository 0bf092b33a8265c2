"""Cases that crash, hang, are refused or wrong: each is a result, and nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from apple.build import build_driver, build_tools
from jsonschema import Draft202012Validator

from ane_train.chip import INT8, results, run
from ane_train.chip.case import Benchmark, Case
from ane_train.chip.limits import cases
from ane_train.chip.results import CRASHED, HUNG, OK, REFUSED, SKIPPED, WRONG, Result
from ane_train.chip.settings import Settings, Sweep
from ane_train.chip.table import BENCHMARKS

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the real framework is there")


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


@pytest.fixture
def settings(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """On the stand-in, with temporary files in a folder of the test's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Settings("ane", 2, str(driver), quick=True, timeout=60)


def children() -> list[str]:
    process = os.getpid()
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def on_standin(settings: Settings, *labels: str) -> list[Result]:
    """The results of these cases of `limits`, each asked for by itself."""
    known = {case.label: case for case in cases(settings)}
    return [
        result
        for label in labels
        for result in run.run_cases("limits", [known[label]], settings, hardware=True)
    ]


FAILURES = {
    "compile:1": (REFUSED, "compile was made to fail"),
    "compile:1:crash": (CRASHED, "SIGABRT"),
    "evaluate:1:hang": (HUNG, "no answer within 3 seconds"),
    "evaluate:1:crash": (CRASHED, "SIGABRT"),
    "evaluate:1": ("failed", "evaluate was made to fail"),
    "results:1": (WRONG, "not timed"),
    "load:1:throw": ("failed", "load was made to fail"),
    "evaluate:1@3": ("failed", "while it was timed: cannot evaluate a program"),
    "evaluate:1@3:crash": (CRASHED, "SIGABRT"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_a_result_and_leaves_nothing(
    failure: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, words = FAILURES[failure]
    before = children()
    monkeypatch.setenv("ANE_STANDIN_FAIL", failure)
    timeout = 3 if status == HUNG else 60
    (result,) = on_standin(replace(settings, timeout=timeout), "64 x 64, dynamic matrix")
    assert (result.status, result.series) == (status, ())
    assert words in result.text
    monkeypatch.delenv("ANE_STANDIN_FAIL")
    assert list(tmp_path.rglob("*")) == []
    assert children() == before


def test_on_the_stand_in_every_question_is_answered(settings: Settings) -> None:
    labels = (
        "surface aligned to 64 bytes, queue",
        "program(1.3), ios18",
        "256 x 256, dynamic matrix",
    )
    assert [result.status for result in on_standin(settings, *labels)] == [OK] * 3


def test_a_report_of_the_ane_validates_and_tells_no_place(settings: Settings) -> None:
    report = run.measure(replace(settings, sweep=Sweep((INT8,), (2,), (64,), ("8x8",))), ["peak"])
    assert (report.engine.used, [row.status for row in report.results]) == ("ane", [OK])
    missing = replace(settings, engine="auto", driver="/home/somebody/none.dylib")
    fallen_back = run.measure(missing, ["io"])
    assert fallen_back.engine.used == "cpu"
    for made in (report, fallen_back):
        text = made.to_text()
        Draft202012Validator(results.schema()).validate(json.loads(text))
        assert "somebody" not in text
        assert str(settings.driver) not in text
        assert "/" not in text.replace(".../", "")


def test_larger_sizes_are_not_tried_after_one_that_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(benchmark: str, group: list[Case], *_: object, **__: object) -> Iterator[Result]:
        status = OK if group[0].sizes["out"] < 2048 else CRASHED
        case = group[0]
        yield Result(benchmark, case.name, case.variant, case.sizes, status, "SIGSEGV")

    monkeypatch.setattr(run, "run_cases", failing)
    rows = [case for case in cases(replace(settings, quick=False)) if case.ends_sweep]
    monkeypatch.setattr(
        run, "BENCHMARKS", {"limits": Benchmark("limits", lambda _: rows, alone=True)}
    )
    report = run.measure(replace(settings, engine="cpu", driver=None), ["limits"])
    surfaces = [row for row in report.results if row.variant == "weight surface"]
    assert [row.status for row in surfaces] == [OK, CRASHED, *[SKIPPED] * 6]
    assert surfaces[-1].text == "not tried after 1024 x 2048 failed"


def test_a_new_process_goes_on_where_one_died(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def some(benchmark: str, group: list[Case], *_: object, **__: object) -> Iterator[Result]:
        started.append([case.label for case in group])
        for index, case in enumerate(group[:2]):
            status = (OK, CRASHED)[index]
            yield Result(benchmark, case.name, case.variant, case.sizes, status, "SIGSEGV")

    monkeypatch.setattr(run, "run_cases", some)
    settings = Settings("cpu", quick=True)
    labels = [case.label for case in BENCHMARKS["io"].cases(settings)]
    report = run.measure(settings, ["io"])
    assert [f"{row.name}, {row.variant}" for row in report.results] == labels
    assert started == [labels, labels[2:], labels[4:]]


def test_the_paths_of_dispatch_are_each_measured_on_the_ane(settings: Settings) -> None:
    rows = [case for case in BENCHMARKS["latency"].cases(settings) if "dispatch" in case.name]
    found = list(run.run_cases("latency", rows, settings, hardware=True))
    assert [(row.variant, row.status) for row in found] == [
        ("queue", OK),
        ("direct", OK),
        ("realtime", OK),
    ]


def test_a_program_that_is_refused_while_others_are_timed_is_a_refusal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third compile of `update`: the first of new weights that is timed, after the proof's."""
    monkeypatch.setenv("ANE_STANDIN_FAIL", "compile:1@2")
    (case,) = [c for c in BENCHMARKS["update"].cases(settings) if c.variant == "recompile"]
    (result,) = run.run_cases("update", [case], settings, hardware=True)
    assert (result.status, result.series) == (REFUSED, ())
    assert result.text.startswith("while it was timed: cannot compile a program")
