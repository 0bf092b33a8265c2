"""Which files a path stands for, and what is said when one cannot be read or written.

Invariant: an OSError never leaves this package; it becomes a one-line DataError or DiskError.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ane_train.errors import DataError, DiskError

SHARD_MAGIC = b"ANETOKEN"
TOKEN_SUFFIXES = (".tokens", ".bin")
TEXT_SUFFIXES = (".txt", ".jsonl")

Kind = Literal["tokens", "text"]

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew beyond the limit on file sizes",
}
_ROLE = re.compile(r"(train|valid|validation|val|test)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a data set: all of one kind, apart by role; `valid` is empty without such."""

    kind: Kind
    train: tuple[Path, ...]
    valid: tuple[Path, ...]


def default_cache() -> Path:
    """Return the user's folder for what can be made again, by the custom of the system."""
    home = Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ane-train"


@contextmanager
def reading(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; whatever fails, then or later, is a DataError."""
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise DataError(f"{path} is {kind}: give the path of a file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is written into a DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            reason = f"{_FULL[error.errno]}: free some space or choose another folder"
        else:
            reason = f"{error.strerror or error}: choose another folder"
        raise DiskError(f"{path} cannot be written, {reason}") from None


def total_size(paths: Sequence[Path]) -> int:
    """Return the sizes of the files in bytes, added up."""
    size = 0
    for path in paths:
        with reading(path) as file:
            size += os.fstat(file.fileno()).st_size
    return size


def find_inputs(path: Path) -> Inputs:
    """Tell which files `path` stands for: a file, or a folder of shards or of texts, sorted.

    In a folder with a file named `train…`, those named `valid…` or `val…` are validation data,
    and those named `test…` are left out. A folder with both kinds is refused as ambiguous.
    """
    if not os.path.isdir(path):
        return Inputs(_kind_of(path), (path,), ())
    files = _list_folder(path)
    shards = [file for file in files if file.suffix in TOKEN_SUFFIXES]
    texts = [file for file in files if file.suffix in TEXT_SUFFIXES]
    if shards and texts:
        raise DataError(
            f"{path} holds token shards ({shards[0].name}) and text ({texts[0].name}): "
            "give one of the files, or a folder with one kind"
        )
    if not shards and not texts:
        wanted = ", ".join(f"*{suffix}" for suffix in TOKEN_SUFFIXES + TEXT_SUFFIXES)
        raise DataError(f"{path} holds no data: no file in it is named {wanted}")
    return _by_role("tokens" if shards else "text", shards or texts)


def _kind_of(path: Path) -> Kind:
    with reading(path) as file:
        magic = file.read(len(SHARD_MAGIC))
    return "tokens" if path.suffix in TOKEN_SUFFIXES or magic == SHARD_MAGIC else "text"


def _list_folder(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    return [entry for entry in entries if entry.name[0] != "." and not os.path.isdir(entry)]


def _by_role(kind: Kind, files: Sequence[Path]) -> Inputs:
    roles = [_role(file) for file in files]
    if "train" not in roles:
        return Inputs(kind, tuple(files), ())
    by_role = list(zip(roles, files, strict=True))
    return Inputs(
        kind,
        tuple(file for role, file in by_role if role in ("train", "")),
        tuple(file for role, file in by_role if role.startswith("val")),
    )


def _role(file: Path) -> str:
    match = _ROLE.match(file.name)
    return match[1].lower() if match else ""
