"""Opens whatever the user calls data: token shards, text, or nothing for the built-in corpus.

Invariant: every token of a DataSource is within the model's vocabulary, and both of its splits
have at least one window of sequence + 1 tokens, or one row of examples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ane_train.data.batches import Data
from ane_train.data.encoding import Encoding
from ane_train.data.files import Inputs, find_inputs, total_size
from ane_train.data.packing import Examples, starts_of
from ane_train.data.text import Progress
from ane_train.data.tokenizer import (
    BUILT_IN_TEXT,
    BUILT_IN_TOKENIZER,
    Tokenizer,
    built_in_tokenizer,
    load_tokenizer,
)
from ane_train.data.tokens import (
    UNKNOWN_TOKENIZER,
    Shard,
    ShardWriter,
    TokenArray,
    TokenDtype,
    check_vocabulary,
    open_shard,
    open_tokens,
)
from ane_train.errors import ConfigError, DataError

_CACHE_VERSION = b"1"
_SAMPLES = 256
_SAMPLE_TOKENS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class DataSource:
    """Data of a run. `fingerprint` is hex and differs for other tokens or another split.

    `tokenizer` and `bytes_per_token` (UTF-8 bytes; of the validation files if there are such) are
    None where the data does not tell: then there is no text to show and no bits per byte.
    `warnings` say what of the data is not used as it stands.
    """

    train: Data
    valid: Data
    name: str
    tokenizer: Tokenizer | None
    bytes_per_token: float | None
    fingerprint: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Request:
    """What the caller of open_data wants of the data."""

    vocabulary: int
    sequence: int
    valid_fraction: float
    token_dtype: TokenDtype | None
    cache_dir: Path
    progress: Progress | None


def open_data(
    path: Path | None,
    *,
    tokenizer: Path | None,
    vocabulary: int,
    sequence: int,
    valid_fraction: float = 0.05,
    token_dtype: TokenDtype | None = None,
    cache_dir: Path,
    progress: Progress | None = None,
) -> DataSource:
    """Open a file or folder of shards or text; None is the built-in corpus.

    Text is encoded with `tokenizer` (None: the built-in one) once and kept as a shard in
    `cache_dir`; meanwhile `progress(bytes done, bytes in all)` is called. Without validation
    files the last `valid_fraction` of the tokens is held out. Raises DataError for what is wrong
    with the data or the tokenizer, DiskError if the cache cannot be written.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError(f"a validation fraction of {valid_fraction} is not within [0, 1)")
    request = _Request(vocabulary, sequence, valid_fraction, token_dtype, cache_dir, progress)
    given = load_tokenizer(tokenizer) if tokenizer else None
    inputs = find_inputs(path or BUILT_IN_TEXT)
    if inputs.kind == "text":
        known = given or built_in_tokenizer()
        _check_tokenizer(known, vocabulary)
        encoding = Encoding.of([*inputs.train, *inputs.valid], known)
        shards = [_encode_once(files, encoding, request) for files in (inputs.train, inputs.valid)]
        return _assemble(path, shards, known, request)
    shards = [_open_all(files, request) for files in (inputs.train, inputs.valid)]
    return _assemble(path, shards, _tokenizer_of(inputs, shards, given), request)


def _check_tokenizer(tokenizer: Tokenizer, vocabulary: int) -> None:
    if tokenizer.ordinary_vocabulary > vocabulary:
        which = "the built-in tokenizer" if _is_built_in(tokenizer) else str(tokenizer.path)
        raise DataError(
            f"{which} has {tokenizer.ordinary_vocabulary} tokens, the model has a vocabulary of "
            f"{vocabulary}: give the model's own tokenizer.json (--tokenizer), or another model"
        )


def _is_built_in(tokenizer: Tokenizer) -> bool:
    return tokenizer.path == BUILT_IN_TOKENIZER


def _encode_once(files: Sequence[Path], encoding: Encoding, request: _Request) -> list[Shard]:
    if not files:
        return []
    key = hashlib.sha256(_CACHE_VERSION + encoding.key(files)).hexdigest()
    cached = request.cache_dir / f"{key[:32]}.tokens"
    try:
        shard = open_shard(cached)
    except DataError:
        _encode_to(cached, files, encoding, request.progress)
        shard = open_shard(cached)
    return _checked([replace(shard, path=files[0])], request.vocabulary)


def _encode_to(
    output: Path, files: Sequence[Path], encoding: Encoding, progress: Progress | None
) -> None:
    total = total_size(files)
    done = 0
    known = encoding.tokenizer
    with ShardWriter(output, known.vocabulary, known.sha256, examples=encoding.examples) as shard:
        for encoded in encoding.encode(files):
            shard.append(encoded.tokens, encoded.text_bytes, int(encoded.ends_document))
            done += encoded.source_bytes
            if progress:
                progress(done, total)
    if progress:
        progress(total, total)


def _open_all(files: Sequence[Path], request: _Request) -> list[Shard]:
    shards = [open_tokens(file, request.token_dtype) for file in files]
    return _checked(shards, request.vocabulary)


def _checked(shards: list[Shard], vocabulary: int) -> list[Shard]:
    for shard in shards:
        check_vocabulary(shard, vocabulary)
    return shards


def _tokenizer_of(
    inputs: Inputs, shards: Sequence[Sequence[Shard]], given: Tokenizer | None
) -> Tokenizer | None:
    """Find the tokenizer that the shards name: the one given, one beside them, or the built-in."""
    all_shards = [shard for part in shards for shard in part]
    named = {shard.path: _hash_of(shard) for shard in all_shards if any(_hash_of(shard))}
    beside = inputs.train[0].with_name("tokenizer.json")
    if given is None and os.path.isfile(beside):
        given = load_tokenizer(beside)
    if given:
        _require_hash(named, given.sha256, str(given.path))
    elif named:
        first, wanted = next(iter(named.items()))
        _require_hash(named, wanted, first.name)
        built_in = built_in_tokenizer()
        given = built_in if wanted == built_in.sha256 else None
    return given


def _require_hash(named: Mapping[Path, bytes], wanted: bytes, owner: str) -> None:
    for path, found in named.items():
        if found != wanted:
            raise DataError(
                f"{path} was made with another tokenizer (sha256 {found.hex()[:12]}…) than that of "
                f"{owner} ({wanted.hex()[:12]}…): give the right one, or prepare the text again"
            )


def _hash_of(shard: Shard) -> bytes:
    return shard.header.tokenizer_hash if shard.header else UNKNOWN_TOKENIZER


def _assemble(
    path: Path | None,
    shards: Sequence[Sequence[Shard]],
    tokenizer: Tokenizer | None,
    request: _Request,
) -> DataSource:
    name = path.name or str(path) if path else "Moby-Dick (built in)"
    train, valid = (TokenArray.of(shard.tokens for shard in part) for part in shards)
    examples = _are_examples([shard for part in shards for shard in part])
    if not shards[1]:
        split = _split_examples if examples else _split
        train, valid = split(name, train, request)
    parts: list[Data] = [train, valid]
    if examples:
        parts = [Examples.pack(part, request.sequence) for part in (train, valid)]
    for part, role in zip(parts, ("training", "validation"), strict=True):
        _require_window(name, part, role, request.sequence)
    return DataSource(
        train=parts[0],
        valid=parts[1],
        name=name,
        tokenizer=tokenizer,
        bytes_per_token=None if examples else _bytes_per_token(shards[1] or shards[0]),
        fingerprint=_fingerprint(train, valid, tokenizer),
        warnings=tuple(_warnings(name, parts)),
    )


def _are_examples(shards: Sequence[Shard]) -> bool:
    kinds = {shard.header is not None and shard.header.examples: shard for shard in shards}
    if len(kinds) == 2:
        raise DataError(
            f"{kinds[False].path} is text and {kinds[True].path} has examples: "
            "train on one, then on the other"
        )
    return True in kinds


def _warnings(name: str, parts: Sequence[Data]) -> Iterator[str]:
    packed = [part for part in parts if isinstance(part, Examples)]
    cut, lost = sum(part.cut for part in packed), sum(part.lost for part in packed)
    whole = sum(part.count for part in packed) + lost
    if cut:
        yield (
            f"{name}: examples cut to the length of a sequence: {cut} of {whole}; "
            "a larger --seq takes them whole"
        )
    if lost:
        yield (
            f"{name}: examples left out, as there is nothing to learn in what fits into a "
            f"sequence: {lost} of {whole}"
        )


def _split(name: str, tokens: TokenArray, request: _Request) -> tuple[TokenArray, TokenArray]:
    """Hold out the last tokens: the fraction asked for, and one window at least."""
    window = request.sequence + 1
    if tokens.length < 2 * window:
        raise DataError(
            f"{name} has {tokens.length} tokens, a sequence of {request.sequence} needs at least "
            f"{2 * window} ({window} each to train and to validate): give more text or a smaller "
            "--seq"
        )
    held_out = max(window, round(tokens.length * request.valid_fraction))
    start = tokens.length - held_out
    return tokens.between(0, start), tokens.between(start, tokens.length)


def _split_examples(
    name: str, words: TokenArray, request: _Request
) -> tuple[TokenArray, TokenArray]:
    """Hold out the last examples: about the fraction of tokens asked for, and one at least."""
    starts = starts_of(words)
    if len(starts) < 2:
        raise DataError(
            f"{name} has one example and at least two are needed, one each to train and to "
            "validate: give more"
        )
    wanted = words.length - round(words.length * request.valid_fraction)
    start = int(starts[min(max(1, int(np.searchsorted(starts, wanted))), len(starts) - 1)])
    return words.between(0, start), words.between(start, words.length)


def _require_window(name: str, tokens: Data, role: str, sequence: int) -> None:
    if isinstance(tokens, Examples):
        if not tokens.rows:
            raise DataError(
                f"{name}: no example for {role} has something to learn within a sequence of "
                f"{sequence}: give a larger --seq, or other data"
            )
    elif tokens.length < sequence + 1:
        raise DataError(
            f"{name} has {tokens.length} tokens for {role}, a sequence of {sequence} needs at "
            f"least {sequence + 1}: give more text, another validation fraction or a smaller --seq"
        )


def _bytes_per_token(shards: Sequence[Shard]) -> float | None:
    headers = [shard.header for shard in shards if shard.header and shard.header.text_bytes]
    if len(headers) < len(shards):
        return None
    return sum(header.text_bytes for header in headers) / sum(header.count for header in headers)


def _fingerprint(train: TokenArray, valid: TokenArray, tokenizer: Tokenizer | None) -> str:
    """Hash the sizes, up to 256 evenly spaced samples of each split, and the tokenizer's hash."""
    digest = hashlib.sha256(tokenizer.sha256 if tokenizer else b"")
    for tokens in (train, valid):
        digest.update(tokens.length.to_bytes(8, "little"))
        last = max(0, tokens.length - _SAMPLE_TOKENS)
        starts = {last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}
        for start in sorted(starts):
            sample = tokens.slice(start, min(start + _SAMPLE_TOKENS, tokens.length))
            digest.update(np.ascontiguousarray(sample, "<i4").data)
    return digest.hexdigest()
