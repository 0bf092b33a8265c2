"""Model files of llama2.c: fp32, versions 0 and 1 read, version 0 written, which its run.c runs.

Both have a header of seven whole numbers, then arrays without names in a fixed order. The rotation
pairs neighbours there, its base is 10000 and the epsilon of norms 1e-5.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np

from ane_train.errors import CheckpointError, ModelError
from ane_train.interop.companions import Companions
from ane_train.interop.rotary_order import halves_to_pairs, pairs_to_halves, rotated_heads
from ane_train.interop.tensors import Array, read_array, reading_weights
from ane_train.interop.tokenizer_bin import read_tokenizer_bin
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec, build_model

FILE_NAME = "model.bin"
MAGIC = 0x616B3432
THETA, EPSILON = 10000.0, 1e-5

_HEADER = struct.Struct("<7i")
_KEYS = ("dim", "ffn", "layers", "heads", "kv_heads", "vocabulary", "sequence")
_VERSION_1 = struct.Struct("<Ii7iB")
_START_1 = 256
_LAYER_ARRAYS = ("query", "key", "value", "output")
_FFN_ARRAYS = ("gate", "down", "up")


@dataclass(frozen=True, slots=True)
class Llama2cSource:
    """Weights of a checked file; `offsets` has the place of each by our names."""

    path: Path
    spec: ModelSpec
    offsets: Mapping[str, int]
    companions: Companions
    kept: None = None

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        read_array(self.path, self.offsets[parameter.name], np.dtype("<f4"), out)
        pairs_to_halves(out, rotated_heads(parameter, self.spec))

    def describe(self, parameter: Parameter) -> str:
        """File and tensor, for messages."""
        return f"{self.path}: tensor {parameter.name}"

    def close(self) -> None:
        """Nothing is held open."""


def open_llama2c(path: Path) -> Llama2cSource:
    """Reads the header. CheckpointError if it makes no sense or does not fit the file's size."""
    with reading_weights(path), open(path, "rb") as file:
        raw = file.read(_START_1)
        size = os.fstat(file.fileno()).st_size
    if len(raw) >= _VERSION_1.size and int.from_bytes(raw[:4], "little") == MAGIC:
        _, version, *numbers, shared = _VERSION_1.unpack_from(raw)
        if version != 1:
            raise CheckpointError(
                f"{path} is of version {version} of llama2.c, whose weights are quantised; "
                "export version 0 or 1"
            )
        spec = _spec(path, numbers, bool(shared))
        offsets, end = _offsets(spec, size, _START_1, _order_1)
    elif len(raw) >= _HEADER.size:
        numbers = list(_HEADER.unpack_from(raw))
        spec = _spec(path, [*numbers[:5], abs(numbers[5]), numbers[6]], numbers[5] > 0)
        offsets, end = _offsets(spec, size, _HEADER.size, _order_0)
    else:
        raise CheckpointError(f"{path} is truncated: it has no header of llama2.c")
    if end != size:
        raise CheckpointError(
            f"{path} has {size} bytes, its header of llama2.c asks for {end}: it is truncated, "
            "or of another kind"
        )
    companions = read_tokenizer_bin(path.with_name("tokenizer.bin"), spec.vocabulary)
    return Llama2cSource(path, spec, MappingProxyType(offsets), companions)


def write_llama2c(file: BinaryIO, spec: ModelSpec, arrays: Mapping[str, Array]) -> None:
    """Writes version 0; `arrays` gives weights by our names, one at a time. OSError."""
    require_llama2c(spec)
    signed = spec.vocabulary if spec.tied_embeddings else -spec.vocabulary
    numbers = {key: getattr(spec, key) for key in _KEYS} | {"vocabulary": signed}
    file.write(_HEADER.pack(*(numbers[key] for key in _KEYS)))
    table = {parameter.name: parameter for parameter in parameters(spec)}
    for name, size in _order_0(spec):
        if name is None:
            file.write(bytes(4 * size))
            continue
        array = arrays[name]
        halves_to_pairs(array, rotated_heads(table[name], spec))
        file.write(array.reshape(-1).view(np.uint8).data)


def require_llama2c(spec: ModelSpec) -> None:
    """ModelError for an architecture that the format cannot say."""
    reasons = {
        "norms of queries and keys": spec.qk_norm,
        "heads of another size than dim / heads": spec.heads * spec.head_size != spec.dim,
        f"a base of the rotation other than {THETA:g}": spec.rope_theta != THETA,
        f"a norm epsilon other than {EPSILON:g}": spec.norm_epsilon != EPSILON,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(f"llama2.c has no {reason}: export {spec.name} as hf or gguf")


def _spec(path: Path, numbers: Sequence[int], shared: bool) -> ModelSpec:
    table: dict[str, object] = dict(zip(_KEYS, numbers, strict=True))
    dim, heads = numbers[0], numbers[3]
    if dim <= 0 or heads <= 0 or numbers[4] <= 0 or dim % heads:
        raise CheckpointError(f"{path} is no model of llama2.c: its header makes no sense")
    table |= {"head_size": dim // heads, "tied_embeddings": shared}
    table |= {"rope_theta": THETA, "norm_epsilon": EPSILON}
    try:
        name = path.resolve().parent.name if path.name == FILE_NAME else path.stem
        return build_model(name, table, str(path))
    except ModelError as error:
        raise CheckpointError(f"{error}; is it a model of llama2.c?") from None


Order = Iterator[tuple[str | None, int]]
"""(our name, number of elements) in the order of a file; a name of None is to be skipped."""


def _order_0(spec: ModelSpec) -> Order:
    sizes = _sizes(spec)
    yield "embedding", sizes["embedding"]
    for kind in ("attention_norm", *_LAYER_ARRAYS, "ffn_norm", *_FFN_ARRAYS):
        yield from _of_layers(spec, sizes, kind)
    yield "norm", sizes["norm"]
    yield None, spec.sequence * spec.head_size  # tables of the rotation, which nobody reads now
    if not spec.tied_embeddings:
        yield "classifier", sizes["classifier"]


def _order_1(spec: ModelSpec) -> Order:
    sizes = _sizes(spec)
    for kind in ("attention_norm", "ffn_norm"):
        yield from _of_layers(spec, sizes, kind)
    yield "norm", sizes["norm"]
    yield "embedding", sizes["embedding"]
    for kind in (*_LAYER_ARRAYS, *_FFN_ARRAYS):
        yield from _of_layers(spec, sizes, kind)
    if not spec.tied_embeddings:
        yield "classifier", sizes["classifier"]


def _sizes(spec: ModelSpec) -> dict[str, int]:
    return {parameter.name: prod(parameter.shape) for parameter in parameters(spec)}


def _of_layers(spec: ModelSpec, sizes: Mapping[str, int], kind: str) -> Order:
    for layer in range(spec.layers):
        name = f"layers.{layer}.{kind}"
        yield name, sizes[name]


def _offsets(
    spec: ModelSpec, size: int, start: int, order: Callable[[ModelSpec], Order]
) -> tuple[dict[str, int], int]:
    """The place of each array, and where the file ends."""
    least = 4 * spec.layers * spec.dim * spec.ffn
    if least > size:  # before a table of so many layers is made
        return {}, least
    offsets, end = {}, start
    for name, count in order(spec):
        if name is not None:
            offsets[name] = end
        end += 4 * count
    return offsets, end
