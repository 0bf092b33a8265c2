"""bench.json and the Markdown table, from what the measures gave.

bench.json: `schema`, `machine`, `versions`, `libraries`, `load` (before, and after each measure),
`measures` (by name: title, series with every sample, median and spread, ratios with bars, notes;
or an error), and `ratios`: by case, the ratios of its measures by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.measures import MEASURES

SCHEMA = 1
CASE_RATIOS = ("blas_floor", "torch_fp32", "torch_bf16", "numerics_bf16", "adamw", "peak_memory")
_HEADER = (
    "| measure | quantity | median | spread | settings |",
    "| --- | --- | ---: | ---: | --- |",
)
_RATIO_HEADER = ("| measure | ratio | value | bar | |", "| --- | --- | ---: | --- | --- |")


def case_ratios(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The object `ratios`: what was not measured is missing."""
    found: dict[str, dict[str, float]] = {}
    for name, measured in measures.items():
        values = {each["name"]: each["value"] for each in measured.get("ratios", ())}
        kept = {key: values[key] for key in CASE_RATIOS if key in values}
        for case in MEASURES[name].cases if kept else ():
            found.setdefault(case, {}).update(kept)
    return found


def markdown(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables, quantities and ratios, and the notes."""
    series = [row for name, each in measures.items() for row in _series_rows(name, each)]
    ratios = [row for name, each in measures.items() for row in _ratio_rows(name, each)]
    notes = [f"- {name}: {note}" for name, each in measures.items() for note in _notes(each)]
    parts = [[*_HEADER, *series], [*_RATIO_HEADER, *ratios], notes]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def heading(report: Mapping[str, Any]) -> str:
    """Machine, versions and libraries as a list."""
    machine, load = report["machine"], report["load"]
    lines = [
        f"- {machine['chip']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; load {min(load)} to {max(load)}",
        "- " + ", ".join(f"{name} {text}" for name, text in report["versions"].items()),
        "- " + "; ".join(f"{name}: {text}" for name, text in report["libraries"].items()),
    ]
    return "\n".join(lines) + "\n"


def _series_rows(name: str, measured: Mapping[str, Any]) -> Iterator[str]:
    for each in measured.get("series", ()):
        unit, title = each["unit"], MEASURES[name].title
        spread = _number(each["spread"]) if len(each["samples"]) > 1 else ""
        cells = [title, each["name"], f"{_number(each['median'])} {unit}", spread, each["note"]]
        yield f"| {' | '.join(cells)} |"


def _ratio_rows(name: str, measured: Mapping[str, Any]) -> Iterator[str]:
    for each in measured.get("ratios", ()):
        title, verdict = MEASURES[name].title, "met" if each["met"] else "MISSED"
        yield f"| {title} | {each['name']} | {each['value']:.2f} | {each['bar']} | {verdict} |"


def _notes(measured: Mapping[str, Any]) -> list[str]:
    return [measured["error"]] if "error" in measured else list(measured["notes"])


def _number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
