"""Token shards, and arrays of tokens that are mapped from them and never loaded whole.

A shard is a header of 128 bytes and then the tokens, all little endian:

    offset  bytes  meaning
         0      8  magic: "ANETOKEN"
         8      4  version: 1, or 2 for examples
        12      4  bytes per token: 2 (u16) or 4 (u32)
        16      8  number of tokens
        24      4  vocabulary size: every token is below it
        28      4  zero
        32     32  SHA-256 of the bytes of the tokenizer.json, or zeros: unknown
        64      8  bytes of UTF-8 text that the tokens stand for, or zero: unknown
        72      8  number of documents, or zero: unknown
        80     48  zero

Examples (see examples.py) have words of 4 bytes: the token in the lower 30 bits, then FIRST for the
first token of an example, then COUNTS for a token that is a target of training.

Invariant: a shard has its final name only once it is complete and on the disk.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ane_train.data.files import SHARD_MAGIC, reading, writing
from ane_train.errors import DataError

HEADER_BYTES = 128
UNKNOWN_TOKENIZER = bytes(32)

TokenDtype = Literal["u16", "u32"]
Stored = NDArray[np.unsignedinteger[Any]]

TOKEN = np.uint32((1 << 30) - 1)
FIRST = np.uint32(1 << 30)
COUNTS = np.uint32(1 << 31)

_VERSION, _EXAMPLES_VERSION = 1, 2
_HEADER = struct.Struct("<8sIIQI4x32sQQ48x")
_DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_HEADERLESS = {"u16": _DTYPES[2], "u32": _DTYPES[4]}
_LLM_C_MAGICS = (20240520, 20240801)
_LLM_C_HEADER = 1024
_SCAN = 1 << 22


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What a shard says of itself; zero `text_bytes` and `documents` mean unknown."""

    token_bytes: int
    count: int
    vocabulary: int
    tokenizer_hash: bytes = UNKNOWN_TOKENIZER
    text_bytes: int = 0
    documents: int = 0
    examples: bool = False

    def pack(self) -> bytes:
        """Return the 128 bytes that stand before the tokens."""
        return _HEADER.pack(
            SHARD_MAGIC,
            _EXAMPLES_VERSION if self.examples else _VERSION,
            self.token_bytes,
            self.count,
            self.vocabulary,
            self.tokenizer_hash,
            self.text_bytes,
            self.documents,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A file of tokens: its header (None for a headerless file) and its mapped tokens."""

    path: Path
    header: ShardHeader | None
    tokens: Stored


@dataclass(frozen=True, slots=True, eq=False)
class TokenArray:
    """Tokens of one or more mapped arrays, seen as one; `ends[i]` is where part i ends."""

    parts: tuple[Stored, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, parts: Iterable[Stored]) -> Self:
        """Join arrays one after the other, without reading them."""
        kept = tuple(part for part in parts if len(part))
        return cls(kept, tuple(accumulate(len(part) for part in kept)))

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.ends[-1] if self.ends else 0

    def slice(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return a copy of tokens [start, stop) as int32 [stop - start]."""
        pieces = list(self._pieces(start, stop))
        out = np.empty(stop - start, np.int32)
        done = 0
        for piece in pieces:
            out[done : done + len(piece)] = piece
            done += len(piece)
        return out

    def between(self, start: int, stop: int) -> TokenArray:
        """Return tokens [start, stop) as an array of its own that shares the mapping."""
        return TokenArray.of(self._pieces(start, stop))

    def chunks(self, size: int = _SCAN) -> Iterator[Stored]:
        """Yield all tokens in order, as stored, at most `size` at a time."""
        for part in self.parts:
            for start in range(0, len(part), size):
                yield part[start : start + size]

    def _pieces(self, start: int, stop: int) -> Iterator[Stored]:
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"tokens [{start}, {stop}) of {self.length}")
        index = bisect_right(self.ends, start)
        while start < stop:
            part, end = self.parts[index], self.ends[index]
            begin = end - len(part)
            yield part[start - begin : min(stop, end) - begin]
            start, index = end, index + 1


def open_shard(path: Path) -> Shard:
    """Map a shard of ours; DataError if it is anything but complete and well-formed."""
    with reading(path) as file:
        header = _parse_header(path, file.read(HEADER_BYTES))
        size = os.fstat(file.fileno()).st_size
        expected = HEADER_BYTES + header.count * header.token_bytes
        if size != expected:
            fault = "is truncated" if size < expected else "has bytes after its last token"
            raise DataError(
                f"{path} {fault}: its header promises {header.count} tokens, {expected} bytes, "
                f"and it has {size} bytes; prepare it again"
            )
        return Shard(path, header, _map(file, _DTYPES[header.token_bytes], HEADER_BYTES))


def open_tokens(path: Path, dtype: TokenDtype | None = None) -> Shard:
    """Map a shard of ours or, if it is no shard and is named *.bin, a headerless file.

    Headerless files are plain tokens as llama2.c and maderix/ANE write them, u16 unless `dtype`
    says otherwise.
    """
    with reading(path) as file:
        start = file.read(len(SHARD_MAGIC))
        size = os.fstat(file.fileno()).st_size
        if start == SHARD_MAGIC or path.suffix != ".bin":
            return open_shard(path)
        stored = _HEADERLESS[dtype or "u16"]
        _check_headerless(path, start, size, stored)
        return Shard(path, None, _map(file, stored, 0))


def check_vocabulary(shard: Shard, vocabulary: int) -> None:
    """Read all tokens once; DataError with the place of the first one >= `vocabulary`."""
    done = 0
    examples = shard.header is not None and shard.header.examples
    for chunk in TokenArray.of([shard.tokens]).chunks():
        if examples:
            chunk = chunk & TOKEN
        if int(chunk.max()) >= vocabulary:
            where = int(np.argmax(chunk >= vocabulary))
            cause = "it is of another model's tokenizer"
            if shard.header is None:
                cause = "another --token-dtype, another vocabulary, or no file of tokens"
            raise DataError(
                f"{shard.path}: token {chunk[where]} at position {done + where} is outside of "
                f"the model's vocabulary of {vocabulary}; {cause}"
            )
        done += len(chunk)


class ShardWriter:
    """Writes a shard piece by piece under a temporary name; leaving the block publishes it.

    If the block fails, or the disk does (DiskError), nothing is left behind and an older shard
    of that name is untouched. `header` tells what was written so far.
    """

    def __init__(
        self,
        path: Path,
        vocabulary: int,
        tokenizer_hash: bytes = UNKNOWN_TOKENIZER,
        *,
        examples: bool = False,
    ):
        token_bytes = 2 if vocabulary <= 1 << 16 and not examples else 4
        self.header = ShardHeader(token_bytes, 0, vocabulary, tokenizer_hash, examples=examples)
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
            self._file.write(bytes(HEADER_BYTES))
        return self

    def append(self, tokens: NDArray[Any], text_bytes: int = 0, documents: int = 0) -> None:
        """Add integer tokens [N], each in [0, vocabulary), or an example's words as uint32 [N]."""
        assert self._file is not None, "append outside of the writer's block"
        header = self.header
        self.header = replace(
            header,
            count=header.count + len(tokens),
            text_bytes=header.text_bytes + text_bytes,
            documents=header.documents + documents,
        )
        if len(tokens):
            plain = tokens & TOKEN if header.examples else tokens
            assert 0 <= plain.min() <= plain.max() < header.vocabulary, "a foreign token"
            with writing(self._path):
                self._file.write(tokens.astype(_DTYPES[header.token_bytes]).data)

    def finish(self) -> None:
        """Complete the file and bring it to the disk, still under its temporary name."""
        if self._file is None:
            return
        with writing(self._path):
            self._file.seek(0)
            self._file.write(self.header.pack())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._file = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
                with writing(self._path):
                    os.replace(self._temporary, self._path)
        finally:
            self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


def write_shard(
    path: Path,
    tokens: NDArray[Any],
    vocabulary: int,
    tokenizer_hash: bytes = UNKNOWN_TOKENIZER,
) -> None:
    """Write one array of tokens as a shard; atomic; DiskError if the disk refuses."""
    with ShardWriter(path, vocabulary, tokenizer_hash) as shard:
        shard.append(tokens)


def _parse_header(path: Path, raw: bytes) -> ShardHeader:
    if raw[: len(SHARD_MAGIC)] != SHARD_MAGIC:
        raise DataError(
            f"{path} is no token shard: it does not start with {SHARD_MAGIC.decode()}; "
            "make one with `ane-train prepare`, or name a headerless file *.bin"
        )
    if len(raw) < HEADER_BYTES:
        raise DataError(f"{path} is truncated within its header; prepare it again")
    _, version, token_bytes, count, vocabulary, tokenizer, text_bytes, documents = _HEADER.unpack(
        raw
    )
    if version not in (_VERSION, _EXAMPLES_VERSION):
        raise DataError(
            f"{path} is a token shard of version {version}, this program reads versions "
            f"{_VERSION} and {_EXAMPLES_VERSION}: update ane-train or prepare it again"
        )
    examples = version == _EXAMPLES_VERSION
    if token_bytes not in _DTYPES or (examples and token_bytes != 4):
        raise DataError(f"{path} is damaged: {token_bytes} bytes per token; prepare it again")
    if not 0 < vocabulary <= 1 << 8 * token_bytes:
        raise DataError(f"{path} is damaged: a vocabulary of {vocabulary}; prepare it again")
    return ShardHeader(token_bytes, count, vocabulary, tokenizer, text_bytes, documents, examples)


def _check_headerless(path: Path, start: bytes, size: int, dtype: np.dtype[Any]) -> None:
    if int.from_bytes(start[:4], "little") in _LLM_C_MAGICS:
        raise DataError(
            f"{path} has the header of llm.c, which is not read here: "
            f"cut it off with `tail -c +{_LLM_C_HEADER + 1}`"
        )
    if size % dtype.itemsize:
        raise DataError(
            f"{path} has {size} bytes, no whole number of tokens of {dtype.itemsize} bytes: "
            "it is truncated, or needs another --token-dtype"
        )


def _map(file: BinaryIO, dtype: np.dtype[Any], offset: int) -> Stored:
    if os.fstat(file.fileno()).st_size == offset:
        return np.empty(0, dtype)
    return np.memmap(file, dtype, mode="r", offset=offset)
