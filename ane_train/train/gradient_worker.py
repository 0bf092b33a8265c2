"""Computes weight gradients by BLAS, at once or on a thread while the engine runs the next program.

Jobs run in the order in which they were given, so sums have one order. A job reads surfaces that
nobody writes until it is done: `wait` for a surface before it is written again, `join` at the end
of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ane_train.metrics.events import OVERLAPPED
from ane_train.native.engine import Surface
from ane_train.threads import single_thread
from ane_train.train.workspace import Workspace


class GradientWorker:
    """The pending jobs by surface, and their work arrays; a thread if `beside` the engine.

    Beside an engine that needs all processors itself a thread gains nothing, and costs the time in
    which both want one.
    """

    def __init__(self, *, beside: bool) -> None:
        self._executor = single_thread("gradients") if beside else None
        self._pending: dict[int, Future[None]] = {}
        self.workspace = Workspace()  # for use inside jobs

    @property
    def is_beside(self) -> bool:
        """Whether jobs run while the caller goes on."""
        return self._executor is not None

    @property
    def kind(self) -> str:
        """What the time of a job is measured as."""
        return OVERLAPPED if self.is_beside else "blas"

    def submit(self, job: Callable[[], None], surface: Surface) -> None:
        """Queues a job that reads `surface`, or does it."""
        if self._executor:
            self._pending[id(surface)] = self._executor.submit(job)
        else:
            job()

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
        """Ends the thread, if there is one, after its jobs."""
        if self._executor:
            self._executor.shutdown()
