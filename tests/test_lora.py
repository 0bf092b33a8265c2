"""LoRA against PEFT: steps, files and merging; the base that never changes; whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import save_model
from peers import peer_of, relative_error
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM
from weights_in import some_tokens

from ane_train.engine import EngineOptions, open_engine
from ane_train.interop.source import load_weights, open_source
from ane_train.model.adapters import lora_of
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import AdamW, TrainingStep

RATE, SEQUENCE = 1e-2, 24
ALL = ("all-linear",)
STATIC = PipelineOptions("static")
EXTRAS = PipelineOptions("static", extras=True)
SIDE_BY_SIDE = PipelineOptions(sequences=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of small models, by family."""
    folder = tmp_path_factory.mktemp("models")
    save_model("llama grouped untied", folder / "llama")
    save_model("qwen3", folder / "qwen3")
    return folder


def step_of(
    folder: Path,
    lora: tuple[int, float, tuple[str, ...]],
    numerics: str = "fp32",
    pipeline: PipelineOptions | None = None,
) -> TrainingStep:
    source = open_source(folder)
    engine = open_engine(EngineOptions("cpu", numerics))
    step = TrainingStep(
        source.spec,
        engine,
        SEQUENCE,
        pipeline=pipeline or PipelineOptions(),
        lora=lora_of(source.spec, *lora),
    )
    load_weights(source, step.table, step.weights)
    assert step.adapters is not None
    step.adapters.begin(step.weights, seed=3)
    step.refresh()
    return step


def peer_with(step: TrainingStep) -> PeftModel:
    """PEFT on transformers, with our weights and our adapters as they are."""
    assert step.adapters is not None
    lora = step.adapters.lora
    targets = [p.hf_name.split(".")[-3] for p in step.optimized if p.layer == 0]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=sorted(set(targets)))
    peer = get_peft_model(peer_of(step.spec, step.table, base_of(step)), config).double()
    state = {p.hf_name: torch.from_numpy(step.variables[p.name]).double() for p in step.optimized}
    result = set_peft_model_state_dict(peer, state)
    assert not result.unexpected_keys
    return peer


def base_of(step: TrainingStep) -> dict[str, np.ndarray]:
    assert step.adapters is not None
    return dict(step.adapters.base(step.weights))


def trained_in(peer: PeftModel) -> dict[str, torch.nn.Parameter]:
    named = {n.replace(".default.", "."): p for n, p in peer.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in named)
    return named


def batches(step: TrainingStep, count: int, seed: int = 5) -> Iterator[tuple[np.ndarray, ...]]:
    generator = np.random.default_rng(seed)
    for _ in range(count):
        tokens = generator.integers(0, step.spec.vocabulary, (2, SEQUENCE + 1)).astype(np.int32)
        yield tokens[:, :-1].copy(), tokens[:, 1:].copy()


def loss_of(peer: PeftModel, inputs: np.ndarray, targets: np.ndarray) -> torch.Tensor:
    logits = peer(input_ids=torch.from_numpy(inputs.astype(np.int64))).logits
    flat = torch.from_numpy(targets.astype(np.int64)).reshape(-1)
    return torch.nn.functional.cross_entropy(logits.reshape(len(flat), -1), flat)


@pytest.mark.parametrize(
    "pipeline",
    [None, STATIC, EXTRAS, SIDE_BY_SIDE, replace(EXTRAS, sequences=2)],
    ids=["dynamic", "static", "extras", "side by side", "extras side by side"],
)
@pytest.mark.parametrize(
    ("family", "lora"),
    [("llama", (4, 8.0, ALL)), ("qwen3", (3, 10.0, ("q_proj", "value", "down_proj")))],
)
def test_steps_give_the_adapters_of_peft_and_torch_adamw(
    models: Path, family: str, lora: tuple, pipeline: PipelineOptions | None
) -> None:
    step = step_of(models / family, lora, pipeline=pipeline)
    peer = peer_with(step)
    before = {name: array.tobytes() for name, array in base_of(step).items()}
    named = trained_in(peer)
    assert set(named) == {p.hf_name for p in step.optimized}
    optimizer = torch.optim.AdamW(named.values(), RATE, (0.9, 0.95), 1e-8, weight_decay=0.1)
    for index in range(3):
        optimizer.zero_grad()
        losses = []
        for inputs, targets in batches(step, 2, seed=index):  # micro-batches of one step
            loss = loss_of(peer, inputs, targets)
            (loss / 2).backward()
            losses.append(step.micro_batch(inputs, targets, 8.0) / loss.item())
        assert losses == pytest.approx([1, 1], rel=1e-5)
        norm = torch.nn.utils.clip_grad_norm_(named.values(), 0.05)
        optimizer.step()
        update = step.update(AdamW(clip=0.05), RATE, index + 1, 1 / 16)
        assert update.bad is None
        assert update.gradient_norm == pytest.approx(float(norm), rel=1e-4)
        for p in step.optimized:
            theirs = named[p.hf_name].detach().numpy()
            if theirs.any() or step.variables[p.name].any():
                assert relative_error(step.variables[p.name], theirs) < 1e-3, p.name
    tokens = some_tokens(SEQUENCE)
    with torch.no_grad():
        expected = peer(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]
    assert relative_error(step.logits(tokens), expected.numpy()) < 1e-4
    assert {name: array.tobytes() for name, array in base_of(step).items()} == before
    merged = dict(peer.merge_and_unload().named_parameters())
    for p in step.table:
        assert relative_error(step.weights[p.name], merged[p.hf_name].detach().numpy()) < 1e-5
    step.close()


@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
@pytest.mark.parametrize("pipeline", [None, EXTRAS], ids=["dynamic", "extras"])
def test_gradients_of_both_factors_are_those_of_peft(
    models: Path, numerics: str, tolerance: float, pipeline: PipelineOptions | None
) -> None:
    step = step_of(models / "qwen3", (5, 7.0, ALL), numerics, pipeline)
    generator = np.random.default_rng(1)
    for p in step.optimized:
        step.variables[p.name][:] = generator.normal(0, 0.1, p.shape)
    step.refresh()
    peer = peer_with(step)
    [(inputs, targets)] = batches(step, 1)
    loss_of(peer, inputs, targets).backward()
    step.micro_batch(inputs, targets, 64.0)
    named = trained_in(peer)
    for p in step.optimized:
        theirs = named[p.hf_name].grad.numpy()
        assert relative_error(step.gradients[p.name] / 64, theirs) < tolerance, p.name
    step.close()


def test_fresh_adapters_start_as_pefts_do(models: Path) -> None:
    step = step_of(models / "llama", (16, 16.0, ALL))
    torch.manual_seed(0)
    config = LoraConfig(r=16, target_modules="all-linear")
    base = AutoModelForCausalLM.from_pretrained(models / "llama")
    named = trained_in(get_peft_model(base, config))
    for p in step.optimized:
        ours, theirs = step.variables[p.name], named[p.hf_name].detach().numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.08)
    first, second = (step.variables[f"layers.{n}.query.lora_a"] for n in (0, 1))
    assert (first != second).any()
    step.close()


def test_only_adapters_have_gradients_and_moments(models: Path) -> None:
    step = step_of(models / "llama", (2, 2.0, ("q_proj",)))
    shapes = {p.name: p.shape for p in step.optimized}
    assert shapes == {
        f"layers.{layer}.query.lora_{factor}": shape
        for layer in (0, 1)
        for factor, shape in (("a", (2, 64)), ("b", (64, 2)))
    }
    for arena in (step.gradients, step.first_moment, step.second_moment):
        assert arena.views.keys() == shapes.keys()
    step.close()
