"""The head and the norms' backward on the engine: right in fp16, in parts, and within limits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import coremltools_oracle
import numpy as np
import pytest
from peers import peer_of, reference_of, relative_error
from runs import TINY, ane_train, arrays, losses, same_bits, trained
from test_gradients import random_step, spec_of

from ane_train import mil
from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import EngineError
from ane_train.model.layer import layer_shape
from ane_train.model.memory import estimate
from ane_train.model.spec import ModelSpec, list_models
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.programs import (
    SUM_SCALE,
    Constants,
    LayerProgram,
    LayerShape,
    final_norm_backward,
    softmax,
    split_vocabulary,
)
from ane_train.programs.packing import stack_along_channels
from ane_train.train.bound import CompiledLayer, surface_of
from ane_train.train.norm import fitting_scale, norm_scale, stage_residual
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import AdamW, TrainingStep

EXTRAS = ("--pipeline", "static", "--engine-extras")
NARROW = replace(mil.get_chip("m4"), channel_limit=520)  # wide enough for a layer, not for V


def wide_spec() -> ModelSpec:
    """A vocabulary that NARROW takes in three parts."""
    spec, _ = spec_of("qk-norm")
    return replace(spec, vocabulary=1301, sequence=64)


def tokens_of(spec: ModelSpec, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(8).integers(0, spec.vocabulary, (batch, spec.sequence + 1))
    tokens = drawn.astype(np.int32)
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_a_vocabulary_beyond_the_limit_gives_the_gradients_of_transformers(
    numerics: str, tolerance: float
) -> None:
    spec = wide_spec()
    step = random_step(spec, numerics, "static", extras=True, chip=NARROW)
    assert [p.name for p in step.pipeline.programs].count("classifier") == 3
    inputs, targets = tokens_of(spec)
    targets[0, 3:9] = -1
    reference = reference_of(peer_of(spec, step.table, step.weights), step.table, inputs, targets)
    logits = np.stack([step.logits(sequence) for sequence in inputs])
    assert relative_error(logits, reference.logits) < tolerance
    assert step.evaluate(inputs, targets) == pytest.approx(reference.loss, rel=tolerance)
    assert step.micro_batch(inputs, targets) == pytest.approx(reference.loss, rel=tolerance)
    for p in step.table:
        error = relative_error(step.gradients[p.name], reference.gradients[p.name])
        assert error < tolerance, p.name
    step.close()


@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_parts_of_the_vocabulary_together_are_the_whole(numerics: str, tolerance: float) -> None:
    spec = wide_spec()
    whole = random_step(spec, numerics, "static", extras=True, chip=mil.get_chip("m4"))
    parts = random_step(spec, numerics, "static", extras=True, chip=NARROW)
    inputs, targets = tokens_of(spec, 1)
    assert relative_error(parts.logits(inputs[0]), whole.logits(inputs[0])) < tolerance / 10
    losses_ = [step.micro_batch(inputs, targets, 64.0) for step in (parts, whole)]
    assert losses_[0] == pytest.approx(losses_[1], rel=tolerance)
    for p in whole.table:
        error = relative_error(parts.gradients[p.name], whole.gradients[p.name])
        assert error < tolerance, p.name
    whole.close()
    parts.close()


@pytest.mark.parametrize("vocabulary", [1, 97, 456, 457, 912, 913, 151_936])
def test_the_vocabulary_is_split_into_as_few_parts_as_fit(vocabulary: int) -> None:
    parts = split_vocabulary(vocabulary, 64, 520)
    assert list(itertools.chain(*parts)) == list(range(vocabulary))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 456
    assert len(parts) == -(-vocabulary // 456)


def test_a_limit_that_holds_no_logit_is_refused() -> None:
    with pytest.raises(ValueError, match="64 channels do not hold 64 activations"):
        split_vocabulary(97, 64, 64)


def test_an_unknown_chip_gets_no_more_channels_than_were_shown() -> None:
    assert mil.most_channels(None) == 50257
    assert mil.most_channels("m1") == mil.get_chip("m1").channel_limit == 65536
    assert mil.most_channels(NARROW) == 520


def wide_softmax(vocabulary: int, sequence: int) -> LayerProgram:
    return softmax(stack_along_channels(sequence, ("logits", vocabulary)))


@pytest.mark.parametrize("chip", mil.CHIPS)
def test_the_softmax_of_a_large_vocabulary_is_within_every_chip_s_limits(chip: str) -> None:
    program = wide_softmax(65_000, 256).program
    coremltools_oracle.infer(program)
    assert [find for find in mil.verify(program, chip) if find.rule != "opset"] == []


def run_softmax(logits: np.ndarray, numerics: str, hazards: int = 0) -> tuple[np.ndarray, ...]:
    """Probabilities, and the log of the sum of exponentials, as the program gives them."""
    vocabulary, sequence = logits.shape
    layout = wide_softmax(vocabulary, sequence)
    with Context(numerics=numerics, hazards=hazards) as context:
        size = 4 if numerics == "fp32" else 2
        x, y = (
            context.surface(packing.channels, packing.width, size)
            for packing in (layout.input, layout.output)
        )
        x.write(logits)
        files = layout.program.weight_files("fp32" if numerics == "fp32" else "fp16")
        program = context.compile(mil.print_program(layout.program), files)
        program.request([x], [y]).evaluate()
        out = y.array.astype(np.float64)
    exponentials, (largest, total) = out[:vocabulary], out[vocabulary:]
    total /= SUM_SCALE
    return exponentials / total, largest + np.log(total)


@pytest.mark.parametrize("spread", [0.0, 1.0, 12.0, 20000.0])
@pytest.mark.parametrize("numerics", ["fp16", "hazard"])
def test_softmax_is_right_where_each_probability_is_subnormal(spread: float, numerics: str) -> None:
    drawn = np.random.default_rng(3).standard_normal((40_000, 64)) * spread
    logits = drawn.clip(-65000, 65000).astype(np.float16).astype(np.float64)
    shifted = logits - logits.max(axis=0)
    exact = np.exp(shifted) / np.exp(shifted).sum(axis=0)
    hazards = mil.hazards("m2") if numerics == "hazard" else 0
    ours, log_sum = run_softmax(logits.astype(np.float32), numerics, hazards)
    assert relative_error(ours, exact) < 1e-2
    assert ours.sum(axis=0) == pytest.approx(np.ones(64), rel=1e-3)
    expected = logits.max(axis=0) + np.log(np.exp(shifted).sum(axis=0))
    np.testing.assert_allclose(log_sum, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dy_size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("x_size", [1e-4, 1.0, 3e4])
def test_the_backward_of_the_norm_is_right_whatever_the_sizes(
    x_size: float, dy_size: float
) -> None:
    shape, epsilon = LayerShape(64, 96, 4, 4, 24, 96, 1e4, 1e-5, False), 1e-5
    draw = np.random.default_rng(4).standard_normal
    x, dy = (draw((96, 64)).astype(np.float32) * size for size in (x_size, dy_size))
    x[5] *= 30  # the residual stream of trained models has such rows
    gain = 1 + 0.2 * draw(96).astype(np.float32)
    engine = open_engine(EngineOptions("cpu", "fp16"))
    layout = final_norm_backward(shape, Constants({"norm": gain}))
    output = surface_of(engine, layout.output)
    program = CompiledLayer(layout, engine.compile(layout.program)).bind(engine, output)
    (of_x,), of_dy = stage_residual(program, x, shape), fitting_scale(dy)
    program.stage("dnormalized", dy, scale=of_dy)
    program.request.evaluate()
    dx, dgain = np.zeros_like(x), np.zeros_like(gain)
    inverse = np.asarray(1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=0) + epsilon))
    arithmetic.rmsnorm_backward(engine.context, x, gain, inverse.astype(np.float32), dy, dx, dgain)
    ours = program.read("dx", np.empty_like(x), alpha=of_x / of_dy)
    columns = program.read("norm", np.empty_like(x), alpha=1 / of_dy)
    assert relative_error(ours, dx) < 3e-3
    assert relative_error(columns.sum(axis=1), dgain) < 3e-3


def test_the_gradient_of_the_head_follows_the_loss_scale_to_the_bit() -> None:
    spec = wide_spec()
    step = random_step(spec, "fp16", "static", extras=True)
    inputs, targets = tokens_of(spec, 1)
    x, small = step.activations(inputs[0]), 2.0**-30
    found = []
    for scale in (1.0, small):
        step.gradients.flat.fill(0.0)
        _, dx = step.head.loss_and_gradient(x, targets[0], scale, step.weights, step.gradients)
        found.append((dx, step.gradients["norm"].copy(), step.gradients["embedding"].copy()))
    for large, tiny in zip(*found, strict=True):
        assert large.any()
        assert np.array_equal(large * small, tiny)
    step.close()


def test_scales_are_powers_of_two_and_fit() -> None:
    for size in (1e-20, 3e-5, 1.0, 7e4, 1e30):
        scale = fitting_scale(np.array([[-size, size / 2]], np.float32))
        assert np.log2(scale) == int(np.log2(scale))
        assert 8 <= size * scale < 16
    for values in ([0.0], [np.inf, 1.0], [np.nan]):
        assert fitting_scale(np.array([values], np.float32)) == 1.0
    assert 1e-6 * norm_scale(np.array([[1e-20]], np.float32), 1e-6) ** 2 < 65504


def test_masked_targets_give_no_gradient() -> None:
    spec = wide_spec()
    step = random_step(spec, "fp16", "static", extras=True)
    inputs, targets = tokens_of(spec, 1)
    targets[:] = -1
    assert step.micro_batch(inputs, targets) == 0.0
    assert not step.gradients.flat.any()
    step.close()


def test_activations_that_overflow_fp16_are_found_and_not_warned_of(
    recwarn: pytest.WarningsRecorder,
) -> None:
    spec = wide_spec()
    step = random_step(spec, "fp16", "static", extras=True)
    step.weights["norm"][:] = 6e4
    step.refresh()
    inputs, targets = tokens_of(spec, 1)
    step.micro_batch(inputs, targets)
    assert step.update(AdamW(), 1e-3, 1).bad is not None
    assert not recwarn.list
    step.close()


def test_the_budget_counts_the_programs_of_the_head() -> None:
    spec, _ = spec_of("multi-head")
    needed = 4 * spec.layers + 3  # classifier, softmax, norm's backward
    for limit, fits in ((needed, True), (needed - 1, False)):
        engine = open_engine(EngineOptions("cpu", compile_limit=limit))
        if not fits:
            with pytest.raises(EngineError, match=f"needs {needed} programs compiled"):
                TrainingStep(spec, engine, 32, pipeline=PipelineOptions("static", extras=True))
            continue
        step = TrainingStep(spec, engine, 32, pipeline=PipelineOptions("static", extras=True))
        step.initialize(seed=0)
        assert step.pipeline.ready
        step.micro_batch(*tokens_of(spec, 1))
        step.close()
        assert engine.budget.left == 0


def test_an_update_compiles_the_softmax_not_again_and_lets_go_what_does_not_fit() -> None:
    spec, _ = spec_of("multi-head")
    changing = 4 * spec.layers + 2
    engine = open_engine(EngineOptions("cpu", compile_limit=1 + 2 * changing))
    step = TrainingStep(spec, engine, 32, pipeline=PipelineOptions("static", extras=True))
    inputs, targets = tokens_of(replace(spec, sequence=32), 1)
    step.initialize(seed=0)
    for ready in (True, False):
        step.micro_batch(inputs, targets)
        step.update(AdamW(), 1e-3, 1)
        assert step.pipeline.ready is ready
    assert engine.budget.left == 0
    assert engine.context.counts().loaded == 1
    with pytest.raises(EngineError, match="budget of compiles is spent"):
        step.head.loss(np.ones((spec.dim, 32), np.float32), targets[0], step.weights)
    step.close()


@pytest.mark.parametrize("spec", list_models(), ids=lambda spec: spec.name)
def test_the_memory_estimate_counts_surfaces_and_constants_of_the_head(spec: ModelSpec) -> None:
    shape = layer_shape(spec, 256)
    without = estimate(spec, shape, pipeline="static").total
    surfaces_and_constants = 2 * 2 * spec.vocabulary * 256 + 4 * spec.vocabulary * spec.dim
    assert estimate(spec, shape, pipeline="static", extras=True).total > (
        without + surfaces_and_constants
    )


def test_extras_want_constants(tmp_path: Path) -> None:
    result = ane_train(tmp_path, *TINY, "--engine-extras")
    assert result.returncode == 2
    assert "--engine-extras needs weights as constants: add --pipeline static" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ten_steps_with_extras_are_as_near_to_fp32_as_those_without(tmp_path: Path) -> None:
    def ten_steps(name: str, *flags: str) -> list[object]:
        run = trained(tmp_path, *TINY, "--steps", 10, "--lr", 4e-3, *flags, "--out", "run")
        return [loss for _, loss in losses(run.rename(tmp_path / name))]

    exact = ten_steps("exact", "--numerics", "fp32")
    for name, flags in (("without", EXTRAS[:2]), ("extras", EXTRAS)):
        assert ten_steps(name, *flags) == pytest.approx(exact, abs=2e-3)
    same = ten_steps("fp32", "--numerics", "fp32", *EXTRAS)
    assert same == pytest.approx(exact, abs=1e-5)


def test_a_resumed_run_with_extras_has_the_bits_of_one_that_did_not_stop(tmp_path: Path) -> None:
    arguments = (*TINY, *EXTRAS, "--steps", 6, "--out", "run")
    whole = trained(tmp_path, *arguments).rename(tmp_path / "whole")
    trained(tmp_path, *arguments, "--stop-after", 3)
    run = trained(tmp_path, "--resume", "run")
    assert losses(run) == losses(whole)
    assert same_bits(arrays(run), arrays(whole))
