"""Tiny models show that it can work; this is Stories110M itself, 109.5 M parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peers import peer_of, reference_of, relative_error

from ane_train.engine import EngineOptions, open_engine
from ane_train.model.spec import load_model
from ane_train.train.step import TrainingStep


@pytest.mark.parametrize(("numerics", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_every_gradient_of_stories110m_is_that_of_transformers(
    numerics: str, tolerance: float
) -> None:
    spec = load_model("stories110m")
    step = TrainingStep(spec, open_engine(EngineOptions("cpu", numerics)), spec.sequence)
    step.initialize(seed=1)
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary, (1, spec.sequence + 1))
    inputs, targets = (part.astype(np.int32) for part in (tokens[:, :-1], tokens[:, 1:]))
    loss = step.micro_batch(inputs, targets, loss_scale=256.0)
    peer = peer_of(spec, step.table, step.weights, torch.float32)
    reference = reference_of(peer, step.table, inputs, targets)
    assert loss == pytest.approx(reference.loss, rel=tolerance)
    errors = {
        p.name: relative_error(step.gradients[p.name] / 256, reference.gradients[p.name])
        for p in step.table
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < tolerance, f"{worst}: {errors[worst]:.2e}"
    step.close()
    step.engine.close()
