"""A process whose budget of compiles is spent goes on by exec(), and nothing tells the difference.

Children patch what they are told to by code of their own: `python -c` is part of the arguments that
exec repeats, so that each image of the process is patched alike.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import TINY, arrays, environment, losses, metrics, same_bits, trained

from ane_train.errors import ExitCode

CLOCK = {"time", "ms", "waited_ms", "peak_flops", "memory_available"}
RUN = (*TINY, "--pipeline", "static", "--steps", 12, "--log-every", 1, "--out", "run")
LIMITED = (*RUN, "--compile-limit", 40)

START = """
import json, os, signal, sys, threading, time
from pathlib import Path
execv, marker = os.execv, Path("run/restart.json")
again = marker.exists()
{patch}
from ane_train.cli import main
main(sys.argv[1:])
"""
NOTE_WHAT_THERE_IS = """
def execv_noted(*arguments):
    try:
        os.waitpid(-1, os.WNOHANG)
        children = True
    except ChildProcessError:
        children = False
    kept = [fd for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")]
    kept = [int(fd) for fd in kept if os.get_inheritable(int(fd))]
    with open("images.jsonl", "a") as file:
        print(json.dumps([os.getpid(), sorted(kept), children, arguments[1]]), file=file)
    execv(*arguments)
os.execv = execv_noted
"""
NOTE_WHO_TAKES_SIGNALS = """
def execv_noted(*arguments):
    for status in Path("/proc/self/task").glob("*/status"):
        blocked, = (int(line[8:], 16) for line in status.open() if line.startswith("SigBlk:"))
        numbers = signal.SIGINT, signal.SIGUSR1, signal.SIGTERM
        masks = [blocked >> number - 1 & 1 for number in numbers]
        with open("masks.txt", "a") as file:
            print(*masks, file=file)
    execv(*arguments)
os.execv = execv_noted
"""
KILL_INSTEAD = "os.execv = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)"
EAT_THE_BUDGET = """
from ane_train.engine import Budget
fits = Budget.fits
Budget.fits = lambda budget, *needs: fits(budget, *needs) and not {when}
"""


def child(
    folder: Path, patch: str, *arguments: object, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """A patched ane-train, run in `folder` until it ends with `code`."""
    command = [sys.executable, "-c", START.replace("{patch}", patch), *map(str, arguments)]
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result


def timeless(run: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl without what derives from the clock.

    That includes the place of a save, which is told of when it is complete.
    """
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    lines = sorted(lines, key=lambda line: line["step"])
    return [
        {key: line[key] for key in line if key not in CLOCK and not key.startswith("t_")}
        for line in lines
    ]


def said(run: Path) -> list[str]:
    """The lines of log.txt without moments, and from speeds and times on."""
    lines = (run / "log.txt").read_text().splitlines()
    lines = [line.partition("  ")[2].partition("tok/s")[0] for line in lines]
    return [line.rpartition("  ")[0] if line.startswith("step ") else line for line in lines]


def by_step(lines: list[str]) -> list[str]:
    """Those that tell of a step, an evaluation or a save, in the order of the steps."""
    told = [line for line in lines if line.startswith(("step ", "eval ", "saved"))]
    return sorted(told, key=lambda line: int(re.search(r"\d+", line)[0]))


def assert_same_run(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    assert same_bits(arrays(run), arrays(whole))
    evaluations = [[(e["step"], e["loss"]) for e in metrics(r, "eval")] for r in (run, whole)]
    assert evaluations[0] == evaluations[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps of one process without limit."""
    return trained(tmp_path_factory.mktemp("whole"), *RUN)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a process that may compile forty programs."""
    folder = tmp_path_factory.mktemp("limited")
    result = child(folder, NOTE_WHAT_THERE_IS, *LIMITED, "--scratch")
    (folder / "screen.txt").write_text(result.stdout + result.stderr)
    return folder / "run"


def images(run: Path) -> list[list[object]]:
    """[process id, inheritable descriptors, whether there are children, arguments] at each exec."""
    lines = (run.parent / "images.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_restarts_change_neither_bits_nor_the_metrics_file(whole: Path, limited: Path) -> None:
    assert len(images(limited)) >= 2
    assert_same_run(limited, whole)
    assert timeless(limited) == timeless(whole)


def test_the_log_and_the_screen_are_those_of_one_run(whole: Path, limited: Path) -> None:
    assert by_step(said(limited)) == by_step(said(whole))
    screen = (limited.parent / "screen.txt").read_text().splitlines()
    log = [line[len("2026-11-24 01:02:03  ") :] for line in (limited / "log.txt").open()]
    assert screen == [line.rstrip("\n") for line in log]
    labels = ["model ", "run  ", "engine ", "restarting ", "tokens ", "go on with: "]
    counts = [sum(line.startswith(label) for line in screen) for label in labels]
    assert counts == [1, 2, 2, 1, 1, 1]


def test_the_summary_is_that_of_the_whole_run(limited: Path) -> None:
    (end,) = metrics(limited, "end")
    done = metrics(limited, "step")
    assert (end["steps"], end["tokens"]) == (12, 12 * 32)
    for part in ("t_engine", "t_optimizer", "t_compile"):
        assert math.isclose(end[part], sum(row[part] for row in done), rel_tol=1e-9)
    assert math.isclose(
        end["t_evaluation"], sum(row["ms"] for row in metrics(limited, "eval")), rel_tol=1e-9
    )
    assert end["ms"] > end["t_restart"] + sum(row["ms"] for row in done)


def test_process_and_descriptors_stay_and_nothing_is_left_behind(
    whole: Path, limited: Path
) -> None:
    noted = images(limited)
    assert len({process for process, _, _, _ in noted}) == 1
    assert [children for _, _, children, _ in noted] == [False] * len(noted)
    assert {len(inherited) for _, inherited, _, _ in noted} == {3 + 2}
    names = [{p.relative_to(r) for p in r.rglob("*")} for r in (limited, whole)]
    assert names[0] == names[1]


def test_the_arguments_are_the_same_but_for_one_resume(limited: Path) -> None:
    expected = [*map(str, LIMITED), "--scratch", "--resume", "run"]
    for _, _, _, arguments in images(limited):
        assert arguments[0] == sys.executable
        assert arguments[1] == "-c"
        assert arguments[3:] == expected


def test_static_and_dynamic_differ_by_what_fp16_rounds(tmp_path: Path, whole: Path) -> None:
    """Static programs round gain and RMSNorm in fp16, whose unit is 2^-11, a few times a layer."""
    dynamic = trained(tmp_path, *TINY, "--steps", 12, "--out", "run")
    pairs = zip(losses(whole), losses(dynamic), strict=True)
    differences = [abs(ours - theirs) / theirs for (_, ours), (_, theirs) in pairs]
    assert 0 < max(differences) < 2.0**-11


def test_a_kill_between_save_and_exec_loses_nothing(tmp_path: Path, whole: Path) -> None:
    child(tmp_path, KILL_INSTEAD, *LIMITED, code=-signal.SIGKILL)
    run = tmp_path / "run"
    assert (run / "restart.json").exists()
    assert len(losses(run)) == 5
    child(tmp_path, KILL_INSTEAD, "--resume", "run", code=-signal.SIGKILL)
    assert len(losses(run)) == 10
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)
    assert not (run / "restart.json").exists()


KILL_AT_STEP_6 = """
from ane_train.train.session import Session
train_step = Session.train_step
def train_some_steps(session):
    if session.progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(session)
Session.train_step = train_some_steps
"""


def test_an_evaluation_after_a_restart_counts_once_after_a_kill(tmp_path: Path) -> None:
    """The restart came after step 4, before its evaluation; the kill comes after step 5."""
    arguments = (*RUN, "--compile-limit", 16, "--eval-every", 2, "--min-delta", 9)
    child(tmp_path, KILL_AT_STEP_6, *arguments, code=-signal.SIGKILL)
    steps = [line["step"] for line in timeless(tmp_path / "run") if line["type"] == "eval"]
    assert steps == [0, 2, 4]
    run = trained(tmp_path, "--resume", "run")
    assert [row["step"] for row in metrics(run, "eval")] == list(range(0, 13, 2))
    assert [step for step, _ in losses(run)] == list(range(1, 13))


AT_EXEC = """
def execv_signalled(*arguments):
    if not again:
        os.kill(os.getpid(), signal.{name})
    execv(*arguments)
os.execv = execv_signalled
"""
TO_ANOTHER_THREAD = """
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
exec_now = execv
execv = lambda *arguments: (time.sleep(0.2), exec_now(*arguments))  # its handler has run by then
"""
AT_THE_NEW_START = "if again: os.kill(os.getpid(), signal.{name})"


@pytest.mark.skipif(sys.platform != "linux", reason="where /proc tells of each thread")
def test_no_thread_takes_a_signal_when_exec_comes(tmp_path: Path) -> None:
    """SIGINT, SIGUSR1 and SIGTERM wait for the next image, those of BLAS libraries included."""
    child(tmp_path, NOTE_WHO_TAKES_SIGNALS, *LIMITED, "--threads", 2)
    lines = (tmp_path / "masks.txt").read_text().splitlines()
    processors = len(os.sched_getaffinity(0))
    assert len(lines) >= 2 * min(processors, 2)  # BLAS has threads where there are more than one
    assert set(lines) == {"1 1 1"}


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize(
    "patch",
    [AT_EXEC, TO_ANOTHER_THREAD + AT_EXEC, AT_THE_NEW_START],
    ids=["at exec", "to another thread", "at the new start"],
)
def test_a_signal_around_exec_still_saves_and_ends_the_run(
    tmp_path: Path, whole: Path, patch: str, name: str, code: int
) -> None:
    child(tmp_path, patch.replace("{name}", name), *LIMITED, code=code)
    run = tmp_path / "run"
    assert len(losses(run)) == 5
    assert [end["step"] for end in metrics(run, "end")] == [5]
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)


def test_a_request_to_save_around_exec_is_heeded(tmp_path: Path, whole: Path) -> None:
    child(tmp_path, AT_EXEC.replace("{name}", "SIGUSR1"), *LIMITED, "--eval-every", 0)
    saved = [(row["step"], row["reason"]) for row in metrics(tmp_path / "run", "save")]
    assert saved == [(6, "asked for"), (12, "finished")]
    assert same_bits(arrays(tmp_path / "run"), arrays(whole))


@pytest.mark.parametrize("when", ["True", "(again or budget.left < 16)"], ids=["first", "later"])
def test_restarts_without_progress_end_in_an_error(tmp_path: Path, when: str) -> None:
    patch = NOTE_WHAT_THERE_IS + EAT_THE_BUDGET.replace("{when}", when)
    result = child(tmp_path, patch, *LIMITED, code=ExitCode.ENGINE)
    done = len(losses(tmp_path / "run"))
    assert f"2 starts in a row did not get beyond step {done}" in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert len(images(tmp_path / "run")) == (2 if done else 1)
    assert not (tmp_path / "run" / "restart.json").exists()
    again = trained(tmp_path, "--resume", "run")
    assert [step for step, _ in losses(again)] == list(range(1, 13))


FAIL_TO_EXEC = """
def execv_failing(*arguments):
    raise OSError(7, "Argument list too long")
os.execv = execv_failing
"""


def test_where_exec_fails_the_error_says_how_to_go_on(tmp_path: Path, whole: Path) -> None:
    result = child(tmp_path, FAIL_TO_EXEC, *LIMITED, code=ExitCode.ENGINE)
    assert result.stderr.endswith("Argument list too long; go on with: ane-train --resume run\n")
    assert result.stderr.count("\n") == 1
    trained(tmp_path, "--resume", "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_step_that_never_fits_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    result = child(tmp_path, "", *RUN, "--compile-limit", 5, code=ExitCode.ENGINE)
    assert result.stderr.startswith("error: a step of the static pipeline needs 8 programs")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


AN_HOUR_LATER = """
if again:
    perf_counter = time.perf_counter
    time.perf_counter = lambda: perf_counter() + 3600
"""


@pytest.mark.parametrize(
    ("limit", "reason", "steps"),
    [
        (("--stop-after", 7), "stopped", 7),
        (("--max-tokens", 7 * 32), "max_tokens", 7),
        (("--patience", 3, "--min-delta", 9, "--eval-every", 2), "patience", 8),
        (("--max-time", "1h"), "max_time", 2),
    ],
    ids=["stop-after", "max-tokens", "patience", "max-time"],
)
def test_limits_count_over_restarts(
    tmp_path: Path, limit: tuple[object, ...], reason: str, steps: int
) -> None:
    child(tmp_path, AN_HOUR_LATER, *RUN, "--compile-limit", 16, *limit)
    run = tmp_path / "run"
    assert [step for step, _ in losses(run)] == list(range(1, steps + 1))
    (end,) = metrics(run, "end")
    assert (end["reason"], end["steps"]) == (reason, steps)


def test_only_checkpoints_that_were_due_are_kept(tmp_path: Path) -> None:
    arguments = (*RUN, "--compile-limit", 8, "--steps", 5, "--eval-every", 0, "--save-every", 2)
    run = trained(tmp_path, *arguments)
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-000002", "step-000004", "step-000005"]
