"""Adapters as PEFT keeps them: adapter_model.safetensors and adapter_config.json.

Invariant: what is written is a folder that PeftModel.from_pretrained takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ane_train.errors import CheckpointError
from ane_train.interop.companions import Companions, completed
from ane_train.interop.hub import PREFIX
from ane_train.interop.tensors import CHUNK, DTYPES, Array, TensorFile, converted, is_finite
from ane_train.model.adapters import Adapter, Lora, adapter_table, adapters, module_names
from ane_train.model.parameters import Parameter
from ane_train.model.spec import ModelSpec
from ane_train.storage import durable
from ane_train.storage.tensor_file import encode_header

MODEL = "adapter_model"  # the file without its ending
CONFIG = "adapter_config.json"

_FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
)


@dataclass(frozen=True, slots=True)
class TrainedAdapters:
    """The adapters in a checked file, under PEFT's names; `origin` is what --init named."""

    spec: ModelSpec
    lora: Lora
    origin: str
    file: TensorFile
    by_matrix: Mapping[str, Adapter]

    def add_to(self, matrix: Parameter, out: Array) -> None:
        """out [out, in] += (alpha / R) B A, some rows at a time; nothing where no adapter is."""
        adapter = self.by_matrix.get(matrix.name)
        if adapter is None:
            return
        a, b = self.read(adapter.a), self.read(adapter.b)
        b *= np.float32(self.lora.scale)
        step = max(1, CHUNK // a.shape[1])
        for row in range(0, len(b), step):
            out[row : row + step] += b[row : row + step] @ a

    def read(self, factor: Parameter) -> Array:
        """The values of one factor. CheckpointError, also if one is not finite."""
        values = np.empty(factor.shape, np.float32)
        self.file.read(factor.hf_name, values)
        if not is_finite(values):
            raise CheckpointError(
                f"{self.file.path}: tensor {factor.hf_name} has values that are NaN or infinite"
            )
        return values


def open_adapters(spec: ModelSpec, lora: Lora, origin: str, file: TensorFile) -> TrainedAdapters:
    """The adapters in `file`. CheckpointError unless it has all of them, in their shapes."""
    found = adapters(spec, lora)
    for adapter in found:
        for factor in (adapter.a, adapter.b):
            file.check(factor.hf_name, factor.shape)
    by_matrix = MappingProxyType({adapter.matrix.name: adapter for adapter in found})
    return TrainedAdapters(spec, lora, origin, file, by_matrix)


def adapter_config(spec: ModelSpec, lora: Lora, origin: str) -> bytes:
    """The text of adapter_config.json; `origin` is what --init named."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    config: dict[str, Any] = {
        **_FIXED,
        "base_model_name_or_path": origin.removeprefix(PREFIX),
        "r": lora.rank,
        "lora_alpha": alpha,
        "target_modules": list(module_names(spec, lora)),
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def write_peft(folder: Path, trained: TrainedAdapters, companions: Companions, dtype: str) -> None:
    """Writes adapters of `dtype` f32, f16 or bf16, and the tokenizer. OSError, CheckpointError."""
    config = adapter_config(trained.spec, trained.lora, trained.origin)
    for name, content in {**completed(companions), CONFIG: config}.items():
        durable.write_file(folder / name, content)
    table, kind = adapter_table(trained.spec, trained.lora), dtype.upper()
    rows = [(p.hf_name, kind, p.shape, p.size * DTYPES[kind].itemsize) for p in table]
    with open(folder / f"{MODEL}.safetensors", "xb") as file:
        file.write(encode_header(rows, {"format": "pt"}))
        for factor in table:
            for chunk in converted(trained.read(factor), DTYPES[kind], factor.hf_name):
                file.write(chunk)
