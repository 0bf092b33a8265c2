"""transformers' models with our sizes and weights: the oracle of logits and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ane_train.model.arena import Arena
from ane_train.model.parameters import Parameter
from ane_train.model.spec import ModelSpec
from bench.peer import new_model


def peer_of(
    spec: ModelSpec,
    table: tuple[Parameter, ...],
    weights: Mapping[str, np.ndarray] | Arena,
    dtype: torch.dtype = torch.float64,
) -> torch.nn.Module:
    """LlamaForCausalLM, or Qwen3ForCausalLM where queries and keys are normed."""
    model = new_model(spec, attention="eager").to(dtype)
    state = {p.hf_name: torch.from_numpy(weights[p.name]) for p in table}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if spec.tied_embeddings else set())
    return model


@dataclass(frozen=True, slots=True)
class Reference:
    """What the peer computes: logits [B, S, V], mean loss, gradients by our parameter names."""

    logits: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


def reference_of(
    model: torch.nn.Module, table: tuple[Parameter, ...], inputs: np.ndarray, targets: np.ndarray
) -> Reference:
    """One forward and backward pass of the peer over inputs [B, S]."""
    model.zero_grad()
    logits = model(input_ids=torch.from_numpy(inputs.astype(np.int64))).logits
    flat = torch.from_numpy(targets.astype(np.int64)).reshape(-1)
    loss = torch.nn.functional.cross_entropy(logits.reshape(len(flat), -1), flat, ignore_index=-1)
    loss.backward()
    named = dict(model.named_parameters())
    gradients = {p.name: named[p.hf_name].grad.numpy() for p in table}
    return Reference(logits.detach().double().numpy(), loss.item(), gradients)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """||a - b|| / ||b||."""
    difference = np.linalg.norm(ours.astype(np.float64).ravel() - theirs.ravel())
    return float(difference / np.linalg.norm(theirs.ravel()))
