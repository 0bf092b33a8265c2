"""One thread that computes weight gradients by BLAS while the engine runs the next program.

Jobs run in the order in which they were given, so sums have one order. A job reads surfaces that
nobody writes until it is done: `wait` for a surface before it is written again, `join` at the end
of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ane_train.native.engine import Surface
from ane_train.train.workspace import Workspace


class GradientWorker:
    """The thread, its pending jobs by surface, and its work arrays."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gradients")
        self._pending: dict[int, Future[None]] = {}
        self.workspace = Workspace()  # for use inside jobs

    def submit(self, job: Callable[[], None], surface: Surface) -> None:
        """Queues a job that reads `surface`."""
        self._pending[id(surface)] = self._executor.submit(job)

    def wait(self, surface: Surface) -> None:
        """Returns when no job reads `surface` any more; raises what the job raised."""
        future = self._pending.pop(id(surface), None)
        if future is not None:
            future.result()

    def join(self) -> None:
        """Returns when all jobs are done; raises what the first failed one raised."""
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.result()

    def close(self) -> None:
        """Ends the thread after its jobs."""
        self._executor.shutdown()
