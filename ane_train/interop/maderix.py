"""Checkpoints of maderix/ANE, version 4: weights, both moments and the place in the schedule.

Its trainer scales each block's output by 1/sqrt(2L), rotates neighbours to the base 10000, ties the
classifier to the embedding, and counts micro-batches as steps.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ane_train.errors import CheckpointError, ModelError
from ane_train.interop.companions import NONE, Companions
from ane_train.interop.llama2c import EPSILON, THETA
from ane_train.interop.rotary_order import pairs_to_halves, rotated_heads
from ane_train.interop.tensors import Array, read_array, reading_weights
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec, build_model

MAGIC = 0x424C5A54
KINDS = ("weights", "first_moment", "second_moment")

_HEADER = struct.Struct("<10i2f3d6i")
_VERSION = 4
_MATRICES = ("query", "key", "value", "output", "gate", "down", "up")
_NORMS = ("attention_norm", "ffn_norm")
_WARMUP, _ACCUM, _LOWEST = 100, 10, 0.1  # its defaults, which its files do not state


@dataclass(frozen=True, slots=True)
class MaderixSource:
    """A checked file; `offsets` has the places of a parameter's KINDS by our names.

    What is read is a plain model, unless `raw` says otherwise. `updates` is how often the optimizer
    has moved the weights.
    """

    path: Path
    spec: ModelSpec
    offsets: Mapping[str, tuple[int, int, int]]
    residual_scale: float
    updates: int
    settings: Mapping[str, Any]
    companions: Companions
    raw_kind: str | None = None
    kept: None = None

    def raw(self, kind: str) -> MaderixSource:
        """The same file as a source of one of KINDS as the trainer has it, residual unscaled."""
        return replace(self, raw_kind=kind)

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        offset = self.offsets[parameter.name][KINDS.index(self.raw_kind or KINDS[0])]
        read_array(self.path, offset, np.dtype("<f4"), out)
        pairs_to_halves(out, rotated_heads(parameter, self.spec))
        if self.raw_kind is None and parameter.writes_residual:
            out *= np.float32(self.residual_scale)

    def describe(self, parameter: Parameter) -> str:
        """File and tensor, for messages."""
        return f"{self.path}: tensor {parameter.name}"

    def close(self) -> None:
        """Nothing is held open."""


def open_maderix(path: Path) -> MaderixSource:
    """Reads the header. CheckpointError if it makes no sense or does not fit the file's size.

    ModelError for grouped queries: its trainer pairs heads of queries and keys in one way forward
    and in another backward, so that such weights are of no model.
    """
    with reading_weights(path), open(path, "rb") as file:
        raw = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(raw) < _HEADER.size:
        raise CheckpointError(f"{path} is truncated: it has no header of maderix/ANE")
    numbers = _HEADER.unpack(raw)
    magic, version, step, total = numbers[:4]
    rate, updates = numbers[10], numbers[17]
    if magic != MAGIC or version != _VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of maderix/ANE of version {version}; this program reads "
            f"version {_VERSION}"
        )
    spec = _spec(path, numbers)
    if not (0 <= step <= total and 0 <= updates <= step and math.isfinite(rate)):
        raise CheckpointError(
            f"{path}: step {step} of {total} with {updates} updates makes no sense"
        )
    return MaderixSource(
        path=path,
        spec=spec,
        offsets=_offsets(path, spec, size),
        residual_scale=(2 * spec.layers) ** -0.5,
        updates=updates,
        settings=_settings(step, total, updates, rate, spec.sequence),
        companions=NONE,
    )


def settings_of(name: str) -> Mapping[str, Any]:
    """The settings of a run that goes on from such a checkpoint; none for anything else."""
    path = Path(name)
    if not path.is_file():
        return {}
    with reading_weights(path), open(path, "rb") as file:
        is_ours = int.from_bytes(file.read(4), "little") == MAGIC
    return open_maderix(path).settings if is_ours else {}


def _spec(path: Path, numbers: tuple[Any, ...]) -> ModelSpec:
    layers, vocabulary, dim, ffn, heads, sequence = numbers[4:10]
    kv_heads, head_size = numbers[18:20]
    table = {
        "layers": layers,
        "dim": dim,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": head_size,
        "ffn": ffn,
        "vocabulary": vocabulary,
        "sequence": sequence,
        "rope_theta": THETA,
        "norm_epsilon": EPSILON,
        "tied_embeddings": True,
    }
    try:
        spec = build_model(path.stem, table, str(path))
    except (ModelError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: its header makes no sense: {error}") from None
    if kv_heads != heads:
        raise ModelError(
            f"{path} has {heads} query heads for {kv_heads} key heads, which maderix/ANE pairs "
            "differently forward and backward: its weights are of no model"
        )
    return spec


def _settings(step: int, total: int, updates: int, rate: float, seq: int) -> Mapping[str, Any]:
    """The settings of a run that goes on where the trainer stopped, as far as the file tells."""
    accum = round(step / updates) if updates else _ACCUM
    settings: dict[str, Any] = {
        "accum": accum,
        "steps": max(1, math.ceil(total / accum)),
        "warmup": min(_WARMUP // accum, math.ceil(total / accum)),
        "schedule": "cosine",
        "residual_scale": "deepnet",
        "seq": seq,
    }
    if updates and rate > 0:
        peak = float(f"{rate / _share_of_peak(step - 1, total):.4g}")
        settings |= {"lr": peak, "min_lr": peak * _LOWEST}
    return MappingProxyType(settings)


def _share_of_peak(step: int, total: int) -> float:
    """What its schedule makes of the peak at a micro-batch."""
    if step < _WARMUP:
        return (step + 1) / _WARMUP
    done = (step - _WARMUP) / max(1, total - _WARMUP)
    return _LOWEST + 0.5 * (1 + math.cos(math.pi * done)) * (1 - _LOWEST)


def _offsets(path: Path, spec: ModelSpec, size: int) -> Mapping[str, tuple[int, int, int]]:
    """Places of weights and moments: per layer all weights, then a pair of moments for each."""
    if 12 * spec.layers * spec.dim * spec.ffn > size:  # before a table of so many layers is made
        raise CheckpointError(f"{path} is truncated: {spec.layers} layers do not fit {size} bytes")
    sizes = {parameter.name: 4 * parameter.size for parameter in parameters(spec)}
    groups = [
        [f"layers.{layer}.{kind}" for kind in (*_MATRICES, *_NORMS)] for layer in range(spec.layers)
    ]
    offsets, place = {}, _HEADER.size
    for names in [*groups, ["norm"], ["embedding"]]:
        moments = place + sum(sizes[name] for name in names)
        for name in names:
            offsets[name] = (place, moments, moments + sizes[name])
            place, moments = place + sizes[name], moments + 2 * sizes[name]
        place = moments
    if place != size:
        raise CheckpointError(
            f"{path} has {size} bytes, its header asks for {place}: it is truncated, or damaged"
        )
    return MappingProxyType(offsets)
