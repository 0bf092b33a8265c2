"""Saving beside training: a thread that writes one checkpoint while the run goes on.

The arrays are not copied. Nothing but an optimizer update changes them, so they are written in
place while micro-batches run, and an update waits until the system has their bytes. Waiting for
the disk and deleting old checkpoints holds up nothing but the next save and the end of the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from ane_train.metrics.events import Saved
from ane_train.storage.checkpoint import Content
from ane_train.storage.checkpoint_store import CheckpointStore
from ane_train.threads import single_thread


class Saver:
    """Owns the thread and the save in flight, of which there is one at most.

    All methods are for the thread that trains.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._executor = single_thread("saving")
        self._pending: Future[Saved] | None = None
        self._read = threading.Event()
        self._read.set()
        self._waited = 0.0

    @property
    def is_reading(self) -> bool:
        """Whether the arrays must not change now."""
        return not self._read.is_set()

    def begin(self, content: Content, reason: str, *, best: bool) -> None:
        """Starts writing. The save before must have been taken."""
        assert self._pending is None, "one save at a time"
        self._read.clear()
        self._waited = 0.0
        self._pending = self._executor.submit(self._save, content, reason, best)

    def _save(self, content: Content, reason: str, best: bool) -> Saved:
        """Runs on the thread."""
        start = time.perf_counter()
        try:
            path = self._store.save(content, best=best, on_read=self._read.set)
        finally:
            self._read.set()  # an update that waits must not wait for what failed
        return Saved(content.step, path, reason, time.perf_counter() - start)

    def wait_until_read(self) -> None:
        """Returns when the arrays may change."""
        with self._waiting():
            self._read.wait()

    def take(self, *, wait: bool) -> Saved | None:
        """The save in flight, once: when it is complete, or None if that is not yet so.

        Raises what saving raised, which is a DiskError as a rule.
        """
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return None
        with self._waiting():
            try:
                saved = pending.result()
            finally:
                self._pending = None
        return replace(saved, waited=self._waited)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def close(self) -> None:
        """Ends the thread after the save in flight, of whose outcome nothing is said."""
        self._executor.shutdown()
