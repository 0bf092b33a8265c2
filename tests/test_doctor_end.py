"""`ane-train doctor` ended from outside leaves neither processes nor files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apple.build import build_driver, build_tools
from doctor_process import HOME, doctor, variables
from runs import command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")
PATIENCE = 60.0  # seconds after which a test fails


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(process: int) -> list[int]:
    """Processes that it started and that still run."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(number) for number in found]


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def staged(folder: Path) -> set[str]:
    """What is in the folder for temporary files besides the home."""
    return {path.name for path in folder.iterdir()} - {HOME}


def seconds_of(process: int) -> tuple[str, str]:
    """Processor time that it took so far, in ticks."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return fields[11], fields[12]


def hangs(process: int, folder: Path) -> bool:
    """Whether its one child has staged a program and does nothing any more."""
    found = children(process)
    if not found or not staged(folder):
        return False
    before = seconds_of(found[0])
    time.sleep(0.5)
    return is_running(found[0]) and seconds_of(found[0]) == before


def started(folder: Path, driver: Path, failure: str = "") -> subprocess.Popen[str]:
    """The command in a session of its own, as in a terminal of its own."""
    return subprocess.Popen(
        command("doctor", "--engine", "ane", "--driver", driver, "--json", "report.json"),
        cwd=folder,
        env=variables(folder, ANE_STANDIN_FAIL=failure),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_ends_command_and_worker_and_leaves_nothing(driver: Path, tmp_path: Path) -> None:
    process = started(tmp_path, driver)
    wait_until(lambda: bool(staged(tmp_path)))
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.split()) == (130, "", ["interrupted"])
    assert not any(map(is_running, workers))
    assert staged(tmp_path) == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_worker_that_hangs_ends_with_the_command(
    number: signal.Signals, code: int, driver: Path, tmp_path: Path
) -> None:
    process = started(tmp_path, driver, "evaluate:1@2:hang")
    wait_until(lambda: hangs(process.pid, tmp_path))
    (worker,) = children(process.pid)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    wait_until(lambda: not is_running(worker))
    doctor(tmp_path, "--engine", "ane", "--driver", driver, "--quick")
    assert staged(tmp_path) == set(), "what a killed process staged is swept by the next"
