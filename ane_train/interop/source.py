"""Where weights come from: one protocol, and one function that opens whatever the user names."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ane_train.data.tokenizer import Tokenizer, parse_tokenizer
from ane_train.errors import CheckpointError
from ane_train.interop.companions import TOKENIZER, Companions, read_companions
from ane_train.interop.gguf_file import GgufSource, open_gguf
from ane_train.interop.hub import PREFIX, fetch
from ane_train.interop.hugging_face import has_safetensors, open_hugging_face
from ane_train.interop.llama2c import FILE_NAME as LLAMA2C
from ane_train.interop.llama2c import Llama2cSource, open_llama2c
from ane_train.interop.maderix import MAGIC as MADERIX
from ane_train.interop.maderix import MaderixSource, open_maderix
from ane_train.interop.peft import TrainedAdapters
from ane_train.interop.run_source import RunSource, is_run, open_run
from ane_train.interop.tensors import Array, is_finite, reading_weights
from ane_train.model.arena import Arena
from ane_train.model.parameters import Parameter
from ane_train.model.spec import ModelSpec
from ane_train.storage.run_folder import is_youngest


class WeightSource(Protocol):
    """Weights of a plain model: rotate-half, no factor on the residual, names of our table.

    What can be checked without reading the weights has been checked when a source is open.
    """

    @property
    def path(self) -> Path:
        """What was opened."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """The architecture; `sequence` is the longest context."""
        ...

    @property
    def companions(self) -> Companions:
        """The tokenizer's files and the like, by name; empty where the source has none."""
        ...

    @property
    def kept(self) -> tuple[int, ...] | None:
        """The token of each row, where the vocabulary was compacted; None: rows are tokens."""
        ...

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        ...

    def describe(self, parameter: Parameter) -> str:
        """File and tensor that hold a parameter, for messages."""
        ...

    def close(self) -> None:
        """Frees what is held open."""
        ...


def open_source(name: str | Path) -> WeightSource:
    """Opens a run, a checkpoint, a Hugging Face folder, hf:owner/name or a file of another program.

    Files are told apart by their first bytes; of a folder without safetensors the one file counts
    that `export --format gguf` or `llama2c` would write. Raises ModelError for an architecture that
    we cannot train, CheckpointError for what is missing or damaged, ConfigError for a package that
    is missing. No weights are read yet.
    """
    if str(name).startswith(PREFIX):
        return open_hugging_face(fetch(str(name)), str(name).rpartition("/")[2])
    path = Path(name)
    if is_youngest(path):
        return open_run(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if not is_folder:
        return _open_file(path)
    if is_run(path):
        return open_run(path)
    return open_hugging_face(path) if has_safetensors(path) else _open_other(path)


def _open_other(folder: Path) -> WeightSource:
    """The only .gguf or model.bin of a folder; a tokenizer that it lacks is taken from beside it.

    CheckpointError, naming them, if there are several.
    """
    found = [*sorted(folder.glob("*.gguf")), *folder.glob(LLAMA2C)]
    if not found:
        return open_hugging_face(folder)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder} has several files of weights, {names}: give one of them")
    source = _open_file(found[0])
    if TOKENIZER in source.companions:
        return source
    return replace(source, companions=read_companions(folder))


def _open_file(path: Path) -> GgufSource | Llama2cSource | MaderixSource:
    with reading_weights(path), open(path, "rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise CheckpointError(
            f"{path} is a pickle, which may run any code and is never opened; save the model as "
            "safetensors"
        )
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} does not say its architecture: give the folder that it is in"
        )
    if head == b"GGUF" or path.suffix == ".gguf":
        return open_gguf(path)
    if int.from_bytes(head, "little") == MADERIX:
        return open_maderix(path)
    return open_llama2c(path)


def load_weights(
    source: WeightSource,
    table: Sequence[Parameter],
    weights: Arena,
    kept: Sequence[int] | None = None,
) -> None:
    """Fills `weights` with every parameter of `table`, each read once.

    With `kept`, tokens of the source, the rows of the vocabulary are those alone. CheckpointError,
    naming file and tensor, if a value is not finite; the weights are not to be used then.
    """
    for parameter in table:
        out = weights[parameter.name]
        if kept is None or not parameter.is_vocabulary:
            read_finite(source, parameter, out)
        else:
            whole = np.empty((source.spec.vocabulary, source.spec.dim), np.float32)
            read_finite(source, parameter, whole)
            np.take(whole, np.asarray(kept), axis=0, out=out)


def read_finite(source: WeightSource, parameter: Parameter, out: Array) -> None:
    """Reads a parameter; CheckpointError, naming file and tensor, if a value is not finite."""
    source.read(parameter, out)
    if not is_finite(out):
        raise CheckpointError(f"{source.describe(parameter)} has values that are NaN or infinite")


def adapters_of(source: WeightSource) -> TrainedAdapters | None:
    """The adapters that `source` merges into what it reads; None if there are none."""
    return source.adapters if isinstance(source, RunSource) else None


def tokenizer_of(source: WeightSource) -> Tokenizer | None:
    """The tokenizer that came with the weights; None if there is none. DataError if it is bad."""
    raw = source.companions.get(TOKENIZER)
    return None if raw is None else parse_tokenizer(source.path / TOKENIZER, raw)
