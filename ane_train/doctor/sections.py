"""The report as titled tables of plain words, for whatever shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ane_train.doctor.report import (
    ABSENT,
    CONFIRMED,
    DECODE,
    DISPATCH,
    HAZARD,
    OK,
    OP,
    PROGRAM,
    STATIC,
    Found,
    Report,
)
from ane_train.engine.device import Device, Method
from ane_train.metrics.units import size

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

    spare: columns that may be left out where there is no room, the first one first; notes: lines
    below the table.
    """

    title: str
    rows: tuple[Row, ...]
    header: Row = ()
    verdict: int | None = None
    spare: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def sections(report: Report, saved: Iterable[str] = ()) -> list[Section]:
    """All sections that the report has something for; `saved`: where things were written to."""
    found = [
        _machine(report),
        _engine(report),
        framework_section(report.device),
        _ports(report),
        _programs("dynamic", report, PROGRAM),
        _programs("static", report, STATIC),
        _decode(report),
        _ops(report),
        _hazards(report),
        _dispatch(report),
    ]
    if not report.device.present:
        found.append(_list("what only a Mac can prove", ONLY_A_MAC))
    last = (*_generation(report), *saved, _conclusion(report))
    found.append(_list("what to do next", (*_next(report), *last)))
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
    ]
    return Section("engine", tuple(rows))


def framework_section(device: Device) -> Section:
    """Whether the private framework is the one that the driver knows, and where it is not."""
    if not device.present:
        return Section("framework", (("driver", device.problem),))
    missing = [name for name, there in device.classes.items() if not there]
    changed = [method for method in device.methods if not method.matches]
    rows = [
        ("framework", PurePosixPath(device.framework).name or "unknown"),
        ("system", device.system or "unknown"),
        ("classes", _of(len(device.classes), len(missing))),
        *(("missing", name) for name in missing),
        ("encodings", _of(len(device.methods), len(changed))),
        *(("differs", _difference(method)) for method in changed),
        *device.facts.items(),
    ]
    return Section("framework", tuple(rows))


def _of(count: int, bad: int) -> str:
    return f"{count - bad} of {count} as expected"


def _difference(method: Method) -> str:
    found = method.found or "not there"
    return f"{method.owner} {method.name} is {found}, expected {method.expected}"


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


_ANSWERS = {ABSENT: "no", CONFIRMED: "yes"}


def _questions(title: str, cases: list[Found], report: Report) -> Section:
    where = "" if report.tried_ane else " of the software engine"
    rows = tuple((case.question, _ANSWERS.get(case.verdict, case.verdict)) for case in cases)
    notes = tuple(_texts(case for case in cases if case.text != "no"))
    return Section(f"{title}{where}", rows, ("hazard", "confirmed"), 1, notes=notes)


def _programs(kind: str, report: Report, group: str) -> Section:
    size = (
        f"{report.sequence} tokens" if report.batch == 1 else f"{report.batch} x {report.sequence}"
    )
    title = f"{kind} programs of {report.model} at {size}"
    notes = {
        PROGRAM: (
            "dynamic: weights are inputs; what training uses unless told --pipeline static",
            "RMS error: of the worst result, relative to its RMS; max error: of one number",
            "memory: surfaces, constants and scratch space",
        ),
        STATIC: ("static: weights are constants (--pipeline static, --engine-extras)",),
    }
    return _measured(title, report, group, notes[group])


def _decode(report: Report) -> Section:
    title = f"programs of generate for {report.model}, one layer"
    notes = (
        "decode_1: a token after a text; decode_64: a prompt; weights are constants",
        "classifier: of a token, on the CPU, against NumPy",
    )
    return _measured(title, report, DECODE, notes)


def _ops(report: Report) -> Section:
    cases = [case for case in report.cases if case.group == OP]
    uses = {
        "used by --pipeline static alone": [case.name for case in cases if case.static],
        "not used in training": [c.name for c in cases if not c.needed and not c.static],
    }
    notes = [f"{use}: {'; '.join(names)}" for use, names in uses.items() if names]
    return _measured("ops", report, OP, notes)


def _measured(title: str, report: Report, group: str, notes: Iterable[str]) -> Section:
    cases = [case for case in report.cases if case.group == group]
    header = ("name", "verdict", "RMS error", "max error", "compile", "evaluate", "memory")
    rows = tuple(_numbers(case) for case in cases)
    title = f"{title}, against {report.compared_with}"
    return Section(title, rows, header, 1, spare=(3, 6), notes=(*_texts(cases), *notes))


def _texts(cases: Iterable[Found]) -> list[str]:
    """What was said of cases, once for all of which the same was said."""
    names: dict[str, list[str]] = {}
    for case in cases:
        names.setdefault(case.text, []).append(case.name)
    return [f"{'; '.join(found)}: {text}" for text, found in names.items() if text]


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
    right = any(case.verdict == OK for case in cases)
    notes = (f"used from now on: {report.dispatch}",) if right else ()
    return Section("dispatch", rows, ("path", "verdict", "all programs", ""), 1, notes=notes)


def _list(title: str, lines: Iterable[str]) -> Section:
    return Section(title, tuple(("-", line) for line in lines))


_ATTACH = "ane-train doctor --json report.json"


def _next(report: Report) -> list[str]:
    """What does not hold, and what can be done about it."""
    train = f"ane-train --model {report.model}"
    lines = [f"training does without: {text}" for text in report.warnings]
    lines += [f"generating needs: {text}" for text in report.generating]
    lines += [f"training needs: {text}" for text in report.problems]
    if report.problems and report.choice.engine == "ane":
        lines.append(f"{train} runs these programs on the software engine, the rest on the ANE")
    elif report.problems:
        lines.append(f"train on the software engine meanwhile: {train} --engine cpu")
    elif report.choice.asked == "auto" and report.device.problem and report.device.present:
        lines.append("the ANE is there and cannot be used")
    if lines:
        lines.append(f"open an issue and attach the report: {_ATTACH}")
    return lines


_ENGINES = {"ane": "the ANE", "cpu": "the software engine"}


def _generation(report: Report) -> list[str]:
    """Whether `generate` works; nothing where that was not tried."""
    if not any(case.group == DECODE for case in report.cases):
        return []
    if not report.generating:
        does = f"ane-train generate works on {_ENGINES[report.choice.engine]}"
        return [f"all that generating needs holds: {does}"]
    advice = ": give it --engine cpu" if report.choice.engine == "ane" else ""
    return [f"not all that generating needs holds{advice}"]


def _conclusion(report: Report) -> str:
    engine = _ENGINES[report.choice.engine]
    if report.problems:
        return "not all that training needs holds"
    does = f"ane-train --model {report.model} trains on {engine}"
    return f"all that training needs holds: {does}" if report.cases else does
