"""`train` of `ane-train bench`: the step is proved by its own loss, the plan stands beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ane_train.chip import training
from ane_train.chip.case import Bench, try_case
from ane_train.chip.planned import machine_name, planned
from ane_train.chip.results import OK, WRONG
from ane_train.chip.settings import Settings
from ane_train.engine import Engine
from ane_train.model.spec import load_model
from ane_train.native.engine import Context
from ane_train.plan.machines import MACHINES, get_machine
from ane_train.plan.ours import PlanOptions, step_plan
from ane_train.plan.predict import predict

SETTINGS = Settings("cpu", 2, quick=True, chip="m4")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Context(threads=2) as context:
        yield Bench(context, None, SETTINGS)


def test_programs_and_the_kinds_of_work_of_a_step_are_measured(bench: Bench) -> None:
    *programs, step = [try_case("train", case, bench) for case in training.cases(SETTINGS)]
    assert [row.status for row in (*programs, step)] == [OK] * 5
    assert all(row.series[0].predicted for row in programs)
    layers = load_model("tiny").layers
    assert {row.values["evaluations"] for row in programs} == {layers}
    assert {row.text for row in programs} == {f"evaluated {layers} times in a micro-batch"}
    names = {one.quantity for one in step.series}
    assert {"micro-batch", "micro-batch, engine", "micro-batch, blas", "update"} <= names
    assert "micro-batch, overlapped" not in names
    assert not step.text
    whole, parts = step.timing("micro-batch"), step.timing("micro-batch, engine")
    assert whole is not None
    assert parts is not None
    assert whole.predicted is not None
    assert len(whole.samples) == len(parts.samples)
    assert all(part < all_ for part, all_ in zip(parts.samples, whole.samples, strict=True))


def test_gradients_beside_an_engine_that_leaves_the_processors_free_are_told_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "frees_processors", True)
    step = try_case("train", training.cases(SETTINGS)[-1], bench)
    assert step.status == OK
    assert "overlapped: on the gradient thread" in step.text
    assert "micro-batch, overlapped" in {one.quantity for one in step.series}


def test_a_gradient_that_is_not_that_of_the_loss_is_not_timed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = training.TrainingStep.micro_batch

    def scaled(step: training.TrainingStep, inputs: object, targets: object, scale: float) -> float:
        return honest(step, inputs, targets, 1.2 * scale)

    monkeypatch.setattr(training.TrainingStep, "micro_batch", scaled)
    result = try_case("train", training.cases(SETTINGS)[-1], bench)
    assert (result.status, result.series) == (WRONG, ())
    assert "off the slope of the loss" in result.text


@pytest.mark.parametrize("name", MACHINES)
def test_predictions_are_those_of_the_plan(name: str) -> None:
    spec = load_model("stories110m")
    found = planned(spec, name)
    assert found is not None
    plan = step_plan(spec, spec.sequence, PlanOptions(), get_machine(name).chip)
    whole = predict(plan, get_machine(name))
    assert found.micro_batch_ms[""] == pytest.approx(1e3 * whole.sequence)
    update = found.update_ms
    assert found.micro_batch_ms[""] + update[""] == pytest.approx(1e3 * whole.total)
    assert update["optimizer"] + update["io"] == pytest.approx(update[""])
    evaluations = sum(
        plan.times(row) * (found.evaluation_ms(row.name) or 0)
        for row in plan.rows
        if row.evaluation
    )
    assert evaluations == pytest.approx(found.micro_batch_ms["engine"])


def test_a_chip_without_constants_has_no_predictions() -> None:
    assert machine_name("Apple M4 Max") == "m4-max"
    assert machine_name("AMD EPYC") == ""
    assert planned(load_model("tiny"), "") is None
