"""Drives the front end of the software engine through a C driver built with sanitizers.

A `Case` is a text with its weight files; `Front.run` gives one `Outcome` for each.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from compiled import ROOT, compile_c

OK, ARGUMENT, MEMORY, PARSE, TYPE, UNSUPPORTED, WEIGHTS = range(7)
FP16, FP32 = 0, 1
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PARTS = ["region", "table", "lex", "number", "parser", "parse_value", "parse", "print", "types"]
PARTS += ["constants", "weights", "call", "check"]


@dataclass(frozen=True, slots=True)
class Case:
    text: str | bytes
    files: Mapping[str, bytes] = field(default_factory=dict)
    numerics: int = FP16

    def encoded(self) -> bytes:
        text = self.text if isinstance(self.text, bytes) else self.text.encode()
        parts = [struct.pack("<II", self.numerics, len(self.files))]
        for path, data in self.files.items():
            parts += [_prefixed(path.encode()), _prefixed(data)]
        return b"".join([*parts, _prefixed(text)])


@dataclass(frozen=True, slots=True)
class Error:
    status: int
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Value:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: tuple[float, ...] | None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Op:
    kind: str
    inputs: tuple[int | None, ...]
    variadic: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(slots=True)
class Outcome:
    error: Error | None = None
    printed: str | None = None
    print_error: Error | None = None
    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    def value(self, name: str) -> Value:
        (found,) = (value for value in self.values if value.name == name)
        return found

    def bound(self, op: int, slot: int) -> tuple[float, ...] | None:
        """The constant that a parameter of an op is bound to."""
        index = self.ops[op].inputs[slot]
        return None if index is None else self.values[index].data


class Front:
    """The compiled driver. Its folder is removed with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="front")
        folder = Path(self._folder.name)
        cpu = ROOT / "csrc" / "cpu"
        sources = [cpu / f"{part}.c" for part in PARTS] + sorted(cpu.glob("check_ops*.c"))
        base = [ROOT / "csrc" / "base" / name for name in ("error.c", "fp16.c")]
        self._program = compile_c(
            folder / "front_driver", "front_driver.c", [*base, *sources], SANITIZERS
        )
        self._corpus = folder / "corpus"

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """One outcome for each case; an AssertionError with the report of a sanitizer."""
        self._corpus.write_bytes(b"".join(case.encoded() for case in cases))
        command = [str(self._program), str(self._corpus)]
        done = subprocess.run(command, capture_output=True, check=False)
        lines = done.stdout.decode().splitlines()
        assert (done.returncode, done.stderr) == (0, b""), (
            f"in case {lines.count('end')}:\n{done.stderr.decode(errors='replace')}"
        )
        found = list(_outcomes(lines))
        assert len(found) == len(cases)
        return found

    def peak(self, case: Case) -> int:
        """The largest resident size, in bytes, of a process that runs one case."""
        self._corpus.write_bytes(case.encoded())
        command = [str(self._program), str(self._corpus)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def one(self, text: str | bytes, **options: object) -> Outcome:
        (outcome,) = self.run([Case(text, **options)])  # type: ignore[arg-type]
        return outcome


@cache
def front() -> Front:
    """The driver, compiled once for each process of the test run."""
    return Front()


def _prefixed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _unhex(words: Sequence[str]) -> str:
    return bytes.fromhex("".join(words)).decode(errors="replace")


def _error(words: Sequence[str]) -> Error:
    status, line, column, *text = words
    return Error(int(status), int(line), int(column), _unhex(text))


def _value(words: Sequence[str]) -> Value:
    name, dtype, *rest = words
    close = rest.index("]")
    read = float.fromhex if dtype in ("fp16", "fp32") else int
    data = tuple(read(word) for word in rest[rest.index("=") + 1 :]) if "=" in rest else None
    return Value(name, dtype, tuple(map(int, rest[1:close])), data)


def _sections(words: Sequence[str], names: Sequence[str]) -> list[tuple[int | None, ...]]:
    bounds = [words.index(name) for name in names] + [len(words)]
    return [
        tuple(None if word == "-" else int(word) for word in words[start + 1 : end])
        for start, end in pairwise(bounds)
    ]


def _outcomes(lines: Sequence[str]) -> Iterator[Outcome]:
    outcome = Outcome()
    for line in lines:
        word, *rest = line.split(" ")
        match word:
            case "refused":
                outcome.error = _error(rest)
            case "value":
                outcome.values.append(_value(rest))
            case "text":
                last = outcome.values.pop()
                outcome.values.append(Value(last.name, last.dtype, (), None, _unhex(rest)))
            case "op":
                sections = _sections(rest[1:], ["in", "variadic", "out"])
                outcome.ops.append(Op(rest[0], *sections))  # type: ignore[arg-type]
            case "ports":
                outcome.inputs, outcome.outputs = _sections(rest, ["in", "out"])  # type: ignore[assignment]
            case "unprintable":
                outcome.print_error = _error(rest)
            case "printed":
                outcome.printed = _unhex(rest)
            case "end":
                yield outcome
                outcome = Outcome()


def program(
    *body: str,
    inputs: str = "tensor<fp16, [1, 4, 1, 8]> x",
    outputs: str = "y",
    opset: str = "ios18",
) -> str:
    """A program of one function with these statements, in canonical layout."""
    lines = ["program(1.3)", "{", f"    func main<{opset}>({inputs}) {{"]
    lines += [f"            {statement};" for statement in body]
    return "\n".join([*lines, f"        }} -> ({outputs});", "}"]) + "\n"
