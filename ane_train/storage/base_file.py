"""The weights that a run's adapters stand beside: `base.safetensors` in the run's folder.

Written once, before the first step, and never again: so a run goes on, is used and is exported
without what it was started from, which may be gone or another by then, and a checkpoint holds only
adapters and moments. It costs one copy in fp32, 4 bytes a weight; a checkpoint of a full training
has three of these. Each checkpoint holds its size and checksum, and what the adapters are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ane_train.errors import CheckpointError, DiskError
from ane_train.model.adapters import Lora
from ane_train.storage import durable
from ane_train.storage.tensor_file import Array, FileRecord, read_tensors, write_tensors

ADAPTERS = "adapters"  # the key of a checkpoint's values
_HEADER = 1 << 20


def write_base(path: Path, tensors: Mapping[str, Array]) -> FileRecord:
    """Writes the file; what it can be recognised by. DiskError leaves nothing under its name."""
    temporary = durable.temporary_name(path)
    size = sum(array.nbytes for array in tensors.values()) + _HEADER
    durable.require_space(path.parent, size, "keeping the weights beside the adapters")
    try:
        record = write_tensors(temporary, tensors, {"format": "pt"})
        os.replace(temporary, path)
        durable.synchronize_folder(path.parent)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        durable.discard(temporary)
    return record


def read_base(path: Path, tensors: Mapping[str, Array], record: FileRecord) -> None:
    """Fills the given arrays. CheckpointError unless the file is the one of `record`."""
    try:
        if read_tensors(path, tensors) != record:
            raise ValueError("it is not the one that the checkpoint was trained with")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"cannot use {path}: {reason}; restore it or start anew") from None


def to_values(lora: Lora, record: FileRecord) -> dict[str, Any]:
    """What a checkpoint's values hold of adapters and base, by ADAPTERS."""
    return {**_adapters(lora), "base": {"size": record.size, "crc32": record.checksum}}


def from_values(values: Mapping[str, Any], lora: Lora, checkpoint: Path) -> FileRecord:
    """The record of the base. CheckpointError if the checkpoint's adapters are not those of `lora`.

    The rank would show in the shapes, but alpha is nowhere else than in the configuration.
    """
    if ADAPTERS not in values:
        raise CheckpointError(
            f"{checkpoint} has no adapters, it was trained as a whole: leave out --lora-rank"
        )
    found = values[ADAPTERS]
    for key, given in _adapters(lora).items():
        if found[key] != given:
            raise CheckpointError(
                f"{checkpoint} was trained with adapters of {key} {found[key]}, not {given}: a run "
                "keeps those that it began with"
            )
    return FileRecord(found["base"]["size"], found["base"]["crc32"])


def _adapters(lora: Lora) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha, "targets": ",".join(lora.matrices)}
