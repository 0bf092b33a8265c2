"""Where the time of a step goes: seconds by kind of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = ("engine", "io", "blas", "elementwise", "optimizer", "data")


class Timings:
    """Seconds by kind, further ones where they are measured.

    Work on a gradient thread, which hides behind the engine, is "overlapped"; waiting for programs
    that are being compiled is "compile".
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*KINDS, "overlapped"), 0.0)

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Adds the time spent inside to `kind`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds so far; starts again from zero."""
        taken, self.seconds = self.seconds, dict.fromkeys((*KINDS, "overlapped"), 0.0)
        return taken
