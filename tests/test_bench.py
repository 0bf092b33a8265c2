"""The arithmetic of the benchmarks is right, and they run, on small models; no time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from native_arrays import needs_bf16
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from ane_train.model.layer import layer_shape
from ane_train.model.memory import estimate
from ane_train.model.parameters import count
from ane_train.model.spec import load_model
from ane_train.native.engine import Context
from bench import measures, report
from bench.checkpoint import beside_saves
from bench.floor import Blas, Floor, by_the_core, seconds_of
from bench.growth import SEQUENCES, misfit, quadratic_share
from bench.memory import needed_bytes, peak_of
from bench.optimizer import adamw
from bench.peer import new_model
from bench.products import products, total_flops
from bench.samples import Result, Series, interleaved, rounds_within, steady
from bench.step import Case, micro_batch, micro_batch_bf16, ratios
from bench.worker import ROOT, SideError, Worker, clean_environment

TINY = load_model("tiny")
NAMES = {"stories110m_b1", "stories110m_b4", "qwen3_06b_b1"}
CASE_RATIOS = {*("blas_floor", "torch_fp32", "torch_bf16", "numerics_bf16", "adamw", "peak_memory")}


@pytest.mark.parametrize(("kv_heads", "batch"), [(4, 1), (2, 3), (1, 1)])
def test_the_products_have_the_operations_that_torch_counts(kv_heads: int, batch: int) -> None:
    spec = replace(TINY, kv_heads=kv_heads)
    model = new_model(spec, attention="eager")
    inputs = torch.zeros((batch, 48), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=inputs, use_cache=False).logits
        cross_entropy(logits.flatten(0, 1), inputs.flatten()).backward()
    assert total_flops(products(spec, batch, 48)) == counter.get_total_flops()


def test_a_micro_batch_of_stories110m_is_about_175_gflop() -> None:
    assert round(total_flops(products(load_model("stories110m"), 1, 256)) / 1e9) == 175


def test_the_floor_counts_each_product_as_often_as_it_occurs() -> None:
    shapes = products(TINY, 1, 64)
    floor = Floor([list(astuple(shape)) for shape in shapes])
    seconds = floor.run()["seconds"]
    assert len(seconds) == len(shapes)
    assert all(each > 0 for each in seconds)
    assert seconds_of(shapes, [1.0] * len(shapes)) == sum(shape.count for shape in shapes)


def test_the_ways_of_the_floor_compute_the_product() -> None:
    blas, context = Blas(), Context()
    rng = np.random.default_rng(0)
    for shape in products(replace(TINY, vocabulary=96), 1, 64):
        m, n, k = shape.m, shape.n, shape.k
        a, b = (rng.uniform(-1, 1, size).astype(np.float32) for size in (m * k, k * n))
        left = a.reshape(k, m).T if shape.transpose_a else a.reshape(m, k)
        right = b.reshape(n, k).T if shape.transpose_b else b.reshape(k, n)
        for product in (blas.product, lambda *x: by_the_core(context, *x)):
            c = np.ones(m * n, np.float32)
            product(shape, a, b, c)()
            expected = left.astype(float) @ right + shape.beta
            np.testing.assert_allclose(c.reshape(m, n), expected, atol=1e-4)


def test_a_steady_time_is_the_second_of_two_in_a_row() -> None:
    times = iter([5.0, 1.0, 6.0, 2.0])
    run = steady(lambda: next(times))
    assert [run(), run()] == [1.0, 2.0]


def test_ratios_take_the_better_way_of_each_dtype() -> None:
    seconds = {"ours": 2.0, "floor": 1.6, "torch fp32 eager": 6.0, "torch fp32 compile": 5.0}
    found = {each.name: each for each in ratios({**seconds, "torch bf16 eager": 1.5})}
    assert found["blas_floor"].value == 1.25
    assert found["blas_floor"].is_met
    assert found["torch_fp32"].value == 2.5
    assert found["torch_bf16"].value == 0.75
    assert not found["torch_bf16"].is_met


def test_a_series_has_the_median_and_the_quartiles_distance() -> None:
    series = Series("x", "s", (1.0, 9.0, 2.0, 3.0, 4.0))
    assert series.median == 3.0
    assert series.spread == 2.0
    assert Series("x", "s", (1.0,)).spread == 0.0


def test_a_busy_machine_is_named() -> None:
    quiet = Result([Series("ours", "s", (1.0, 1.01, 1.02))])
    busy = Result([Series("ours", "s", (1.0, 2.0, 3.0))])
    assert not quiet.to_dict()["notes"]
    assert "wide" in busy.to_dict()["notes"][0]


def test_sides_take_turns() -> None:
    order = []
    sides = {name: lambda name=name: order.append(name) or 1.0 for name in "AB"}
    assert interleaved(sides, 3) == {"A": (1.0,) * 3, "B": (1.0,) * 3}
    assert "".join(order) == "ABABAB"
    assert rounds_within(100, 10) == 10
    assert rounds_within(100, 1000) == 5


def test_growth_is_told_from_its_fit() -> None:
    line = [3.0 + 0.5 * x for x in SEQUENCES]
    curve = [y + 1e-4 * x * x for x, y in zip(SEQUENCES, line, strict=True)]
    assert misfit(SEQUENCES, line, (0, 1)) < 1e-6
    assert misfit(SEQUENCES, curve, (0, 1)) > 0.05
    assert misfit(SEQUENCES, curve, (0, 1, 2)) < 1e-6
    assert quadratic_share(SEQUENCES, line) < 1e-6
    assert quadratic_share(SEQUENCES, curve) == pytest.approx(1e-4 * 2048**2 / curve[-1])


def test_what_steps_lose_by_saves_is_found_in_the_metrics() -> None:
    def line(kind: str, step: int, second: float, ms: float = 0.0) -> dict[str, object]:
        time = f"2026-01-01T00:00:{second:06.3f}Z"
        return {"type": kind, "step": step, "time": time, "ms": ms}

    def run(*ends: float) -> list[dict[str, object]]:
        """Steps that end then, with saves of two seconds after the second and the last."""
        steps = [line("step", step, second) for step, second in enumerate(ends, 1)]
        save = line("save", 2, ends[-1], 2000)
        return [*steps, save, line("save", len(ends), ends[-1], 9000)]

    def found(*ends: float) -> tuple[float, ...]:
        saving, lost = beside_saves(run(*ends))
        assert saving.samples == (2.0,)
        return lost.samples

    assert found(1, 2, 3, 4, 5, 6) == (0.0,), "nothing is lost"
    assert found(1, 2, 5, 6, 7, 8) == (2.0,), "the next step waits for all of it"
    assert found(1, 2, 3.25, 4.5, 5.5, 6.5) == (0.5,), "both steps beside it are slower"
    with pytest.raises(SideError, match="no others to compare"):
        beside_saves(run(1, 2, 3)[1:])


def test_the_memory_that_training_needs_is_below_the_estimate_of_the_package() -> None:
    for name in ("stories110m", "qwen3_06b"):
        spec = load_model(name)
        needed = sum(needed_bytes(spec, 1, 256).values())
        assert 16 * 109e6 < needed < estimate(spec, layer_shape(spec, 256)).total


def test_the_peak_of_a_process_is_its_own() -> None:
    code = "import numpy; numpy.ones(10_000_000)"
    small, large = (peak_of([sys.executable, "-c", text]) for text in ("pass", code))
    assert 80e6 < large - small < 200e6
    with pytest.raises(SideError, match="ended with 3"):
        peak_of([sys.executable, "-c", "raise SystemExit(3)"])


def test_every_case_of_the_ratios_has_all_six_of_them() -> None:
    measured = {
        name: {"ratios": [{"name": each, "value": 1.0} for each in _ratios_of(name)]}
        for name in measures.MEASURES
    }
    found = report.case_ratios(measured)
    assert set(found) == NAMES
    assert all(set(ratios) == CASE_RATIOS for ratios in found.values())


def _ratios_of(name: str) -> set[str]:
    """The ratios that a measure of that name gives, by what it is about."""
    if name.startswith("adamw"):
        return {"adamw", "memory_bandwidth"}
    if name.startswith("memory"):
        return {"peak_memory", "torch_peak_memory"}
    if name.endswith("_bf16"):
        return {"numerics_bf16"}
    return {"blas_floor", "torch_fp32", "torch_bf16"} if name.endswith(("_b1", "_b4")) else set()


def test_the_environment_of_a_side_configures_no_library(monkeypatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS"} & set(
        clean_environment()
    )


def test_a_side_that_fails_says_why() -> None:
    with pytest.raises(SideError, match="ours_decoding: ModelError: unknown model 'none'"):
        Worker("ours_decoding", model="none", context=64)


def test_a_small_micro_batch_is_measured(tmp_path: Path) -> None:
    ways = (("eager", "fp32"), ("eager", "bf16"))
    result = micro_batch(Case("tiny", 2, 64, ways), tmp_path, 2)
    assert [each.name for each in result.series] == [
        *("ours", "floor", "torch fp32 eager", "torch bf16 eager")
    ]
    assert all(len(each.samples) == 2 and min(each.samples) > 0 for each in result.series)
    assert {each.name for each in result.ratios} == {"blas_floor", "torch_fp32", "torch_bf16"}


@needs_bf16
def test_a_small_micro_batch_in_bf16_is_measured(tmp_path: Path) -> None:
    case = Case("tiny", 2, 64, (("eager", "fp32"), ("eager", "bf16")))
    result = micro_batch_bf16(case, tmp_path, 2)
    assert [each.name for each in result.series] == ["ours", "torch bf16 eager"]
    assert [each.name for each in result.ratios] == ["numerics_bf16"]


def test_adamw_is_measured_in_seconds_and_bytes(tmp_path: Path) -> None:
    result = adamw("tiny", tmp_path, 2)
    seconds, _, _, _, rate = result.series
    assert rate.samples[0] == pytest.approx(28 * count(TINY) / seconds.samples[0] / 1e9)


def test_the_command_writes_the_table_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "help", "--rounds", "2", "--json", str(file)]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "| `ane-train --help` | python |" in done.stdout
    found = json.loads(file.read_text())
    assert set(found) == {
        *("schema", "machine", "versions", "libraries", "load", "measures", "ratios")
    }
    assert found["machine"].keys() == {"chip", "cores", "memory_gib", "system", "architecture"}
    assert found["libraries"]["blas"].startswith(("OpenBLAS", "Accelerate"))
    assert len(found["measures"]["help"]["series"][0]["samples"]) == 2
