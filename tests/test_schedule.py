"""The schedule agrees with transformers' where both define one, and its endpoints are exact."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from ane_train.config import Layer, complete, resolve
from ane_train.errors import ConfigError
from ane_train.train.schedule import Schedule

PEAK = 3e-4
STEPS = 50
DECAYING = ("cosine", "linear", "wsd")


def rates(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [schedule.rate(step) for step in range(steps + 1)]


def peer_rates(name: str, warmup: int, **settings: Any) -> list[float]:
    """What transformers gives after 0, 1, ... STEPS calls of scheduler.step()."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, settings)
    found = [scheduler.get_last_lr()[0]]
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    return found


@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
def test_linear_is_that_of_transformers(warmup: int) -> None:
    ours = rates(Schedule("linear", PEAK, warmup=warmup, steps=STEPS))
    assert ours == pytest.approx(peer_rates("linear", warmup), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
def test_constant_is_that_of_transformers(warmup: int) -> None:
    ours = rates(Schedule("constant", PEAK, warmup=warmup))
    assert ours == pytest.approx(peer_rates("constant_with_warmup", warmup), rel=1e-12)


@pytest.mark.parametrize(("warmup", "minimum"), list(itertools.product([0, 7, 20], [0.0, 3e-5])))
def test_cosine_is_that_of_transformers(warmup: int, minimum: float) -> None:
    ours = rates(Schedule("cosine", PEAK, minimum, warmup, STEPS))
    peer = peer_rates("cosine_with_min_lr", warmup, min_lr=minimum)
    assert ours[warmup:] == pytest.approx(peer[warmup:], rel=1e-12, abs=1e-18)
    if minimum == 0.0:  # transformers warms up from the minimum, we from 0
        assert ours == pytest.approx(peer, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(("warmup", "minimum"), list(itertools.product([0, 7, 20], [0.0, 3e-5])))
def test_wsd_is_that_of_transformers(warmup: int, minimum: float) -> None:
    ours = rates(Schedule("wsd", PEAK, minimum, warmup, STEPS, decay_fraction=0.3))
    peer = peer_rates(
        "warmup_stable_decay",
        warmup,
        num_decay_steps=15,
        decay_type="linear",
        min_lr_ratio=minimum / PEAK,
    )
    assert ours[warmup:] == pytest.approx(peer[warmup:], rel=1e-12, abs=1e-18)
    if minimum == 0.0:
        assert ours == pytest.approx(peer, rel=1e-12, abs=1e-18)


@given(
    kind=st.sampled_from(DECAYING),
    peak=st.floats(1e-8, 10.0),
    share=st.floats(0.0, 1.0),
    warmup=st.integers(0, 300),
    rest=st.integers(1, 700),
)
def test_endpoints_are_exact(kind: Any, peak: float, share: float, warmup: int, rest: int) -> None:
    minimum, steps = peak * share, warmup + rest
    schedule = Schedule(kind, peak, minimum, warmup, steps, decay_fraction=rest / steps)
    assert schedule.rate(warmup) == peak
    assert schedule.rate(steps) == minimum
    assert schedule.rate(steps + 1) == schedule.rate(10 * steps) == minimum
    if warmup:
        assert schedule.rate(0) == 0.0 < schedule.rate(1)


@pytest.mark.parametrize("kind", DECAYING)
def test_the_rate_never_rises_after_the_warm_up(kind: Any) -> None:
    found = rates(Schedule(kind, PEAK, 1e-5, 10, STEPS))
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_constant_needs_no_horizon() -> None:
    assert Schedule("constant", PEAK, warmup=4).rate(10**9) == PEAK


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"kind": "cosine"}, "--steps"),
        ({"kind": "linear"}, "--steps"),
        ({"kind": "wsd"}, "--steps"),
        ({"kind": "step", "steps": 10}, "cosine, linear, constant, wsd"),
        ({"kind": "cosine", "steps": 10, "warmup": 10}, "--warmup"),
        ({"kind": "cosine", "steps": -1}, "negative"),
        ({"kind": "constant", "warmup": -1}, "negative"),
        ({"kind": "constant", "peak": 0.0}, "--lr"),
        ({"kind": "constant", "peak": float("nan")}, "--lr"),
        ({"kind": "constant", "minimum": 1.0}, "--min-lr"),
        ({"kind": "constant", "minimum": float("nan")}, "--min-lr"),
        ({"kind": "wsd", "steps": 10, "decay_fraction": 0.0}, "--decay-fraction"),
        ({"kind": "wsd", "steps": 10, "decay_fraction": 1.5}, "--decay-fraction"),
        ({"kind": "wsd", "steps": 10, "decay_fraction": float("nan")}, "--decay-fraction"),
        ({"kind": "wsd", "steps": 10, "decay_fraction": 0.5, "warmup": 6}, "--warmup"),
    ],
)
def test_a_schedule_that_makes_no_sense_says_what_to_change(
    settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        Schedule(**{"peak": PEAK} | settings)


@given(st.integers(1, 100_000), st.sampled_from(DECAYING))
def test_the_default_warm_up_fits_every_run(steps: int, kind: Any) -> None:
    config = complete(resolve([Layer("test", {"steps": steps})]), dim=64, sequence=64)
    assert config.warmup is not None
    assert Schedule(kind, PEAK, 0.0, config.warmup, steps).rate(steps) == 0.0
