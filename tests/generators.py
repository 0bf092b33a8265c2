"""Small random models that generate, with their peers of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from peers import peer_of
from test_gradients import spec_of

from ane_train.engine import EngineOptions, open_engine
from ane_train.generate.decoder import DecoderOptions
from ane_train.generate.generator import Generator
from ane_train.model.arena import Arena, initialize
from ane_train.model.parameters import parameters
from ane_train.model.spec import ModelSpec

CONTEXT = 128


def model(name: str, seed: int = 3) -> tuple[ModelSpec, Arena]:
    """A configuration of the gradient tests with weights that make its texts varied."""
    spec = replace(spec_of(name)[0], sequence=CONTEXT)
    table = parameters(spec)
    weights = Arena(table)
    initialize(weights, table, seed)
    draw = np.random.default_rng(seed + 1)
    for parameter in table:
        if not parameter.decays:
            weights[parameter.name][:] = draw.uniform(0.5, 1.5, parameter.shape)
    for layer in range(spec.layers):
        weights[f"layers.{layer}.down"][:] *= 4
        weights[f"layers.{layer}.output"][:] *= 4
    return spec, weights


def generator(
    spec: ModelSpec, weights: Arena, numerics: str = "fp32", **options: object
) -> Generator:
    """A generator on the software engine."""
    engine = open_engine(EngineOptions("cpu", numerics))
    return Generator(spec, weights, engine, DecoderOptions(**({"context": CONTEXT} | options)))


def peer(spec: ModelSpec, weights: Arena) -> torch.nn.Module:
    """transformers' model with the same weights."""
    return peer_of(spec, parameters(spec), weights, torch.float32).eval()


def peer_tokens(other: torch.nn.Module, prompt: np.ndarray, count: int) -> list[int]:
    """transformers' greedy continuation."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    with torch.no_grad():
        out = other.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def peer_logits(other: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """transformers' logits [N, V]."""
    with torch.no_grad():
        return other(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
