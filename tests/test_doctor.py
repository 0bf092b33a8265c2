"""`ane-train doctor` from the outside: screen, report and exit code, here and on the stand-in."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from apple.build import build_driver, build_tools
from runs import TINY, arrays, command, environment, losses, metrics, same_bits, trained

from ane_train import mil
from ane_train.cli import run
from ane_train.doctor.isolate import DiedError, findings
from ane_train.doctor.report import read_report
from ane_train.doctor.settings import Job, Settings, Subject
from ane_train.engine import EngineOptions, open_engine
from ane_train.native.library import find_blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")
PROGRAMS = ("attention_forward", "feed_forward_forward", "feed_forward_backward")
PROGRAMS += ("attention_backward",)
Done = subprocess.CompletedProcess[str]


def doctor(folder: Path, *arguments: object, **variables: str) -> Done:
    """Runs the command in a home of its own."""
    home = folder / "home-of-somebody"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        command("doctor", *arguments),
        cwd=folder,
        env=environment(HOME=str(home), TMPDIR=str(folder), **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def verdicts(report: dict[str, Any], group: str) -> dict[str, str]:
    """By the names of the cases."""
    return {case["name"]: case["verdict"] for case in report["cases"] if case["group"] == group}


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    """The command on the software engine, and its report."""
    folder = tmp_path_factory.mktemp("here")
    done = doctor(folder, "--engine", "cpu", "--json", "report.json")
    return done, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def on_stand_in(
    driver: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done, dict[str, Any]]:
    """The command on the stand-in, with the folder that its home is in."""
    folder = tmp_path_factory.mktemp("standin")
    done = doctor(folder, "--engine", "ane", "--driver", driver, "--json", "report.json")
    return folder, done, json.loads((folder / "report.json").read_text())


def test_here_everything_holds(here: tuple[Done, dict[str, Any]]) -> None:
    done, report = here
    assert (done.returncode, done.stderr) == (0, "")
    assert report["compared_with"] == "NumPy"
    assert set(PROGRAMS) == set(verdicts(report, "program"))
    assert set(PROGRAMS) < set(verdicts(report, "static program"))
    assert set(verdicts(report, "program").values()) == {"ok"}
    assert set(verdicts(report, "static program").values()) == {"ok"}
    assert set(verdicts(report, "op").values()) == {"ok"}
    assert set(verdicts(report, "hazard").values()) == {"hazard absent"}
    used = {name.split()[0].rstrip(",") for name in verdicts(report, "op")}
    assert mil.OPS.keys() - used == {"dequantize"}, "which the case of quantize holds"


def test_the_screen_says_what_the_report_says(here: tuple[Done, dict[str, Any]]) -> None:
    done, report = here
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for title in ("machine", "engine", "framework", "dispatch", "what only a Mac can prove"):
        assert title in lines
    for name in (*verdicts(report, "program"), *verdicts(report, "op")):
        assert any(line.strip().startswith(name) for line in lines), name
    assert lines[-2].strip() == "-  the report is in report.json"


def test_the_report_reads_back_and_is_of_numbers(here: tuple[Done, dict[str, Any]]) -> None:
    report = read_report(json.dumps(here[1]))
    for case in report.cases:
        if case.group not in ("dispatch",) and case.name != "delta":
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
        words = {getpass.getuser(), socket.gethostname(), "home-of-somebody", os.getcwd()}
        assert not [word for word in words if word in text]


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
def test_on_the_stand_in_everything_holds_against_the_software_engine(
    on_stand_in: tuple[Path, Done, dict[str, Any]],
) -> None:
    folder, done, report = on_stand_in
    assert (done.returncode, done.stderr) == (0, "")
    assert report["compared_with"] == "the software engine"
    for group in ("program", "static program", "op"):
        assert set(verdicts(report, group).values()) == {"ok"}
    assert verdicts(report, "dispatch") == dict.fromkeys(("queue", "direct", "realtime"), "ok")
    assert set(report["dispatch_ms"]) == {"queue", "direct", "realtime"}
    assert report["device"]["classes"]["_ANEInMemoryModel"] is True
    assert all(method["matches"] for method in report["device"]["methods"])
    assert report["device"]["facts"]["aneArchitectureType"] == "h16g"
    assert "what only a Mac can prove" not in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["home-of-somebody", "report.json"]


@linux
def test_later_runs_go_by_what_was_measured(
    on_stand_in: tuple[Path, Done, dict[str, Any]], driver: Path
) -> None:
    folder, _, report = on_stand_in
    profiles = folder / "home-of-somebody" / ".cache" / "ane-train"
    opened = open_engine(EngineOptions(driver=str(driver), profiles=profiles))
    assert opened.name == "ane"
    assert "checked before" in opened.reason
    assert opened.context.options.dispatch == report["dispatch"]
    opened.close()


@linux
def test_another_system_build_is_checked_anew(
    on_stand_in: tuple[Path, Done, dict[str, Any]], driver: Path, tmp_path: Path
) -> None:
    profile = on_stand_in[0] / "home-of-somebody" / ".cache" / "ane-train" / "ane-profile.json"
    data = json.loads(profile.read_text())
    data["machine"]["build"] = "23Z999"
    (tmp_path / profile.name).write_text(json.dumps(data))
    start = time.monotonic()
    opened = open_engine(EngineOptions(driver=str(driver), profiles=tmp_path))
    assert opened.name == "ane"
    assert "checked before" not in opened.reason
    assert "another system build (23Z999" in opened.reason
    assert time.monotonic() - start < 60, "a check hangs"
    opened.close()


BROKEN = {
    "no framework": ({"ANE_STANDIN_ABSENT": "1"}, "AppleNeuralEngine does not load"),
    "no ANE": ({"ANE_STANDIN_HAS_ANE": "0"}, "no Neural Engine"),
    "a virtual machine": ({"ANE_STANDIN_VIRTUAL": "1"}, "virtual machine"),
    "no class": ({"ANE_STANDIN_TYPES": "-_ANERequest"}, "no class _ANERequest"),
    "another type": (
        {"ANE_STANDIN_TYPES": "_ANEInMemoryModel unloadWithQoS:error:=c28@0:8q16^@20"},
        "has the type encoding",
    ),
    "refusals": ({"ANE_STANDIN_FAIL": "compile:1000"}, "compile was made to fail"),
    "failures": ({"ANE_STANDIN_FAIL": "evaluate:1000"}, "evaluate was made to fail"),
    "exceptions": ({"ANE_STANDIN_FAIL": "load:1000:throw"}, "load was made to fail"),
}


@linux
@pytest.mark.parametrize("name", BROKEN)
def test_auto_falls_back_and_says_why(name: str, driver: Path, tmp_path: Path) -> None:
    variables, words = BROKEN[name]
    done = doctor(tmp_path, "--driver", driver, "--quick", "--json", "r.json", **variables)
    assert done.returncode == 0, done.stderr
    choice = json.loads((tmp_path / "r.json").read_text())["choice"]
    assert choice["engine"] == "cpu"
    assert words in choice["reason"]
    asked = doctor(tmp_path, "--driver", driver, "--quick", "--engine", "ane", **variables)
    assert asked.returncode == 8
    assert words.split()[-1] in asked.stdout


@linux
def test_the_defects_of_a_chip_are_confirmed_and_remembered(driver: Path, tmp_path: Path) -> None:
    done = doctor(tmp_path, "--driver", driver, "--json", "r.json", ANE_STANDIN_HAZARDS="7")
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    found = {case["hazard"]: case["verdict"] for case in report["cases"] if case["hazard"]}
    assert found == dict.fromkeys(mil.Hazard.__members__, "hazard confirmed")
    profile = tmp_path / "home-of-somebody" / ".cache" / "ane-train" / "ane-profile.json"
    measured = json.loads(profile.read_text())["measured"]
    assert set(measured["hazards"]) == set(mil.Hazard.__members__)


@linux
def test_a_program_that_is_refused_later_runs_in_software(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--driver", driver, "--seq", 32, "--json", "r.json")
    done = doctor(tmp_path, *asked, ANE_STANDIN_FAIL="compile:1@2")
    assert done.returncode == 8
    report = json.loads((tmp_path / "r.json").read_text())
    assert verdicts(report, "program")["feed_forward_backward"] == "refused"
    assert "does not hold: program feed_forward_backward: refused" in done.stdout
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-somebody"))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    settings = (*TINY, "--steps", 10, "--threads", 2, "--out", "run")
    folders = [tmp_path / "software", tmp_path / "hardware"]
    for folder in folders:
        folder.mkdir()
    software = trained(folders[0], *settings, "--engine", "cpu")
    hardware = trained(folders[1], *settings, "--driver", driver)
    assert losses(hardware) == losses(software)
    assert same_bits(arrays(hardware), arrays(software))
    (warning,) = metrics(hardware, "warning")
    assert "the ANE refuses feed_forward_backward" in str(warning)


@linux
def test_a_crash_is_a_finding_and_the_rest_goes_on(driver: Path, tmp_path: Path) -> None:
    crash = {"ANE_STANDIN_FAIL": "compile:1@40:crash"}
    done = doctor(tmp_path, "--driver", driver, "--json", "r.json", **crash)
    report = json.loads((tmp_path / "r.json").read_text())
    crashed = [case for case in report["cases"] if "SIGABRT" in case["text"]]
    assert [case["verdict"] for case in crashed] == ["failed"]
    assert report["cases"].index(crashed[0]) == 40
    assert len(report["cases"]) == len(Subject(Settings()).cases) + 4
    assert done.returncode == (8 if crashed[0]["needed"] else 0)


@linux
def test_a_hang_is_ended_and_said(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", "evaluate:1@1:hang")
    job = Job("cases", Settings(driver=str(driver)), hardware=True)
    with pytest.raises(DiedError, match="no answer within 2 seconds"):
        list(findings(job, silence=2))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
