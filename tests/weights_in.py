"""Weights of a source in memory, and our logits and theirs for the same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ane_train.engine import EngineOptions, open_engine
from ane_train.interop.source import WeightSource, load_weights, open_source
from ane_train.model.arena import Arena
from ane_train.model.parameters import parameters
from ane_train.train.step import TrainingStep


def loaded(source: WeightSource) -> Arena:
    table = parameters(source.spec)
    weights = Arena(table)
    load_weights(source, table, weights)
    return weights


def same_weights(first: Path | str, second: Path | str) -> bool:
    """Whether two sources have the same weights to the bit."""
    sources = open_source(first), open_source(second)
    ours, theirs = map(loaded, sources)
    return ours.views.keys() == theirs.views.keys() and ours.flat.tobytes() == theirs.flat.tobytes()


def our_logits(source: WeightSource, tokens: np.ndarray) -> np.ndarray:
    engine = open_engine(EngineOptions("cpu", "fp32"))
    step = TrainingStep(source.spec, engine, tokens.size)
    load_weights(source, step.table, step.weights)
    step.refresh()
    logits = step.logits(tokens)
    step.close()
    engine.close()
    return logits


def their_logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model.double()(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits
    return logits[0].numpy()


def some_tokens(count: int = 24, vocabulary: int = 97) -> np.ndarray:
    return np.random.default_rng(2).integers(0, vocabulary, count).astype(np.int32)
