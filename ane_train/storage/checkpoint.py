"""One checkpoint: a folder with a safetensors file for each kind of array and a state.json.

state.json names every file with its size and checksum, so that a checkpoint is either whole, to the
bit, or refused with the reason. It never changes once it has its name.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ane_train.errors import CheckpointError
from ane_train.storage import durable
from ane_train.storage.direct_file import DirectFile
from ane_train.storage.tensor_file import (
    Array,
    FileRecord,
    check_tensors,
    put_tensors,
    read_tensors,
)

STATE_FILE = "state.json"
FORMAT = 1

Tensors = Mapping[str, Mapping[str, Array]]
"""Arrays by kind (weights or adapter_model, first_moment, second_moment) and then by name."""

_STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint is made of. `tensors` are read while it is written; all else is small.

    `model` and `values` are those of CheckpointState; `companions` are files for other programs,
    by name, which nobody reads here.
    """

    step: int
    model: str
    values: Mapping[str, Any]
    tensors: Tensors
    companions: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """All of a checkpoint but its arrays.

    `model` is the fingerprint of the architecture; `values` is what the training loop needs to go
    on as if it had never stopped, as JSON can hold it. `files` describes the file of each kind.
    """

    step: int
    model: str
    values: Mapping[str, Any]
    files: Mapping[str, FileRecord]


def step_folder_name(step: int) -> str:
    """The folder of a step's checkpoint: step-000020."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The inverse of step_folder_name; None for any other name."""
    match = _STEP_FOLDER.fullmatch(name)
    return int(match[1]) if match else None


def write_checkpoint(folder: Path, content: Content, on_read: Callable[[], object]) -> None:
    """Writes a new folder and waits until all of it is on the disk. OSError if that fails.

    `on_read` is called as soon as the tensors may change: the system has their bytes then, though
    they need not be on the disk.
    """
    state: dict[str, Any] = {"format": FORMAT, "step": content.step, "model": content.model}
    state["values"] = dict(content.values)
    _encode_state(state)  # values that JSON cannot hold are found before gigabytes are written
    folder.mkdir()
    records = _write_tensors(folder, content, on_read)
    state["files"] = {
        kind: {"size": record.size, "crc32": record.checksum} for kind, record in records.items()
    }
    for name, companion in content.companions.items():
        durable.write_file(folder / name, companion)
    durable.write_file(folder / STATE_FILE, _encode_state(state))
    durable.synchronize_folder(folder)


def _write_tensors(
    folder: Path, content: Content, on_read: Callable[[], object]
) -> dict[str, FileRecord]:
    """All files are written before any is waited for."""
    metadata = {"format": "pt", "step": str(content.step), "model": content.model}
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context(DirectFile(_tensor_file(folder, kind)))
            for kind in content.tensors
        }
        records = {
            kind: put_tensors(file, content.tensors[kind], metadata | {"kind": kind})
            for kind, file in files.items()
        }
        on_read()
        for file in files.values():
            file.synchronize()
    return records


def load(folder: Path, tensors: Tensors, *, model: str) -> CheckpointState:
    """Fills the given arrays from a checkpoint folder, without a second copy; returns its state.

    Kinds that are not asked for are not read. CheckpointError if the checkpoint is missing, damaged
    or of another model, or has other tensors than those given; the arrays may hold a part of it
    then, so they must not be used.
    """
    state = read_state(folder)
    require_model(state, folder, model)
    for kind, arrays in tensors.items():
        _check_file(folder, kind, state, arrays)
    for kind, arrays in tensors.items():
        _read_file(folder, kind, state, arrays)
    return state


def require_model(state: CheckpointState, folder: Path, model: str) -> None:
    """CheckpointError if the state, read from `folder`, is of a model with another fingerprint."""
    if state.model != model:
        raise CheckpointError(
            f"{folder} is a checkpoint of another model ({state.model}, not {model}); "
            "give the --model that it was trained with"
        )


def read_state(folder: Path) -> CheckpointState:
    """The state of a checkpoint without its arrays. CheckpointError if it is missing or damaged."""
    path = folder / STATE_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"there is no checkpoint in {folder}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    try:
        state = json.loads(text)
        checksum = state.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "it is truncated or damaged") from None
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {state.get('format')}, this version reads format {FORMAT}; "
            "use the version of ane-train that wrote it"
        )
    if checksum != _checksum_of(state):
        raise _damaged(path, "it was altered since it was written")
    files = {kind: FileRecord(f["size"], f["crc32"]) for kind, f in state["files"].items()}
    return CheckpointState(state["step"], state["model"], state["values"], files)


def _check_file(
    folder: Path, kind: str, state: CheckpointState, arrays: Mapping[str, Array]
) -> None:
    """What can be said of a file without reading the arrays."""
    path = _tensor_file(folder, kind)
    record = state.files.get(kind)
    if record is None:
        raise CheckpointError(f"{folder} has no {path.name}; resume from a checkpoint that has")
    try:
        size = path.stat().st_size
        if size < record.size:
            raise ValueError(f"it is truncated: {size} bytes of {record.size}")
        if size > record.size:
            raise ValueError(f"it is damaged: {size} bytes where {record.size} should be")
        check_tensors(path, arrays)
    except (OSError, ValueError) as error:
        raise _damaged(path, _reason(error)) from None


def _read_file(
    folder: Path, kind: str, state: CheckpointState, arrays: Mapping[str, Array]
) -> None:
    path = _tensor_file(folder, kind)
    try:
        if read_tensors(path, arrays) != state.files[kind]:
            raise ValueError("it was altered since it was written: its checksum is another")
    except (OSError, ValueError) as error:
        raise _damaged(path, _reason(error)) from None


def _tensor_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.safetensors"


def _reason(error: OSError | ValueError) -> str:
    return f"cannot read it: {error.strerror}" if isinstance(error, OSError) else str(error)


def _damaged(path: Path, reason: str) -> CheckpointError:
    """The error, with the advice that the checkpoints beside this one allow."""
    folder = path.parent.resolve()
    steps = [step_of(other.name) for other in folder.parent.glob("step-*/") if other != folder]
    other = max((step for step in steps if step is not None), default=None)
    if other is not None:
        where = path.parent.parent / step_folder_name(other)
        return CheckpointError(f"cannot use {path}: {reason}; try another: --resume {where}")
    return CheckpointError(
        f"cannot use {path}: {reason}; the run has no other checkpoint: restore it or start anew"
    )


def _encode_state(state: Mapping[str, Any]) -> bytes:
    plain = json.loads(json.dumps(state, default=_plain_number))
    return (json.dumps(plain | {"checksum": _checksum_of(plain)}, indent=1) + "\n").encode()


def _checksum_of(plain: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def _plain_number(value: Any) -> Any:
    """NumPy's scalars as Python's numbers; TypeError for what JSON cannot hold."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a checkpoint's state cannot hold {type(value).__name__}")
