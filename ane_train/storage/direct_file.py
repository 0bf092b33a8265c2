"""A new file that is written past the system's page cache, wherever the file system can do that.

Gigabytes that nobody reads soon would push out of that cache what somebody does, and filling it
takes the processors time: more than the disk needs, on virtual machines whose fresh pages have to
come from the host. The disk takes whole blocks at aligned addresses, so bytes are collected first.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ane_train.storage.durable import synchronize
from ane_train.threads import single_thread

# Bytes; a multiple of any block. Beside training, smaller ones wait more often for a processor.
BUFFER = 8 << 20
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)


class DirectFile:
    """Creates a file, which must not exist, and owns its descriptor. All but close raise OSError.

    One buffer is filled while a thread, which the first full one starts, writes the other: the disk
    is then never waiting for a copy.
    """

    def __init__(self, path: Path) -> None:
        self._buffer, self._other = _aligned_buffer(), _aligned_buffer()
        self._filled = 0
        self._writer = single_thread("writing")
        self._pending: Future[None] | None = None
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._is_direct = _set_direct(self._descriptor, True)

    def write(self, content: bytes | memoryview) -> None:
        """Takes all of the bytes, which may change when this returns."""
        rest = np.frombuffer(content, np.uint8)
        while rest.size:
            piece = rest[: BUFFER - self._filled]
            self._buffer[self._filled : self._filled + piece.size] = piece
            self._filled += piece.size
            rest = rest[piece.size :]
            if self._filled == BUFFER:
                self._hand_over()

    def finish(self) -> None:
        """Returns when the system has all bytes. Nothing is written after that."""
        self._wait()
        self._go_on_buffered()  # what is left need not be whole blocks
        self._write_out(self._buffer[: self._filled].data)
        self._buffer = self._other = np.empty(0, np.uint8)  # other files have theirs meanwhile

    def synchronize(self) -> None:
        """Waits until what was finished is on the disk."""
        synchronize(self._descriptor)

    def close(self) -> None:
        """Gives the descriptor back. What was not finished is lost."""
        self._writer.shutdown()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hand_over(self) -> None:
        self._wait()
        self._pending = self._writer.submit(self._write_out, self._buffer.data)
        self._buffer, self._other = self._other, self._buffer
        self._filled = 0

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write_out(self, rest: memoryview) -> None:
        """What is refused as a direct write, after one that was cut short too, goes on buffered."""
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                if not self._is_direct or error.errno not in _REFUSED:
                    raise
                self._go_on_buffered()

    def _go_on_buffered(self) -> None:
        if self._is_direct:
            _set_direct(self._descriptor, False)
            self._is_direct = False


def _aligned_buffer() -> npt.NDArray[Any]:
    """Fresh pages, which take no memory before they are filled; large ones come more quickly."""
    pages = mmap.mmap(-1, BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # from systems that are built without
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Whether an open file's writes go past the page cache from now on.

    Opening it so would leave a file behind wherever the file system refuses.
    """
    try:
        if hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, int(direct))
        elif hasattr(os, "O_DIRECT"):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (os.O_DIRECT if direct else 0))
        else:
            return False
    except OSError:
        return False
    return direct
