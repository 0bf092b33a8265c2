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
from ane_train.interop.llama2c import FILE_NAME as LLAMA2C
from ane_train.interop.llama2c import require_llama2c, write_llama2c
from ane_train.interop.peft import write_peft
from ane_train.interop.source import WeightSource, adapters_of, read_finite
from ane_train.interop.tensors import Array
from ane_train.interop.tokenizer_bin import tokenizer_bin
from ane_train.model.adapters import adapter_table
from ane_train.model.parameters import count, parameters
from ane_train.storage import durable

BYTES = MappingProxyType({"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32})
"""What a weight takes, by --dtype."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write weights; `write` gets an empty folder, the source, its arrays and a dtype."""

    dtypes: tuple[str, ...]
    write: Callable[[Path, WeightSource, Weights, str], None]
    is_of_adapters: bool = False


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
    with open(folder / LLAMA2C, "xb") as file:
        write_llama2c(file, source.spec, weights)


def _peft(folder: Path, source: WeightSource, weights: Weights, dtype: str) -> None:
    trained = adapters_of(source)
    assert trained is not None, "checked before anything is written"
    write_peft(folder, trained, source.companions, dtype)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "hf": Format(("f32", "f16", "bf16"), write_hugging_face),
        "gguf": Format(("f32", "f16", "bf16", "q8_0"), write_gguf),
        "llama2c": Format(("f32",), _llama2c),
        "peft": Format(("f32", "f16", "bf16"), _peft, is_of_adapters=True),
    }
)


def export(
    source: WeightSource,
    out: Path,
    *,
    format_name: str,
    dtype: str = "f32",
    force: bool = False,
    merge: bool = False,
) -> tuple[Path, ...]:
    """Writes the files of a format into the folder `out`; returns them.

    ConfigError if `out` holds something and `force` is not given, the format has no such type, or
    it does not follow from `merge` what is to become of adapters; ModelError for an architecture
    that the format cannot say; DiskError. What fails leaves `out` as it was.
    """
    format_ = FORMATS[format_name]
    _require_merge(source, format_, merge)
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
            temporary.parent,
            int(BYTES[dtype] * _elements(source, format_)) + (1 << 20),
            "exporting",
        )
        durable.discard(temporary)
        temporary.mkdir()
        format_.write(temporary, source, weights, dtype)
        return _publish(temporary, out)
    except OSError as error:
        raise DiskError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        durable.discard(temporary)


def _elements(source: WeightSource, format_: Format) -> int:
    """Number of weights that the format writes."""
    trained = adapters_of(source)
    if trained is None or not format_.is_of_adapters:
        return count(source.spec)
    return sum(factor.size for factor in adapter_table(trained.spec, trained.lora))


def _require_merge(source: WeightSource, format_: Format, merge: bool) -> None:
    """Adapters are written alone or into the weights; which of both is said, never guessed."""
    has_adapters = adapters_of(source) is not None
    if not has_adapters and (merge or format_.is_of_adapters):
        flag = "--merge" if merge else "--format peft"
        raise ConfigError(f"{source.path} has no adapters, which {flag} is for: leave it out")
    if format_.is_of_adapters and merge:
        raise ConfigError("--format peft writes the adapters alone: leave out --merge")
    if has_adapters and not format_.is_of_adapters and not merge:
        raise ConfigError(
            f"{source.path} has adapters: write them into the weights by --merge, or alone by "
            "--format peft"
        )


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
