"""The report as titled tables of plain words, for whatever shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ane_train.doctor.report import DISPATCH, HAZARD, OP, PROGRAM, STATIC, Found, Report
from ane_train.metrics.text import size

Row = tuple[str, ...]

ONLY_A_MAC = (
    "Apple's compiler accepts these programs (here: coremltools' type inference in the tests)",
    "the chip computes what the software engine computes, and how far it is off",
    "which hazards its chip has, and which surfaces it takes",
    "the private classes and methods are those of its system",
    "how long the ANE takes to compile and evaluate, and which path of dispatch is fastest",
)


@dataclass(frozen=True, slots=True)
class Section:
    """rows are as wide as `header`, or pairs without one; `verdict` is the column to colour.

    wide: columns that may be left out where there is little room; notes: lines below the table.
    """

    title: str
    rows: tuple[Row, ...]
    header: Row = ()
    verdict: int | None = None
    wide: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def sections(report: Report, saved: Iterable[str] = ()) -> list[Section]:
    """All sections that the report has something for; `saved`: where things were written to."""
    found = [
        _machine(report),
        _engine(report),
        _driver(report),
        _ports(report),
        _measured("programs", report, PROGRAM),
        _measured("programs with weights as constants", report, STATIC),
        _measured("ops", report, OP),
        _hazards(report),
        _dispatch(report),
    ]
    if not report.device.present:
        found.append(_list("what only a Mac can prove", ONLY_A_MAC))
    found.append(_list("what to do next", [*_next(report), *saved]))
    return [section for section in found if section.rows]


def _machine(report: Report) -> Section:
    facts = report.machine
    rows = [
        ("chip", f"{facts.chip}, {facts.machine}, {facts.cores} cores"),
        ("memory", size(facts.memory_bytes)),
        ("system", f"{facts.system}, build {facts.build}"),
        ("python", f"{facts.python}, NumPy {facts.numpy}"),
        ("core", f"ane-train {facts.ane_train}, compiled by {facts.compiler}"),
        ("BLAS", facts.blas),
        ("instructions", ", ".join(facts.instructions) or "none known"),
    ]
    return Section("machine", tuple(rows))


def _engine(report: Report) -> Section:
    choice = report.choice
    names = {"ane": "the Apple Neural Engine (ane)", "cpu": "the software engine (cpu)"}
    rows = [
        ("asked for", f"--engine {choice.asked}"),
        ("used", names[choice.engine]),
        ("because", choice.reason),
        *(("note", note) for note in report.notes),
    ]
    return Section("engine", tuple(rows))


def _driver(report: Report) -> Section:
    device = report.device
    if not device.present:
        return Section("framework", (("driver", device.problem),))
    missing = [name for name, there in device.classes.items() if not there]
    changed = [method for method in device.methods if not method.matches]
    rows = [
        ("framework", device.framework or "unknown"),
        ("system", device.system or "unknown"),
        ("classes", _of(len(device.classes), missing)),
        ("encodings", _of(len(device.methods), [f"{m.owner} {m.name}" for m in changed])),
        *((name, text) for name, text in device.facts.items()),
        *((m.name, f"{m.found or 'missing'}, expected {m.expected}") for m in changed),
    ]
    return Section("framework", tuple(rows))


def _of(count: int, bad: list[str]) -> str:
    good = f"{count - len(bad)} of {count} as expected"
    return f"{good}; not: {', '.join(bad)}" if bad else good


def _is_port_rule(case: Found) -> bool:
    return case.group == HAZARD and (
        case.rule.startswith("port") or case.name.startswith(("width", "surface"))
    )


def _ports(report: Report) -> Section:
    cases = [case for case in report.cases if _is_port_rule(case)]
    return _questions("surface rules", cases, report)


def _hazards(report: Report) -> Section:
    cases = [case for case in report.cases if case.group == HAZARD and not _is_port_rule(case)]
    return _questions("hazards", cases, report)


def _questions(title: str, cases: list[Found], report: Report) -> Section:
    where = "" if report.device.present else " of the software engine"
    rows = tuple((case.question, case.verdict.removeprefix("hazard ")) for case in cases)
    notes = tuple(f"{case.name}: {case.text}" for case in cases if case.text != "no")
    return Section(f"{title}{where}", rows, ("question", "hazard"), 1, notes=notes)


def _measured(title: str, report: Report, group: str) -> Section:
    cases = [case for case in report.cases if case.group == group]
    header = ("name", "verdict", "RMS error", "max error", "compile", "evaluate", "memory")
    notes = [f"{case.name}: {case.text}" for case in cases if case.text]
    if group == OP:
        unused = [case.name for case in cases if not case.needed]
        notes.append(f"training does without {', '.join(unused)}")
    elif cases:
        title = f"{title} of {report.model} at {report.sequence} tokens"
    title = f"{title}, against {report.compared_with}"
    rows = tuple(_numbers(case) for case in cases)
    return Section(title, rows, header, 1, wide=(3, 6), notes=tuple(notes))


def _numbers(case: Found) -> Row:
    memory = [case.surface_bytes, case.constant_bytes, case.scratch_bytes]
    return (
        case.name,
        case.verdict,
        _number(case.rms_error_relative, "{:.1e}"),
        _number(case.max_error, "{:.1e}"),
        _number(case.compile_ms, "{:.2f} ms"),
        _number(case.evaluate_ms, "{:.3f} ms"),
        size(sum(part or 0 for part in memory)) if case.surface_bytes is not None else "-",
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else "0" if value == 0 else form.format(value)


def _dispatch(report: Report) -> Section:
    cases = [case for case in report.cases if case.group == DISPATCH]
    rows = tuple(
        (case.name, case.verdict, _number(case.evaluate_ms, "{:.3f} ms"), case.text)
        for case in cases
    )
    notes = (f"used from now on: {report.dispatch}",) if report.dispatch else ()
    return Section("dispatch", rows, ("path", "verdict", "all programs", ""), 1, notes=notes)


def _list(title: str, lines: Iterable[str]) -> Section:
    return Section(title, tuple(("-", line) for line in lines))


_ATTACH = "ane-train doctor --json report.json"


def _next(report: Report) -> list[str]:
    train = f"ane-train --model {report.model}"
    if report.problems:
        lines = [f"needed to train, and does not hold: {problem}" for problem in report.problems]
        if report.choice.engine == "ane":
            lines.append(f"{train} runs these programs on the software engine, the rest on the ANE")
        else:
            lines.append(f"train on the software engine meanwhile: {train} --engine cpu")
        return [*lines, f"open an issue and attach the report: {_ATTACH}"]
    lines = [f"not needed to train, and does not hold: {text}" for text in report.warnings]
    if report.choice.engine == "ane":
        return [*lines, f"all that training needs holds: {train} trains on the ANE"]
    if report.choice.asked == "auto" and report.device.present:
        return [
            *lines,
            f"the ANE is there and is not used; attach the report to an issue: {_ATTACH}",
            f"{train} trains on the software engine",
        ]
    return [*lines, f"all that training needs holds: {train} trains on the software engine"]
