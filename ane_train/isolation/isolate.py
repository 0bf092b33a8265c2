"""Starts a worker process and reads what it finds, until it is done, dies or falls silent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ane_train.isolation.scrub import scrub
from ane_train.isolation.serve import DONE, FAREWELL, MARK
from ane_train.records import to_json

SILENCE = 300.0  # seconds without a finding, after which a worker is ended


class DiedError(Exception):
    """A worker ended before its job was done; the message says how, without names or paths.

    hung: whether it had to be ended.
    """

    def __init__(self, text: str, *, hung: bool = False) -> None:
        super().__init__(text)
        self.hung = hung


def findings(module: str, job: Any, silence: float = SILENCE) -> Iterator[tuple[str, Any]]:
    """(word, value) of each finding of a new process; DiedError if it does not finish.

    job: the record that the module, when it is run, reads with `serve`. The process also ends when
    this one does, however that ends: then its stdin is closed.
    """
    command = [sys.executable, "-m", module]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        # In a group of its own, lest a Ctrl-C comes twice: from the terminal, and by its stdin.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        try:
            _send(process, job)
            for line in _lines(process, silence):
                word, value = next(iter(json.loads(line).items()))
                if word == DONE:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(FAREWELL)
                    return
                yield word, value
            ended = _ended(process)
        finally:
            _end(process)
        errors.seek(0)
        raise DiedError(_how(ended, errors.read(), silence), hung=ended is None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process, which cleans up if it still can."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(FAREWELL)
    process.kill()
    process.wait()
    process.stdout.close()


def _send(process: subprocess.Popen[bytes], job: Any) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(to_json(job)).encode() + b"\n")
        process.stdin.flush()


def _lines(process: subprocess.Popen[bytes], silence: float) -> Iterator[str]:
    """The marked lines, without their mark, up to the end or the first long silence."""
    assert process.stdout is not None
    stream, rest = process.stdout.fileno(), b""
    while select.select([stream], [], [], silence)[0]:
        data = os.read(stream, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text.startswith(MARK):
                yield text.removeprefix(MARK)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that closed its output; None if it is still at work."""
    try:
        return process.wait(1.0)
    except subprocess.TimeoutExpired:
        return None


def _how(code: int | None, errors: str, silence: float) -> str:
    if code is None:
        return f"no answer within {silence:.0f} seconds"
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if code < 0:
        said = f": {last}" if last else ""
        return scrub(f"the process crashed with signal {-code} ({_signal_name(-code)}){said}")
    return scrub(f"the process ended with code {code}: {last or 'no message'}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
