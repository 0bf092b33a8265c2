"""TinyStories (Eldan and Li 2023, arXiv 2305.07759): its archive, fetched or given, as shards.

The archive is read as a stream: nothing is unpacked, and memory does not grow with its size.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ane_train.data.download import Remote
from ane_train.data.files import reading
from ane_train.data.text import BATCH_BYTES, Encoded, Piece, Progress, encode_pieces
from ane_train.data.tokenizer import Tokenizer
from ane_train.errors import DataError

ARCHIVE_NAME = "TinyStories_all_data.tar.gz"
ARCHIVE = Remote(
    url="https://huggingface.co/datasets/roneneldan/TinyStories/resolve/"
    f"f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/{ARCHIVE_NAME}",
    size=1_608_001_638,
    sha256="26cf7605aca15bc4ea6fa637256400d9d01317b28ed296172b2d1dd160cd7699",
)
VALIDATION = "data00.json"

_CHUNK = 1 << 16
_LONGEST_STORY = 1 << 22
_BETWEEN = re.compile(r"[\s,]*")


def encode_stories(
    archive: Path, tokenizer: Tokenizer, progress: Progress | None = None
) -> Iterator[tuple[bool, Encoded]]:
    """Yield (whether it is for validation, story): those of data00.json are, as in llama2.c.

    `progress` gets (bytes of the archive read, bytes in all). DataError for what is no such
    archive, names the file in it and the number of the story.
    """
    with reading(archive) as file:
        size = archive.stat().st_size
        found = set()
        for name, batch in _batches(archive, file):
            is_valid = name == VALIDATION
            found.add(is_valid)
            for encoded in encode_pieces(batch, tokenizer):
                yield is_valid, encoded
            if progress:
                progress(file.tell(), size)
    for is_valid, role in ((False, "to train on"), (True, "for validation")):
        if is_valid not in found:
            raise DataError(
                f"{archive} has no stories {role}: those of {VALIDATION} are for validation, "
                "those of its other .json files to train on"
            )


def _batches(archive: Path, file: io.BufferedReader) -> Iterator[tuple[str, list[Piece]]]:
    """Yield the stories of each file of the archive, about BATCH_BYTES at a time."""
    batch: list[Piece] = []
    waiting = 0
    last = ""
    for name, text in _stories(archive, file):
        if batch and (name != last or waiting >= BATCH_BYTES):
            yield last, batch
            batch, waiting = [], 0
        size = len(text.encode())
        batch.append(Piece(text, size, 0, ends_document=True))
        waiting += size
        last = name
    if batch:
        yield last, batch


def _stories(archive: Path, file: io.BufferedReader) -> Iterator[tuple[str, str]]:
    """Yield (name of the file, story). All is read to the end, where gzip's checksum is."""
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            with tarfile.open(fileobj=unzipped, mode="r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if member.isfile() and name.endswith(".json") and not name.startswith("."):
                        for text in _stories_of(tar.extractfile(member), f"{archive}: {name}"):
                            yield name, text
            while unzipped.read(_CHUNK):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{archive} is no {ARCHIVE_NAME}, or is damaged: {error}; fetch it again"
        ) from None


def _stories_of(file: Any, where: str) -> Iterator[str]:
    for number, record in enumerate(_items(file, where), 1):
        story = record.get("story") if isinstance(record, dict) else None
        if not isinstance(story, str):
            raise DataError(f'{where}, item {number} has no text as its "story"')
        try:
            story.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where}, item {number} has half a surrogate pair") from None
        if story := story.strip():
            yield story


def _items(file: Any, where: str) -> Iterator[Any]:
    """Yield the items of a JSON list without ever holding all of it."""
    stream = io.TextIOWrapper(file, "utf-8")
    decoder = json.JSONDecoder()
    number, buffer, place = 0, _read(stream, where), 0
    if not buffer.lstrip().startswith("["):
        raise DataError(f"{where} is no JSON list of stories")
    place = buffer.index("[") + 1
    while True:
        place = _BETWEEN.match(buffer, place).end()  # type: ignore[union-attr]
        if buffer.startswith("]", place):
            return
        try:
            item, place = decoder.raw_decode(buffer, place)
        except (ValueError, RecursionError) as error:
            more = _read(stream, where)
            if not more or len(buffer) - place > _LONGEST_STORY:
                reason = str(error).partition(":")[0]
                raise DataError(f"{where}, item {number + 1} is no JSON: {reason}") from None
            buffer, place = buffer[place:] + more, 0
            continue
        number += 1
        yield item


def _read(stream: io.TextIOWrapper, where: str) -> str:
    try:
        return stream.read(_CHUNK)
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8") from None
