"""Fetches one large file of known size and digest; an interrupted fetch goes on where it stopped.

Invariant: the file has its name only when all of it is there and its digest is right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ane_train.data.files import reading, writing
from ane_train.data.text import Progress
from ane_train.errors import DataError

if TYPE_CHECKING:
    from http.client import HTTPResponse

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte
_PARTIAL_CONTENT = 206
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_AGAIN = "run it again to go on where it stopped, or fetch it by hand (--from FILE)"


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server, of so many bytes; `sha256` is hex."""

    url: str
    size: int
    sha256: str


def fetch(remote: Remote, target: Path, progress: Progress | None = None) -> None:
    """Make `target` a copy of `remote`; nothing is done if it is there in its full size.

    `progress` gets (bytes there, bytes in all). DataError if the server or the way to it fails,
    or what arrived is another file; DiskError if the disk does.
    """
    if target.is_file() and target.stat().st_size == remote.size:
        return
    partial = target.with_name(f"{target.name}.part")
    with writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.open("ab").close()
    done = partial.stat().st_size
    if done != remote.size:
        _fetch_rest(remote, partial, done if done < remote.size else 0, progress)
    _check(remote, partial)
    with writing(target):
        os.replace(partial, target)


def _fetch_rest(remote: Remote, partial: Path, done: int, progress: Progress | None) -> None:
    """Append what is missing after `done` bytes, or all of it if the server cannot start there."""
    with _answer(remote, done) as answer:
        if answer.status != _PARTIAL_CONTENT:
            done = 0
        _require_size(remote, answer, done)
        with writing(partial), partial.open("r+b") as file:
            file.truncate(done)
            file.seek(done)
            while done < remote.size and (chunk := _read(remote, answer)):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, remote.size)
    if done < remote.size:
        raise DataError(f"{remote.url} broke off after {done} of {remote.size} bytes: {_AGAIN}")


@contextmanager
def _answer(remote: Remote, start: int) -> Iterator[HTTPResponse]:
    """Ask for the bytes from `start` on."""
    from urllib.request import Request, urlopen

    request = Request(remote.url, headers={"User-Agent": "ane-train"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with _failing(remote):
        answer = urlopen(request, timeout=_TIMEOUT)
    with answer:
        yield answer


def _read(remote: Remote, answer: HTTPResponse) -> bytes:
    with _failing(remote):
        return answer.read(_CHUNK)


@contextmanager
def _failing(remote: Remote) -> Iterator[None]:
    """Turn what the network does into a DataError."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        code = f"{error.code} " if hasattr(error, "code") else ""
        raise DataError(f"{remote.url} cannot be fetched ({code}{reason}): {_AGAIN}") from None


def _require_size(remote: Remote, answer: HTTPResponse, start: int) -> None:
    """DataError unless the answer is the rest, from `start` on, of a file of the right size."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    length = answer.headers.get("Content-Length", "")
    if answer.status == _PARTIAL_CONTENT:
        found = int(match[2]) if match and int(match[1]) == start else None
    else:
        found = int(length) if length.isdigit() else remote.size
    if found != remote.size:
        raise DataError(
            f"{remote.url} is not the file of {remote.size} bytes that it was (the server says "
            f"{found or 'nothing'}): fetch the right one by hand (--from FILE)"
        )


def _check(remote: Remote, partial: Path) -> None:
    with reading(partial) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        with writing(partial):
            partial.unlink()
        raise DataError(
            f"{remote.url} arrived damaged (SHA-256 {found[:12]}…, not {remote.sha256[:12]}…) and "
            "was deleted: run it again"
        )
