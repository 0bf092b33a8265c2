"""Two reports side by side, published figures, pictures: on reports that are made up."""

from __future__ import annotations

import errno
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_reports import KNEE, made_up

from ane_train.chip import NAMES
from ane_train.chip.compare import FIT, FIT_NUMBERS, beside_published, published, side_by_side
from ane_train.chip.plot import draw
from ane_train.chip.results import CRASHED, OK, Report, Result, schema
from ane_train.chip.sections import MARK, duration, sections, tflops, to_markdown
from ane_train.chip.settings import Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.cli.screen import WIDTH
from ane_train.cli.sections import section_lines
from ane_train.errors import ConfigError, DataError, DiskError
from ane_train.metrics.units import size
from ane_train.plan.measurements import SEQUENCES

FULL = Settings(chip="m4")


@pytest.fixture(scope="module")
def report() -> Report:
    return made_up()


def text(found: object) -> str:
    return " ".join(to_markdown(found).split())  # type: ignore[arg-type]


def test_every_published_figure_is_of_a_case_that_is_measured() -> None:
    labels = {
        (name, case.name, case.variant) for name in NAMES for case in BENCHMARKS[name].cases(FULL)
    }
    for row in published():
        if row.variant == FIT:
            assert row.quantity in FIT_NUMBERS
        elif row.benchmark == "train":
            assert any(step.source == row.source for step in SEQUENCES)
        else:
            assert (row.benchmark, row.name, row.variant) in labels
        assert 0 < row.low <= row.high
        assert row.source
        assert row.chip.startswith("M")


def test_a_quantity_of_a_published_figure_is_one_of_a_report() -> None:
    timings = {"evaluate", "compile, cold", "compile, warm", "load", "unload", "copy fp16"}
    found: Any = schema()
    values = found["$defs"]["result"]["properties"]["values"]["properties"]
    known = {*timings, *values, *FIT_NUMBERS, "micro-batch"}
    assert {row.quantity for row in published()} <= known


def test_the_knee_that_is_known_stands_beside_the_published_one(report: Report) -> None:
    places = {fit.name: fit.knee_bytes for fit in report.fits}
    assert places == {
        "sram weights": pytest.approx(KNEE, rel=0.05),
        "sram activations": pytest.approx(KNEE, rel=0.05),
    }
    shown = text(beside_published(report))
    found = size(places["sram weights"] or 0)
    assert f"| sram weights | fit | knee | {found} | 32.0 MiB | M4 | 1 |" in shown
    assert "- 1: maderix/ANE, article, part 2: by eye; 30% slower beyond" in shown
    assert "18.6 TFLOP/s | M4" in shown


def test_a_slower_machine_is_slower_by_what_it_is(report: Report) -> None:
    def slower(row: Result) -> Result:
        series = tuple(replace(one, median=2 * one.median) for one in row.series)
        return replace(row, series=series)

    second = replace(report, results=tuple(map(slower, report.results)))
    rows = [row for section in side_by_side(report, second)[1:-1] for row in section.rows]
    times = [row for row in rows if row[2] in ("time", "micro-batch")]
    assert times
    notes = text(side_by_side(report, second)[-1:])
    assert "B / A below 1 is better for B in times, above 1 in rates" in notes
    assert {row[-1].strip(" *") for row in times} == {"2.00"}


def test_what_only_one_report_has_is_named(report: Report) -> None:
    gone = replace(report.results[0], status=CRASHED, text="SIGSEGV", series=(), values={})
    second = replace(report, results=(gone, *report.results[1:]))
    note = text(side_by_side(report, second)[-1:])
    assert f"ok in A alone: peak {gone.name} ({gone.variant})" in note
    fewer = replace(report, results=tuple(r for r in report.results if r.benchmark != "sram"))
    assert "ok in B alone: sram 32 cases" in text(side_by_side(fewer, report)[-1:])


def test_where_nothing_was_published_of_a_report_it_says_what_to_measure() -> None:
    assert "measure peak, latency, io, sram, train" in text(beside_published(made_up(["limits"])))


@pytest.mark.parametrize("width", [80, WIDTH])
def test_every_table_fits_a_terminal(width: int, report: Report) -> None:
    shown = [*sections(report), *side_by_side(report, report), *beside_published(report)]
    for section in shown:
        for line in section_lines(section, width):
            assert len(line.plain) <= width, line.plain


def test_what_tells_cases_apart_is_never_left_out(report: Report) -> None:
    """However narrow the terminal: precision, way, path of dispatch."""
    for section in (*sections(report), *side_by_side(report, report)):
        if "of" in section.header:
            place = section.header.index("of")
            names = {row[0] for row in section.rows}
            apart = len({(row[0], row[place]) for row in section.rows}) > len(names)
            assert not (apart and place in section.spare), section.title


def test_a_wide_spread_is_marked_and_said(report: Report) -> None:
    busy = made_up(["io"], noise=0.5)
    assert busy.wide[0] > 5
    found = sections(busy)
    assert all(row[-2].endswith(MARK) for row in found[1].rows[:5] if "%" in row[-2])
    assert f"the spread of {busy.wide[0]} of {busy.wide[1]} timings is wide" in text(found)
    assert "is wide" not in text(sections(made_up(["io"])))
    quiet, loud = (text(sections(made_up(["sram"], noise))) for noise in (0.01, 0.5))
    assert "timings are wide" not in quiet
    assert re.search(r"weights: [^-]* \(\d+ of its 16 timings are wide\*\)", loud)


def test_of_what_grows_until_it_fails_the_largest_is_named() -> None:
    made = made_up(["limits"])
    assert "largest weight surface: 1024 x 131072, 256.0 MiB (none larger" in text(sections(made))

    def grown(row: Result) -> Result:
        status = OK if row.sizes.get("out", 0) <= 4096 else CRASHED
        return row if status == OK else replace(row, status=status, text="SIGSEGV", series=())

    shown = text(sections(replace(made, results=tuple(map(grown, made.results)))))
    assert "largest dynamic matrix: 4096 x 4096, 32.0 MiB (8192 x 8192 crashed)" in shown
    assert "largest weight surface: 1024 x 4096, 8.0 MiB (1024 x 8192 crashed)" in shown


def test_cases_that_are_not_ok_are_shown_with_their_reason(report: Report) -> None:
    row = replace(report.results[0], status=CRASHED, text="the process crashed", series=())
    bad = replace(report, results=(replace(row, values={}, proof=None), *report.results[1:]))
    shown = text(sections(bad))
    assert f"| {row.name} | {row.variant} | crashed |" in shown
    assert f"{row.name} ({row.variant}): the process crashed" in shown
    assert f"{len(report.results) - 1} of {len(report.results)} cases are ok, 1 crashed" in shown
    everything = text(sections(report))
    assert f"{len(report.results)} of {len(report.results)} cases are ok" in everything
    assert "cases are ok," not in everything


def test_without_matplotlib_it_is_one_line(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw(report, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"the last one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match=r"a\.png cannot be written .*: choose another --png"):
        draw(made_up(["peak"]), path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [
        ("a.png", b"the last one")
    ]


def test_a_report_without_rates_has_no_picture(report: Report, tmp_path: Path) -> None:
    rows = tuple(row for row in report.results if row.benchmark == "latency")
    assert {row.status for row in rows} == {OK}
    with pytest.raises(DataError, match="nothing to draw"):
        draw(replace(report, results=rows, fits=()), tmp_path / "a.png")


def test_results_without_the_numbers_of_a_picture_are_left_out(tmp_path: Path) -> None:
    """As a report of a later version, or one that was edited, may have them."""
    made = made_up(["peak", "sram"])
    odd = [
        replace(row, values=values, sizes={})
        for row in made.results
        for values in ({"tflops": 1.0}, {"tflops": 0.0, "gflop": 0.0, "bytes": 0.0})
    ]
    with pytest.raises(DataError, match="nothing to draw"):
        draw(replace(made, results=tuple(odd)), tmp_path / "a.png")
    draw(replace(made, results=(*odd, *made.results)), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("names", [["peak"], ["sram"], ["peak", "sram"]])
def test_a_picture_needs_only_some_of_the_benchmarks(names: list[str], tmp_path: Path) -> None:
    draw(made_up(names), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_numbers_have_three_digits_and_a_unit_that_suits() -> None:
    shown = [duration(ms) for ms in (0.000947, 0.0412, 14.8, 1234.0)]
    assert shown == ["0.947 µs", "41.2 µs", "14.8 ms", "1.23 s"]
    assert (tflops(18.64), tflops(0.108)) == ("18.6 TFLOP/s", "108 GFLOP/s")
