"""A user's mistake is one line on stderr that says what to do, and a documented exit code."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, ane_train, arrays, command, environment, same_bits, trained

from ane_train.errors import ExitCode

SHORT = (*TINY, "--steps", 4, "--eval-every", 0)


def assert_one_line(result: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_an_unknown_model(tmp_path: Path) -> None:
    result = ane_train(tmp_path, "--model", "stories111m")
    assert_one_line(result, ExitCode.MODEL, "stories111m", "did you mean stories110m")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("missing.txt", None, "missing.txt"),
        ("empty.txt", b"", "empty"),
        ("short.txt", b"a few words", "tokens"),
        ("latin.txt", b"caf\xe9 " * 5000, "UTF-8"),
        ("no_text.jsonl", b'{"body": "x"}\n', "text"),
        ("odd.bin", b"\x01\x02\x03", "odd.bin"),
    ],
)
def test_data_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, word: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = ane_train(tmp_path, *SHORT, "--data", name)
    assert_one_line(result, ExitCode.DATA, word)
    assert not list(tmp_path.glob("runs/*")), "no folder is left of a run that never began"


def test_a_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    tokens = np.arange(5000, dtype=np.uint16) % 2000
    tokens[777] = 2048
    tokens.tofile(tmp_path / "data.bin")
    result = ane_train(tmp_path, *SHORT, "--data", "data.bin")
    assert_one_line(result, ExitCode.DATA, "2048", "777")


def test_a_shard_made_with_another_tokenizer(tmp_path: Path) -> None:
    from ane_train.data.tokenizer import BUILT_IN_TOKENIZER

    text = "It was the best of times. " * 400
    (tmp_path / "data.txt").write_text(text)
    other = json.loads(BUILT_IN_TOKENIZER.read_text("utf-8"))
    other["model"]["merges"] = other["model"]["merges"][:-1]
    (tmp_path / "other.json").write_text(json.dumps(other))
    result = ane_train(
        tmp_path, "prepare", "data.txt", "--tokenizer", "other.json", "--out", "shards"
    )
    assert result.returncode == 0, result.stderr
    tokens = next((tmp_path / "shards").glob("*.tokens"))
    arguments = (*SHORT, "--data", tokens, "--tokenizer", BUILT_IN_TOKENIZER)
    assert_one_line(ane_train(tmp_path, *arguments), ExitCode.DATA, "another tokenizer")


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    run = trained(tmp_path, *SHORT, "--out", "run")
    result = ane_train(tmp_path, "--resume", run, "--model", "stories15m", "--steps", 8)
    assert_one_line(result, ExitCode.CHECKPOINT, "another model")
    # It is said before memory is counted for the wrong model.
    result = ane_train(tmp_path, "--resume", run, "--model", "qwen3_06b", "--max-memory", "1GiB")
    assert_one_line(result, ExitCode.CHECKPOINT, "another model")


@pytest.mark.parametrize("file", ["weights", "first_moment", "second_moment"])
def test_a_truncated_checkpoint(tmp_path: Path, file: str) -> None:
    run = trained(tmp_path, *SHORT, "--out", "run")
    path = run / "checkpoints" / "last" / f"{file}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = ane_train(tmp_path, "--resume", "run", "--steps", 8)
    assert_one_line(result, ExitCode.CHECKPOINT, f"{file}.safetensors")


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert_one_line(ane_train(tmp_path, "--resume"), ExitCode.CHECKPOINT, "resume")


def test_not_enough_memory_is_said_before_anything_is_allocated(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    result = subprocess.run(
        command("--model", "qwen3_06b", "--max-memory", "8GiB"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert_one_line(result, ExitCode.MEMORY, "GiB", "8.0")
    assert not list(tmp_path.glob("runs/*"))


def test_a_disk_that_fills_up_during_a_save_loses_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path, *SHORT, "--out", "run")
    before = arrays(run)
    data = tmp_path / "data.txt"
    data.write_text("Call me Ishmael. " * 2000)
    text = data.read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    result = subprocess.run(
        command("--resume", "run", "--steps", 8),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert_one_line(result, ExitCode.DISK, "checkpoint")
    assert same_bits(arrays(run), before)
    assert data.read_bytes() == text
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-000004", "last"}


def test_unknown_flags_and_settings_get_a_suggestion(tmp_path: Path) -> None:
    result = ane_train(tmp_path, "--modle", "tiny")
    assert result.returncode == ExitCode.USAGE
    assert "--model" in result.stderr
    (tmp_path / "c.toml").write_text("stepz = 4\n")
    assert_one_line(ane_train(tmp_path, "-c", "c.toml"), ExitCode.USAGE, "stepz", "steps")


def test_the_same_folder_twice(tmp_path: Path) -> None:
    run = trained(tmp_path, *SHORT, "--out", "run")
    before = arrays(run)
    result = ane_train(tmp_path, *SHORT, "--out", "run")
    assert_one_line(result, ExitCode.USAGE, "--resume")
    assert same_bits(arrays(run), before)


def test_the_ane_engine_says_what_it_lacks(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *SHORT, "--engine", "ane")
    assert_one_line(result, ExitCode.ENGINE, "--engine cpu")
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
