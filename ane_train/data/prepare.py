"""Turns text into token shards: a folder of train.tokens, valid.tokens and the tokenizer.json.

Invariant: each file appears under its name only when all shards are complete and on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ane_train.data import tinystories
from ane_train.data.download import fetch
from ane_train.data.encoding import Encoding
from ane_train.data.files import find_inputs, total_size, writing
from ane_train.data.text import PIECE_BYTES, Encoded, Progress
from ane_train.data.tokenizer import Tokenizer, built_in_tokenizer, load_tokenizer
from ane_train.data.tokens import ShardHeader, ShardWriter
from ane_train.errors import ConfigError, DataError

TRAIN, VALID, TOKENIZER = "train.tokens", "valid.tokens", "tokenizer.json"

_SMALLEST_PIECE = 1 << 12

_Part: TypeAlias = tuple[bool, Encoded]  # whether it is for validation


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written: the folder, and the headers of its shards with all counts."""

    folder: Path
    tokenizer: Tokenizer
    train: ShardHeader
    valid: ShardHeader | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which files to encode, and from which byte on what is read is for validation."""

    files: tuple[Path, ...]
    total_bytes: int
    train_bytes: int
    piece_bytes: int


def prepare(
    inputs: Sequence[Path],
    tokenizer: Path | None,
    output: Path,
    *,
    valid_fraction: float = 0.0,
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Encode text files, or folders of them, into the folder `output`.

    Validation text is that of files named `valid…` in a folder, else about the last
    `valid_fraction` of the bytes, else none. `progress` gets (bytes done, bytes in all).
    Raises DataError for what is wrong with the inputs or if `output` is in use (unless `force`
    and all in it is of this making), and DiskError if the disk is full: nothing is left then.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError(f"a validation fraction of {valid_fraction} is not within [0, 1)")
    plan = _plan(inputs, valid_fraction)
    known = load_tokenizer(tokenizer) if tokenizer else built_in_tokenizer()
    encoding = Encoding.of(plan.files, known)
    _check_output(output, force)
    splits = plan.train_bytes < plan.total_bytes
    prepared = _write(_encode(plan, encoding, progress), encoding, output, splits)
    if prepared.valid is None:
        with writing(output / VALID):
            (output / VALID).unlink(missing_ok=True)
    return prepared


def prepare_tinystories(
    archive: Path | None,
    tokenizer: Path | None,
    output: Path,
    *,
    downloads: Path,
    force: bool = False,
    progress: Mapping[str, Progress] | None = None,
) -> Prepared:
    """Encode the TinyStories archive; None fetches it into `downloads` first, where it stays.

    `progress` has those of "fetching" and "encoding". Raises what `prepare`, `fetch` and
    `encode_stories` do.
    """
    known = load_tokenizer(tokenizer) if tokenizer else built_in_tokenizer()
    _check_output(output, force)
    progress = progress or {}
    if archive is None:
        archive = downloads / tinystories.ARCHIVE_NAME
        fetch(tinystories.ARCHIVE, archive, progress.get("fetching"))
    parts = tinystories.encode_stories(archive, known, progress.get("encoding"))
    return _write(parts, Encoding(known, examples=False, template=None), output, splits=True)


def _plan(inputs: Sequence[Path], valid_fraction: float) -> _Plan:
    train: list[Path] = []
    valid: list[Path] = []
    for path in inputs:
        found = find_inputs(path)
        if found.kind != "text":
            raise DataError(f"{found.train[0]} is tokens already: give text (.txt, .jsonl)")
        train += found.train
        valid += found.valid
    if not train:
        raise DataError("there is nothing to prepare: give files or folders of text")
    train_size = total_size(train)
    if valid:
        total = train_size + total_size(valid)
        return _Plan((*train, *valid), total, train_size, PIECE_BYTES)
    held_out = int(train_size * valid_fraction)
    piece = PIECE_BYTES if not held_out else min(PIECE_BYTES, max(_SMALLEST_PIECE, held_out // 8))
    return _Plan(tuple(train), train_size, train_size - held_out, piece)


def _check_output(output: Path, force: bool) -> None:
    if not os.path.lexists(output):
        return
    with writing(output):
        names = sorted(name for name in os.listdir(output) if not name.startswith("."))
    foreign = [name for name in names if name not in (TRAIN, VALID, TOKENIZER)]
    if foreign:
        raise DataError(f"{output} holds other files ({foreign[0]}): choose a folder of its own")
    if names and not force:
        raise DataError(f"{output} holds {names[0]} already: choose another folder, or --force")


def _write(parts: Iterable[_Part], encoding: Encoding, output: Path, splits: bool) -> Prepared:
    """Write the parts for training and, if it `splits`, those for validation."""
    tokenizer = encoding.tokenizer
    with ExitStack() as stack:
        train = stack.enter_context(_writer(output / TRAIN, encoding))
        valid = stack.enter_context(_writer(output / VALID, encoding)) if splits else None
        for is_valid, encoded in parts:
            writer = valid if valid and is_valid else train
            writer.append(encoded.tokens, encoded.text_bytes, int(encoded.ends_document))
        if valid and not (train.header.count and valid.header.count):
            raise DataError("there is too little text to hold some out for validation")
        for writer in (train, valid or train):
            writer.finish()
        _copy_tokenizer(tokenizer, output / TOKENIZER)
    return Prepared(output, tokenizer, train.header, valid.header if valid else None)


def _writer(path: Path, encoding: Encoding) -> ShardWriter:
    known = encoding.tokenizer
    return ShardWriter(path, known.vocabulary, known.sha256, examples=encoding.examples)


def _encode(plan: _Plan, encoding: Encoding, progress: Progress | None) -> Iterator[_Part]:
    done = 0
    for encoded in encoding.encode(plan.files, plan.piece_bytes):
        yield done >= plan.train_bytes, encoded
        done += encoded.source_bytes
        if progress:
            progress(done, plan.total_bytes)
    if progress:
        progress(plan.total_bytes, plan.total_bytes)


def _copy_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(tokenizer.path.read_bytes())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
