"""How a run is asked to stop or to save: by a signal, or by `touch RUN/stop` and `touch RUN/save`.

A request only sets a flag; the training loop acts on it between two steps, so a step is never cut
in two. Only a second Ctrl-C does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import Any, Literal

from ane_train.errors import ExitCode
from ane_train.threads import REQUESTS, without_signals

StopReason = Literal["interrupted", "terminated", "stopped"]

_REASONS: MappingProxyType[int, StopReason] = MappingProxyType(
    {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
)


class StopRequest:
    """Takes requests while it is entered; the former handlers come back when it is left.

    In a thread other than the main one, where Python has no signals, only the files are looked at.

    `held` is what `hold` gave to the former image of this process.

    A second SIGINT ends the process at once with 130, after `before_exit` (which may restore the
    terminal). That is not done by raising KeyboardInterrupt, which an `except` or a `finally` on
    the way can swallow, nor in a Python handler, which must wait for the C call in progress, and an
    engine that hangs is the best reason for a second Ctrl-C. Instead a thread reads the numbers
    that CPython's own handler writes to the wakeup descriptor the moment a signal comes. A save in
    progress is cut off then, which leaves the earlier checkpoints whole.
    """

    def __init__(
        self,
        folder: Path | None = None,
        before_exit: Callable[[], None] | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._before_exit = before_exit
        self._held = held
        self._reason: StopReason | None = None
        self._save_requested = False
        self._former: dict[signal.Signals, Any] = {}
        self._former_wakeup = -1
        self._wakeup = -1
        self._watcher: threading.Thread | None = None

    @property
    def reason(self) -> StopReason | None:
        """Why the run should stop, None to go on; the first reason stays. Consumes RUN/stop."""
        if self._consume("stop") and self._reason is None:
            self._reason = "stopped"
        return self._reason

    def take_save_request(self) -> bool:
        """Whether a save was asked for since the last call. Consumes RUN/save."""
        requested = self._save_requested
        self._save_requested = False
        return self._consume("save") or requested

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        wakes, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        self._former_wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._watcher = threading.Thread(
            target=_exit_at_second_interrupt, args=(wakes, self._before_exit), daemon=True
        )
        with without_signals():
            self._watcher.start()
        self._former = {number: signal.signal(number, self._handle) for number in REQUESTS}
        self._take_held()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        return self

    def hold(self) -> tuple[int, ...]:
        """Keeps requests for the image that this process is about to exec; none is lost.

        exec keeps which signals this thread blocks, and those that wait. A thread that was started
        outside of `without_signals` may still get one: CPython's handler writes its number to the
        wakeup descriptor the moment it comes, here a pipe that the next image inherits; both its
        ends are returned. Until that image has entered its StopRequest a second SIGINT waits as
        well. The handlers stay when this is left.
        """
        if self._watcher is None:
            return ()
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        ends = os.pipe()
        for end in ends:
            os.set_inheritable(end, True)
            os.set_blocking(end, False)
        signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
        self._end_watcher()
        numbers = [number for number, reason in _REASONS.items() if reason == self._reason]
        numbers += [signal.SIGUSR1] if self._save_requested else []
        os.write(ends[1], bytes(numbers))
        if self._reason == "stopped" and self._folder is not None:
            (self._folder / "stop").touch()
        return ends

    def _take_held(self) -> None:
        """Heeds what `hold` kept and closes its pipe."""
        with suppress(BlockingIOError):
            for number in os.read(self._held[0], 4096) if self._held else ():
                self._handle(number, None)
        for end in self._held:
            os.close(end)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._watcher is None:
            return
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._former_wakeup)
        self._end_watcher()

    def _end_watcher(self) -> None:
        assert self._watcher is not None
        os.close(self._wakeup)
        self._watcher.join()
        self._watcher = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save_requested = True
        elif self._reason is None:
            self._reason = _REASONS[number]

    def _consume(self, name: str) -> bool:
        """Whether RUN/<name> was there; it is deleted, so that it counts once."""
        if self._folder is None:
            return False
        path = self._folder / name
        if not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True


def _exit_at_second_interrupt(wakes: int, before_exit: Callable[[], None] | None) -> None:
    """Reads the number of each signal until the writing end is closed."""
    interrupts = 0
    while numbers := os.read(wakes, 64):
        interrupts += numbers.count(signal.SIGINT)
        if interrupts > 1:
            try:
                if before_exit:
                    before_exit()
            finally:
                os._exit(ExitCode.INTERRUPTED)
    os.close(wakes)
