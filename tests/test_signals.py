"""Real signals to real processes: the first asks, the second Ctrl-C does not wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ane_train.train.signals import StopRequest

ROOT = Path(__file__).parent.parent

LOOP = """
import sys, time
from pathlib import Path
from ane_train.train.signals import StopRequest
with StopRequest(Path(sys.argv[1]), lambda: print("restored", flush=True)) as stop:
    print("ready", flush=True)
    while stop.reason is None:
        if stop.take_save_request():
            print("save", flush=True)
        time.sleep(0.002)
    print(stop.reason, flush=True)
    {then}
    print("end", flush=True)
sys.exit({"interrupted": 130, "terminated": 143}.get(stop.reason, 0))
"""

SWALLOW_ALL = """
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""

STAY_IN_C = """
import hashlib, sys
from ane_train.train.signals import StopRequest
with StopRequest():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)
"""


HOLD = """
import signal, sys
from pathlib import Path
from ane_train.train.signals import StopRequest
with StopRequest(Path(sys.argv[1])) as stop:
    print("ready", flush=True)
    sys.stdin.readline()
    ends = stop.hold()
print("held", flush=True)
sys.stdin.readline()
signal.set_wakeup_fd(-1)  # as in a new image
with StopRequest(Path(sys.argv[1]), held=ends) as stop:
    print(stop.reason, stop.take_save_request(), flush=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print(len(mask), flush=True)
"""


@contextmanager
def running(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has entered its StopRequest."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert said(process) == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_ends_the_loop_with_its_reason_and_code(
    tmp_path: Path, number: signal.Signals, reason: str, code: int
) -> None:
    with running(LOOP.replace("{then}", ""), tmp_path) as process:
        process.send_signal(number)
        assert [said(process), said(process)] == [reason, "end"]
        assert process.wait() == code


def test_sigusr1_asks_for_one_save_and_the_loop_goes_on(tmp_path: Path) -> None:
    with running(LOOP.replace("{then}", ""), tmp_path) as process:
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            assert said(process) == "save"
        process.send_signal(signal.SIGINT)
        assert said(process) == "interrupted"


def test_touched_files_ask_for_a_save_and_for_the_end(tmp_path: Path) -> None:
    with running(LOOP.replace("{then}", ""), tmp_path) as process:
        for _ in range(2):
            (tmp_path / "save").touch()
            assert said(process) == "save"
        (tmp_path / "stop").touch()
        assert [said(process), said(process)] == ["stopped", "end"]
        assert process.wait() == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("before", [True, False], ids=["before", "while held"])
def test_requests_that_are_held_reach_the_next_one(tmp_path: Path, before: bool) -> None:
    with running(HOLD, tmp_path) as process:
        for held in (False, True):
            if held is not before:
                process.send_signal(signal.SIGUSR1)
                process.send_signal(signal.SIGTERM)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            if not held:
                assert said(process) == "held"
        assert said(process) == "terminated True"
        assert said(process) == "0"
        assert process.wait() == 0


def test_a_second_interrupt_ends_what_swallows_every_exception(tmp_path: Path) -> None:
    with running(LOOP.replace("{then}", SWALLOW_ALL), tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert said(process) == "interrupted"
        process.send_signal(signal.SIGINT)
        assert said(process) == "restored"
        assert process.wait() == 130


def test_a_termination_and_one_interrupt_still_let_the_step_finish(tmp_path: Path) -> None:
    then = "while stop.take_save_request() is False: time.sleep(0.002)"
    with running(LOOP.replace("{then}", then), tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert said(process) == "terminated"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGUSR1)
        assert said(process) == "end"
        assert process.wait() == 143


def test_a_second_interrupt_ends_a_call_into_c_that_never_returns(tmp_path: Path) -> None:
    with running(STAY_IN_C, tmp_path) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 130


def test_the_former_handlers_and_threads_come_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    former = [signal.getsignal(number) for number in numbers]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    threads, descriptors = threading.active_count(), os.listdir("/dev/fd")
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert [signal.getsignal(number) for number in numbers] == former
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert (threading.active_count(), os.listdir("/dev/fd")) == (threads, descriptors)


def test_the_first_reason_stays(tmp_path: Path) -> None:
    with StopRequest(tmp_path) as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "stop").touch()
        assert stop.reason == "terminated"
    assert not (tmp_path / "stop").exists()


def test_outside_the_main_thread_files_still_ask(tmp_path: Path) -> None:
    reasons: list[str | None] = []

    def run() -> None:
        with StopRequest(tmp_path) as stop:
            reasons.append(stop.reason)
            (tmp_path / "stop").touch()
            reasons.append(stop.reason)

    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == [None, "stopped"]
    assert signal.getsignal(signal.SIGINT) == handler
