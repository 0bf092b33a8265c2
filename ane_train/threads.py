"""Threads beside the main one, which alone takes the signals that ask for something.

Another thread that had just taken such a signal could be ended by exec() before Python's handler
has noted it. A thread that was joined may still be about to end, and take one meanwhile.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def without_signals() -> Iterator[None]:
    """Threads that are started within never take a request."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def single_thread(name: str) -> ThreadPoolExecutor:
    """Does jobs in their order, in a thread of its own that never takes a request."""
    return ThreadPoolExecutor(
        1, name, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, REQUESTS)
    )
