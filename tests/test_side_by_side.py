"""Sequences side by side in an evaluation: the sums of single ones, blind to each other, cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peers import peer_of, reference_of, relative_error
from runs import TINY, arrays, losses, trained
from test_gradients import random_step, spec_of
from test_programs import SHAPES, constants

from ane_train import mil
from ane_train.engine import EngineOptions, open_engine
from ane_train.model.layer import layer_shape
from ane_train.model.spec import ModelSpec, load_model
from ane_train.native.engine import Context
from ane_train.programs import LayerShape, layer_programs, sequences_per_evaluation
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import TrainingStep

ARRANGEMENTS = [("dynamic", False), ("static", False), ("static", True)]
SPECS = ("multi-head", "groups of 3 untied", "qk-norm", "qk-norm groups of 3 untied batch 3")


def tokens_of(spec: ModelSpec, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [N, S], of which some do not count."""
    drawn = np.random.default_rng(21).integers(0, spec.vocabulary, (count, spec.sequence + 1))
    inputs, targets = drawn[:, :-1].astype(np.int32), drawn[:, 1:].astype(np.int32)
    targets[0, 2:7] = -1
    targets[-1, :9] = -1
    return inputs, targets


def gradients_of(step: TrainingStep, *batches: tuple[np.ndarray, np.ndarray]) -> dict:
    """Gradients by name of the mean over all targets of the batches, one micro-batch each."""
    counted = float(sum((targets >= 0).sum() for _, targets in batches))
    step.gradients.flat.fill(0.0)
    for inputs, targets in batches:
        step.micro_batch(inputs, targets, 64.0, counted)
    return {p.name: step.gradients[p.name].copy() for p in step.table}


@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_three_sequences_give_the_loss_and_every_gradient_of_transformers(
    name: str, numerics: str, tolerance: float, pipeline: str, extras: bool
) -> None:
    spec, _ = spec_of(name)
    step = random_step(spec, numerics, pipeline, extras=extras, sequences=3)
    inputs, targets = tokens_of(spec, 3)
    reference = reference_of(peer_of(spec, step.table, step.weights), step.table, inputs, targets)
    assert step.evaluate(inputs, targets) == pytest.approx(reference.loss, rel=tolerance)
    assert step.micro_batch(inputs, targets, 64.0) == pytest.approx(reference.loss, rel=tolerance)
    for p in step.table:
        error = relative_error(step.gradients[p.name] / 64, reference.gradients[p.name])
        assert error < tolerance, p.name
    step.close()


# Sums over columns have another order side by side, and BLAS takes other kernels: fp32 rounds
# differently, and so does fp16 now and then, which then spreads.
@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
@pytest.mark.parametrize("name", ["multi-head", "qk-norm", "groups of 4 batch 3"])
def test_gradients_are_those_of_single_sequences_accumulated(
    name: str, pipeline: str, extras: bool
) -> None:
    spec, _ = spec_of(name)
    inputs, targets = tokens_of(spec, 4)
    apart = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(4)]
    exact: dict[str, np.ndarray] = {}
    for numerics in ("fp32", "fp16", "hazard"):
        several = random_step(spec, numerics, pipeline, extras=extras, sequences=4)
        single = random_step(spec, numerics, pipeline, extras=extras)
        theirs = gradients_of(single, *apart)
        exact = exact or theirs
        for name_, ours in gradients_of(several, (inputs, targets)).items():
            rounding = relative_error(theirs[name_], exact[name_])
            assert relative_error(ours, theirs[name_]) < max(2e-6, rounding), (numerics, name_)
        losses_ = [step.evaluate(inputs, targets) for step in (several, single)]
        assert losses_[0] == pytest.approx(losses_[1], rel=1e-6 if numerics == "fp32" else 1e-4)
        several.close()
        single.close()


def step_with_loops(spec: ModelSpec, options: PipelineOptions) -> TrainingStep:
    """A step whose products add up in one order, whatever their sizes."""
    engine = open_engine(EngineOptions("cpu", "fp16"))
    looping = replace(engine, context=Context(numerics="fp16", blas=None))
    step = TrainingStep(spec, looping, spec.sequence, pipeline=options)
    step.initialize(seed=11)
    engine.close()
    return step


@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
@pytest.mark.parametrize("name", ["multi-head", "qk-norm"])
def test_with_sums_in_one_order_each_sequence_has_the_bits_of_a_single_one(
    name: str, pipeline: str, extras: bool
) -> None:
    spec, _ = spec_of(name)
    inputs, targets = tokens_of(spec, 3)
    options = PipelineOptions(pipeline, extras)
    several = step_with_loops(spec, replace(options, sequences=3))
    single = step_with_loops(spec, options)
    x, counted = several.activations(inputs.ravel()), 100.0
    for index in range(3):
        columns = slice(index * spec.sequence, (index + 1) * spec.sequence)
        assert np.array_equal(x[:, columns], single.activations(inputs[index]))
        alone = np.full_like(targets, -1)  # others give no gradient
        alone[index] = targets[index]
        for step, batch in (
            (several, (inputs, alone)),
            (single, (inputs[[index]], alone[[index]])),
        ):
            step.gradients.flat.fill(0.0)
            step.micro_batch(*batch, 64.0, counted)
        assert several.evaluate(inputs, alone) == single.evaluate(inputs[[index]], alone[[index]])
        for p in single.table:
            assert np.array_equal(several.gradients[p.name], single.gradients[p.name]), p.name
    several.close()
    single.close()


@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
@pytest.mark.parametrize("name", ["groups of 2", "qk-norm"])
def test_no_bit_of_a_sequence_depends_on_the_others(name: str, pipeline: str, extras: bool) -> None:
    spec, _ = spec_of(name)
    step = random_step(spec, "fp16", pipeline, extras=extras, sequences=3)
    step.weights["embedding"][90:] *= 500.0
    step.refresh()
    inputs, targets = tokens_of(spec, 3)
    inputs[1] %= 90
    others = inputs.copy()
    others[0] = others[2] = 90 + np.arange(spec.sequence) % 7
    targets[[0, 2]] = -1
    found = []
    for given in (inputs, others):
        x = step.activations(given.ravel())
        gradients = gradients_of(step, (given, targets))
        found.append((x[:, spec.sequence : 2 * spec.sequence].copy(), gradients))
    (x, ours), (same, theirs) = found
    assert np.array_equal(x, same)
    assert all(gradient.any() for gradient in ours.values())
    for name_, gradient in ours.items():
        assert np.array_equal(gradient, theirs[name_]), name_
    step.close()


@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
def test_a_batch_is_cut_and_the_last_evaluation_filled_up(pipeline: str, extras: bool) -> None:
    spec, _ = spec_of("groups of 2")
    inputs, targets = tokens_of(spec, 5)
    cut = random_step(spec, "fp32", pipeline, extras=extras, sequences=2)
    single = random_step(spec, "fp32", pipeline, extras=extras)
    ours, theirs = (gradients_of(step, (inputs, targets)) for step in (cut, single))
    for name, gradient in theirs.items():
        assert relative_error(ours[name], gradient) < 2e-6, name
    assert cut.evaluate(inputs, targets) == pytest.approx(single.evaluate(inputs, targets))
    assert relative_error(cut.logits(inputs[4]), single.logits(inputs[4])) < 1e-6
    cut.close()
    single.close()


def beyond_limits(shape: LayerShape, chip: mil.Chip, *, static: bool) -> set[str]:
    """Limits of a chip that the programs of a layer pass, as the verifier sees them."""
    given = constants(shape) if static else None
    found = [f for layout in layer_programs(shape, given) for f in mil.verify(layout.program, chip)]
    rules = {"spatial-limit", "channel-limit", "matmul-depth"}
    return {finding.rule for finding in found if finding.rule in rules}


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", ["multi-head", "odd", "tiny", "group of all"])
@pytest.mark.parametrize(("spatial", "channels"), [(1100, 65536), (2600, 65536), (65536, 2048)])
def test_as_many_sequences_fit_as_the_verifier_takes(
    name: str, spatial: int, channels: int, static: bool
) -> None:
    chip = replace(mil.get_chip("m3"), spatial_limit=spatial, channel_limit=channels)
    shape = SHAPES[name]
    most = sequences_per_evaluation(shape, 10_000, chip, static=static)
    largest = max(
        n
        for n in range(1, 10_001)
        if -(-10_000 // n) == -(-10_000 // most)  # as few evaluations: none needs more in each
    )
    fits = replace(shape, batch=most)
    if most > 1:
        assert not beyond_limits(fits, chip, static=static)
    assert beyond_limits(replace(shape, batch=largest + 1), chip, static=static)


def test_a_cut_batch_has_evaluations_of_one_size() -> None:
    chip = replace(mil.get_chip("m4"), spatial_limit=64 * 12)
    shape = replace(SHAPES["multi-head"], sequence=64)
    sizes = [
        sequences_per_evaluation(shape, batch, chip, static=True) for batch in (1, 12, 13, 24, 25)
    ]
    assert sizes == [1, 12, 7, 12, 9]
    beyond = replace(shape, sequence=1000)
    assert sequences_per_evaluation(beyond, 8, chip, static=True) == 1


@pytest.mark.parametrize("chip", [None, *mil.CHIPS])
@pytest.mark.parametrize("name", ["stories110m", "qwen3_06b"])
def test_eight_sequences_of_256_fit_every_chip(name: str, chip: str | None) -> None:
    shape = layer_shape(load_model(name), 256)
    for static in (False, True):
        assert sequences_per_evaluation(shape, 8, chip, static=static) == 8


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--pipeline", "static", "--engine-extras"),
        ("--compact-vocab",),
        ("--freeze", "embedding,layers.0.*"),
    ],
    ids=["dynamic", "extras", "compact", "frozen"],
)
def test_a_run_with_a_batch_is_one_that_accumulates(tmp_path: Path, flags: tuple[str, ...]) -> None:
    common = (*TINY, "--numerics", "fp32", "--steps", 3, "--lr", 1e-3, *flags, "--out", "run")
    one = trained(tmp_path, *common, "--accum", 4).rename(tmp_path / "one")
    several = trained(tmp_path, *common, "--batch-size", 4)
    for (step, ours), (same, theirs) in zip(losses(several), losses(one), strict=True):
        assert step == same
        assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = arrays(several), arrays(one)
    for name, array in theirs.items():
        if name.startswith("first_moment") and array.any():
            assert relative_error(ours[name], array) < 1e-4, name


def test_a_run_whose_batch_is_too_wide_is_cut(tmp_path: Path) -> None:
    shape = layer_shape(load_model("tiny"), 16)
    assert sequences_per_evaluation(shape, 300, None, static=False) == 150
    common = ("--model", "tiny", "--seq", 16, "--numerics", "fp32", "--steps", 2, "--lr", 1e-3)
    common = (*common, "--eval-every", 0, "--out", "run")
    cut = trained(tmp_path, *common, "--batch-size", 300).rename(tmp_path / "cut")
    small = trained(tmp_path, *common, "--batch-size", 100, "--accum", 3)
    assert [loss for _, loss in losses(cut)] == pytest.approx(
        [loss for _, loss in losses(small)], rel=1e-5
    )
