"""Sides of a comparison in processes of their own, which answer requests one at a time.

A side is a class of SIDES: made of keyword arguments, asked by `run(**request)`. Requests and
answers are JSON, one a line. Its environment is clean of what would configure BLAS or threads.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

ROOT = Path(__file__).resolve().parent.parent
SIDES = {
    "ours": "bench.ours:Ours",
    "floor": "bench.floor:Floor",
    "torch": "bench.peer:Peer",
    "ours_decoding": "bench.ours:Decoding",
    "torch_decoding": "bench.peer:Decoding",
}
UNWANTED = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "ANE_TRAIN_")


class SideError(Exception):
    """A side that cannot be measured, and why."""


def clean_environment() -> dict[str, str]:
    """The environment without what configures BLAS, threads or ane-train."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(UNWANTED)}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Worker:
    """A running side; use it as a context manager."""

    def __init__(self, side: str, **arguments: Any) -> None:
        self.side = side
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", side, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=clean_environment(),
        )
        try:
            self.facts: dict[str, str] = self._answer()
        except SideError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request. SideError where the side failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"{self.side}: the process has ended") from None
        return self._answer()

    def seconds(self, **request: Any) -> float:
        """The answer's time."""
        return float(self.ask(**request)["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"{self.side}: the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.side}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(side: str, arguments: dict[str, Any]) -> None:
    """Answers what comes in on stdin until it ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = SIDES[side].partition(":")
    try:
        made = getattr(importlib.import_module(module), name)(**arguments)
        _say(answers, made.facts)
    except Exception as error:
        _say(answers, {"error": _described(error)})
        return
    for line in sys.stdin:
        try:
            _say(answers, made.run(**json.loads(line)))
        except Exception as error:
            _say(answers, {"error": _described(error)})


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _described(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
