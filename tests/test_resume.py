"""Resuming is not stopping: weights, moments and losses are the same to the bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from importlib import resources
from pathlib import Path

import pytest
from runs import TINY, ane_train, arrays, command, environment, losses, metrics, same_bits, trained

RUN = (*TINY, "--steps", 20, "--accum", 2, "--save-every", 4, "--out", "run")
SLOW = (*TINY, "--steps", 20, "--accum", 32, "--save-every", 4, "--out", "run")  # seconds, not less


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps in one go."""
    return trained(tmp_path_factory.mktemp("whole"), *RUN)


@pytest.fixture(scope="module")
def slow_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with steps so long that a signal arrives before the end."""
    return trained(tmp_path_factory.mktemp("slow"), *SLOW)


def assert_same_run(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    evaluations = [[(e["step"], e["loss"]) for e in metrics(r, "eval")] for r in (run, whole)]
    assert evaluations[0] == evaluations[1]
    assert same_bits(arrays(run), arrays(whole))


@pytest.mark.parametrize("stop", [1, 10])
def test_ten_steps_and_ten_more_are_twenty(tmp_path: Path, whole: Path, stop: int) -> None:
    run = trained(tmp_path, *RUN, "--stop-after", stop)
    assert len(losses(run)) == stop
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)


@pytest.mark.parametrize("extra", [("--numerics", "fp32"), ("--numerics", "hazard")])
def test_it_holds_in_every_numerics_mode(tmp_path: Path, extra: tuple[str, ...]) -> None:
    arguments = (*TINY, "--steps", 6, *extra)
    whole = trained(tmp_path, *arguments, "--out", "run").rename(tmp_path / "whole")
    run = trained(tmp_path, *arguments, "--stop-after", 3, "--out", "run")
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_a_random_moment_goes_on_from_its_last_checkpoint(
    tmp_path: Path, whole: Path, seed: int
) -> None:
    process = subprocess.Popen(command(*RUN), cwd=tmp_path, env=environment(), stdout=-1, stderr=-1)
    run = tmp_path / "run"
    while process.poll() is None and not (run / "checkpoints" / "last").exists():
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    process.communicate()
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_saves_and_the_rest_follows(
    tmp_path: Path, slow_whole: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        command(*SLOW), cwd=tmp_path, env=environment(), stdout=-1, stderr=-1
    )
    run = tmp_path / "run"
    while process.poll() is None and len(_lines(run)) < 5:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    done = len(losses(run))
    assert (run / "checkpoints" / "last").resolve().name == f"step-{done:06d}"
    trained(tmp_path, "--resume", "run")
    assert_same_run(run, slow_whole)


def _lines(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_resume_without_a_folder_takes_the_latest_run(tmp_path: Path) -> None:
    for _ in range(2):
        result = ane_train(tmp_path, *TINY, "--steps", 4, "--stop-after", 2)
        assert result.returncode == 0, result.stderr
    first, second = sorted((tmp_path / "runs").iterdir())
    result = ane_train(tmp_path, "--resume")
    assert result.returncode == 0, result.stderr
    assert (len(losses(first)), len(losses(second))) == (2, 4)


def test_a_run_on_a_users_own_files_resumes_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("There she blows! there! there! " * 300)
    tiny = resources.files("ane_train.models").joinpath("tiny.toml").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(tiny)
    own = (*TINY, "--model", "mine.toml", "--data", "data.txt", "--steps", 4)
    run = trained(tmp_path, *own, "--stop-after", 2, "--out", "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = ane_train(elsewhere, "--resume", "../run")
    assert result.returncode == 0, result.stderr
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    run = trained(tmp_path, *TINY, "--steps", 4, "--schedule", "constant", "--out", "run")
    trained(tmp_path, "--resume", "run", "--steps", 6)
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
