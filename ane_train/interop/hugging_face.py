"""Folders of Hugging Face's layout, read and written: config.json and safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ane_train.errors import CheckpointError, ModelError
from ane_train.interop.companions import (
    Companions,
    completed,
    ends_of_text,
    read_companions,
    read_small,
)
from ane_train.interop.hf_config import config_of, spec_of
from ane_train.interop.tensors import (
    CHUNK,
    DTYPES,
    Array,
    TensorFile,
    converted,
    open_tensor_file,
)
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec
from ane_train.storage import durable
from ane_train.storage.tensor_file import encode_header

if TYPE_CHECKING:
    from ane_train.interop.source import WeightSource

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_TORCH_NAMES = MappingProxyType({"f32": "float32", "f16": "float16", "bf16": "bfloat16"})
_CLASSIFIER, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attn.masked_bias")


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """Weights of a checked folder; `files` has the file of each tensor by its name there."""

    path: Path
    spec: ModelSpec
    companions: Companions
    files: Mapping[str, TensorFile]
    kept: None = None

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        self.files[parameter.hf_name].read(parameter.hf_name, out)

    def describe(self, parameter: Parameter) -> str:
        """File and tensor, for messages."""
        return f"{self.files[parameter.hf_name].path}: tensor {parameter.hf_name}"

    def close(self) -> None:
        """Nothing is held open."""


def has_safetensors(folder: Path) -> bool:
    """Whether a folder holds weights of this format."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def open_hugging_face(folder: Path, name: str | None = None) -> HuggingFaceSource:
    """Checks all that can be said without reading the weights.

    `name` is the model's, by default the folder's. ModelError for an architecture that we cannot
    train; CheckpointError, naming file and tensor, for weights that are not those of config.json.
    """
    config_path = folder / CONFIG
    config = read_json(config_path)
    spec = spec_of(config, name or folder.resolve().name, str(config_path))
    files = _tensor_files(folder)
    _check(spec, files, folder)
    return HuggingFaceSource(folder, spec, read_companions(folder), files)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError if there is no such."""
    try:
        content = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold an object")
    return content


def _tensor_files(folder: Path) -> dict[str, TensorFile]:
    """The file of each tensor, single or by the index of shards."""
    single = folder / WEIGHTS
    if single.is_file():
        file = open_tensor_file(single)
        return dict.fromkeys(file.entries, file)
    index = folder / INDEX
    if not index.is_file():
        raise CheckpointError(_no_weights(folder))
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map")
    shards = {name: open_tensor_file(_shard(index, name)) for name in sorted(_names(placed))}
    for tensor, name in placed.items():
        if tensor not in shards[name].entries:
            raise CheckpointError(f"{folder / name} has no tensor {tensor}, as {INDEX} says it has")
    for name, shard in shards.items():
        for tensor in shard.entries:
            if placed.get(tensor) != name:
                raise CheckpointError(f"{folder / name} has a tensor {tensor} unknown to {INDEX}")
    return {tensor: shards[name] for tensor, name in placed.items()}


def _names(placed: Mapping[str, Any]) -> set[str]:
    return {str(name) for name in placed.values()}


def _shard(index: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise CheckpointError(f"{index}: {name!r} is no name of a safetensors file beside it")
    return index.with_name(name)


def _no_weights(folder: Path) -> str:
    pickles = [path.name for path in folder.glob("*.bin")]
    pickles += [path.name for path in folder.glob("*.pt*")]
    if pickles:
        return (
            f"{folder} has {sorted(pickles)[0]}, a pickle, which may run any code and is never "
            "opened; save the model as safetensors"
        )
    for path in (folder / WEIGHTS, folder / INDEX):
        if path.is_symlink():
            return f"{path} is a link to what is not there, or to itself"
    return f"{folder} has neither {WEIGHTS} nor {INDEX}"


def _check(spec: ModelSpec, files: Mapping[str, TensorFile], folder: Path) -> None:
    """That the tensors are those of the architecture, before a table of them is made."""
    anything = next(iter(files.values()), None)
    if anything is None:
        raise CheckpointError(f"{folder} has no tensors")
    for tensor, file in files.items():
        if tensor.endswith(".bias") and not tensor.endswith(_BUFFERS):
            raise ModelError(
                f"{file.path}: tensor {tensor} is a bias, which this version cannot train"
            )
    _require_layers(spec, files, folder)
    table = parameters(spec)
    for parameter in table:
        files.get(parameter.hf_name, anything).check(parameter.hf_name, parameter.shape)
    known = {parameter.hf_name for parameter in table}
    for tensor in sorted(files.keys() - known):
        if tensor.endswith(_BUFFERS):
            continue
        if tensor == _CLASSIFIER and spec.tied_embeddings:
            _require_same(files, _EMBEDDING, _CLASSIFIER)
            continue
        raise CheckpointError(
            f"{files[tensor].path} has a tensor {tensor}, which the model of {CONFIG} has not"
        )


def _require_layers(spec: ModelSpec, files: Mapping[str, TensorFile], folder: Path) -> None:
    """CheckpointError unless there are as many layers as `spec` says; bounded by the files."""
    prefix = "model.layers."
    numbers = {name.removeprefix(prefix).split(".")[0] for name in files if name.startswith(prefix)}
    if len(numbers) != spec.layers:
        raise CheckpointError(
            f"{folder / CONFIG} says {spec.layers} layers, the weights have {len(numbers)}"
        )


def _require_same(files: Mapping[str, TensorFile], first: str, second: str) -> None:
    """CheckpointError unless two tensors are one, as tied embeddings are."""
    entry = files[first].entries[first]
    files[second].check(second, entry.shape)
    rows, width = entry.shape
    step = max(1, CHUNK // width)
    for row in range(0, rows, step):
        ours, theirs = np.empty((2, min(step, rows - row), width), np.float32)
        files[first].read(first, ours, row)
        files[second].read(second, theirs, row)
        if not np.array_equal(ours, theirs):
            raise CheckpointError(
                f"{files[second].path}: tensor {second} differs from {first}, "
                f"though {CONFIG} says tie_word_embeddings"
            )


def write_hugging_face(
    folder: Path, source: WeightSource, weights: Mapping[str, Array], dtype: str
) -> None:
    """Writes a model's folder of `dtype` f32, f16 or bf16. OSError, CheckpointError."""
    companions = completed(source.companions)
    config = config_of(source.spec, _TORCH_NAMES[dtype]) | ends_of_text(companions)
    for name, content in companions.items():
        durable.write_file(folder / name, content)
    durable.write_file(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    kind = dtype.upper()
    table = parameters(source.spec)
    rows = [(p.hf_name, kind, p.shape, p.size * DTYPES[kind].itemsize) for p in table]
    with open(folder / WEIGHTS, "xb") as file:
        file.write(encode_header(rows, {"format": "pt"}))
        for parameter in table:
            for chunk in converted(weights[parameter.name], DTYPES[kind], parameter.hf_name):
                file.write(chunk)
