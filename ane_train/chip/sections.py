"""A report as titled tables of plain words, for whatever shows them.

One layout for all benchmarks: a row for each timing, with the columns that anything is said in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ane_train.chip.results import OK, STATUSES, Fit, Report, Result, Series
from ane_train.chip.statistics import WIDE
from ane_train.doctor.sections import Section
from ane_train.metrics.units import size

ENGINES = {"ane": "the Apple Neural Engine", "cpu": "the software engine"}
VERDICT = "verdict"
MARK = "*"  # of a spread that is wide
EVALUATE = "evaluate"
# Left out where there is no room, the first one first; "of" only if it is one of all.
SPARE = ("of", "off by", "sustained", "rate", "spread")


@dataclass(frozen=True, slots=True)
class _Column:
    """text: the cell of a result, or (`each`) of one of its timings, if it has any."""

    name: str
    text: Callable[[Result, Series | None], str]
    is_number: bool = False
    each: bool = False

    def cells(self, row: Result) -> Iterator[str]:
        """One for each timing; what is said of the result itself comes once."""
        for index, timing in enumerate(row.series or (None,)):
            yield self.text(row, timing) if self.each or not index else ""


def sections(report: Report, saved: Iterable[str] = ()) -> list[Section]:
    """The machine, each benchmark, how far to trust the numbers; `saved`: lines to add."""
    names = dict.fromkeys(result.benchmark for result in report.results)
    tables = [
        _table(name, [row for row in report.results if row.benchmark == name], report)
        for name in names
    ]
    return [_machine(report), *tables, _trust(report, saved)]


def _machine(report: Report) -> Section:
    facts, engine = report.machine, report.engine
    rows = [
        ("chip", f"{facts.chip}, {facts.machine}, {facts.cores} cores, {size(facts.memory_bytes)}"),
        ("system", f"{facts.system}, build {facts.build}"),
        ("engine", f"{ENGINES[engine.used]} ({engine.reason})"),
        ("versions", f"ane-train {facts.ane_train}, NumPy {facts.numpy}, {facts.blas}"),
    ]
    return Section("machine", tuple(rows))


def _table(name: str, results: Sequence[Result], report: Report) -> Section:
    cells = {
        column.name: [cell for row in results for cell in column.cells(row)]
        for column in _columns(report)
    }
    columns = [column for column in _columns(report) if any(cells[column.name])]
    for column in columns:
        if column.is_number:
            width = max(map(len, [column.name, *cells[column.name]]))
            cells[column.name] = [cell.rjust(width) for cell in cells[column.name]]
    header = [
        column.name.rjust(len(cells[column.name][0])) if column.is_number else column.name
        for column in columns
    ]
    return Section(
        name,
        tuple(zip(*(cells[column.name] for column in columns), strict=True)),
        tuple(header),
        header.index(VERDICT),
        tuple(
            index
            for wanted in SPARE
            for index in _places(columns, wanted)
            if wanted != "of" or len({row.variant for row in results}) == 1
        ),
        (
            *_texts(results),
            *(_fit(fit, results) for fit in report.fits if fit.name.split()[0] == name),
            *_largest(results),
        ),
    )


def _places(columns: Sequence[_Column], name: str) -> list[int]:
    return [index for index, column in enumerate(columns) if column.name == name]


def _columns(report: Report) -> tuple[_Column, ...]:
    timed = {"is_number": True, "each": True}
    plan = f"plan ({report.engine.planned})"
    return (
        _Column("case", lambda row, _: row.name),
        _Column("of", lambda row, _: row.variant),
        _Column(VERDICT, lambda row, _: row.status),
        _Column("timed", _quantity, each=True),
        _Column("median", lambda _, timing: duration(timing.median) if timing else "", **timed),
        _Column("spread", lambda _, timing: _spread(timing), **timed),
        _Column(plan, lambda _, timing: _predicted(timing), **timed),
        _Column("rate", lambda row, _: _rate(row.values), True),
        _Column("sustained", lambda row, _: _value(row, "sustained_tflops", tflops), True),
        _Column("of peak", lambda row, _: _value(row, "share_of_peak", "{:.0%}".format), True),
        _Column("off fp16", lambda row, _: _value(row, "relative_error", "{:.1%}".format), True),
        _Column("off by", lambda row, _: _proof(row), True),
    )


def duration(milliseconds: float) -> str:
    """Three digits with the unit that suits: 1.23 µs, 45.6 ms, 7.89 s."""
    for unit, factor in (("s", 1e3), ("ms", 1.0)):
        if milliseconds >= factor:
            return f"{milliseconds / factor:.3g} {unit}"
    return f"{1e3 * milliseconds:.3g} µs"


def tflops(rate: float) -> str:
    """10^12 operations per second, in thousands of millions where there are few."""
    return f"{rate:.3g} TFLOP/s" if rate >= 1 else f"{1e3 * rate:.3g} GFLOP/s"


def _quantity(row: Result, timing: Series | None) -> str:
    """What was timed, where that is more than one evaluation, or what the case is called by."""
    if timing is None or (len(row.series) == 1 and timing.quantity in (EVALUATE, row.variant)):
        return ""
    return timing.quantity


def _spread(timing: Series | None) -> str:
    if timing is None or len(timing.samples) < 2 or not timing.median:
        return ""
    return f"{timing.spread / timing.median:.0%}{MARK if timing.wide else ' '}"


def _predicted(timing: Series | None) -> str:
    return duration(timing.predicted) if timing and timing.predicted else ""


def _rate(values: Mapping[str, float]) -> str:
    if "tflops" in values:
        return tflops(values["tflops"])
    return f"{values['gbps']:.3g} GB/s" if "gbps" in values else ""


def _value(row: Result, name: str, form: Callable[[float], str]) -> str:
    return form(row.values[name]) if name in row.values else ""


def _proof(row: Result) -> str:
    if row.proof is None:
        return ""
    return "0" if row.proof.error == 0 else f"{row.proof.error:.0e}"


def _texts(results: Sequence[Result]) -> Iterator[str]:
    """What was said of cases, once for all of which the same was said."""
    names: dict[str, list[str]] = {}
    for row in results:
        names.setdefault(row.text, []).append(f"{row.name} ({row.variant})")
    yield from (f"{', '.join(found)}: {text}" for text, found in names.items() if text)


def _largest(results: Sequence[Result]) -> Iterator[str]:
    """Of what grows in `limits` until it fails: how far it came."""
    growing = [row for row in results if row.benchmark == "limits" and "bytes" in row.sizes]
    for variant in dict.fromkeys(row.variant for row in growing):
        rows = [row for row in growing if row.variant == variant]
        failed = next((row for row in rows if row.status != OK), None)
        taken = [row for row in rows if row.status == OK]
        end = f"{failed.name} {failed.status}" if failed else "none larger was tried"
        if taken:
            largest = f"{taken[-1].name}, {size(taken[-1].sizes['bytes'])}"
            yield f"largest {variant}: {largest} ({end})"


def _fit(fit: Fit, results: Sequence[Result]) -> str:
    what = fit.name.split(maxsplit=1)[1]
    timings = [one for row in results if row.variant == what for one in row.series]
    wide = sum(one.wide for one in timings)
    doubt = f" ({wide} of its {len(timings)} timings are wide{MARK})" if wide else ""
    if fit.knee_bytes is None:
        return f"{what}: one line fits all sizes, no knee; {_gbps(fit.before_gbps)}{doubt}"
    before, after = _gbps(fit.before_gbps), _gbps(fit.after_gbps)
    return f"{what}: knee at {size(fit.knee_bytes)}, {before} up to it and {after} beyond{doubt}"


def _gbps(rate: float | None) -> str:
    return "time does not rise" if rate is None else f"{rate:.3g} GB/s"


def _trust(report: Report, saved: Iterable[str]) -> Section:
    wide, whole = report.wide
    counts = Counter(row.status for row in report.results)
    right = counts.pop(OK, 0)
    others = "".join(f", {counts[status]} {status}" for status in STATUSES if counts[status])
    lines = [
        "what was timed was first proved right (off by: RMS of the difference to NumPy); "
        f"{right} of {len(report.results)} cases are ok{others}"
    ]
    if wide:
        lines.append(
            f"the spread of {wide} of {whole} timings is wide ({MARK}: the quartiles are more than "
            f"{WIDE:.0%} of the median apart): the machine was busy, or its clock changed"
        )
    if report.quick:
        lines.append("--quick: small sizes and few samples, which say nothing of what is possible")
    return Section("notes", tuple(("-", line) for line in (*lines, *saved)))


def to_markdown(found: Sequence[Section]) -> str:
    """The sections as Markdown to paste into an issue."""
    parts = []
    for section in found:
        lines = [f"### {section.title}", ""]
        if section.header:
            lines += [_line(section.header), _line(["---"] * len(section.header))]
            lines += [_line(row) for row in section.rows]
            lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
        else:
            lines += [f"- {' '.join(row).removeprefix('- ')}" for row in section.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.strip().replace('|', '/') for cell in cells)} |"
