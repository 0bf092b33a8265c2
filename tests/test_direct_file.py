"""A file written past the page cache is the one that plain writing gives, or an error says why not.

Sizes are around those where a block or a buffer ends. File systems that refuse are played by calls
of the system that fail as theirs do.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ane_train.storage.direct_file import BUFFER, DirectFile
from ane_train.storage.tensor_file import write_tensors

BLOCK = 4096
SIZES = [
    *(0, 1, BLOCK - 1, BLOCK, BLOCK + 1),
    *(BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER, 3 * BUFFER + BLOCK + 1),
]
LARGE = 3 * BUFFER + 3


def content_of(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def written(path: Path, content: bytes, piece: int | None = None) -> bytes:
    """What is in the file when all of `content` has been written to it, `piece` bytes at a time."""
    with DirectFile(path) as file:
        for begin in range(0, len(content), piece or LARGE):
            file.write(memoryview(content)[begin : begin + (piece or LARGE)])
        file.finish()
        file.synchronize()
    return path.read_bytes()


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


def takes_direct_writes(folder: Path) -> bool:
    """Whether a block can be written to a file that is opened for nothing but direct writing."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_DIRECT", 0)
    block = mmap.mmap(-1, BUFFER)
    try:
        descriptor = os.open(folder / "probe", flags)
    except OSError:
        return False
    try:
        return hasattr(os, "O_DIRECT") and os.write(descriptor, block) == BUFFER
    except OSError:
        return False
    finally:
        os.close(descriptor)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """The size of each write to a descriptor, and whether it was direct."""
    seen: list[tuple[int, bool]] = []
    watch(monkeypatch, lambda fd, data: seen.append((len(data), is_direct(fd))))
    return seen


def watch(monkeypatch: pytest.MonkeyPatch, before: Callable[[int, memoryview], object]) -> None:
    """Calls `before` ahead of each write; one that it gives a number for writes so many bytes."""
    write = os.write

    def watched(descriptor: int, data: memoryview) -> int:
        limit = before(descriptor, data)
        return write(descriptor, data[:limit] if isinstance(limit, int) else data)

    monkeypatch.setattr(os, "write", watched)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [None, 1 << 18, 99_991])
def test_the_file_is_what_was_written_to_the_byte(
    tmp_path: Path, size: int, piece: int | None
) -> None:
    content = content_of(size)
    assert written(tmp_path / "x", content, piece) == content


def test_many_small_writes_add_up(tmp_path: Path) -> None:
    content = content_of(3 * BLOCK + 5)
    assert written(tmp_path / "x", content, piece=1) == content


def test_bytes_may_change_as_soon_as_they_are_taken(tmp_path: Path) -> None:
    values = bytearray(BUFFER // 2 + 7)
    with DirectFile(tmp_path / "x") as file:
        for value in range(7):
            values[:] = bytes([value]) * len(values)
            file.write(memoryview(values))
        file.finish()
    assert (tmp_path / "x").read_bytes() == b"".join(bytes([v]) * len(values) for v in range(7))


def test_writes_are_direct_wherever_the_file_system_takes_them(
    tmp_path: Path, writes: list[tuple[int, bool]]
) -> None:
    direct = takes_direct_writes(tmp_path)
    writes.clear()
    written(tmp_path / "x", content_of(LARGE))
    assert writes == [*[(BUFFER, direct)] * 3, (3, False)]


def test_nothing_is_left_open_or_running(tmp_path: Path) -> None:
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    written(tmp_path / "x", content_of(LARGE))
    with DirectFile(tmp_path / "y") as file:
        file.write(content_of(LARGE))
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "none" / "x")
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == before


def test_a_file_has_the_rights_that_open_gives(tmp_path: Path) -> None:
    written(tmp_path / "x", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("size", SIZES)
def test_a_file_system_that_does_not_know_direct_writing_gets_plain_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: list[tuple[int, bool]], size: int
) -> None:
    original = fcntl.fcntl

    def refuse(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return int(original(descriptor, command, flags))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert written(tmp_path / "x", content_of(size)) == content_of(size)
    assert not any(direct for _, direct in writes)


def test_a_system_without_direct_writing_gets_plain_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    monkeypatch.delattr(fcntl, "F_NOCACHE", raising=False)
    assert written(tmp_path / "x", content_of(LARGE)) == content_of(LARGE)


def test_a_mac_is_told_not_to_cache_until_the_file_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    original, no_cache = fcntl.fcntl, 48

    def note(descriptor: int, command: int, value: int = 0) -> int:
        if command != no_cache:
            return int(original(descriptor, command, value))
        told.append(value)
        return 0

    monkeypatch.setattr(fcntl, "F_NOCACHE", no_cache, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", note)
    assert written(tmp_path / "x", content_of(LARGE)) == content_of(LARGE)
    assert told == [1, 0]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("place", [0, 2])
def test_a_refused_direct_write_goes_on_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, place: int
) -> None:
    calls: list[bool] = []

    def refuse_direct(descriptor: int, _data: memoryview) -> None:
        calls.append(is_direct(descriptor))
        if calls[-1] and len(calls) > place:
            raise OSError(code, os.strerror(code))

    direct = takes_direct_writes(tmp_path)
    watch(monkeypatch, refuse_direct)
    assert written(tmp_path / "x", content_of(LARGE)) == content_of(LARGE)
    refused = [*[True] * (place + 1), *[False] * (4 - place)]
    assert calls == (refused if direct else [False] * 4)


@pytest.mark.parametrize("limit", [BLOCK, BUFFER - BLOCK, BLOCK + 1, 1_000_003])
def test_a_write_that_is_cut_short_is_taken_up_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """The system ends within a block, too, where it goes on directly no more."""
    write, cut = os.write, [False]

    def cut_short(descriptor: int, data: memoryview) -> int:
        if cut[0]:
            return write(descriptor, data)
        cut[0] = True
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~getattr(os, "O_DIRECT", 0))
        try:
            return write(descriptor, data[:limit])
        finally:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)

    monkeypatch.setattr(os, "write", cut_short)
    assert written(tmp_path / "x", content_of(LARGE)) == content_of(LARGE)
    assert cut[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EINVAL])
@pytest.mark.parametrize("place", range(4))
def test_an_error_of_any_write_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, code: int
) -> None:
    """EINVAL too, where plain writing gives it as well."""
    calls: list[int] = []

    def fail(_descriptor: int, data: memoryview) -> None:
        calls.append(len(data))
        if len(calls) > place:
            raise OSError(code, os.strerror(code))

    threads = threading.active_count()
    watch(monkeypatch, fail)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        write_tensors(tmp_path / "x", {"a": np.ones(LARGE // 4, np.float32)}, {})
    assert error.value.errno == code
    assert threading.active_count() == threads


def test_safetensors_reads_arrays_that_fill_several_buffers(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    arrays = {
        name: rng.random(size, np.float32)
        for name, size in [("a", BUFFER // 4), ("b", 3), ("c", BUFFER - 1), ("d", 0), ("e", 4096)]
    }
    record = write_tensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    assert record.size == (tmp_path / "x.safetensors").stat().st_size
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
