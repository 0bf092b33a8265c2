"""Our programs together are the model and its gradient, as transformers has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from peers import peer_of, reference_of, relative_error

from ane_train.engine import EngineOptions, open_engine
from ane_train.mil import Chip
from ane_train.model.spec import ModelSpec
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import TrainingStep

# heads, kv_heads, head_size, dim, ffn, qk_norm, tied, batch, sequence, layers, theta
CONFIGURATIONS: dict[str, tuple[int | bool | float, ...]] = {
    "multi-head": (4, 4, 16, 64, 160, False, True, 1, 32, 2, 1e4),
    "multi-head untied batch 3": (3, 3, 16, 48, 96, False, False, 3, 24, 2, 1e4),
    "groups of 2": (4, 2, 16, 64, 128, False, True, 1, 32, 2, 1e4),
    "groups of 3 untied": (6, 2, 8, 48, 80, False, False, 1, 16, 3, 5e5),
    "groups of 4 batch 3": (8, 2, 8, 64, 192, False, True, 3, 32, 2, 1e4),
    "head size above dim / heads": (4, 2, 32, 64, 96, False, True, 1, 32, 2, 1e4),
    "qk-norm": (4, 2, 32, 64, 128, True, True, 1, 32, 2, 1e6),
    "qk-norm groups of 3 untied batch 3": (6, 2, 16, 40, 72, True, False, 3, 20, 3, 1e6),
    "qk-norm multi-head, small heads": (
        4,
        4,
        8,
        64,
        96,
        True,
        False,
        1,
        32,
        1,
        1e4,
    ),
    "one query head a group of 4": (4, 1, 24, 56, 64, True, True, 1, 17, 2, 1e4),
}


def _drawn(seed: int) -> tuple[int | bool | float, ...]:
    """A configuration that nobody chose (transformers wants dim to be a multiple of heads)."""
    draw = np.random.default_rng(seed).integers
    kv, ratio, e = int(draw(1, 4)), int(draw(1, 5)), 2 * int(draw(2, 13))
    dim, ffn, sequence = kv * ratio * int(draw(3, 9)), int(draw(7, 99)), int(draw(5, 40))
    flags = bool(draw(2)), bool(draw(2))
    return (kv * ratio, kv, e, dim, ffn, *flags, int(draw(1, 4)), sequence, 2, 1e4)


CONFIGURATIONS |= {f"drawn by seed {seed}": _drawn(seed) for seed in range(8)}


def spec_of(name: str) -> tuple[ModelSpec, int]:
    heads, kv, e, dim, ffn, qk_norm, tied, batch, sequence, layers, theta = CONFIGURATIONS[name]
    spec = ModelSpec(
        name="random",
        layers=layers,
        dim=dim,
        heads=heads,
        kv_heads=kv,
        head_size=e,
        ffn=ffn,
        vocabulary=97,
        sequence=sequence,
        rope_theta=theta,
        norm_epsilon=1e-5,
        qk_norm=qk_norm,
        tied_embeddings=tied,
    )
    return spec, batch


def random_step(
    spec: ModelSpec,
    numerics: str,
    pipeline: str = "dynamic",
    *,
    extras: bool = False,
    chip: Chip | None = None,
    sequences: int = 1,
) -> TrainingStep:
    """A step whose gains are random too, so that no gradient is symmetric by accident."""
    engine = open_engine(EngineOptions("cpu", numerics, chip))
    options = PipelineOptions(pipeline, extras, sequences=sequences)
    step = TrainingStep(spec, engine, spec.sequence, pipeline=options)
    step.initialize(seed=11)
    generator = np.random.default_rng(12)
    for parameter in step.table:
        if not parameter.decays:
            step.weights[parameter.name][:] = generator.uniform(0.5, 1.5, parameter.shape)
    step.refresh()
    return step


@pytest.mark.parametrize(
    ("pipeline", "extras"), [("dynamic", False), ("static", False), ("static", True)]
)
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_logits_loss_and_every_gradient_are_those_of_transformers(
    name: str, numerics: str, tolerance: float, pipeline: str, extras: bool
) -> None:
    spec, batch = spec_of(name)
    step = random_step(spec, numerics, pipeline, extras=extras)
    generator = np.random.default_rng(13)
    tokens = generator.integers(0, spec.vocabulary, (batch, spec.sequence + 1)).astype(np.int32)
    inputs, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    reference = reference_of(peer_of(spec, step.table, step.weights), step.table, inputs, targets)

    logits = np.stack([step.logits(sequence) for sequence in inputs])
    assert relative_error(logits, reference.logits) < tolerance
    scale = 64.0 if numerics == "fp16" else 1.0
    loss = step.micro_batch(inputs, targets, loss_scale=scale)
    assert loss == pytest.approx(reference.loss, rel=tolerance)
    errors = {
        p.name: relative_error(step.gradients[p.name] / scale, reference.gradients[p.name])
        for p in step.table
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < tolerance, f"{worst}: {errors[worst]:.2e}"
    step.close()


def test_masked_targets_give_no_gradient() -> None:
    spec, _ = spec_of("qk-norm")
    step = random_step(spec, "fp32")
    tokens = np.arange(spec.sequence, dtype=np.int32)[None] % spec.vocabulary
    targets = np.full_like(tokens, -1)
    assert step.micro_batch(tokens, targets) == 0.0
    assert not step.gradients.flat.any()
    targets[0, 5:9] = [1, 2, 3, 4]
    reference = reference_of(peer_of(spec, step.table, step.weights), step.table, tokens, targets)
    assert step.micro_batch(tokens, targets) == pytest.approx(reference.loss, rel=1e-5)
    for p in step.table:
        assert relative_error(step.gradients[p.name], reference.gradients[p.name]) < 1e-4


def test_accumulated_micro_batches_give_the_gradient_of_one_big_batch() -> None:
    spec, _ = spec_of("groups of 2")
    step = random_step(spec, "fp32")
    generator = np.random.default_rng(5)
    tokens = generator.integers(0, spec.vocabulary, (4, spec.sequence + 1)).astype(np.int32)
    inputs, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    step.micro_batch(inputs, targets)
    whole = step.gradients.flat.copy()
    step.gradients.flat.fill(0.0)
    for row in range(4):
        step.micro_batch(inputs[row : row + 1], targets[row : row + 1])
    assert relative_error(step.gradients.flat / 4, whole) < 1e-6


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_named() -> None:
    from ane_train.train.step import AdamW

    spec, _ = spec_of("multi-head")
    step = random_step(replace(spec, layers=1), "fp16")
    before = step.weights.flat.copy()
    step.gradients["layers.0.gate"][3, 5] = np.inf
    update = step.update(AdamW(), 1e-3, 1)
    assert update.bad == "layers.0.gate"
    assert np.array_equal(before, step.weights.flat)
    assert not step.first_moment.flat.any()
    assert not step.gradients.flat.any()
