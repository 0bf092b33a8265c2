"""Training trains: the same weights as torch, in every numerics mode, on every kind of data."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from native_arrays import needs_bf16
from peers import peer_of, relative_error
from runs import TINY, ane_train, arrays, command, environment, losses, metrics, trained
from transformers import get_cosine_schedule_with_warmup

from ane_train.engine import EngineOptions, open_engine
from ane_train.metrics.jsonl import read_records
from ane_train.model.adapters import lora_of
from ane_train.model.arena import Arena, initialize
from ane_train.model.parameters import parameters
from ane_train.model.spec import load_model
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import AdamW, TrainingStep


@pytest.mark.parametrize("qk_norm", [True, False])
def test_five_steps_give_the_weights_of_transformers_and_torch_adamw(qk_norm: bool) -> None:
    spec = replace(load_model("tiny"), vocabulary=211, sequence=24, qk_norm=qk_norm)
    step = TrainingStep(spec, open_engine(EngineOptions("cpu", "fp32")), spec.sequence)
    step.initialize(seed=2)
    peer = peer_of(spec, step.table, step.weights)
    named = dict(peer.named_parameters())
    groups = [
        {"params": [named[p.hf_name] for p in step.table if p.decays is decays], "weight_decay": wd}
        for decays, wd in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    generator = np.random.default_rng(3)
    for index in range(5):
        tokens = generator.integers(0, spec.vocabulary, (2, spec.sequence + 1)).astype(np.int32)
        inputs, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
        labels = torch.from_numpy(targets.astype(np.int64)).reshape(-1)
        optimizer.zero_grad()
        logits = peer(input_ids=torch.from_numpy(inputs.astype(np.int64))).logits
        torch.nn.functional.cross_entropy(logits.reshape(len(labels), -1), labels).backward()
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        optimizer.step()
        step.micro_batch(inputs, targets)
        update = step.update(AdamW(clip=0.5), 1e-2, index + 1)
        assert update.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for p in step.table:
        theirs = named[p.hf_name].detach().numpy()
        assert relative_error(step.weights[p.name], theirs) < 1e-3, p.name
    step.close()


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("pipeline", ["dynamic", "static"])
def test_nothing_but_an_update_changes_what_is_saved(pipeline: str, rank: int) -> None:
    spec = load_model("tiny")
    step = TrainingStep(
        spec,
        open_engine(EngineOptions("cpu")),
        32,
        pipeline=PipelineOptions(pipeline),
        lora=lora_of(spec, rank, 4.0, ["all-linear"]) if rank else None,
    )
    step.initialize(seed=1)
    tokens = np.arange(32, dtype=np.int32)[None]

    def saved() -> list[bytes]:
        arenas = (step.variables, step.first_moment, step.second_moment)
        return [arena.flat.tobytes() for arena in arenas]

    for number in (1, 2):
        seen = [saved()]
        step.evaluate(tokens, tokens)
        step.micro_batch(tokens, tokens)
        step.update(AdamW(), 1e-2, number, before_change=lambda seen=seen: seen.append(saved()))
        assert seen[0] == seen[1]
        assert all(old != new for old, new in zip(seen[0], saved(), strict=True))
    step.close()


PLAIN = """
layers = 2
dim = 64
heads = 2
kv_heads = 2
head_size = 32
ffn = 192
vocabulary = 2048
sequence = 64
"""


@pytest.mark.parametrize(
    ("model", "numerics"),
    [
        ("tiny", ("fp16",)),
        ("tiny", ("fp32",)),
        pytest.param("tiny", ("bf16",), marks=needs_bf16),
        ("tiny", ("hazard", "--chip", "m4")),
        ("plain.toml", ("hazard", "--chip", "m4")),
        ("plain.toml", ("hazard", "--chip", "m1")),
        ("tiny", ("hazard", "--chip", "m4", "--pipeline", "static", "--engine-extras")),
    ],
)
def test_training_converges_in_every_numerics_mode(
    tmp_path: Path, model: str, numerics: tuple[str, ...]
) -> None:
    (tmp_path / "plain.toml").write_text(PLAIN)
    arguments = ("--model", model, "--steps", 80, "--eval-every", 80, "--eval-batches", 4)
    lr = ("--lr", 4e-3, "--out", "run")
    run = trained(tmp_path, *arguments, "--numerics", *numerics, *lr)
    first, last = (row["loss"] for row in metrics(run, "eval"))
    assert last < first - 1.0
    assert not any(row["skipped"] for row in metrics(run, "step"))


def test_accumulating_micro_batches_is_training_on_a_bigger_batch(tmp_path: Path) -> None:
    common = (*TINY, "--numerics", "fp32", "--steps", 6, "--lr", 1e-3)
    small = trained(tmp_path, *common, "--accum", 4, "--out", "run").rename(tmp_path / "small")
    big = trained(tmp_path, *common, "--accum", 2, "--batch-size", 2, "--out", "run")
    for (step, ours), (same, theirs) in zip(losses(small), losses(big), strict=True):
        assert step == same
        assert ours == pytest.approx(theirs, rel=1e-5)
    norms = [[row["grad_norm"] for row in metrics(run, "step")] for run in (small, big)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    ours, theirs = arrays(small)["weights/embedding"], arrays(big)["weights/embedding"]
    assert relative_error(ours, theirs) < 1e-4


def test_the_first_step_of_a_run_moves_each_weight_by_the_rate(tmp_path: Path) -> None:
    flags = ("--numerics", "fp32", "--weight-decay", 0, "--lr", 0.01, "--schedule", "constant")
    run = trained(tmp_path, *TINY, *flags, "--steps", 1, "--seed", 7, "--out", "run")
    table = parameters(load_model("tiny"))
    start = Arena(table)
    initialize(start, table, seed=7)
    moved = np.abs(arrays(run)["weights/layers.1.down"] - start["layers.1.down"])
    assert np.median(moved) == pytest.approx(0.01, rel=1e-2)


def test_the_rate_of_each_step_is_transformers_cosine(tmp_path: Path) -> None:
    flags = ("--lr", 0.01, "--min-lr", 0, "--warmup", 4, "--steps", 12, "--eval-every", 0)
    run = trained(tmp_path, *TINY, *flags, "--out", "run")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    peer = get_cosine_schedule_with_warmup(optimizer, 4, 12)
    for row in metrics(run, "step"):
        optimizer.step()
        peer.step()
        assert row["lr"] == pytest.approx(peer.get_last_lr()[0], abs=1e-12)


def test_bits_per_byte_count_the_bytes_of_the_text(tmp_path: Path) -> None:
    run = trained(tmp_path, *TINY, "--steps", 1, "--out", "run")
    from tokenizers import Tokenizer

    corpus = resources.files("ane_train.data").joinpath("corpus")
    text = corpus.joinpath("moby_dick.txt").read_text("utf-8")
    tokens = Tokenizer.from_file(str(corpus.joinpath("tokenizer.json"))).encode(text).ids
    row = metrics(run, "eval")[0]
    bits = row["loss"] / np.log(2) * len(tokens) / len(text.encode())
    assert row["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))


def test_a_program_that_a_chip_refuses_is_named_with_the_reason(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--chip", "m1")
    assert result.returncode == 8
    assert "'attention_forward' on m1: query_mean_square: operand x" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_compaction_keeps_the_rows_of_tokens_that_occur(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("the whale and the sea and the ship. " * 400)
    arguments = (*TINY, "--data", "data.txt", "--compact-vocab", "--steps", 20, "--out", "run")
    run = trained(tmp_path, *arguments)
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    kept = state["values"]["vocabulary"]
    assert 5 < len(kept) < 200
    assert arrays(run)["weights/embedding"].shape == (len(kept), 64)
    first, *_, last = (row["loss"] for row in metrics(run, "eval"))
    assert last < first - 0.7
    trained(tmp_path, "--resume", "run", "--steps", 22)


def test_every_kind_of_data_trains(tmp_path: Path) -> None:
    text = "Some years ago, never mind how long precisely. " * 300
    (tmp_path / "data.txt").write_text(text)
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (np.arange(9000) * 7 % 2000).astype(np.uint16).tofile(tmp_path / "data.bin")
    assert ane_train(tmp_path, "prepare", "data.txt", "--out", "shards").returncode == 0
    for name in ("data.txt", "data.jsonl", "data.bin", "shards"):
        out = f"run-{name}"
        result = ane_train(tmp_path, *TINY, "--data", name, "--steps", 2, "--out", out)
        assert result.returncode == 0, result.stderr
        assert len(losses(tmp_path / out)) == 2


def test_sigusr1_saves_and_goes_on(tmp_path: Path) -> None:
    arguments = (*TINY, "--steps", 100000, "--eval-every", 0, "--save-every", 0, "--out", "run")
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stdout=-1, stderr=-1
    )
    run = tmp_path / "run"

    def steps() -> int:
        # while a line is being written, a reader can find its first part alone
        rows = read_records(run) if (run / "metrics.jsonl").exists() else ()
        return sum(row["type"] == "step" for row in rows)

    def wait_for(condition) -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert condition(), process.poll()

    wait_for(lambda: steps() > 2)
    process.send_signal(signal.SIGUSR1)
    wait_for((run / "checkpoints" / "last").exists)
    saved = steps()
    wait_for(lambda: steps() > saved + 2)
    (run / "stop").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not (run / "stop").exists()


def test_output_that_is_no_terminal_has_no_escape_codes(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--steps", 3, "--log-every", 1)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr
    assert "step 3/3" in result.stdout
    assert result.stderr == ""


def test_another_data_set_on_resume_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("From hell's heart I stab at thee. " * 300)
    trained(tmp_path, *TINY, "--steps", 2, "--out", "run")
    result = ane_train(tmp_path, "--resume", "run", "--data", "data.txt", "--steps", 4)
    assert result.returncode == 0
    assert "not what this run was trained on" in result.stdout


def test_patience_stops_a_run_that_no_longer_gets_better(tmp_path: Path) -> None:
    arguments = (*TINY, "--lr", "1e-9", "--min-delta", 1, "--patience", 2, "--steps", 100)
    run = trained(tmp_path, *arguments, "--out", "run")
    assert len(losses(run)) == 15
    assert metrics(run, "end")[0]["reason"] == "patience"


def test_a_loss_scale_that_overflows_is_halved_until_it_fits(tmp_path: Path) -> None:
    arguments = (*TINY, "--loss-scale", 1e9, "--steps", 20)
    result = ane_train(tmp_path, *arguments, "--out", "run")
    assert result.returncode == 9, "a fixed scale is not changed"
    assert "10 steps in a row" in result.stderr
    assert "layers" in result.stderr or "embedding" in result.stderr
    assert all(row["skipped"] for row in metrics(tmp_path / "run", "step"))
