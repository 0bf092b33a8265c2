"""Samples of a run: what its weights write, in samples.jsonl, once for each step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import TINY, ane_train, metrics, trained

SAMPLED = (
    *TINY, "--sample-every", 3, "--sample-tokens", 10, "--sample-temp", 0, "--numerics", "fp32",
    "--sample-prompts", "Call me", "--sample-prompts", "The whale", "--save-every", 3,
)  # fmt: skip


def samples(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("sampled"), *SAMPLED, "--steps", 6, "--out", "run")


def test_a_sample_is_what_the_checkpoint_of_its_step_writes(run: Path) -> None:
    lines = samples(run)
    assert [(line["step"], line["prompt"]) for line in lines] == [
        (3, "Call me"), (3, "The whale"), (6, "Call me"), (6, "The whale"),
    ]  # fmt: skip
    assert not metrics(run, "sample")
    for line in lines[1:3]:
        result = ane_train(
            run.parent, "generate", "--model", f"run/checkpoints/step-{line['step']:06}",
            "--prompt", line["prompt"], "--temp", 0, "--max-tokens", 10, "--numerics", "fp32",
        )  # fmt: skip
        assert result.stdout == line["text"]


def test_samples_without_programs_of_their_own_are_the_same(run: Path, tmp_path: Path) -> None:
    """With a limit of compiles each token takes a pass of the training programs."""
    other = trained(tmp_path, *SAMPLED, "--steps", 6, "--compile-limit", 100, "--out", "run")
    assert [line["text"] for line in samples(other)] == [line["text"] for line in samples(run)]


def test_the_samples_of_a_resumed_run_read_as_one(run: Path, tmp_path: Path) -> None:
    stopped = trained(tmp_path, *SAMPLED, "--steps", 6, "--stop-after", 4, "--out", "run")
    lost = json.dumps({"type": "sample", "step": 5, "text": "of a killed process"})
    with (stopped / "samples.jsonl").open("a") as file:
        file.write(lost + "\n")
    trained(tmp_path, "--resume", "run")
    assert [(s["step"], s["text"]) for s in samples(stopped)] == [
        (s["step"], s["text"]) for s in samples(run)
    ]


def test_a_prompt_that_fills_the_sequence_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--sample-every", 1, "--sample-prompts", "word " * 40)
    assert result.returncode == 2
    assert "--sample-prompts 'word word" in result.stderr
    assert not (tmp_path / "runs").exists()
