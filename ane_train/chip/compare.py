"""Two reports side by side, or one beside what others have published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from ane_train.chip.results import OK, Report
from ane_train.chip.sections import MARK, duration, tflops
from ane_train.chip.training import BATCH
from ane_train.doctor.sections import Section
from ane_train.metrics.units import size
from ane_train.plan.machines import get_machine
from ane_train.plan.measurements import SEQUENCES
from ane_train.records import from_json

FIT, FIT_NUMBERS = "fit", ("knee_bytes", "before_gbps", "after_gbps")
# How numbers that are no times are shown. Of the first ones, larger is better.
_RATES = ("tflops", "sustained_tflops", "gbps", "before_gbps", "after_gbps")
_COMPARED = (*_RATES, "relative_error", "share_of_peak")


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that somebody published: between `low` and `high`, in the units of a report."""

    benchmark: str
    name: str
    variant: str
    quantity: str
    chip: str
    low: float
    high: float
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class _Table:
    schema: int
    rows: tuple[Published, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """What a number is of."""

    benchmark: str
    name: str
    variant: str
    quantity: str


@dataclass(frozen=True, slots=True)
class Number:
    """A value, and how far it spreads; 0 where that is not known."""

    value: float
    spread: float = 0.0
    wide: bool = False


def published() -> tuple[Published, ...]:
    """The table that ships with the package, and the step times that the plan is held against."""
    file = resources.files("ane_train.chip").joinpath("published.json")
    steps = (
        Published(
            *("train", "step", step.model, BATCH),
            get_machine(step.machine).title.removeprefix("Apple "),
            *(step.low, step.high, step.source),
            f"its own programs, {step.plan}",
        )
        for step in SEQUENCES
    )
    return (*from_json(_Table, json.loads(file.read_text("utf-8"))).rows, *steps)


def numbers(report: Report) -> dict[Key, Number]:
    """Everything in a report that can be compared."""
    return dict(_numbers(report))


def _numbers(report: Report) -> Iterator[tuple[Key, Number]]:
    for row in report.results:
        place = (row.benchmark, row.name, row.variant)
        for timing in row.series:
            number = Number(timing.median, timing.spread, timing.wide)
            yield Key(*place, timing.quantity), number
        for name in _COMPARED:
            if name in row.values:
                yield Key(*place, name), Number(row.values[name])
    for fit in report.fits:
        place = (fit.name.split()[0], fit.name, FIT)
        names = ("before_gbps",) if fit.knee_bytes is None else FIT_NUMBERS
        for name in names:
            value = getattr(fit, name)
            if value is not None:
                yield Key(*place, name), Number(value)


def side_by_side(first: Report, second: Report) -> list[Section]:
    """What both reports have, with the second over the first, and what only one has."""
    a, b = numbers(first), numbers(second)
    both = [key for key in a if key in b]
    found = [_reports(first, second)]
    for benchmark in dict.fromkeys(key.benchmark for key in both):
        rows = tuple(
            (key.name, key.variant, key.quantity, *_pair(key, a[key], b[key]))
            for key in both
            if key.benchmark == benchmark
        )
        found.append(_section(benchmark, rows, ("case", "of", "what", "A", "B", "B / A")))
    return [*found, _notes(first, second)]


def _pair(key: Key, a: Number, b: Number) -> tuple[str, str, str]:
    ratio = f"{b.value / a.value:.2f}" if a.value else "-"
    mark = MARK if a.wide or b.wide else " "
    return show(key.quantity, a.value), show(key.quantity, b.value), f"{ratio}{mark}"


def show(quantity: str, value: float) -> str:
    """The value with its unit."""
    if quantity in ("tflops", "sustained_tflops"):
        return tflops(value)
    if quantity in _RATES:
        return f"{value:.3g} GB/s"
    if quantity == "knee_bytes":
        return size(value)
    return f"{value:.1%}" if quantity in _COMPARED else duration(value)


def beside_published(report: Report) -> list[Section]:
    """The report's numbers beside each that was published of the same."""
    found = numbers(report)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in published():
        key = Key(row.benchmark, row.name, row.variant, row.quantity)
        if key in found:
            groups.setdefault(row.benchmark, []).append(_beside(row, found[key]))
    header = ("case", "of", "what", "here", "published", "chip", "source")
    sections = [_section(name, tuple(rows), header) for name, rows in groups.items()]
    here = f"here: {report.machine.chip}, engine {report.engine.used}"
    lines = [here, "published figures are others' own, of other programs where a note says so"]
    if not groups:
        lines.append("the report has nothing of what was published; leave out --quick")
    return [*sections, Section("notes", tuple(("-", line) for line in lines))]


def _beside(row: Published, here: Number) -> tuple[str, ...]:
    low, high = (show(row.quantity, value) for value in (row.low, row.high))
    values = low if row.low == row.high else f"{low} - {high}"
    source = f"{row.source}: {row.note}" if row.note else row.source
    ours = show(row.quantity, here.value)
    return (row.name, row.variant, row.quantity, ours, values, row.chip, source)


def _section(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> Section:
    """Numbers, from the fourth column on, are set to the right."""
    last = len(header) - (header[-1] == "source")
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]

    def aligned(row: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            cell.rjust(widths[index]) if 3 <= index < last and header[index] != "chip" else cell
            for index, cell in enumerate(row)
        )

    return Section(title, tuple(aligned(row) for row in rows), aligned(header))


def _reports(first: Report, second: Report) -> Section:
    rows = [
        (name, f"{made.machine.chip}, engine {made.engine.used}, {made.machine.system}")
        for name, made in (("A", first), ("B", second))
    ]
    return Section("reports", tuple(rows))


def _notes(first: Report, second: Report) -> Section:
    lines = [f"{MARK}: the spread of one of the two is wide"]
    for name, one, other in (("A", first, second), ("B", second, first)):
        done = {(row.benchmark, row.name, row.variant) for row in other.results if row.status == OK}
        alone = [
            row
            for row in one.results
            if row.status == OK and (row.benchmark, row.name, row.variant) not in done
        ]
        if alone:
            names = ", ".join(f"{row.benchmark} {row.name} ({row.variant})" for row in alone)
            lines.append(f"ok in {name} alone: {names}")
    if first.quick != second.quick:
        lines.append("one of the two is of --quick: sizes and efforts differ")
    return Section("notes", tuple(("-", line) for line in lines))
