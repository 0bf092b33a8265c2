"""Writes a source of weights in the format of other programs.

Invariant: weights pass one tensor at a time, and what is not complete is never found under its
own name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ane_train.errors import ConfigError, DiskError, ModelError
from ane_train.interop.gguf_file import write_gguf
from ane_train.interop.hugging_face import write_hugging_face
from ane_train.interop.llama2c import require_llama2c, write_llama2c
from ane_train.interop.source import WeightSource, read_finite
from ane_train.interop.tensors import Array
from ane_train.interop.tokenizer_bin import tokenizer_bin
from ane_train.model.parameters import count, parameters
from ane_train.train import durable

BYTES = MappingProxyType({"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32})
"""What a weight takes, by --dtype."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write weights; `write` gets an empty folder, the source, its arrays and a dtype."""

    dtypes: tuple[str, ...]
    write: Callable[[Path, WeightSource, Weights, str], None]


class Weights(Mapping[str, Array]):
    """The arrays of a source by our names; each is valid, and may be changed, until the next."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._table = {parameter.name: parameter for parameter in parameters(source.spec)}
        self._scratch = np.empty(max(p.size for p in self._table.values()), np.float32)

    def __getitem__(self, name: str) -> Array:
        parameter = self._table[name]
        array = self._scratch[: parameter.size].reshape(parameter.shape)
        read_finite(self._source, parameter, array)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _llama2c(folder: Path, source: WeightSource, weights: Weights, dtype: str) -> None:
    require_llama2c(source.spec)
    tokenizer = tokenizer_bin(source.companions, source.spec.vocabulary)
    if tokenizer is not None:
        durable.write_file(folder / "tokenizer.bin", tokenizer)
    with open(folder / "model.bin", "xb") as file:
        write_llama2c(file, source.spec, weights)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "hf": Format(("f32", "f16", "bf16"), write_hugging_face),
        "gguf": Format(("f32", "f16", "bf16", "q8_0"), write_gguf),
        "llama2c": Format(("f32",), _llama2c),
    }
)


def export(
    source: WeightSource, out: Path, *, format_name: str, dtype: str = "f32", force: bool = False
) -> tuple[Path, ...]:
    """Writes the files of a format into the folder `out`; returns them.

    ConfigError if `out` holds something and `force` is not given, or the format has no such type;
    ModelError for an architecture that the format cannot say; DiskError. What fails leaves `out` as
    it was.
    """
    format_ = FORMATS[format_name]
    if dtype not in format_.dtypes:
        raise ConfigError(
            f"--format {format_name} has no --dtype {dtype}: choose {', '.join(format_.dtypes)}"
        )
    if source.kept is not None:
        raise ModelError(
            f"{source.path} was trained with --compact-vocab: the rows of all other tokens are "
            "lost, so there is no whole model to export"
        )
    _require_free(out, force)
    weights = Weights(source)
    temporary = durable.temporary_name(out.absolute())
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        durable.require_space(
            temporary.parent, int(BYTES[dtype] * count(source.spec)) + (1 << 20), "exporting"
        )
        durable.discard(temporary)
        temporary.mkdir()
        format_.write(temporary, source, weights, dtype)
        return _publish(temporary, out)
    except OSError as error:
        raise DiskError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        durable.discard(temporary)


def _require_free(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder")
    if not force and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another --out, or replace files by --force")


def _publish(temporary: Path, out: Path) -> tuple[Path, ...]:
    """Gives what is complete and on the disk its name, all at once where `out` is new."""
    names = sorted(path.name for path in temporary.iterdir())
    for name in names:
        descriptor = os.open(temporary / name, os.O_RDONLY)
        durable.synchronize(descriptor)
        os.close(descriptor)
    if out.is_dir() and any(out.iterdir()):
        for name in names:
            os.replace(temporary / name, out / name)
    else:
        os.replace(temporary, out)
    durable.synchronize_folder(out.absolute().parent)
    return tuple(out / name for name in names)
