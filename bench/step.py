"""The time of a micro-batch against the floor of its matrix products and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ane_train.model.spec import load_model
from bench.floor import seconds_of
from bench.products import Product, products, total_flops
from bench.samples import Ratio, Result, Series, interleaved, rounds_within, steady
from bench.worker import SideError, Worker, cores

BARS = {
    "blas_floor": "<= 1.25",
    "torch_fp32": ">= 2.0",
    "torch_bf16": ">= 0.8",
    "numerics_bf16": ">= 1.2",
}
WAYS = tuple((way, dtype) for dtype in ("fp32", "bf16") for way in ("eager", "compile"))
_BUDGET = 150.0  # seconds of the rounds that count


@dataclass(frozen=True, slots=True)
class Case:
    """A micro-batch of B sequences of S tokens of a model, and the ways of PyTorch to try."""

    model: str
    batch: int
    sequence: int = 256
    ways: tuple[tuple[str, str], ...] = WAYS

    @property
    def sizes(self) -> dict[str, Any]:
        """What all sides are made with."""
        return {"model": self.model, "batch": self.batch, "sequence": self.sequence}


def micro_batch(case: Case, folder: Path, rounds: int | None = None) -> Result:
    """Ours, the floor and each of PyTorch's ways in turn."""
    shapes, result = products(load_model(case.model), case.batch, case.sequence), Result()
    with ExitStack() as stack:
        ours = stack.enter_context(Worker("ours", folder=str(folder), **case.sizes))
        floor = stack.enter_context(Worker("floor", products=[astuple(s) for s in shapes]))
        torch = stack.enter_context(Worker("torch", **case.sizes))
        result.facts = {
            "blas of ours": ours.facts["blas"],
            "blas of the floor": floor.facts["blas"],
        }
        best = best_settings(torch, case, result)
        sides: dict[str, Callable[[], float]] = {
            "ours": steady(ours.seconds),
            "floor": lambda: seconds_of(shapes, floor.ask()["seconds"]),
            **_sides(torch, best),
        }
        samples = _in_turn(sides, rounds)
    result.series = [
        Series("ours", "s", samples["ours"], _threads(ours.facts["threads"])),
        Series("floor", "s", samples["floor"], _rate(shapes, samples["floor"])),
        *_series(samples, best),
    ]
    result.ratios = ratios({each.name: each.median for each in result.series})
    return result


def micro_batch_bf16(case: Case, folder: Path, rounds: int | None = None) -> Result:
    """Ours with --numerics bf16, and each of PyTorch's ways of bf16, in turn."""
    result = Result()
    case = replace(case, ways=tuple(way for way in case.ways if way[1] == "bf16"))
    with ExitStack() as stack:
        sizes = {**case.sizes, "numerics": "bf16"}
        ours = stack.enter_context(Worker("ours", folder=str(folder), **sizes))
        torch = stack.enter_context(Worker("torch", **case.sizes))
        result.facts = {"blas of ours": ours.facts["blas"]}
        best = best_settings(torch, case, result)
        samples = _in_turn({"ours": steady(ours.seconds), **_sides(torch, best)}, rounds)
    ours_series = Series("ours", "s", samples["ours"], _threads(ours.facts["threads"]))
    result.series = [ours_series, *_series(samples, best)]
    if best:
        theirs = min(each.median for each in result.series[1:])
        result.ratios = [_ratio("numerics_bf16", theirs / ours_series.median)]
    return result


def _sides(torch: Worker, best: Mapping[str, dict[str, Any]]) -> dict[str, Callable[[], float]]:
    return {name: steady(partial(torch.seconds, **request)) for name, request in best.items()}


def _in_turn(
    sides: Mapping[str, Callable[[], float]], rounds: int | None
) -> dict[str, tuple[float, ...]]:
    round_seconds = sum(side() for side in sides.values())  # and what is cold gets warm
    return interleaved(sides, rounds or rounds_within(_BUDGET, round_seconds))


def _series(
    samples: Mapping[str, tuple[float, ...]], best: Mapping[str, dict[str, Any]]
) -> list[Series]:
    return [Series(name, "s", samples[name], _threads(best[name]["threads"])) for name in best]


def best_settings(torch: Worker, case: Case, result: Result) -> dict[str, dict[str, Any]]:
    """The requests of PyTorch's ways with the thread count that is best for each, by name.

    A way that fails, such as compiling without a C++ compiler, is left out with a note.
    """
    found = {}
    for way, dtype in case.ways:
        tried = {}
        for threads in sorted({1, cores()}):
            request = {"way": way, "dtype": dtype, "threads": threads}
            try:
                torch.seconds(**request)  # compiles, and touches memory
                tried[median(torch.seconds(**request) for _ in range(2))] = request
            except SideError as error:
                result.notes.append(f"torch {dtype} {way} is left out: {error}")
        if tried:
            found[f"torch {dtype} {way}"] = tried[min(tried)]
    return found


def ratios(seconds: Mapping[str, float]) -> list[Ratio]:
    """Ours over the floor, and the better one of PyTorch's ways over ours, by dtype."""
    found = [_ratio("blas_floor", seconds["ours"] / seconds["floor"])]
    for dtype in ("fp32", "bf16"):
        theirs = [value for name, value in seconds.items() if name.startswith(f"torch {dtype}")]
        if theirs:
            found.append(_ratio(f"torch_{dtype}", min(theirs) / seconds["ours"]))
    return found


def _ratio(name: str, value: float) -> Ratio:
    return Ratio(name, value, BARS[name])


def _threads(count: Any) -> str:
    return f"{count} thread{'s' if int(count) > 1 else ''}"


def _rate(shapes: list[Product], seconds: tuple[float, ...]) -> str:
    flops = total_flops(shapes)
    return f"{flops / 1e9:.0f} GFLOP at {flops / median(seconds) / 1e9:.0f} GFLOP/s"
