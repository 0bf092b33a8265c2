"""Reads plain text and JSON lines as documents, and encodes them piece by piece.

Invariant: memory is bounded by a few pieces (and one JSON line), whatever the size of the files.
A file of plain text is one document; in JSON lines each `text` is one.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ane_train.data.files import reading
from ane_train.data.json_lines import parse_records
from ane_train.data.tokenizer import Tokenizer
from ane_train.errors import DataError

Progress = Callable[[int, int], None]

PIECE_BYTES = 1 << 17
BATCH_BYTES = 1 << 21
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Where a text may be cut, best first. At a single line break between words, the pre-tokenizers of
# GPT-2, Llama 3 and Qwen split anyway, so the pieces have the tokens of the whole.
_CUTS = (
    re.compile(rb"(?s).*\S\n(?=\S)"),
    re.compile(rb"(?s).*\n(?=\S)"),
    re.compile(rb"(?s).*\S(?= \S)"),
    re.compile(rb"(?s).*[^\xc0-\xff](?=[\x00-\x7f\xc0-\xff])"),
)
_TWO_CHARACTERS = 8  # bytes: more without any place to cut cannot be UTF-8


@dataclass(frozen=True, slots=True)
class Piece:
    """Text cut from a document; `source_bytes` is how far it moves through its file."""

    text: str
    text_bytes: int
    source_bytes: int
    ends_document: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a piece, int32 [N], with the end-of-text token where a document ends.

    Or the words of an example, uint32 [N].
    """

    tokens: NDArray[np.int32] | NDArray[np.uint32]
    text_bytes: int
    source_bytes: int
    ends_document: bool


def encode_files(
    paths: Iterable[Path], tokenizer: Tokenizer, piece_bytes: int = PIECE_BYTES
) -> Iterator[Encoded]:
    """Encode files one after the other; DataError names the file and the line or byte at fault."""
    batch: list[Piece] = []
    waiting = 0
    for path in paths:
        for piece in read_pieces(path, piece_bytes):
            batch.append(piece)
            waiting += piece.text_bytes
            if waiting >= BATCH_BYTES:
                yield from encode_pieces(batch, tokenizer)
                batch, waiting = [], 0
    yield from encode_pieces(batch, tokenizer)


def read_pieces(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
    """Read one file in pieces of about `piece_bytes`: `.jsonl` as JSON lines, else plain text.

    DataError if it holds no text, or what it holds is not UTF-8 or no such JSON.
    """
    read = _read_json_lines if path.suffix == ".jsonl" else _read_plain
    text_bytes = 0
    with reading(path) as file:
        for piece in read(path, file, piece_bytes):
            text_bytes += piece.text_bytes
            yield piece
    if not text_bytes:
        raise DataError(f"{path} is empty: there is no text to train on")


def hash_files(paths: Iterable[Path]) -> bytes:
    """Return a SHA-256 over the contents of the files, their order and their format."""
    digest = hashlib.sha256()
    for path in paths:
        with reading(path) as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(path.suffix.encode() + b"\0" + content)
    return digest.digest()


def _read_plain(path: Path, file: io.BufferedReader, piece_bytes: int) -> Iterator[Piece]:
    offset = len(_BYTE_ORDER_MARK)
    if file.read(offset) != _BYTE_ORDER_MARK:
        offset = 0
    file.seek(offset)
    for raw, is_last in _cut(file, piece_bytes):
        yield Piece(_decode(path, raw, offset), len(raw), len(raw), is_last)
        offset += len(raw)


def _read_json_lines(path: Path, file: io.BufferedReader, piece_bytes: int) -> Iterator[Piece]:
    for record in parse_records(path, file):
        assert record.kind == "text", "examples are read elsewhere"
        source_bytes = record.line_bytes
        for part, is_last in _cut(io.BytesIO(record.content["text"].encode()), piece_bytes):
            yield Piece(part.decode(), len(part), source_bytes, is_last)
            source_bytes = 0


def _decode(path: Path, raw: bytes, offset: int) -> str:
    fault = raw.find(b"\0")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = error.start if fault < 0 else min(fault, error.start)
    if fault >= 0:
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{raw[fault]:02x} at offset {offset + fault}; "
            "convert it, or give a file of tokens the name *.bin"
        )
    return text


def _cut(file: io.BufferedIOBase, piece_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Cut what `file` holds at good places; yields (bytes, whether these are the last ones)."""
    raw = block = file.read(piece_bytes)
    while len(block) == piece_bytes:
        if place := _place_to_cut(raw):
            yield raw[:place], False
        block = file.read(piece_bytes)
        raw = raw[place:] + block
    if raw:
        yield raw, True


def _place_to_cut(raw: bytes) -> int:
    for pattern in _CUTS:
        if match := pattern.match(raw):
            return match.end()
    return 0 if len(raw) < _TWO_CHARACTERS else len(raw)


def encode_pieces(batch: list[Piece], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Encode pieces at once, sharing them out among threads."""
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    arrays = tokenizer.encode_batch([piece.text for piece in batch])
    for piece, tokens in zip(batch, arrays, strict=True):
        if piece.ends_document and end:
            tokens = np.append(tokens, np.int32(end[0]))
        yield Encoded(tokens, piece.text_bytes, piece.source_bytes, piece.ends_document)
