"""The loss scale moves as torch's GradScaler does, within its bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ane_train.errors import CheckpointError, ConfigError
from ane_train.train.loss_scale import GROW_AFTER, LARGEST, MAX_SKIPPED, SMALLEST, LossScale


def torch_scales(outcomes: Iterable[bool]) -> list[tuple[float, int]]:
    """Scale and growth counter of torch.amp.GradScaler after each step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=GROW_AFTER)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    found = []
    for finite in outcomes:
        scaler.scale(parameter.sum())
        parameter.grad = torch.tensor([1.0 if finite else float("inf")])
        scaler.step(optimizer)
        scaler.update()
        found.append((scaler.get_scale(), scaler._get_growth_tracker()))
    return found


def our_scales(outcomes: Iterable[bool]) -> list[tuple[float, int]]:
    scale, found = LossScale(), []
    for finite in outcomes:
        scale = scale.after(finite)
        found.append((scale.value, scale.good_steps))
    return found


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(400, 620), st.integers(1, 2)), max_size=3).map(
        lambda runs: [f for good, bad in runs for f in [True] * good + [False] * bad]
    )
)
def test_growth_and_backoff_are_those_of_torch(outcomes: list[bool]) -> None:
    assert our_scales(outcomes) == torch_scales(outcomes)


def test_one_good_step_less_than_the_interval_does_not_grow() -> None:
    assert our_scales([True] * GROW_AFTER)[-2:] == [(1024.0, GROW_AFTER - 1), (2048.0, 0)]


def test_the_scale_stays_within_its_bounds() -> None:
    rising = our_scales([True] * GROW_AFTER * 10)
    assert max(rising)[0] == rising[-1][0] == LARGEST == 65536.0
    falling = our_scales([False] * 30)
    assert min(falling)[0] == falling[-1][0] == SMALLEST == 1.0


def test_a_fixed_scale_keeps_its_value_and_counts() -> None:
    scale = LossScale.from_setting(300.0)
    for finite in [True] * GROW_AFTER * 2 + [False] * 3:
        scale = scale.after(finite)
    assert (scale.value, scale.skipped_in_row, scale.skipped) == (300.0, 3, 3)


@pytest.mark.parametrize("setting", ["dynamic", 64.0])
def test_ten_skipped_steps_in_a_row_are_divergence_and_nine_are_not(setting: str | float) -> None:
    scale = LossScale.from_setting(setting)
    for finite in [False] * (MAX_SKIPPED - 1) + [True] + [False] * (MAX_SKIPPED - 1):
        scale = scale.after(finite)
        assert not scale.diverged
    scale = scale.after(False)
    assert scale.diverged
    assert scale.skipped == 2 * MAX_SKIPPED - 1


@given(st.lists(st.booleans(), max_size=40), st.sampled_from(["dynamic", "128", 0.5]))
def test_a_state_survives_json(outcomes: list[bool], setting: str | float) -> None:
    scale = LossScale.from_setting(setting)
    for finite in outcomes:
        scale = scale.after(finite)
    assert LossScale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


@pytest.mark.parametrize("change", [{"value": "big"}, {"value": None}, {"extra": 1}, {"fixed": 0}])
def test_a_state_that_is_not_one_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="resume from an earlier one"):
        LossScale.from_dict(LossScale().to_dict() | change)
    with pytest.raises(CheckpointError):
        LossScale.from_dict({"value": 1024.0})


@pytest.mark.parametrize("setting", ["auto", 0, -1.0, float("inf"), "nan"])
def test_a_setting_that_is_no_scale_is_refused(setting: str | float) -> None:
    with pytest.raises(ConfigError, match="--loss-scale"):
        LossScale.from_setting(setting)
