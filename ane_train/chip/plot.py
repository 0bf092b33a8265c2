"""A picture of a report: the roofline with what was measured below it, and the sweep of sram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ane_train.chip import PRECISIONS
from ane_train.chip.results import Fit, Report, Result
from ane_train.chip.sram import ACTIVATIONS, MIB, WEIGHTS
from ane_train.doctor.report import write_report
from ane_train.errors import ConfigError, DataError

_COLOURS = {"fp16": "tab:blue", "int8": "tab:orange", "train": "tab:green"}
SRAM = "sram"
_SWEEPS = {WEIGHTS: "tab:blue", ACTIVATIONS: "tab:orange"}


def draw(report: Report, path: Path) -> None:
    """Writes the picture as PNG. ConfigError without matplotlib, DataError without numbers.

    DiskError where it cannot be written; what was there stays.
    """
    points = [row for row in report.results if _has(row.values, "tflops", "gflop", "bytes")]
    sweep = [row for row in report.results if row.benchmark == SRAM and _can_be_drawn(row)]
    if not points and not sweep:
        raise DataError("the report has nothing to draw: measure peak or sram")
    figure = _figure()
    left, right = figure.subplots(1, 2)
    _roofline(left, points, report)
    _sweep(right, sweep, report.fits)
    title = f"{report.machine.chip}, engine {report.engine.used}"
    figure.suptitle(title + (", --quick" if report.quick else ""))
    picture = BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    write_report(path, picture.getvalue(), "--png")


def _has(numbers: Mapping[str, float], *names: str) -> bool:
    """Whether all of these are there and above zero, as scales of logarithms need them."""
    return all(numbers.get(name, 0) > 0 for name in names)


def _can_be_drawn(row: Result) -> bool:
    is_timed = bool(row.series) and row.series[0].median > 0
    return is_timed and _has(row.sizes, "bytes") and _has(row.values, "bytes")


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("pictures need matplotlib: pip install matplotlib") from None
    return Figure(figsize=(13, 5.5), layout="constrained")


def _roofline(axes: Any, points: Sequence[Result], report: Report) -> None:
    """Rate over operations per byte; the roofs are the rated peak and the bandwidth measured."""
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP per byte of weights and surfaces",
        ylabel="TFLOP/s",
        title="roofline",
    )
    if not points:
        return
    for group in (*PRECISIONS, "train"):
        rows = [row for row in points if _group(row) == group]
        if rows:
            x, y = [_intensity(row) for row in rows], [row.values["tflops"] for row in rows]
            axes.scatter(x, y, color=_COLOURS[group], label=group, zorder=3)
    best = max(points, key=lambda row: row.values["tflops"])
    axes.set_title(f"roofline; most: {best.name}, {best.variant}")
    _roofs(axes, points, report)
    _plain_numbers(axes.yaxis)
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(loc="best", fontsize=8)


def _plain_numbers(axis: Any) -> None:
    """0.4 in the place of 4 x 10^-1, at the ticks of a decade that are about equally far apart."""

    def label(x: float, _: int) -> str:
        return f"{x:g}" if f"{x:e}"[0] in "12346" else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def _group(row: Result) -> str:
    return "train" if row.benchmark == "train" else row.variant


def _intensity(row: Result) -> float:
    return 1e9 * row.values["gflop"] / row.values["bytes"]


def _roofs(axes: Any, points: Sequence[Result], report: Report) -> None:
    peaks = {
        row.values["peak_tflops"]: row.variant for row in points if "peak_tflops" in row.values
    }
    best = max(row.values["tflops"] for row in points)
    roofs = {peak: f"rated peak, {name}" for peak, name in peaks.items()} or {best: "best measured"}
    most = max(_bandwidths(points, report.fits))
    low, high = (f(_intensity(row) for row in points) for f in (min, max))
    x = np.geomspace(low / 8, high * 4, 100)
    slope: str | None = f"{most:.3g} GB/s, the most measured"
    for roof, label in roofs.items():
        y = np.minimum(roof, most * x / 1e3)
        axes.plot(x, y, color="grey", linewidth=1, linestyle="--", label=slope)
        slope = None  # once in the legend
        axes.annotate(
            label,
            (x[-1], y[-1]),
            (-4, 4),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
            color="grey",
        )


def _bandwidths(points: Sequence[Result], fits: Sequence[Fit]) -> Iterator[float]:
    """GB/s that anything reached: lines through the sweep, and the points themselves."""
    for fit in fits:
        yield from (rate for rate in (fit.before_gbps, fit.after_gbps) if rate)
    yield from (1e3 * row.values["tflops"] / _intensity(row) for row in points)


def _sweep(axes: Any, rows: Sequence[Result], fits: Sequence[Fit]) -> None:
    """Time over the size of the working set, the lines through it, and the knee."""
    axes.set(yscale="log", xlabel="working set (MiB)", ylabel="ms", title="sram")
    for variant, colour in _SWEEPS.items():
        found = [row for row in rows if row.variant == variant]
        if not found:
            continue
        sizes = np.array([row.sizes["bytes"] for row in found], np.float64)
        times = [row.series[0].median for row in found]
        axes.scatter(sizes / MIB, times, color=colour, label=variant, zorder=3)
        for fit in fits:
            if fit.name.endswith(variant):
                _lines(axes, fit, found[0].values["bytes"] / sizes[0], sizes, colour)
    axes.set_xscale("log", base=2)
    _plain_numbers(axes.yaxis)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="both", alpha=0.2)
    if rows:
        axes.legend(loc="upper left", fontsize=8)


def _lines(axes: Any, fit: Fit, moved: float, sizes: Any, colour: str) -> None:
    """moved: bytes for each byte of the working set, of which the fit's bandwidths are."""
    before, after = (
        moved / (1e6 * rate) if rate else 0.0 for rate in (fit.before_gbps, fit.after_gbps)
    )
    x = np.geomspace(sizes.min(), sizes.max(), 200)
    knee = fit.knee_bytes if fit.knee_bytes is not None else x[-1]
    y = fit.offset_ms + before * np.minimum(x, knee) + after * np.maximum(x - knee, 0)
    axes.plot(x / MIB, np.where(y > 0, y, np.nan), color=colour, linewidth=1)
    if fit.knee_bytes is not None:
        axes.axvline(knee / MIB, color=colour, linestyle=":", linewidth=1)
        axes.annotate(
            f"knee {knee / MIB:.3g} MiB",
            (knee / MIB, y.min()),
            (4, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )
