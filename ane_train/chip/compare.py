"""Two reports side by side, or one beside what others have published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
# What quantities are called on the screen, where that is not what they are called in the report.
_WORDS = {
    "evaluate": "time",
    "tflops": "rate",
    "gbps": "rate",
    "sustained_tflops": "sustained",
    "relative_error": "off fp16",
    "share_of_peak": "of peak",
    "knee_bytes": "knee",
    "before_gbps": "up to it",
    "after_gbps": "beyond",
}
_OF, _WHAT = 1, 2  # columns that may be left out where they say the same of all
_FEW = 4  # cases that are named one by one


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
    both = [key for key in a if key in b and not _is_told_by_time(key)]
    found = [_reports(first, second)]
    for benchmark in dict.fromkeys(key.benchmark for key in both):
        rows = tuple(
            (key.name, key.variant, _word(key.quantity), *_pair(key, a[key], b[key]))
            for key in both
            if key.benchmark == benchmark
        )
        header = ("case", "of", "what", "A", "B", f"B / A{' ' * len(MARK)}")
        found.append(_section(benchmark, rows, header))
    return [*found, _notes(first, second)]


def _is_told_by_time(key: Key) -> bool:
    """Whether it is a rate that the time beside it gives; `peak` is about rates."""
    return key.benchmark != "peak" and key.quantity in ("tflops", "gbps")


def _pair(key: Key, a: Number, b: Number) -> tuple[str, str, str]:
    ratio = f"{b.value / a.value:.2f}" if a.value else "-"
    mark = MARK if a.wide or b.wide else " "
    return show(key.quantity, a.value), show(key.quantity, b.value), f"{ratio}{mark}"


def _word(quantity: str) -> str:
    return _WORDS.get(quantity, quantity)


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
    groups: dict[str, list[Published]] = {}
    for row in published():
        if _key(row) in found:
            groups.setdefault(row.benchmark, []).append(row)
    lines = [
        f"here: {report.machine.chip}, engine {report.engine.used}",
        "published figures are others' own, of other programs where a source says so",
    ]
    if not groups:
        names = ", ".join(dict.fromkeys(row.benchmark for row in published()))
        lines.append(
            f"the report has nothing of what was published: measure {names} at the usual sizes"
        )
    tables = [_published_section(name, rows, found) for name, rows in groups.items()]
    return [*tables, Section("notes", tuple(("-", line) for line in lines))]


def _key(row: Published) -> Key:
    return Key(row.benchmark, row.name, row.variant, row.quantity)


def _published_section(
    title: str, rows: Sequence[Published], found: Mapping[Key, Number]
) -> Section:
    """The sources are numbered, and stand below."""
    sources = list(dict.fromkeys(map(_source, rows)))
    cells = [
        (
            *(row.name, row.variant, _word(row.quantity)),
            show(row.quantity, found[_key(row)].value),
            _range(row),
            *(row.chip, f"{1 + sources.index(_source(row))}"),
        )
        for row in rows
    ]
    notes = tuple(f"{index}: {source}" for index, source in enumerate(sources, 1))
    header = ("case", "of", "what", "here", "published", "chip", "by")
    return replace(_section(title, cells, header), notes=notes)


def _source(row: Published) -> str:
    return f"{row.source}: {row.note}" if row.note else row.source


def _range(row: Published) -> str:
    low, high = (show(row.quantity, value) for value in (row.low, row.high))
    return low if row.low == row.high else f"{low} - {high}"


def _section(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> Section:
    """Numbers are set to the right."""
    columns = list(zip(header, *rows, strict=True))
    for index, column in enumerate(columns):
        if header[index].strip() in ("A", "B", "B / A", "here", "published"):
            width = max(map(len, column))
            columns[index] = tuple(cell.rjust(width) for cell in column)
    spare = tuple(index for index in (_OF, _WHAT) if len(set(columns[index][1:])) == 1)
    aligned, *rest = zip(*columns, strict=True)
    return Section(title, tuple(rest), aligned, spare=spare)


def _reports(first: Report, second: Report) -> Section:
    rows = [
        (name, f"{made.machine.chip}, engine {made.engine.used}, {made.machine.system}")
        for name, made in (("A", first), ("B", second))
    ]
    return Section("reports", tuple(rows))


def _notes(first: Report, second: Report) -> Section:
    lines = [
        "B / A below 1 is better for B in times, above 1 in rates",
        f"{MARK}: the spread of one of the two is wide",
    ]
    for name, one, other in (("A", first, second), ("B", second, first)):
        done = {(row.benchmark, row.name, row.variant) for row in other.results if row.status == OK}
        alone: dict[str, list[str]] = {}
        for row in one.results:
            if row.status == OK and (row.benchmark, row.name, row.variant) not in done:
                alone.setdefault(row.benchmark, []).append(f"{row.name} ({row.variant})")
        if alone:
            named = (f"{benchmark} {_listed(names)}" for benchmark, names in alone.items())
            lines.append(f"ok in {name} alone: {'; '.join(named)}")
    if first.quick != second.quick:
        lines.append("one of the two is of --quick: sizes and efforts differ")
    return Section("notes", tuple(("-", line) for line in lines))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW else f"{len(names)} cases"
