"""`ane-train doctor` and runs where the ANE is not as it should be, on the stand-in."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apple.build import build_driver, build_tools
from apple_process import run_python
from doctor_process import HOME, PROFILE, doctor, reported, verdicts
from runs import TINY, arrays, losses, metrics, same_bits, trained

from ane_train import mil
from ane_train.doctor import worker
from ane_train.doctor.settings import Job, Settings, Subject
from ane_train.engine.device import Device
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.isolation.isolate import DiedError, findings
from ane_train.native.library import find_blas
from ane_train.records import to_json

TEN = (*TINY, "--steps", 10, "--threads", 2, "--out", "run")
WRONG = "results:5@10"  # all evaluations of the third case
examine = importlib.import_module("ane_train.doctor.examine")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


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
    "wrong numbers": ({"ANE_STANDIN_FAIL": "results:1000"}, "gives wrong numbers on the ANE"),
    "exceptions": ({"ANE_STANDIN_FAIL": "load:1000:throw"}, "load was made to fail"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_auto_falls_back_and_says_why(name: str, driver: Path, tmp_path: Path) -> None:
    variables, words = BROKEN[name]
    done, report = reported(tmp_path, "--driver", driver, "--quick", **variables)
    assert done.returncode == 0, done.stderr
    assert report["choice"]["engine"] == "cpu"
    assert words in report["choice"]["reason"]


@pytest.mark.parametrize("name", ["no ANE", "failures"])
def test_the_ane_that_was_asked_for_and_cannot_be_used_is_a_failure(
    name: str, driver: Path, tmp_path: Path
) -> None:
    variables, words = BROKEN[name]
    done = doctor(tmp_path, "--driver", driver, "--quick", "--engine", "ane", **variables)
    assert done.returncode == 8
    assert words.split()[-1] in done.stdout


@pytest.mark.parametrize("name", ["no class", "another type"])
def test_where_the_ane_does_not_open_the_software_engine_is_tried(
    name: str, driver: Path, tmp_path: Path
) -> None:
    variables, words = BROKEN[name]
    done, report = reported(tmp_path, "--driver", driver, **variables)
    assert done.returncode == 0
    assert words in report["device"]["problem"]
    assert [m["name"] for m in report["device"]["methods"] if not m["matches"]]
    assert report["compared_with"] == "NumPy"
    assert set(verdicts(report, "program").values()) == {"ok"}
    assert "the ANE is there and cannot be used" in done.stdout
    assert not (tmp_path / PROFILE).exists()


def test_where_every_program_is_refused_nothing_is_said_of_numbers(
    driver: Path, tmp_path: Path
) -> None:
    variables, words = BROKEN["refusals"]
    done, report = reported(tmp_path, "--driver", driver, **variables)
    assert done.returncode == 8
    assert set(verdicts(report, "program").values()) == {"refused"}
    assert verdicts(report, "hazard")["two inputs"] == "hazard confirmed"
    asked = [case for case in report["cases"] if case["hazard"]]
    assert {case["verdict"] for case in asked} == {"skipped"}
    assert all(words in case["text"] for case in asked)
    measured = json.loads((tmp_path / PROFILE).read_text())["measured"]
    usual = built_in_chip(this_machine().chip).hazards
    assert {mil.Hazard[name] for name in measured["hazards"]} == set(usual)


def test_what_was_seen_stays_where_opening_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dying(_module: str, job: Job) -> Iterator[tuple[str, Any]]:
        yield worker.DEVICE, to_json(Device(True, "", "framework", "macOS"))
        raise DiedError("the process crashed with signal 11 (SIGSEGV)")

    monkeypatch.setattr(examine, "findings", dying)
    device = examine._look(Settings())
    assert (device.present, device.system) == (True, "macOS")
    assert device.problem.startswith("opening the ANE failed: the process crashed")


def test_a_process_that_dies_before_its_first_case_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    def dying(_module: str, job: Job) -> Iterator[tuple[str, Any]]:
        started.append(job)
        raise DiedError("no room")
        yield

    monkeypatch.setattr(examine, "findings", dying)
    subject = Subject(Settings())
    found = list(examine._try_all(Settings(), subject, False, lambda *_: None))
    assert len(started) == 1
    assert [case.name for case in found] == [case.name for case in subject.cases]
    assert not any(case.holds for case in found if case.group != "hazard")


def test_a_new_process_goes_on_where_one_may_compile_no_more(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = replace(mil.get_chip("m4"), compile_guard=5)
    monkeypatch.setattr(worker, "built_in_chip", lambda _: chip)
    job = Job("cases", Settings(driver=str(driver)), hardware=True, first=3)
    *tried, last = worker.WORK[job.work](job)
    assert [value for word, value in tried if word == worker.BEGIN] == [3, 4, 5, 6, 7]
    assert last == (worker.FULL, 8)


def test_the_defects_of_a_chip_are_confirmed_and_remembered(driver: Path, tmp_path: Path) -> None:
    done = doctor(tmp_path, "--driver", driver, "--json", "r.json", ANE_STANDIN_HAZARDS="7")
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    found = {case["hazard"]: case["verdict"] for case in report["cases"] if case["hazard"]}
    assert found == dict.fromkeys(mil.Hazard.__members__, "hazard confirmed")
    profile = tmp_path / PROFILE
    measured = json.loads(profile.read_text())["measured"]
    assert set(measured["hazards"]) == set(mil.Hazard.__members__)


@pytest.fixture(scope="module")
def software(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps on the software engine."""
    return trained(tmp_path_factory.mktemp("software"), *TEN, "--engine", "cpu")


@pytest.mark.parametrize(("failure", "verdict"), [("compile:1@2", "refused"), (WRONG, "wrong")])
def test_a_program_that_does_not_hold_later_runs_in_software(
    failure: str,
    verdict: str,
    driver: Path,
    software: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, report = reported(tmp_path, "--driver", driver, "--seq", 32, ANE_STANDIN_FAIL=failure)
    assert done.returncode == 8
    bad = {name for name, found in verdicts(report, "program").items() if found != "ok"}
    assert bad == {"feed_forward_backward"}
    assert f"training needs: program feed_forward_backward: {verdict}" in done.stdout
    assert done.stdout.splitlines()[-2].strip() == "-  not all that training needs holds"
    monkeypatch.setenv("HOME", str(tmp_path / HOME))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    hardware = trained(tmp_path, *TEN, "--driver", driver)
    assert losses(hardware) == losses(software)
    assert same_bits(arrays(hardware), arrays(software))
    (warning,) = metrics(hardware, "warning")
    words = f"feed_forward_backward runs on the software engine, not on the ANE: {verdict}: "
    assert words in str(warning)


def test_a_crash_is_a_finding_and_the_rest_goes_on(driver: Path, tmp_path: Path) -> None:
    cases = Subject(Settings()).cases
    place = [case.name for case in cases].index("gather")
    crash = {"ANE_STANDIN_FAIL": f"compile:1@{place}:crash"}
    done, report = reported(tmp_path, "--driver", driver, **crash)
    crashed = [case for case in report["cases"] if "SIGABRT" in case["text"]]
    assert [(case["name"], case["verdict"]) for case in crashed] == [("gather", "failed")]
    assert len(report["cases"]) == len(cases) + 6
    assert done.returncode == 0, "training needs no gather"
    assert "training does without: op gather: failed" in done.stdout


def test_what_generate_alone_needs_is_no_failure_of_training(driver: Path, tmp_path: Path) -> None:
    place = [case.name for case in Subject(Settings()).cases].index("decode_1 int8")
    refused = {"ANE_STANDIN_FAIL": f"compile:1@{place}"}
    done, report = reported(tmp_path, "--driver", driver, **refused)
    found = verdicts(report, "decode program")
    assert {name for name, verdict in found.items() if verdict != "ok"} == {"decode_1 int8"}
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "generating needs: decode program decode_1 int8: refused",
        "not all that generating needs holds: give it --engine cpu",
        "all that training needs holds: ane-train --model tiny trains on the ANE",
    ):
        assert f"-  {line}\n" in done.stdout
    assert "training does without" not in done.stdout


OPENING = """
import sys
from pathlib import Path
from ane_train.engine import EngineOptions, open_engine
engine = open_engine(EngineOptions(sys.argv[1], driver=sys.argv[2], profiles=Path(sys.argv[3])))
print(engine.name, engine.reason)
"""


def test_a_check_that_ended_its_process_is_not_made_again_unasked(
    driver: Path, tmp_path: Path
) -> None:
    def opened(kind: str, failure: str = "") -> str:
        environment = {"TMPDIR": str(tmp_path), "ANE_STANDIN_FAIL": failure}
        return run_python(OPENING, kind, str(driver), str(tmp_path), **environment).stdout

    assert opened("auto", "compile:1:crash") == ""
    assert opened("auto").startswith("cpu the last check of the ANE ended its process")
    assert opened("ane") == "ane ANE found, two small programs are right\n"
    assert opened("auto") == "ane ANE found, two small programs are right (checked before)\n"


def test_no_finding_tells_of_folders_users_or_hosts(driver: Path, tmp_path: Path) -> None:
    person = tmp_path / "planted-name" / "planted-folder"
    person.mkdir(parents=True)
    planted = {"USER": "planted-user", "LOGNAME": "planted-user", "TMPDIR": str(person / "none")}
    asked = ("--engine", "ane", "--driver", driver)
    done, report = reported(person, *asked, **planted)
    assert done.returncode == 8
    text = json.dumps(report)
    assert "No such file or directory" in text
    for word in ("planted", str(tmp_path), str(driver.parent), socket.gethostname()):
        assert word not in text
    assert set(verdicts(report, "program").values()) == {"skipped"}
    profile = json.loads((person / PROFILE).read_text())
    assert profile["measured"]["refused"] == {}, "a want of files says nothing of a program"


def test_the_queue_is_used_unless_another_path_is_clearly_faster() -> None:
    assert examine.fastest({"queue": 1.0, "direct": 0.97}) == "queue"
    assert examine.fastest({"queue": 1.0, "direct": 0.9, "realtime": 0.94}) == "direct"
    assert examine.fastest({"direct": 2.0, "realtime": 1.0}) == "realtime"
    assert examine.fastest({}) == "queue"


def test_a_hang_is_ended_and_said(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANE_STANDIN_FAIL", "evaluate:1@1:hang")
    job = Job("cases", Settings(driver=str(driver)), hardware=True)
    with pytest.raises(DiedError, match="no answer within 2 seconds"):
        list(findings("ane_train.doctor", job, silence=2))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ("os.abort()", r"crashed with signal 6 \(SIGABRT\): uncaught in \.\.\./weights$"),
        ("sys.exit(3)", r"ended with code 3: uncaught in \.\.\./weights$"),
    ],
)
def test_the_last_words_of_a_process_are_told_without_places(
    ends: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = 'sys.stdin.readline(); print("uncaught in /home/a/weights", file=sys.stderr)'
    (tmp_path / "dying.py").write_text(f"import os, sys; {words}; {ends}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiedError, match=told):
        list(findings("dying", Job("cases", Settings(), hardware=False)))
