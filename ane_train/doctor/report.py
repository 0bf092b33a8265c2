"""What `doctor` found out, as records: the JSON report is exactly these, and nothing personal.

Times are in milliseconds, memory in bytes. Errors are given twice: absolute, and relative to the
root mean square of the reference. A number that was not measured, or is not finite, is null.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ane_train.engine.device import Device
from ane_train.errors import DiskError
from ane_train.records import from_json, to_json

SCHEMA = 1

OK, WRONG, REFUSED, FAILED, SKIPPED = "ok", "wrong", "refused", "failed", "skipped"
CONFIRMED, ABSENT = "hazard confirmed", "hazard absent"
VERDICTS = (OK, WRONG, REFUSED, FAILED, CONFIRMED, ABSENT, SKIPPED)
PROGRAM, STATIC, OP = "program", "static program", "op"
HAZARD, DISPATCH, DECODE = "hazard", "dispatch", "decode program"


@dataclass(frozen=True, slots=True)
class Found:
    """One case. `text` is the error, the answer to a hazard's question, or why it was skipped.

    needed: whether --pipeline dynamic, the usual one, depends on it; static: whether only
    --pipeline static does. digest: of the MIL text; rule: the chip rule that an absent hazard
    refutes; hazard: name of the mil.Hazard that the case asks for.
    """

    name: str
    group: str
    verdict: str
    needed: bool = False
    static: bool = False
    question: str = ""
    text: str = ""
    rule: str = ""
    hazard: str = ""
    digest: str = ""
    max_error: float | None = None
    max_error_relative: float | None = None
    rms_error: float | None = None
    rms_error_relative: float | None = None
    compile_ms: float | None = None
    evaluate_ms: float | None = None
    surface_bytes: int | None = None
    constant_bytes: int | None = None
    scratch_bytes: int | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong: hazards are known of and skipped cases were not tried."""
        return self.verdict not in (WRONG, REFUSED, FAILED)


@dataclass(frozen=True, slots=True)
class Facts:
    """The machine and what runs on it; no names of hosts, users or folders."""

    chip: str
    machine: str
    cores: int
    memory_bytes: int
    system: str
    build: str
    instructions: tuple[str, ...]
    python: str
    numpy: str
    compiler: str
    blas: str
    ane_train: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine `--engine` means here ("ane" or "cpu"), and why."""

    asked: str
    engine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. compared_with: what the cases' results were held against.

    batch: sequences of the micro-batch whose programs were tried, of `sequence` tokens each.
    """

    schema: int
    machine: Facts
    choice: Choice
    device: Device
    model: str
    sequence: int
    compared_with: str
    cases: tuple[Found, ...]
    dispatch: str = ""
    dispatch_ms: Mapping[str, float] = field(default_factory=dict)
    batch: int = 1

    @property
    def tried_ane(self) -> bool:
        """Whether the cases ran on the ANE."""
        return bool(self.dispatch)

    @property
    def problems(self) -> tuple[str, ...]:
        """What training needs and is not shown to hold, as lines; empty if all does."""
        lines = _grouped(case for case in self.cases if case.needed and case.verdict != OK)
        if self.choice.asked == "ane" and self.choice.engine != "ane":
            lines.insert(0, self.choice.reason)
        return tuple(lines)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not hold and neither training nor generating needs, as lines."""
        others = (case for case in self.cases if not case.needed and case.group != DECODE)
        return tuple(_grouped(case for case in others if not case.holds))

    @property
    def generating(self) -> tuple[str, ...]:
        """What `generate` needs and is not shown to hold, as lines; empty if all does."""
        needed = (case for case in self.cases if case.group == DECODE)
        return tuple(_grouped(case for case in needed if case.verdict != OK))

    def to_text(self) -> str:
        """The report as JSON."""
        return json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n"


def _grouped(cases: Iterable[Found]) -> list[str]:
    """A line for each group and verdict, with the names of its cases."""
    names: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        names.setdefault((case.group, case.verdict), []).append(case.name)
    return [
        f"{group}{'s' * (len(found) > 1)} {', '.join(found)}: {verdict}"
        for (group, verdict), found in names.items()
    ]


def read_report(text: str) -> Report:
    """The report of a JSON text; ValueError where it is none of this schema."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"not a report of schema {SCHEMA}")
    return from_json(Report, data)


def require_place(path: Path, flag: str = "--json") -> None:
    """DiskError unless a file can be written there, as far as is known beforehand.

    flag: which the error tells to choose another of.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise _cannot_be_written(path, flag, "it is a folder")
    if not folder.is_dir():
        raise _cannot_be_written(path, flag, "there is no such folder")
    if not os.access(folder, os.W_OK):
        raise _cannot_be_written(path, flag, "its folder cannot be written")


def _cannot_be_written(path: Path, flag: str, why: str) -> DiskError:
    return DiskError(f"{path} cannot be written ({why}): choose another {flag}")


def write_report(path: Path, content: str | bytes, flag: str = "--json") -> None:
    """Writes a file in one step: a reader sees all of it or what was there. DiskError."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _cannot_be_written(path, flag, error.strerror or "unknown reason") from None
