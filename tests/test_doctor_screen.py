"""Rules of what `ane-train doctor` says on the screen, given a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ane_train.cli.sections import section_lines
from ane_train.doctor.report import Choice, Facts, Found, Report
from ane_train.doctor.sections import Section, sections
from ane_train.engine.device import Device, Method

FACTS = Facts("chip", "arm64", 8, 2**34, "macOS 26", "25A1", (), "3.13", "2.4", "clang", "B", "0.1")
METHOD = "aVeryLongSelectorThatHasNoSpaces:options:request:error:"
DEVICE = Device(True, "", "/System/Library/X.framework", "macOS 26", {"A": True}, (), {})
NUMBERS = {"rms_error_relative": 1e-5, "max_error": 1e-3, "compile_ms": 123.45, "evaluate_ms": 99.9}
REFUSAL = "ANECCompile() FAILED, for a reason that takes more than one line of eighty columns"
TRAINS = "ane-train --model tiny trains on"


def found(name: str, verdict: str = "ok", **others: object) -> Found:
    """A case; one that is ok has numbers."""
    group = str(others.pop("group", "op"))
    numbers = NUMBERS | {"surface_bytes": 1024} if verdict == "ok" else {}
    return replace(Found(name, group, verdict), **(numbers | others))


def report(*cases: Found, engine: str = "ane", asked: str = "auto") -> Report:
    """Of a machine whose ANE works, unless told."""
    choice = Choice(asked, engine, "because")
    return Report(1, FACTS, choice, DEVICE, "tiny", 64, "the software engine", cases, "queue")


def shown(section: Section, width: int = 100) -> list[str]:
    return [line.plain for line in section_lines(section, width)]


def titled(report: Report, title: str) -> Section:
    (section,) = [each for each in sections(report) if each.title.startswith(title)]
    return section


CASES = (
    found("constexpr_affine_dequantize"),
    found("first", "refused", text=REFUSAL, needed=True),
    found("second", "refused", text=REFUSAL, needed=True),
    found("third", "wrong", text="off by 0.5"),
    found("conv", static=True),
)


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_verdict_is_cut(width: int) -> None:
    lines = shown(titled(report(*CASES), "ops"), width)
    assert max(map(len, lines)) <= width
    for case in CASES:
        assert any(line.split()[:2] == [case.name, case.verdict] for line in lines)


def test_columns_that_do_not_fit_are_named() -> None:
    section = titled(report(*CASES), "ops")
    assert "max error" in shown(section, 100)[0]
    widest = max(map(len, shown(section, 100)[: len(section.rows) + 1]))
    assert "max error" not in shown(section, widest - 1)[0]
    assert shown(section, widest - 1)[-1].endswith("not shown for want of room: max error")
    assert shown(section, 60)[-1].endswith("max error, memory")


def test_words_that_are_longer_than_the_terminal_stay_whole() -> None:
    changed = Method("_ANEClient", METHOD, "B@:", "v@:", False)
    told = replace(report(), device=replace(DEVICE, methods=(changed,), classes={"_ANEX": False}))
    lines = shown(titled(told, "framework"), 40)
    assert sum(METHOD in line for line in lines) == 1
    text = " ".join(" ".join(lines).split())
    assert f"differs _ANEClient {METHOD} is v@:, expected B@:" in text
    assert "missing _ANEX" in text


def test_what_is_the_same_of_several_cases_is_said_once() -> None:
    text = " ".join(" ".join(shown(titled(report(*CASES), "ops"))).split())
    assert text.count(REFUSAL) == 1
    assert f"first; second: {REFUSAL}" in text
    assert "third: off by 0.5" in text


def test_ops_of_the_static_pipeline_are_told_from_those_that_nothing_uses() -> None:
    notes = titled(report(*CASES), "ops").notes
    assert "used by --pipeline static alone: conv" in notes
    assert "not used in training: constexpr_affine_dequantize; third" in notes


def test_a_hazard_is_a_question_with_an_answer() -> None:
    hazard = {"group": "hazard", "hazard": "MATMUL_RANGE"}
    cases = (
        found("a", "hazard absent", question="Is a?", text="no", **hazard),
        found("b", "hazard confirmed", question="Is b?", text="yes, wrong: infinite", **hazard),
        found("c", "skipped", question="Is c?", text="not known, refused: no", **hazard),
    )
    section = titled(report(*cases), "hazards")
    assert section.rows == (("Is a?", "no"), ("Is b?", "yes"), ("Is c?", "skipped"))
    assert section.notes == ("b: yes, wrong: infinite", "c: not known, refused: no")


def test_problems_are_one_line_for_each_group_and_verdict() -> None:
    assert report(*CASES).problems == ("ops first, second: refused",)
    assert report(*CASES).warnings == ("op third: wrong",)


def test_what_generate_needs_is_said_apart_from_what_training_needs() -> None:
    bad = found("decode_1", "wrong", group="decode program")
    told = report(bad, found("decode_64", group="decode program"))
    assert told.generating == ("decode program decode_1: wrong",)
    assert told.problems == told.warnings == ()
    skipped = report(replace(bad, verdict="skipped"))
    assert skipped.generating == ("decode program decode_1: skipped",)
    lines = [line.strip() for line in shown(sections(told)[-1])]
    assert lines[0] == "-  generating needs: decode program decode_1: wrong"
    assert "-  not all that generating needs holds: give it --engine cpu" in lines
    assert lines[-1] == f"-  all that training needs holds: {TRAINS} the ANE"


def test_a_needed_case_that_was_not_tried_is_a_problem() -> None:
    skipped = found("big", "skipped", group="program", needed=True, text="needs 9 GiB of memory")
    assert report(skipped).problems == ("program big: skipped",)
    assert report(replace(skipped, needed=False)).problems == ()


@pytest.mark.parametrize(
    ("told", "last"),
    [
        (report(*CASES), "not all that training needs holds"),
        (
            report(CASES[0]),
            f"all that training needs holds: {TRAINS} the ANE",
        ),
        (report(engine="cpu"), f"{TRAINS} the software engine"),
        (report(engine="cpu", asked="ane"), "not all that training needs holds"),
    ],
)
def test_the_last_line_says_whether_all_holds(told: Report, last: str) -> None:
    section = sections(told, ["the report is in r.json"])[-1]
    assert section.title == "what to do next"
    assert shown(section)[-1].strip() == f"-  {last}"
    assert shown(section)[-2].strip() == "-  the report is in r.json"
