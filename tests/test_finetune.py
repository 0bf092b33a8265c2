"""Fine-tuning: the loss of what counts and no more, frozen parameters, and both in whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import peer_of, relative_error
from runs import KINDS, TINY, ane_train, arrays, losses, metrics, same_bits, trained

from ane_train.data.batches import Batch, batch
from ane_train.data.source import DataSource, open_data
from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import ConfigError
from ane_train.model.parameters import matching, parameters
from ane_train.model.spec import load_model
from ane_train.train.step import AdamW, TrainingStep

RATE = 1e-2
SEQUENCE = 40


def counting(path: Path, count: int = 120) -> Path:
    """Examples of many lengths, of which between one and some twenty tokens count."""
    lines = []
    for number in range(count):
        last = 1 + 7 * number % 19
        said = "".join(f" {k}" for k in range(1, last + 1))
        lines.append(json.dumps({"prompt": f"Count to {last}:", "completion": said}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    folder = tmp_path_factory.mktemp("examples")
    path = counting(folder / "a.jsonl")
    return open_data(path, tokenizer=None, vocabulary=2048, sequence=SEQUENCE, cache_dir=folder)


def micro_batches(source: DataSource, count: int, size: int = 1, first: int = 0) -> list[Batch]:
    take = partial(batch, source.train, seed=5, count=size, sequence=SEQUENCE)
    return [take(step=step) for step in range(first, first + count)]


def counted_in(batches: list[Batch]) -> list[int]:
    return [int((targets >= 0).sum()) for _, targets in batches]


@pytest.fixture
def step() -> Iterator[TrainingStep]:
    made = make_step()
    yield made
    made.close()


def make_step(frozen: frozenset[str] = frozenset()) -> TrainingStep:
    spec = replace(load_model("tiny"), sequence=SEQUENCE)
    made = TrainingStep(spec, open_engine(EngineOptions("cpu", "fp32")), SEQUENCE)
    made.frozen = frozen
    made.initialize(seed=2)
    return made


def gradients(step: TrainingStep, batches: list[Batch], counted: float | None = None) -> np.ndarray:
    """The gradients of the micro-batches' losses, summed."""
    step.gradients.flat.fill(0.0)
    for found in batches:
        step.micro_batch(*found, 1.0, counted)
    return step.gradients.flat.copy()


def backward(peer: torch.nn.Module, batches: list[Batch]) -> float:
    """transformers' own loss of all micro-batches as one batch, with labels of -100."""
    inputs = np.concatenate([found[0] for found in batches]).astype(np.int64)
    targets = np.concatenate([found[1] for found in batches]).astype(np.int64)
    ignored = np.full((len(inputs), 1), -100)
    labels = np.concatenate([ignored, np.where(targets < 0, -100, targets)], axis=1)
    rows = np.concatenate([inputs, np.zeros((len(inputs), 1), np.int64)], axis=1)
    loss = peer(input_ids=torch.from_numpy(rows), labels=torch.from_numpy(labels)).loss
    loss.backward()
    return loss.item()


def test_steps_on_examples_give_the_weights_of_transformers_and_torch_adamw(source, step) -> None:
    peer = peer_of(step.spec, step.table, step.weights)
    named = dict(peer.named_parameters())
    groups = [
        {"params": [named[p.hf_name] for p in step.table if p.decays is decays], "weight_decay": wd}
        for decays, wd in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    for index in range(3):
        batches = micro_batches(source, 3, size=2, first=3 * index)
        counts = counted_in(batches)
        assert len(set(counts)) > 1
        optimizer.zero_grad()
        expected = backward(peer, batches)
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        optimizer.step()
        found = [step.micro_batch(*one, 8.0, sum(counts) / 3) for one in batches]
        update = step.update(AdamW(clip=0.5), RATE, index + 1, 1 / (8.0 * 3))
        assert sum(found) / 3 == pytest.approx(expected, rel=1e-5)
        assert update.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for p in step.table:
        assert relative_error(step.weights[p.name], named[p.hf_name].detach().numpy()) < 1e-3, (
            p.name
        )


def test_masked_positions_contribute_no_gradient(source, step) -> None:
    [(inputs, targets)] = micro_batches(source, 1, size=3)
    assert (targets < 0).any()
    ours = gradients(step, [(inputs, targets)])
    peer = peer_of(step.spec, step.table, step.weights)
    logits = peer(input_ids=torch.from_numpy(inputs.astype(np.int64))).logits
    likely = torch.log_softmax(logits, -1)
    terms = [-likely[b, s, targets[b, s]] for b, s in np.argwhere(targets >= 0)]
    (sum(terms) / len(terms)).backward()
    named = dict(peer.named_parameters())
    for p in step.table:
        theirs = named[p.hf_name].grad.numpy()
        assert relative_error(step.gradients[p.name], theirs) < 1e-4, p.name
    whole = np.where(targets < 0, inputs, targets)
    assert relative_error(gradients(step, [(inputs, whole)]), ours) > 0.1


def test_what_fills_a_row_changes_no_gradient_to_the_bit(source, step) -> None:
    inputs, targets = next(
        found for found in micro_batches(source, 9) if (found[1][0, -3:] < 0).all()
    )
    before = gradients(step, [(inputs, targets)])
    last = int(np.flatnonzero(targets[0] >= 0)[-1])
    inputs[0, last + 1 :] = 77
    np.testing.assert_array_equal(gradients(step, [(inputs, targets)]), before)
    inputs[0, last] = 77
    assert (gradients(step, [(inputs, targets)]) != before).any()


def test_a_micro_batch_in_which_nothing_counts_is_worth_nothing(source, step) -> None:
    [(inputs, targets)] = micro_batches(source, 1)
    nothing = np.full_like(targets, -1)
    assert step.micro_batch(inputs, nothing) == 0.0
    assert step.evaluate(inputs, nothing) == 0.0
    assert not step.gradients.flat.any()
    assert step.update(AdamW(), RATE, 1).bad is None
    assert np.isfinite(step.weights.flat).all()


@pytest.mark.parametrize("accum", [2, 5])
def test_unequal_micro_batches_are_one_big_batch(source, step, accum) -> None:
    batches = micro_batches(source, accum)
    counts = counted_in(batches)
    assert max(counts) > 1.2 * min(counts)
    big = tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
    expected = gradients(step, [big])
    ours = gradients(step, batches, sum(counts) / accum) / accum
    assert relative_error(ours, expected) < 1e-5
    naive = gradients(step, batches) / accum
    assert relative_error(naive, expected) > 1e-3


def test_where_all_targets_count_nothing_changes_to_the_bit(step) -> None:
    tokens = np.random.default_rng(3).integers(0, 2048, (3, 2, SEQUENCE + 1)).astype(np.int32)
    batches = [(row[:, :-1].copy(), row[:, 1:].copy()) for row in tokens]
    mean = sum(counted_in(batches)) / len(batches)
    np.testing.assert_array_equal(gradients(step, batches, mean), gradients(step, batches))
    one = [step.micro_batch(*found, 3.0) for found in batches]
    assert one == [step.micro_batch(*found, 3.0, mean) for found in batches]


RUN = ("--model", "tiny", "--seq", SEQUENCE, "--data", "a.jsonl", "--cache", "cache")


def test_a_run_on_examples_learns_and_accumulates_like_one_big_batch(tmp_path: Path) -> None:
    counting(tmp_path / "a.jsonl")
    common = (*RUN, "--numerics", "fp32", "--steps", 12, "--lr", 4e-3, "--eval-every", 6)
    small = trained(tmp_path, *common, "--accum", 4, "--out", "run").rename(tmp_path / "small")
    big = trained(tmp_path, *common, "--batch-size", 4, "--out", "run")
    ours, theirs = ([loss for _, loss in losses(run)] for run in (small, big))
    assert ours == pytest.approx(theirs, rel=1e-4)
    norms = [[row["grad_norm"] for row in metrics(run, "step")] for run in (small, big)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    weights = [arrays(run)["weights/embedding"] for run in (small, big)]
    assert relative_error(weights[0], weights[1]) < 1e-4
    first, *_, last = metrics(big, "eval")
    assert last["loss"] < first["loss"] - 0.8
    assert first["bits_per_byte"] is None


def test_validation_weighs_batches_by_what_counts_in_them(tmp_path: Path) -> None:
    counting(tmp_path / "a.jsonl")
    common = (*RUN, "--numerics", "fp32", "--steps", 1, "--valid-fraction", 0.3, "--out", "run")
    found = []
    for size, batches in ((1, 4), (4, 1)):
        flags = ("--batch-size", size, "--eval-batches", batches)
        run = trained(tmp_path, *common, *flags).rename(tmp_path / f"run-{size}")
        found.append(metrics(run, "eval")[0]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_resuming_on_examples_is_not_stopping_to_the_bit(tmp_path: Path) -> None:
    counting(tmp_path / "a.jsonl")
    extra = ("--compact-vocab", "--freeze", "embedding,layers.1.*")
    common = (*RUN, "--steps", 8, "--accum", 3, "--eval-every", 4, *extra, "--out", "run")
    whole = trained(tmp_path, *common).rename(tmp_path / "whole")
    run = trained(tmp_path, *common, "--stop-after", 3)
    trained(tmp_path, "--resume", "run")
    assert losses(run) == losses(whole)
    assert same_bits(arrays(run), arrays(whole))


@pytest.mark.parametrize("pipeline", ["dynamic", "static"])
def test_frozen_parameters_and_their_moments_stay_to_the_bit(tmp_path: Path, pipeline: str) -> None:
    flags = ("--freeze", "layers.0.*", "--freeze", "model.norm.weight,*embed_tokens*")
    common = (*TINY, "--steps", 3, "--pipeline", pipeline, "--lr", 1e-2, "--save-every", 1)
    result = ane_train(tmp_path, *common, *flags, "--keep", 9, "--out", "run")
    assert result.returncode == 0, result.stderr
    assert "254.4K parameters, 61.6K of them trained" in result.stdout
    found = [arrays(tmp_path / "run", f"step-{step:06d}") for step in (1, 3)]
    for p in parameters(load_model("tiny")):
        frozen = p.name.startswith("layers.0.") or p.name in ("norm", "embedding")
        for kind in KINDS:
            one, other = (arrays_[f"{kind}/{p.name}"] for arrays_ in found)
            assert (one.tobytes() == other.tobytes()) is frozen, (kind, p.name)
            if frozen and kind != "weights":
                assert not one.any()


def test_clipping_and_weight_decay_see_only_what_is_trained(source) -> None:
    table = parameters(replace(load_model("tiny"), sequence=SEQUENCE))
    frozen = matching(table, ["*.query", "model.layers.?.mlp.*", "embedding"])
    step = make_step(frozen=frozen)
    peer = peer_of(step.spec, step.table, step.weights)
    named = dict(peer.named_parameters())
    for p in step.table:
        named[p.hf_name].requires_grad_(p.name not in frozen)
    moving = [named[p.hf_name] for p in step.table if p.name not in frozen]
    batches = micro_batches(source, 1, size=2)
    backward(peer, batches)
    norm = torch.nn.utils.clip_grad_norm_(moving, 0.1)
    torch.optim.AdamW(moving, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0).step()
    step.micro_batch(*batches[0])
    update = step.update(AdamW(clip=0.1, weight_decay=0.0), RATE, 1)
    assert update.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for p in step.table:
        assert relative_error(step.weights[p.name], named[p.hf_name].detach().numpy()) < 1e-3, (
            p.name
        )
    step.close()


def test_a_pattern_means_our_names_and_hugging_faces() -> None:
    table = parameters(load_model("tiny"))
    assert matching(table, ["layers.1.gate"]) == {"layers.1.gate"}
    assert matching(table, ["model.layers.1.mlp.gate_proj.weight", "norm"]) == {
        "layers.1.gate", "norm",
    }  # fmt: skip
    assert matching(table, ["*layernorm*"]) == {
        f"layers.{i}.{name}" for i in (0, 1) for name in ("attention_norm", "ffn_norm")
    }
    assert matching(table, ()) == frozenset()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layers.0.qurey", r"no parameter is named layers\.0\.qurey; there is layers\.0\.query"),
        ("model.layers.1.mlp.gate_proj", r"there is model\.layers\.1\.mlp\.gate_proj\.weight"),
        ("Layers.*", r"no parameter is named Layers\.\*; there is layers\."),
    ],
)
def test_a_pattern_that_fits_nothing_names_what_is_near(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        matching(parameters(load_model("tiny")), ["norm", pattern])


def test_freezing_all_is_one_line_before_any_run(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--freeze", "*")
    assert result.returncode == 2
    assert "--freeze leaves nothing to train" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
