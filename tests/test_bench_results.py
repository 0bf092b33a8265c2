"""The report of `ane-train bench`: one schema, validated by jsonschema, read back as written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from ane_train.chip import results
from ane_train.chip.results import EngineFacts, Fit, Proof, Report, Result
from ane_train.doctor.facts import gather
from ane_train.doctor.report import write_report
from ane_train.errors import DataError, DiskError

VALIDATOR = Draft202012Validator(results.schema())


def report() -> Report:
    timed = Result(
        "peak",
        "conv 4 x 64",
        "fp16",
        {"depth": 4, "channels": 64},
        results.OK,
        proof=Proof("NumPy", 1e-4, 1e-3),
        series=(results.series("evaluate", [1.0, 1.1, 3.0]),),
        values={"tflops": 0.1, "gflop": 2.0},
    )
    refused = Result("limits", "program 1.5", "ios18", {}, results.REFUSED, "InvalidMILProgram")
    fit = Fit("sram weights", None, 0.1, 80.0, None)
    engine = EngineFacts("auto", "cpu", "Linux has no Apple Neural Engine", "")
    return Report(results.KIND, results.SCHEMA, gather(), engine, True, (timed, refused), (fit,))


def data() -> Any:
    return json.loads(report().to_text())


def test_the_schema_is_one_and_a_report_validates() -> None:
    Draft202012Validator.check_schema(results.schema())
    VALIDATOR.validate(data())


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_report(path, report().to_text())
    assert results.read_report(path) == report()
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_schema_and_records_name_the_same_statuses() -> None:
    found: Any = results.schema()
    assert tuple(found["$defs"]["result"]["properties"]["status"]["enum"]) == results.STATUSES


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made.update(schema=2),
        lambda made: made.update(user="somebody"),
        lambda made: made["machine"].pop("chip"),
        lambda made: made["results"][0]["series"][0].update(samples=[]),
        lambda made: made["results"][0].update(status="fine"),
        lambda made: made["results"][0].update(series=[]),
        lambda made: made["results"][0].update(proof=None),
        lambda made: made["results"][0].update(status="wrong", text="off"),
        lambda made: made["results"][0]["values"].update(speed=1),
        lambda made: made["results"][1].update(text=""),
    ],
)
def test_anything_else_does_not_validate(spoil: Any) -> None:
    made = data()
    spoil(made)
    with pytest.raises(ValidationError):
        VALIDATOR.validate(made)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no report of"),
        ('{"kind": "ane-train bench", "schema": 9}', "has schema 9"),
        ('{"kind": "ane-train bench", "schema": 1}', "is damaged: Report."),
        ('{"kind": "ane-train bench", "schema": NaN}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_file_that_is_no_report_is_named_with_the_reason(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        results.read_report(path)
    assert "other.json" in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made: made["results"][0].update(status="fine"), "has the status 'fine'"),
        (lambda made: made["results"][0].update(series=[]), "is ok and has 0 timings"),
        (lambda made: made["results"][0]["series"][0].update(samples=[]), "has no samples"),
        (lambda made: made["results"][0]["series"][0].update(median=-1.0), "is negative"),
        (lambda made: made["results"][0]["values"].update(gflop=-1.0), "is negative"),
        (lambda made: made["results"][0]["sizes"].update(depth="4"), r"sizes\.depth is str"),
        (lambda made: made["fits"][0].update(name="sram"), "a fit has the name 'sram'"),
        (lambda made: made["engine"].update(host="mine"), r"engine\.host is unknown"),
    ],
)
def test_a_report_that_no_command_wrote_is_damaged(spoil: Any, words: str, tmp_path: Path) -> None:
    made = data()
    spoil(made)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(made))
    with pytest.raises(DataError, match=f"is damaged: .*{words}"):
        results.read_report(path)


def test_bytes_that_are_no_text_are_no_report(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not JSON"):
        results.read_report(tmp_path / "a.json")


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bench.json").mkdir()
    with pytest.raises(DiskError, match="another --json"):
        write_report(tmp_path / "bench.json", report().to_text())
    assert len(list(tmp_path.iterdir())) == 1


def test_a_report_knows_how_many_timings_are_wide() -> None:
    made = report()
    assert made.wide == (1, 1)
    quiet = replace(made.results[0], series=(results.series("evaluate", [1.0, 1.01]),))
    assert replace(made, results=(quiet,)).wide == (0, 1)
