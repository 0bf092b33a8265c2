"""Predictions against published times, with the constants as shipped and as fitted without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from statistics import median

import plan_fit
import pytest

from ane_train.mil import get_chip
from ane_train.model.spec import load_model
from ane_train.plan.machines import MACHINES, Constant, Machine
from ane_train.plan.measurements import SEQUENCES, TIMED_PARTS, Measurement
from ane_train.plan.report import LARGEST_ERROR, MEDIAN_ERROR

ALL = (*SEQUENCES, *TIMED_PARTS)


def errors(machine_of: Callable[[Measurement], Machine], title: str) -> list[float]:
    """Relative errors of all sequences, printed."""
    print(f"\n{title}\n{'machine':9} {'model':11} {'plan':13} {'published':>9} predicted   error")
    found = []
    for each in SEQUENCES:
        seconds = plan_fit.predicted(each, machine_of(each))
        error = seconds / each.seconds - 1
        times = f"{each.seconds * 1e3:9.1f} {seconds * 1e3:9.1f} {error:+7.1%}"
        print(f"{each.machine:9} {each.model:11} {each.plan:13} {times}")
        found.append(abs(error))
    print(f"median {median(found):.1%}, largest {max(found):.1%}")
    return found


def test_predictions_are_near_the_published_times() -> None:
    found = errors(lambda each: MACHINES[each.machine], "constants as shipped, ms")
    assert median(found) <= MEDIAN_ERROR <= 0.2
    assert max(found) <= LARGEST_ERROR <= 0.4


def test_predictions_are_near_without_the_times_of_that_machine_and_model() -> None:
    found = errors(lambda each: plan_fit.left_out(each, ALL), "each left out of the fit, ms")
    assert median(found) <= MEDIAN_ERROR <= 0.2
    assert max(found) <= LARGEST_ERROR <= 0.4


def test_the_published_times_are_of_both_models_and_of_every_machine() -> None:
    assert {each.machine for each in SEQUENCES} == set(MACHINES)
    assert {each.model for each in SEQUENCES} == {"stories110m", "qwen3_06b"}
    assert all(0 < each.low <= each.high and each.source for each in ALL)


def test_fitted_constants_are_what_the_fit_gives_and_the_same_for_all_machines() -> None:
    for name, value in plan_fit.fit(ALL).items():
        for machine in MACHINES.values():
            constant = machine.constants()[name]
            assert constant.value == pytest.approx(value, rel=0.01), name
            assert constant.source.startswith("fitted to"), name


def test_every_constant_has_a_source_and_says_whether_it_is_fitted() -> None:
    for machine in MACHINES.values():
        for name, constant in machine.constants().items():
            assert constant.source, f"{machine.name} {name}"
            assert constant.source.startswith("fitted to") == (name in plan_fit.FITTED)


def test_there_are_far_more_data_than_fitted_constants() -> None:
    assert len(ALL) >= 5 * len(plan_fit.FITTED)
    to_whole_sequences = [
        name for name, is_for in plan_fit.FITTED.items() if any(map(is_for, SEQUENCES))
    ]
    assert to_whole_sequences == ["rotation"]


def test_every_machine_has_its_engine_in_the_one_table_of_chips() -> None:
    names = {field.name for field in fields(Machine) if field.type == "Constant"}
    for machine in MACHINES.values():
        assert machine.engine is get_chip(machine.chip)
        assert machine.constants().keys() == names
        assert all(isinstance(each, Constant) for each in machine.constants().values())
        assert machine.rate.value <= machine.engine.peak_tflops * 1e12


def test_the_published_plan_of_stories_has_the_flops_that_its_log_prints() -> None:
    """train_large.log: "ANE FLOPs/step: 93013M", which counts five of the seven score products."""
    plan = plan_fit.plan_of("static", "stories110m")
    engine = sum(plan.times(row) * row.evaluation.flops for row in plan.rows if row.evaluation)
    spec = load_model("stories110m")
    forward_scores = 2 * 2 * 256 * 256 * spec.dim * spec.layers
    assert engine - forward_scores == pytest.approx(93_013e6, rel=1e-3)
