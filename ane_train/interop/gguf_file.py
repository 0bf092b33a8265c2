"""GGUF files of the architectures llama and qwen3, read in every type that gguf dequantises.

The rows of query and key pair neighbours in files of llama, and halves in files of qwen3.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ane_train.errors import CheckpointError, ConfigError, ModelError
from ane_train.interop.companions import Companions, completed
from ane_train.interop.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from ane_train.interop.rotary_order import halves_to_pairs, pairs_to_halves, rotated_heads
from ane_train.interop.tensors import CHUNK, DTYPES, Array, converted, reading_weights
from ane_train.interop.vocabulary import TokenKind, Vocabulary, companions_from, vocabulary_of
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec, build_model

if TYPE_CHECKING:
    from ane_train.interop.source import WeightSource

_KEYS = MappingProxyType(
    {
        "layers": "block_count",
        "dim": "embedding_length",
        "heads": "attention.head_count",
        "kv_heads": "attention.head_count_kv",
        "head_size": "attention.key_length",
        "ffn": "feed_forward_length",
        "sequence": "context_length",
        "norm_epsilon": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    }
)
_ARCHITECTURES = MappingProxyType({"llama": False, "qwen3": True})  # whether q and k are normed
_QUANTISED_ROW = 32  # weights in a block of q8_0
_FILE_TYPES = MappingProxyType({"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32})
_TOKENIZER = "tokenizer.ggml."
_TOKENIZERS = MappingProxyType({"gpt2": "bpe", "llama": "spm"})


@dataclass(frozen=True, slots=True)
class GgufSource:
    """Weights of a checked file; `names` has the name there of each parameter."""

    path: Path
    spec: ModelSpec
    companions: Companions
    tensors: Mapping[str, GgufTensor]
    names: Mapping[str, str]
    kept: None = None

    def read(self, parameter: Parameter, out: Array) -> None:
        """Fills `out`, fp32 and C-contiguous, of the parameter's shape. CheckpointError."""
        gguf = _package()
        tensor = self.tensors[self.names[parameter.name]]
        kind = gguf.GGMLQuantizationType(tensor.kind)
        rows = out.reshape(-1, out.shape[-1])
        row_bytes = _size_of(gguf, kind, rows.shape[1])
        step = max(1, CHUNK // rows.shape[1])
        with reading_weights(self.path), open(self.path, "rb") as file:
            file.seek(tensor.offset)
            for row in range(0, len(rows), step):
                part = rows[row : row + step]
                raw = np.frombuffer(file.read(row_bytes * len(part)), np.uint8)
                if raw.size != row_bytes * len(part):
                    raise CheckpointError(f"{self.path} is truncated")
                part[:] = gguf.dequantize(raw.reshape(len(part), row_bytes), kind)
        if not self.spec.qk_norm:
            pairs_to_halves(out, rotated_heads(parameter, self.spec))

    def describe(self, parameter: Parameter) -> str:
        """File and tensor, for messages."""
        return f"{self.path}: tensor {self.names[parameter.name]}"

    def close(self) -> None:
        """Nothing is held open."""


def open_gguf(path: Path) -> GgufSource:
    """Checks all that can be said without reading the weights. ConfigError without the package.

    ModelError for what we cannot train; CheckpointError, naming file and tensor, for a file that
    is damaged or has other tensors than its architecture.
    """
    gguf = _package()
    header = read_gguf_header(path)
    spec = _spec(header)
    table = parameters(spec)
    names = _names(gguf, spec)
    for parameter in table:
        _check(gguf, header, names[parameter.name], parameter.shape)
    for name in sorted(header.tensors.keys() - set(names.values())):
        if name.endswith(".bias"):
            raise ModelError(f"{path}: tensor {name} is a bias, which this version cannot train")
        if name == "rope_freqs.weight":
            raise ModelError(f"{path}: {name} scales the rotation, which this version cannot train")
        raise CheckpointError(f"{path} has a tensor {name}, which the model has not")
    return GgufSource(path, spec, _companions(header), header.tensors, names)


def write_gguf(
    folder: Path, source: WeightSource, weights: Mapping[str, Array], dtype: str
) -> None:
    """Writes <name>.gguf with weights of `dtype` f32, f16, bf16 or q8_0, and the tokenizer.

    Norms stay fp32, as in llama.cpp, and so do rows in f16 that q8_0 cannot cut into blocks.
    """
    gguf = _package()
    spec = source.spec
    architecture = "qwen3" if spec.qk_norm else "llama"
    writer = gguf.GGUFWriter(None, architecture)
    _add_facts(writer, spec, dtype)
    vocabulary = vocabulary_of(completed(source.companions), spec.vocabulary)
    if vocabulary is not None:
        _add_tokenizer(writer, vocabulary)
    table, names = parameters(spec), _names(gguf, spec)
    kinds = {parameter.name: _kind(gguf, parameter, dtype) for parameter in table}
    for parameter in table:
        kind = kinds[parameter.name]
        width = _size_of(gguf, kind, parameter.shape[-1])
        shape = (*parameter.shape[:-1], width)
        writer.add_tensor_info(
            names[parameter.name], shape, np.dtype(np.uint8), prod(shape), raw_dtype=kind
        )
    writer.write_header_to_file(folder / f"{spec.name}.gguf")
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for parameter in table:
        array = weights[parameter.name]
        if not spec.qk_norm:
            halves_to_pairs(array, rotated_heads(parameter, spec))
        writer.write_tensor_data(_encoded(gguf, array, kinds[parameter.name], parameter.name))
    writer.close()


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise ConfigError("GGUF files need their package: pip install gguf") from None


def _spec(header: GgufHeader) -> ModelSpec:
    values, path = header.values, header.path
    name = str(values.get("general.architecture"))
    if name not in _ARCHITECTURES:
        raise ModelError(
            f"{path}: the architecture is {name}; this version trains {', '.join(_ARCHITECTURES)}"
        )
    _refuse(header, name)
    table = {
        ours: _number(values[f"{name}.{theirs}"])
        for ours, theirs in _KEYS.items()
        if f"{name}.{theirs}" in values
    }
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{path} has no tensor token_embd.weight")
    table.setdefault("kv_heads", table.get("heads"))
    dim, heads = table.get("dim"), table.get("heads")
    if "head_size" not in table and type(dim) is int and type(heads) is int and heads > 0:
        table["head_size"] = dim // heads
    table |= {
        "vocabulary": embedding.shape[0],
        "qk_norm": _ARCHITECTURES[name],
        "tied_embeddings": "output.weight" not in header.tensors,
    }
    keys = {ours: f"{name}.{theirs}" for ours, theirs in _KEYS.items()}
    spec = build_model(path.stem, table, str(path), keys)
    rotated = values.get(f"{name}.rope.dimension_count", spec.head_size)
    if rotated != spec.head_size:
        raise ModelError(
            f"{path}: {rotated} of {spec.head_size} rows of a head are rotated, which this version "
            "cannot train"
        )
    return spec


def _number(value: Any) -> Any:
    """A value as ModelSpec takes it; fp32 numbers as they were meant, such as 1e-05."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _refuse(header: GgufHeader, name: str) -> None:
    unsupported = {
        "expert_count": "a mixture of experts",
        "attention.sliding_window": "a sliding window",
        "rope.scaling.factor": "rotary scaling",
    }
    for key, what in unsupported.items():
        value = header.values.get(f"{name}.{key}")
        if value and not (key == "rope.scaling.factor" and value == 1.0):
            raise ModelError(
                f"{header.path}: {name}.{key} asks for {what}, which this version cannot train"
            )
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        if isinstance(header.values.get(f"{name}.{key}"), tuple):
            raise ModelError(
                f"{header.path}: {name}.{key} differs by layer, which this version cannot train"
            )


def _names(gguf: Any, spec: ModelSpec) -> dict[str, str]:
    """GGUF's name of each parameter."""
    kind = gguf.MODEL_ARCH.QWEN3 if spec.qk_norm else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(kind, spec.layers)
    return {p.name: names.get_name(p.hf_name, (".weight",)) for p in parameters(spec)}


def _check(gguf: Any, header: GgufHeader, name: str, shape: tuple[int, ...]) -> None:
    tensor = header.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{header.path} has no tensor {name}, which the model has")
    if tensor.shape != shape:
        raise CheckpointError(
            f"{header.path}: tensor {name} has the shape {list(tensor.shape)}, "
            f"its architecture asks for {list(shape)}"
        )
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
        gguf.dequantize(np.zeros((1, _size_of(gguf, kind, shape[-1])), np.uint8), kind)
    except (ValueError, NotImplementedError):
        raise CheckpointError(
            f"{header.path}: tensor {name} is of type {tensor.kind}, which the gguf package cannot "
            "turn into fp32"
        ) from None
    size = prod(shape[:-1]) * _size_of(gguf, kind, shape[-1])
    if tensor.offset + size > header.size:
        raise CheckpointError(f"{header.path} is truncated: tensor {name} lies beyond its end")


def _size_of(gguf: Any, kind: Any, width: int) -> int:
    """Bytes of a row of `width` weights. ValueError if it cannot be cut into blocks."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if width % block:
        raise ValueError(f"{width} is no multiple of {block}")
    return int(width // block * size)


def _companions(header: GgufHeader) -> Companions:
    kind = _TOKENIZERS.get(str(header.values.get("tokenizer.ggml.model")))
    tokens = _list(header, "tokens", str)
    if kind is None or not tokens:
        return {}
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {key: header.values.get(_TOKENIZER + f"{n}_token_id") for key, n in names.items()}
    merges = [merge.split(" ") for merge in _list(header, "merges", str) or ()]
    if any(len(merge) != 2 for merge in merges):
        raise CheckpointError(f"{header.path}: {_TOKENIZER}merges has a line that is no pair")
    template = header.values.get("tokenizer.chat_template")
    vocabulary = Vocabulary(
        kind=kind,
        tokens=tokens,
        scores=_list(header, "scores", float, len(tokens)) or [0.0] * len(tokens),
        kinds=_list(header, "token_type", int, len(tokens)) or [TokenKind.NORMAL] * len(tokens),
        merges=[(left, right) for left, right in merges],
        pre=str(header.values.get(_TOKENIZER + "pre", "default")),
        special={k: n for k, n in special.items() if type(n) is int and 0 <= n < len(tokens)},
        chat_template=template if isinstance(template, str) else None,
        adds_bos=bool(header.values.get(_TOKENIZER + "add_bos_token", kind == "spm")),
        adds_space=bool(header.values.get(_TOKENIZER + "add_space_prefix", True)),
    )
    return companions_from(vocabulary)


def _list(header: GgufHeader, key: str, kind: type, length: int | None = None) -> Any:
    """A list of the tokenizer's, None if it is absent. CheckpointError for anything else."""
    values = header.values.get(_TOKENIZER + key)
    if values is None:
        return None
    is_list = isinstance(values, list | tuple) and all(type(value) is kind for value in values)
    if is_list and length in (None, len(values)):
        return values
    raise CheckpointError(
        f"{header.path}: {_TOKENIZER}{key} is not as long, or not of {kind.__name__}"
    )


def _add_facts(writer: Any, spec: ModelSpec, dtype: str) -> None:
    writer.add_name(spec.name)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.sequence)
    writer.add_embedding_length(spec.dim)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_size)
    writer.add_value_length(spec.head_size)
    writer.add_rope_dimension_count(spec.head_size)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_layer_norm_rms_eps(spec.norm_epsilon)
    writer.add_vocab_size(spec.vocabulary)
    writer.add_file_type(_FILE_TYPES[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(2)


def _add_tokenizer(writer: Any, vocabulary: Vocabulary) -> None:
    is_spm = vocabulary.kind == "spm"
    writer.add_tokenizer_model("llama" if is_spm else "gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if is_spm:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    else:
        writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for key, number in vocabulary.special.items():
        adders[key](number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _kind(gguf: Any, parameter: Parameter, dtype: str) -> Any:
    if not parameter.decays:
        return gguf.GGMLQuantizationType.F32
    if dtype == "q8_0" and parameter.shape[-1] % _QUANTISED_ROW:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType[dtype.upper()]


def _encoded(gguf: Any, array: Array, kind: Any, name: str) -> Any:
    """The bytes of a tensor, uint8, rows by rows."""
    rows = array.reshape(-1, array.shape[-1])
    if kind == gguf.GGMLQuantizationType.F32:
        return rows.view(np.uint8)
    out = np.empty((len(rows), _size_of(gguf, kind, rows.shape[1])), np.uint8)
    if kind == gguf.GGMLQuantizationType.Q8_0:
        step = max(1, CHUNK // rows.shape[1])
        for row in range(0, len(rows), step):
            out[row : row + step] = gguf.quantize(rows[row : row + step], kind)
        return out
    flat, place = out.reshape(-1), 0
    for chunk in converted(array, DTYPES[kind.name], name):
        flat[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
        place += len(chunk)
    return out
