"""What the benchmarks found, as records: the JSON report is exactly these, and nothing personal.

Its form is results.schema.json beside this file; a change of it raises SCHEMA. Times are in
milliseconds, sizes in bytes, GB and TFLOP in powers of ten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ane_train.chip.statistics import summarize
from ane_train.doctor.report import Facts
from ane_train.errors import DataError
from ane_train.records import from_json, to_json

KIND, SCHEMA = "ane-train bench", 1

OK, WRONG, REFUSED, FAILED = "ok", "wrong", "refused", "failed"
CRASHED, HUNG, SKIPPED = "crashed", "hung", "skipped"
STATUSES = (OK, WRONG, REFUSED, FAILED, CRASHED, HUNG, SKIPPED)


@dataclass(frozen=True, slots=True)
class Series:
    """Timings of one thing, all of them.

    wide: the spread is too large to trust the median. predicted: what `ane-train plan` says of the
    same on the chip that the report names; null where it says nothing.
    """

    quantity: str
    unit: str
    samples: tuple[float, ...]
    median: float
    spread: float
    wide: bool
    predicted: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """How far outputs were off before anything was timed: RMS over the RMS of the reference."""

    against: str
    error: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Result:
    """One case. sizes: what was built; text: why it is not ok, or what else is to be said.

    values: numbers that are not timings, by the names that the schema describes.
    """

    benchmark: str
    name: str
    variant: str
    sizes: Mapping[str, int]
    status: str
    text: str = ""
    proof: Proof | None = None
    series: tuple[Series, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)

    def timing(self, quantity: str) -> Series | None:
        """The series of that name, if it was measured."""
        return next((one for one in self.series if one.quantity == quantity), None)


@dataclass(frozen=True, slots=True)
class Fit:
    """Two lines through the times of a sweep over bytes; knee_bytes is null where one line does.

    offset_ms is the time at no bytes; bandwidths are those of the lines' slopes.
    """

    name: str
    knee_bytes: float | None
    offset_ms: float
    before_gbps: float | None
    after_gbps: float | None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """asked: --engine; used: "ane" or "cpu"; chip: profile ("m4") of a used ANE, else empty.

    planned: the chip that predictions are for ("m4-max"), empty where there are none.
    """

    asked: str
    used: str
    reason: str
    chip: str
    planned: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one command measured."""

    kind: str
    schema: int
    machine: Facts
    engine: EngineFacts
    quick: bool
    results: tuple[Result, ...]
    fits: tuple[Fit, ...] = ()

    @property
    def wide(self) -> tuple[int, int]:
        """How many timings have a wide spread, and how many there are."""
        series = [one for result in self.results for one in result.series]
        return sum(one.wide for one in series), len(series)

    def to_text(self) -> str:
        """The report as JSON."""
        return json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n"


def series(quantity: str, milliseconds: Sequence[float], predicted: float | None = None) -> Series:
    """The timings with their summary; at least one."""
    found = summarize(milliseconds)
    samples = tuple(float(sample) for sample in milliseconds)
    return Series(quantity, "ms", samples, found.median, found.spread, found.is_wide, predicted)


def schema() -> dict[str, object]:
    """The JSON Schema of a report."""
    found: dict[str, object] = json.loads(
        resources.files("ane_train.chip").joinpath("results.schema.json").read_text("utf-8")
    )
    return found


def read_report(path: Path) -> Report:
    """The report of a file; DataError says why it is none."""
    try:
        data = json.loads(path.read_text("utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is not JSON: give a file that `ane-train bench` wrote") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise DataError(f"{path} is no report of `ane-train bench`")
    if data.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {data.get('schema')}, this version reads {SCHEMA}")
    try:
        report = from_json(Report, data)
        _require_sound(report)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    return report


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _require_sound(report: Report) -> None:
    """ValueError where the records are of the right types and no command wrote them."""
    for row in report.results:
        if row.status not in STATUSES:
            raise ValueError(f"{row.name} has the status {row.status!r}")
        if (row.status == OK) != bool(row.series):
            raise ValueError(f"{row.name} is {row.status} and has {len(row.series)} timings")
        numbers = [*row.sizes.values(), *row.values.values()]
        for one in row.series:
            if not one.samples:
                raise ValueError(f"{one.quantity} of {row.name} has no samples")
            numbers += [one.median, one.spread, *one.samples]
        if min(numbers, default=0) < 0:
            raise ValueError(f"a number of {row.name} is negative")
    for fit in report.fits:
        if len(fit.name.split()) < len(("benchmark", "variant")):
            raise ValueError(f"a fit has the name {fit.name!r}")
