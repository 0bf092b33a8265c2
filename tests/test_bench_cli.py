"""`ane-train bench` as a user types it: a quick run of everything, and what is done with it."""

from __future__ import annotations

import getpass
import json
import socket
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from jsonschema import Draft202012Validator
from runs import ane_train

from ane_train.chip import NAMES, results
from ane_train.chip.settings import Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.cli import run
from ane_train.errors import ExitCode

REPORT = "bench.json"


def shown(folder: Path, *arguments: object) -> str:
    done = ane_train(folder, "bench", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def quick(folder: Path) -> CompletedProcess[str]:
    """Everything, with the usual name of the report."""
    return ane_train(folder, "bench", "--quick", "--threads", 2, "--chip", "m4", "--engine", "cpu")


@pytest.fixture(scope="module")
def report(folder: Path, quick: CompletedProcess[str]) -> results.Report:
    assert quick.returncode == 0, quick.stderr
    return results.read_report(folder / REPORT)


def test_names_are_those_of_the_table() -> None:
    assert tuple(BENCHMARKS) == NAMES


def test_a_quick_run_validates_and_everything_is_proved(
    folder: Path, report: results.Report
) -> None:
    data = json.loads((folder / REPORT).read_text())
    Draft202012Validator(results.schema()).validate(data)
    assert dict.fromkeys(row.benchmark for row in report.results) == dict.fromkeys(NAMES)
    not_ok = {(row.name, row.variant): row.status for row in report.results if row.status != "ok"}
    paths = ("direct", "realtime")
    assert not_ok == {("dispatch floor", path): "skipped" for path in paths}
    assert all(row.proof and row.series for row in report.results if row.status == "ok")
    assert [entry.name for entry in folder.iterdir() if entry.suffix != ".png"] == [REPORT]


def test_every_case_of_the_table_is_in_the_report_once(report: results.Report) -> None:
    labels = [(row.benchmark, f"{row.name}, {row.variant}") for row in report.results]
    assert len(set(labels)) == len(labels)
    settings = Settings("cpu", 2, quick=True, chip="m4")
    wanted = [(name, case.label) for name in NAMES for case in BENCHMARKS[name].cases(settings)]
    assert labels == wanted


def test_tables_and_notes_say_what_was_found(
    quick: CompletedProcess[str], report: results.Report
) -> None:
    lines = quick.stdout.splitlines()
    assert {name for name in NAMES if name in lines} == set(NAMES)
    assert any("plan (m4)" in line for line in lines)
    assert f"the report is in {REPORT}" in lines[-2]
    wide, whole = report.wide
    told = f"the spread of {wide} of {whole} timings is wide" in " ".join(quick.stdout.split())
    assert told == bool(wide)


def test_nothing_in_it_tells_whose_machine_it_is(
    folder: Path, report: results.Report, quick: CompletedProcess[str]
) -> None:
    text = (folder / REPORT).read_text()
    for word in (socket.gethostname(), getpass.getuser(), str(Path.home()), str(folder)):
        assert f'"{word}' not in text
        assert f"{word}/" not in text


def test_a_report_to_stdout_leaves_the_tables_to_stderr(folder: Path) -> None:
    done = ane_train(folder, "bench", "io", "--quick", "--json", "-", "--engine", "cpu")
    assert json.loads(done.stdout)["kind"] == results.KIND
    assert "64 x 512" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_report_that_cannot_be_written_is_shown_all_the_same(tmp_path: Path) -> None:
    """On /proc nothing can be, though its folder looks as if it could."""
    done = ane_train(
        tmp_path, "bench", "io", "--quick", "--json", "/proc/a.json", "--engine", "cpu"
    )
    assert done.returncode == ExitCode.DISK
    assert "write transposed" in done.stdout
    assert "the report is in" not in done.stdout
    assert done.stderr.startswith("error: /proc/a.json cannot be written")
    assert done.stderr.count("\n") == 1


def test_markdown_is_tables_that_can_be_pasted(tmp_path: Path) -> None:
    text = shown(tmp_path, "io", "--quick", "--markdown", "--engine", "cpu")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 2 + 5
    assert "### io" in text


def test_sizes_of_peak_are_those_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--precision", "fp16", "--depth", "2,3", "--channels", "64", "--spatial", "8x8,16x4")
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "peak", "--quick", *given, "--engine", "cpu"]) == 0
    found = results.read_report(tmp_path / REPORT)
    assert [row.name for row in found.results] == [
        f"conv {depth} x 64 at {spatial}" for depth in (2, 3) for spatial in ("8x8", "16x4")
    ]
    assert {row.variant for row in found.results} == {"fp16"}


MISTAKES = {
    ("peak", "--depth", "3,x"): "'x' does not fit N,N",
    ("peak", "--spatial", "64"): "'64' does not fit HxW,HxW",
    ("peak", "--precision", "int4"): "'int4' does not fit fp16,int8",
    ("speed",): "'speed' is not one of",
    ("peak", "--channels", "0"): "'0' does not fit N,N",
    ("peak", "--channels", "8,,9"): "'' does not fit N,N",
    ("peak", "--channels", "-8"): "'-8' does not fit N,N",
    ("peak", "--depth", "100000"): "'100000' does not fit N,N, each from 1 to 99999",
    ("peak", "--spatial", "64x64px"): "'64x64px' does not fit HxW,HxW",
    ("io", "--depth", "3"): "--depth is of peak: name that too, or leave out --depth",
    ("peak", "latency", "--model", "tiny"): "--model is of train",
    ("--threads", "-1"): "-1 is not in the range",
    ("--threads", "99999999999"): "99999999999 threads are too many",
    ("--timeout", "0"): "0 is not in the range",
    ("--timeout", "nan"): "'nan' is not a valid integer",
    ("--timeout", "inf"): "'inf' is not a valid integer",
    ("--timeout", "1000000000000"): "1000000000000 is not in the range",
    ("--json", "."): "it is a folder",
    ("train", "--chip", "m99"): "no constants are known for the chip 'm99'",
    ("train", "--model", "nothing"): "nothing",
    ("--json", "nowhere/bench.json"): "there is no such folder",
    ("--engine", "ane"): "the ANE cannot be used",
    ("compare", "none.json"): "cannot read none.json",
    ("plot", "none.json", "--png", "a.png"): "cannot read none.json",
    ("plot", "none.json"): "Missing option '--png'",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *arguments]) not in (0, 1)
    said = capsys.readouterr().err
    assert MISTAKES[arguments] in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_report_compared_with_itself_has_ratios_of_one(
    folder: Path, report: results.Report
) -> None:
    lines = shown(folder, "compare", REPORT, REPORT).splitlines()
    ratios = [line.split()[-1].rstrip("*") for line in lines if "µs" in line or "FLOP/s" in line]
    assert len(ratios) > 50
    assert set(ratios) == {"1.00"}


def test_a_report_is_put_beside_what_was_published(folder: Path, report: results.Report) -> None:
    text = shown(folder, "compare", REPORT)
    assert "dispatch floor" in text
    assert "maderix/ANE" in text


def test_a_picture_is_drawn(folder: Path, report: results.Report) -> None:
    shown(folder, "plot", REPORT, "--png", "roofline.png")
    header = (folder / "roofline.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(header[place : place + 4], "big") for place in (16, 20))
    assert (width, height) > (1000, 500)
