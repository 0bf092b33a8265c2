"""`ane-train doctor` from the outside: screen, report and exit code, here and on the stand-in."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from apple.build import build_driver, build_tools
from doctor_process import HOME, PROFILE, Done, doctor, reported, verdicts

from ane_train import mil
from ane_train.cli import run
from ane_train.doctor.report import read_report
from ane_train.engine import EngineOptions, open_engine

linux = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")
PROGRAMS = ("attention_forward", "feed_forward_forward", "feed_forward_backward")
PROGRAMS += ("attention_backward",)
GROUPS = ("program", "static program", "op", "decode program")


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    """The command on the software engine, and its report."""
    folder = tmp_path_factory.mktemp("here")
    return reported(folder, "--engine", "cpu")


@pytest.fixture(scope="module")
def on_stand_in(
    driver: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done, dict[str, Any]]:
    """The command on the stand-in, with the folder that its home is in."""
    folder = tmp_path_factory.mktemp("standin")
    return folder, *reported(folder, "--engine", "ane", "--driver", driver)


def test_here_everything_holds(here: tuple[Done, dict[str, Any]]) -> None:
    done, report = here
    assert (done.returncode, done.stderr) == (0, "")
    assert report["compared_with"] == "NumPy"
    assert set(PROGRAMS) == set(verdicts(report, "program"))
    assert set(PROGRAMS) < set(verdicts(report, "static program"))
    assert set(verdicts(report, "program").values()) == {"ok"}
    assert set(verdicts(report, "static program").values()) == {"ok"}
    assert set(verdicts(report, "op").values()) == {"ok"}
    assert set(verdicts(report, "decode program").values()) == {"ok"}
    assert "-  all that generating needs holds: ane-train generate works on the" in done.stdout
    assert set(verdicts(report, "hazard").values()) == {"hazard absent"}
    used = {name.split()[0].rstrip(",") for name in verdicts(report, "op")}
    assert mil.OPS.keys() - used == {"dequantize"}, "which the case of quantize holds"


def test_the_screen_says_what_the_report_says(here: tuple[Done, dict[str, Any]]) -> None:
    done, report = here
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for title in ("machine", "engine", "framework", "dispatch", "what only a Mac can prove"):
        assert title in lines
    for name in (name for group in GROUPS for name in verdicts(report, group)):
        assert any(line.strip().startswith(name) for line in lines), name
    assert lines[-3].strip() == "-  the report is in report.json"


def test_the_report_reads_back_and_is_of_numbers(here: tuple[Done, dict[str, Any]]) -> None:
    report = read_report(json.dumps(here[1]))
    for case in report.cases:
        if case.name.startswith("classifier") and case.group == "decode program":
            assert case.evaluate_ms > 0
            assert case.rms_error is not None
        elif case.group not in ("dispatch",) and case.name != "delta":
            assert case.compile_ms > 0
            assert case.evaluate_ms > 0
            assert case.rms_error is not None
            assert case.max_error is not None
            assert case.surface_bytes > 0


@linux
def test_no_report_tells_whose_machine_it_is(
    here: tuple[Done, dict[str, Any]], on_stand_in: tuple[Path, Done, dict[str, Any]]
) -> None:
    for report in (here[1], on_stand_in[2]):
        text = json.dumps(report)
        words = {getpass.getuser(), socket.gethostname(), HOME, os.getcwd()}
        assert not [word for word in words if word in text]


def test_another_model_needs_other_ops(here: tuple[Done, dict[str, Any]], tmp_path: Path) -> None:
    done, report = reported(
        tmp_path, "--engine", "cpu", "--model", "stories15m", "--seq", 64, "--batch-size", 2
    )
    assert done.returncode == 0
    assert (report["model"], report["sequence"], report["batch"]) == ("stories15m", 64, 2)
    assert "programs of stories15m at 2 x 64" in done.stdout
    assert set(verdicts(report, "program").values()) == {"ok"}
    needs = [
        {case["name"] for case in each["cases"] if case["group"] == "op" and case["needed"]}
        for each in (here[1], report)
    ]
    assert needs[0] - needs[1] == {"pow"}, "for the norm of queries and keys"


def test_json_on_stdout_leaves_the_rest_to_stderr(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--engine", "cpu", "--quick", "--json", "-")
    assert json.loads(done.stdout)["choice"]["engine"] == "cpu"
    assert "what to do next" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "tinny"), 3, "did you mean tiny?"),
        (("--json", "nowhere/report.json"), 7, "nowhere/report.json cannot be written"),
        (("--engine", "gpu"), 2, "'gpu' is not one of"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_tried(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = doctor(tmp_path, *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert words in done.stderr.splitlines()[-1]


def test_where_the_report_cannot_be_written_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ane_train.doctor.examine", lambda *_: pytest.fail("it was tried"))
    assert run(["doctor", "--json", str(tmp_path / "nowhere" / "report.json")]) == 7


@linux
def test_where_writing_the_report_fails_all_is_shown_first(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--engine", "cpu", "--quick", "--json", "/proc/report.json")
    assert done.returncode == 7
    assert "trains on the software engine" in done.stdout
    assert done.stderr.startswith("error: /proc/report.json cannot be written")


@linux
def test_on_the_stand_in_everything_holds_against_the_software_engine(
    on_stand_in: tuple[Path, Done, dict[str, Any]],
) -> None:
    folder, done, report = on_stand_in
    assert (done.returncode, done.stderr) == (0, "")
    assert report["compared_with"] == "the software engine"
    for group in GROUPS:
        assert set(verdicts(report, group).values()) == {"ok"}
    assert verdicts(report, "dispatch") == dict.fromkeys(("queue", "direct", "realtime"), "ok")
    assert set(report["dispatch_ms"]) == {"queue", "direct", "realtime"}
    assert report["device"]["classes"]["_ANEInMemoryModel"] is True
    assert all(method["matches"] for method in report["device"]["methods"])
    assert report["device"]["facts"]["aneArchitectureType"] == "h16g"
    assert "what only a Mac can prove" not in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == [HOME, "report.json"]


@linux
def test_later_runs_go_by_what_was_measured(
    on_stand_in: tuple[Path, Done, dict[str, Any]], driver: Path
) -> None:
    folder, _, report = on_stand_in
    profiles = (folder / PROFILE).parent
    opened = open_engine(EngineOptions(driver=str(driver), profiles=profiles))
    assert opened.name == "ane"
    assert "checked before" in opened.reason
    assert opened.context.options.dispatch == report["dispatch"]
    opened.close()


@linux
def test_another_system_build_is_checked_anew(
    on_stand_in: tuple[Path, Done, dict[str, Any]], driver: Path, tmp_path: Path
) -> None:
    profile = on_stand_in[0] / PROFILE
    data = json.loads(profile.read_text())
    data["machine"]["build"] = "23Z999"
    (tmp_path / profile.name).write_text(json.dumps(data))
    opened = open_engine(EngineOptions(driver=str(driver), profiles=tmp_path))
    assert opened.name == "ane"
    assert "checked before" not in opened.reason
    assert "another system build (23Z999" in opened.reason
    opened.close()
