"""The whole stack in seconds: data, programs, engine, training, checkpoint, resume."""

from __future__ import annotations

from pathlib import Path

from runs import TINY, arrays, losses, metrics, trained


def test_the_tiny_model_learns_saves_and_goes_on(tmp_path: Path) -> None:
    run = trained(tmp_path, *TINY, "--steps", 30, "--stop-after", 20, "--lr", 4e-3, "--out", "run")
    steps = losses(run)
    assert [step for step, _ in steps] == list(range(1, 21))
    evaluations = [row["loss"] for row in metrics(run, "eval")]
    assert evaluations[-1] < evaluations[0] - 0.3
    trained(tmp_path, "--resume", "run")
    assert [step for step, _ in losses(run)] == list(range(1, 31))
    assert (run / "checkpoints" / "last").resolve().name == "step-000030"
    assert arrays(run)["weights/embedding"].shape == (2048, 64)
