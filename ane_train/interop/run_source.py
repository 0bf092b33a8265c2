"""A run, or one of its checkpoints, as a source of weights.

A run may scale each block's output; here that factor is part of the weights that write to the
residual, so that what is read is a plain model. Where it trained adapters they are merged into the
weights that the run keeps, as these are read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from zlib_ng.zlib_ng import crc32

from ane_train.config import RunConfig, resolve, run_layer
from ane_train.config_text import read_file
from ane_train.errors import CheckpointError, ModelError
from ane_train.interop import peft
from ane_train.interop.companions import Companions, read_companions
from ane_train.interop.peft import TrainedAdapters
from ane_train.interop.tensors import Array, TensorFile, open_tensor_file, reading_weights
from ane_train.model.adapters import Lora, lora_of
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec, load_model, parse_model
from ane_train.storage.base_file import from_values
from ane_train.storage.checkpoint import read_state, require_model
from ane_train.storage.checkpoint_store import newest
from ane_train.storage.run_folder import RunFolder, find
from ane_train.storage.tensor_file import FileRecord

_WEIGHTS = "weights.safetensors"
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class RunSource:
    """A whole checkpoint. `residual_scale` is what each block's output was multiplied by."""

    path: Path
    spec: ModelSpec
    companions: Companions
    file: TensorFile
    residual_scale: float
    kept: tuple[int, ...] | None
    adapters: TrainedAdapters | None = None

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        self.file.read(parameter.name, out)
        if self.adapters is not None:
            self.adapters.add_to(parameter, out)
        if parameter.writes_residual:
            out *= np.float32(self.residual_scale)

    def describe(self, parameter: Parameter) -> str:
        """File and tensor, for messages."""
        adapters = "" if self.adapters is None else ", with its adapter,"
        return f"{self.file.path}: tensor {parameter.name}{adapters}"

    def close(self) -> None:
        """Nothing is held open."""


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, its checkpoints, or one of these."""
    places = (path, path.parent, path.resolve().parent.parent)
    is_inside = path.name == "checkpoints" or (path / "state.json").is_file()
    return RunFolder(path).config.is_file() or (
        is_inside and any(RunFolder(place).config.is_file() for place in places)
    )


def open_run(path: Path) -> RunSource:
    """The last checkpoint of a run, or the one that `path` is; its checksum is verified.

    CheckpointError if there is none, it is damaged, or of another model than the run's.
    """
    resumed = find(str(path))
    run, checkpoint = resumed.run, resumed.checkpoint or newest(resumed.run.checkpoints)
    if checkpoint is None:
        raise CheckpointError(f"{run.path} has no checkpoint")
    config = resolve([run_layer(str(run.config), read_file(run.config).values)])
    state = read_state(checkpoint)
    spec = model_of_run(run, config)
    kept = state.values.get("vocabulary")
    if kept is not None:
        spec = replace(spec, vocabulary=len(kept))
    require_model(state, checkpoint, spec.fingerprint)
    lora = lora_of_run(config, spec)
    if lora is None:
        file, adapters = _whole_file(checkpoint / _WEIGHTS, state.files.get("weights")), None
    else:
        file = _whole_file(run.base, from_values(state.values, lora, checkpoint))
        record = state.files.get(peft.MODEL)
        own = _whole_file(checkpoint / f"{peft.MODEL}.safetensors", record)
        adapters = peft.open_adapters(spec, lora, config.init or "", own)
    for parameter in parameters(spec):
        file.check(parameter.name, parameter.shape)
    return RunSource(
        path=checkpoint,
        spec=spec,
        companions=read_companions(run.tokenizer),
        file=file,
        residual_scale=residual_scale(config, spec),
        kept=None if kept is None else tuple(kept),
        adapters=adapters,
    )


def model_of_run(run: RunFolder, config: RunConfig) -> ModelSpec:
    """The model that a run trains: its own copy of the model's file, or the one of that name."""
    if not run.model.is_file():
        return load_model(config.model)
    try:
        text = run.model.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {run.model}: {error}") from None
    return parse_model(_model_name(config), text, str(run.model))


def _model_name(config: RunConfig) -> str:
    """The shipped model's, the model file's, or what --init gave was called."""
    is_file = config.init is None and config.model.endswith(".toml")
    return Path(config.model).stem if is_file else config.model


def residual_scale(config: RunConfig, spec: ModelSpec) -> float:
    """The factor of each block's output; DeepNet's (Wang et al. 2022, arXiv 2203.00555), or 1."""
    return (2 * spec.layers) ** -0.5 if config.residual_scale == "deepnet" else 1.0


def lora_of_run(config: RunConfig, spec: ModelSpec) -> Lora | None:
    """The adapters that a run trains, of a complete configuration; None if the weights."""
    if not config.lora_rank:
        return None
    assert config.lora_alpha is not None, "the configuration is complete"
    return lora_of(spec, config.lora_rank, config.lora_alpha, config.lora_targets)


def _whole_file(path: Path, record: FileRecord | None) -> TensorFile:
    """A file of arrays, proved to be the one that was written."""
    if record is None:
        raise CheckpointError(f"{path.parent} has no {path.name}")
    size = os.path.getsize(path) if path.is_file() else 0
    if size != record.size:
        raise CheckpointError(f"{path} is truncated or damaged: {size} bytes of {record.size}")
    if _checksum(path) != record.checksum:
        raise CheckpointError(f"{path} was altered since it was written: its checksum is another")
    return open_tensor_file(path)


def _checksum(path: Path) -> int:
    checksum = 0
    with reading_weights(path), open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            checksum = crc32(chunk, checksum)
    return checksum
