"""Medians, spreads, rates and knees of timings whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ane_train.chip import sram
from ane_train.chip.results import OK, Result, series
from ane_train.chip.statistics import Knee, find_knee, fit_line, summarize, sustained_rate

SIZES = np.geomspace(1e5, 2e8, 24)
SEEDS = range(40)


def timings(knee: Knee, noise: float, random: np.random.Generator) -> np.ndarray:
    """Seconds for SIZES, each the median of nine noisy ones of which two met other work."""
    exact = knee.offset + knee.before * SIZES
    exact += (knee.after - knee.before) * np.maximum(SIZES - knee.place, 0)
    samples = exact[:, None] * (1 + noise * random.standard_normal((len(SIZES), 9)))
    samples[:, :2] *= 1 + random.exponential(1.0, (len(SIZES), 2))
    return np.array([summarize(list(row)).median for row in samples])


def test_median_and_spread_are_those_of_the_quartiles() -> None:
    summary = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (summary.median, summary.spread) == (3.0, 2.0)


def test_a_median_stays_within_5_percent_where_a_quarter_met_other_work() -> None:
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        samples = 2e-3 * (1 + 0.05 * random.standard_normal(41))
        samples[::4] *= 5
        assert summarize(list(samples)).median == pytest.approx(2e-3, rel=0.05)


def test_a_busy_machine_has_a_wide_spread_and_a_quiet_one_has_not() -> None:
    random = np.random.default_rng(1)
    quiet = 1e-3 * (1 + 0.01 * random.standard_normal(30))
    assert not summarize(list(quiet)).is_wide
    assert summarize(list(quiet * random.uniform(1, 3, 30))).is_wide


def test_one_sample_has_no_spread_and_none_is_refused() -> None:
    assert summarize([7.0]).spread == 0
    assert not summarize([7.0]).is_wide
    with pytest.raises(ValueError, match="nothing"):
        summarize([])


def test_equal_samples_have_no_spread_even_at_zero() -> None:
    for value in (0.0, 3.0):
        summary = summarize([value] * 5)
        assert (summary.median, summary.spread, summary.is_wide) == (value, 0, False)
    assert summarize([0.0, 0.0, 0.0, 1.0, 1.0]).is_wide


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_not_averaged(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        summarize([1.0, value, 2.0])
    with pytest.raises(ValueError, match="not positive"):
        find_knee(SIZES, [value] * len(SIZES))


def test_a_line_needs_times_above_zero() -> None:
    with pytest.raises(ValueError, match="not positive"):
        fit_line([1.0, 2.0, 3.0], [1.0, 0.0, 2.0])


def test_a_sustained_rate_counts_the_time_between_evaluations() -> None:
    ends = [10 + 0.5 * (index + 1) for index in range(8)]
    assert sustained_rate(3.0, ends, 10.0) == pytest.approx(6.0)
    with pytest.raises(ValueError, match="no time"):
        sustained_rate(3.0, [], 10.0)


@pytest.mark.parametrize(
    ("place", "noise"),
    [(2e6, 0.0), (2e6, 0.005), (8e6, 0.0), (8e6, 0.02), (3.2e7, 0.0), (3.2e7, 0.02)],
)
def test_a_known_knee_is_found_within_5_percent(place: float, noise: float) -> None:
    known = Knee(place, 1e-4, 1 / 200e9, 1 / 50e9)
    for seed in SEEDS:
        found = find_knee(SIZES, timings(known, noise, np.random.default_rng(seed)))
        assert found is not None
        assert found.place == pytest.approx(place, rel=0.05)
        assert found.before == pytest.approx(known.before, rel=0.15)
        assert found.after == pytest.approx(known.after, rel=0.05)


def swept(times: np.ndarray) -> list[Result]:
    """Results of `sram` with these times at its own sizes."""
    return [
        Result(
            *("sram", str(size), sram.WEIGHTS, {"bytes": size}, OK),
            series=(series("evaluate", [time]),),
            values={"bytes": float(size)},
        )
        for size, time in zip(sram.SIZES, times, strict=True)
    ]


@pytest.mark.parametrize("mebibytes", [16, 24, 32])
def test_at_the_sizes_that_sram_tries_a_knee_is_found_within_5_percent(mebibytes: int) -> None:
    place, sizes = float(mebibytes * sram.MIB), np.array(sram.SIZES, float)
    exact = 0.1 + sizes / 160e6 + np.maximum(sizes - place, 0) * (1 / 78e6 - 1 / 160e6)
    for seed in SEEDS:
        noise = 0.01 * np.random.default_rng(seed).standard_normal((len(sizes), 9))
        (fit,) = sram.fits(swept(np.median(exact[:, None] * (1 + noise), 1)))
        assert fit.knee_bytes == pytest.approx(place, rel=0.05)
        assert fit.after_gbps == pytest.approx(78, rel=0.05)


def test_a_time_that_does_not_rise_is_no_bandwidth() -> None:
    for seed in SEEDS:
        noise = 0.01 * np.random.default_rng(seed).standard_normal(len(sram.SIZES))
        (fit,) = sram.fits(swept(1 + noise))
        assert (fit.knee_bytes, fit.before_gbps, fit.after_gbps) == (None, None, None)
    assert sram.fits(swept(np.zeros(len(sram.SIZES)))) == []


def test_where_the_bandwidth_falls_by_30_percent_the_knee_is_found() -> None:
    known = Knee(3.2e7, 1e-4, 0.7 / 80e9, 1 / 80e9)
    found = [find_knee(SIZES, timings(known, 0.002, np.random.default_rng(s))) for s in SEEDS]
    places = [knee.place for knee in found if knee is not None]
    assert len(places) == len(SEEDS)
    assert np.median(places) == pytest.approx(3.2e7, rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_one_line_has_no_knee(noise: float) -> None:
    straight = Knee(1e7, 1e-4, 1 / 80e9, 1 / 80e9)
    found = [find_knee(SIZES, timings(straight, noise, np.random.default_rng(s))) for s in SEEDS]
    assert sum(knee is not None for knee in found) <= 1


def test_becoming_faster_is_no_knee() -> None:
    faster = Knee(1e7, 1e-4, 1 / 50e9, 1 / 200e9)
    assert find_knee(SIZES, timings(faster, 0.0, np.random.default_rng(0))) is None


def test_too_few_points_have_no_knee() -> None:
    assert find_knee(SIZES[:5], SIZES[:5]) is None
