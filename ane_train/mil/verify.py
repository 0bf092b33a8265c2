"""Refuses, with the reason, what is wrong with a program or what a chip is known not to do right.

First the structure of the program, which coremltools does not check to the end; only a sound
program is then held against the chip rules (`rules`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import EngineError
from .checks import UNAVAILABLE
from .chips import Chip, get_chip
from .infer import TypeRuleError
from .ops import infer_types
from .program import Op, Program
from .rules import REFUSE, WARN, Subject, broken_rules
from .types import Value, is_valid_name

MAXIMUM_RANK = 5
_STRUCTURE = "MIL op reference"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong ("refuse") or doubtful ("warn").

    subject: name of the op, value or function. source: where the fact comes from.
    """

    severity: str
    rule: str
    subject: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} [{self.rule}; {self.source}]"


def verify(program: Program, chip: str | Chip) -> list[Finding]:
    """Everything known to be wrong or doubtful about the program on a chip.

    chip: "m1" to "m5", or the profile of a chip that was measured.
    """
    profile = get_chip(chip)
    findings = list(_structure(program))
    if any(finding.severity == REFUSE for finding in findings):
        return findings
    return findings + [
        Finding(rule.severity, rule.name, _name(subject), reason, rule.source)
        for rule, subject, reason in broken_rules(program, profile)
    ]


def require(program: Program, chip: str | Chip, name: str | None = None) -> None:
    """EngineError with the first reason to refuse the program, if there is one.

    `name` is what the message calls the program; its function's name if not given.
    """
    profile = get_chip(chip)
    for finding in verify(program, profile):
        if finding.severity == REFUSE:
            raise EngineError(f"program {name or program.function!r} on {profile.name}: {finding}")


def _name(subject: Subject) -> str:
    return subject.function if isinstance(subject, Program) else subject.name


def _refuse(rule: str, subject: str, reason: str) -> Finding:
    return Finding(REFUSE, rule, subject, reason, _STRUCTURE)


def _structure(program: Program) -> Iterator[Finding]:
    yield from _check_names(program)
    yield from _check_order(program)
    yield from _check_outputs(program)
    yield from _check_ranks(program)
    for op in program.ops:
        yield from _check_types(op, program.opset)


def _defined_values(program: Program) -> list[Value]:
    results = [value for op in program.ops for value in op.outputs]
    return [*program.inputs, *program.constants, *results]


def _check_names(program: Program) -> Iterator[Finding]:
    names = Counter(value.name for value in _defined_values(program))
    for name, count in names.items():
        if not is_valid_name(name):
            yield _refuse("name", name, "is no MIL name: letters, digits and _ only, no keyword")
        if count > 1:
            yield _refuse("unique-name", name, f"is the name of {count} values")


def _check_order(program: Program) -> Iterator[Finding]:
    known = set(program.inputs)
    for op in program.ops:
        for value in op.operands:
            if not value.is_constant and value not in known:
                yield _refuse("order", op.name, f"uses {value.name!r} before anything makes it")
        known.update(op.outputs)


def _check_outputs(program: Program) -> Iterator[Finding]:
    made = {value for op in program.ops for value in op.outputs}
    if not program.outputs:
        yield _refuse("output", program.function, "returns nothing")
    for value, count in Counter(program.outputs).items():
        if value not in made:
            yield _refuse("output", value.name, "is returned, but no op makes it")
        elif count > 1:
            yield _refuse("output", value.name, "is returned twice: use identity")
    used = {value for op in program.ops for value in op.operands} | set(program.outputs)
    for op in program.ops:
        if used.isdisjoint(op.outputs):
            yield Finding(WARN, "unused", op.name, "is never used: leave it out", _STRUCTURE)
    for value in program.inputs:
        if value not in used:
            yield Finding(WARN, "unused", value.name, "is never used: leave it out", _STRUCTURE)


def _check_ranks(program: Program) -> Iterator[Finding]:
    for value in _defined_values(program):
        if value.type.rank > MAXIMUM_RANK:
            yield _refuse("rank", value.name, f"has rank {value.type.rank}: at most {MAXIMUM_RANK}")


def _check_types(op: Op, opset: str) -> Iterator[Finding]:
    if op.kind in UNAVAILABLE:
        return
    try:
        types = infer_types(op.kind, op.arguments, opset)
    except TypeRuleError as error:
        yield _refuse("type", op.name, f"{op.kind}: {error}")
        return
    declared = tuple(value.type for value in op.outputs)
    if types != declared:
        shown = " and ".join(" ".join(map(str, each)) for each in (declared, types))
        yield _refuse("type", op.name, f"{op.kind}: declared and inferred types differ: {shown}")
