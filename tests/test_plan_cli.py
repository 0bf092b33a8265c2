"""What `ane-train plan` prints: within the terminal, on the right stream, in one schema."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from runs import ane_train
from test_mistakes import assert_one_line

from ane_train.cli.plan import table_lines
from ane_train.errors import ExitCode
from ane_train.model.layer import layer_shape
from ane_train.model.spec import load_model
from ane_train.plan.machines import get_machine
from ane_train.plan.ours import PlanOptions, step_plan
from ane_train.plan.predict import Prediction, predict
from ane_train.plan.report import Table, tables, to_json
from ane_train.plan.work import CATEGORIES
from ane_train.programs import sequences_per_evaluation

STATIC = PlanOptions("static", True, 2, 3)


def prediction(options: PlanOptions, model: str = "stories110m", chip: str = "m4") -> Prediction:
    machine = get_machine(chip)
    return predict(step_plan(load_model(model), 256, options, machine.chip), machine)


@pytest.mark.parametrize("options", [PlanOptions(), STATIC])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(options: PlanOptions, width: int) -> None:
    for table in tables(prediction(options, "qwen3_06b")):
        lines = [line.plain for line in table_lines(table, width)]
        assert max(map(len, lines)) <= width


def test_numbers_stand_below_each_other_and_columns_without_room_are_named() -> None:
    table = Table("T", ("program", "x", "wide one"), (("a", "1", "2"), ("bb", "10", "")), (), (2,))
    lines = [line.plain for line in table_lines(table, 40)]
    assert lines == ["T", "  program   x  wide one", "  a         1         2", "  bb       10"]
    lines = [line.plain for line in table_lines(table, 20)]
    assert lines[:2] == ["T", "  program   x"]
    assert " ".join(line.strip() for line in lines[4:]).endswith("room: wide one")


@pytest.mark.parametrize("options", [PlanOptions(accum=4), STATIC])
def test_the_parts_of_a_prediction_add_up(options: PlanOptions) -> None:
    found = prediction(options)
    main = sum(phase.main for phase in found.phases)
    assert main == pytest.approx(sum(found.of(category) for category in CATEGORIES))
    assert found.total == pytest.approx(
        sum(max(phase.main, phase.gradients) for phase in found.phases) + found.waiting
    )
    assert found.compile == pytest.approx(found.plan.compiles * found.machine.compile.value)
    assert 0 < found.share_of_peak < 1


def test_more_sequences_cost_in_proportion_but_for_the_update() -> None:
    one, six = prediction(PlanOptions()), prediction(PlanOptions(accum=6))
    assert six.plan.evaluations == 6 * one.plan.evaluations
    assert six.sequence == pytest.approx(one.sequence)
    update = one.total - one.sequence
    assert six.total == pytest.approx(6 * one.sequence + update)


@pytest.mark.parametrize("pipeline", ["dynamic", "static"])
def test_sequences_side_by_side_are_dispatched_together(pipeline: str) -> None:
    one, four = (prediction(PlanOptions(pipeline, batch_size=batch)) for batch in (1, 4))
    assert four.plan.evaluations == one.plan.evaluations
    assert four.plan.flops == pytest.approx(4 * one.plan.flops, rel=1e-6)
    assert four.sequence < one.sequence
    many = prediction(PlanOptions(pipeline, batch_size=100, accum=2), chip="m1-max")
    assert many.plan.sequences == 200
    widest = sequences_per_evaluation(
        layer_shape(load_model("stories110m"), 256), 100, "m1", static=pipeline == "static"
    )
    assert many.plan.passes == 2 * math.ceil(100 / widest) < 200
    assert many.plan.passes > 2


def test_json_goes_to_stdout_alone_and_the_text_to_stderr(tmp_path: Path) -> None:
    result = ane_train(tmp_path, "plan", "--model", "tiny", "--chip", "M5_Max", "--json", "-")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads(json.dumps(to_json(prediction_of_tiny())))
    assert "tokens/s" in result.stderr
    assert "Apple M5 Max" in result.stderr


def prediction_of_tiny() -> Prediction:
    spec, machine = load_model("tiny"), get_machine("m5-max")
    return predict(step_plan(spec, spec.sequence, PlanOptions(), machine.chip), machine)


def test_json_goes_to_a_file_in_one_schema(tmp_path: Path) -> None:
    result = ane_train(tmp_path, "plan", "--pipeline", "static", "--json", "plan.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "plan.json").read_text())
    assert report["schema"] == 1
    assert report["programs_compiled"] == 48
    rows = [row for row in report["rows"] if "bytes_in" in row]
    assert sum(row["times"] for row in rows) == report["evaluations"] == 48
    assert sum(row["staged_bytes"] for row in rows) == report["staged_bytes"]
    assert all(each["source"] for each in report["constants"].values())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--chip", "m44"), ExitCode.USAGE, ("m44", "did you mean m4")),
        (("--chip", "intel"), ExitCode.USAGE, ("there are: m1-pro, m1-max",)),
        (("--model", "stories11m"), ExitCode.MODEL, ("did you mean stories1",)),
        (("--engine-extras",), ExitCode.USAGE, ("--pipeline static",)),
        (("--seq", "0"), ExitCode.USAGE, ("--seq",)),
        (("--json", "nowhere/plan.json"), ExitCode.DISK, ("nowhere/plan.json",)),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: ExitCode, words: tuple[str, ...]
) -> None:
    result = ane_train(tmp_path, "plan", *arguments)
    assert_one_line(result, code, *words)
