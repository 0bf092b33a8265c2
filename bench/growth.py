"""How the time of a micro-batch grows with the batch, the layers and the length of the sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ane_train.model.spec import ModelSpec, load_model, to_toml
from bench.samples import Ratio, Result, Series, fitted, interleaved, rounds_within
from bench.worker import Worker

BATCHES = (1, 2, 4, 8)
LAYERS = (2, 4, 8, 12)
SEQUENCES = (128, 256, 512, 1024, 2048)
_LAYERS_OF_SEQUENCES = 2
_BAR = "<= 0.1"
_BUDGET = 60.0


def by_batch(model: str, folder: Path, rounds: int | None = None) -> Result:
    """Time per token: how much it differs between batch sizes."""
    sizes = {f"batch {b}": _sizes(model, b, 256) for b in BATCHES}
    seconds = _measured(sizes, folder, rounds)
    series = [
        Series(name, "ms/token", tuple(1e3 * s / (b * 256) for s in seconds[name]))
        for b, name in zip(BATCHES, sizes, strict=True)
    ]
    per_token = [each.median for each in series]
    return Result(series, [Ratio("batch_growth", max(per_token) / min(per_token) - 1, _BAR)])


def by_layers(model: str, folder: Path, rounds: int | None = None) -> Result:
    """Time by layers: how far it is from a straight line."""
    spec = load_model(model)
    sizes = {
        f"{layers} layers": _sizes(_file(replace(spec, layers=layers), folder), 1, 256)
        for layers in LAYERS
    }
    seconds = _measured(sizes, folder, rounds)
    series = [Series(name, "s", seconds[name]) for name in sizes]
    medians = [each.median for each in series]
    return Result(series, [Ratio("layer_growth", misfit(LAYERS, medians, (0, 1)), _BAR)])


def by_sequence(model: str, folder: Path, rounds: int | None = None) -> Result:
    """Time by length, of the model and of one whose attention is next to nothing.

    The latter must grow like a straight line, since attention alone may be quadratic: what counts
    is the share of its longest time that a fitted quadratic term has. The former must be a line and
    a quadratic term.
    """
    spec = replace(load_model(model), layers=_LAYERS_OF_SEQUENCES)
    without = replace(spec, heads=1, kv_heads=1, head_size=2, qk_norm=False)
    sizes: dict[str, dict[str, Any]] = {}
    for title, each in (("model", spec), ("without attention", without)):
        file = _file(each, folder, title)
        sizes |= {f"{title}, {length} tokens": _sizes(file, 1, length) for length in SEQUENCES}
    seconds = _measured(sizes, folder, rounds)
    series = [Series(name, "s", seconds[name]) for name in sizes]
    medians = [each.median for each in series]
    whole, bare = medians[: len(SEQUENCES)], medians[len(SEQUENCES) :]
    return Result(
        series,
        [
            Ratio("quadratic_without_attention", quadratic_share(SEQUENCES, bare), _BAR),
            Ratio("sequence_growth", misfit(SEQUENCES, whole, (0, 1, 2)), _BAR),
        ],
    )


def misfit(x: Sequence[float], y: Sequence[float], powers: Sequence[int]) -> float:
    """The largest relative distance of y from the best sum of these powers of x."""
    factors = fitted(x, y, powers)
    models = [sum(f * at**p for f, p in zip(factors, powers, strict=True)) for at in x]
    return max(abs(model / value - 1) for model, value in zip(models, y, strict=True))


def quadratic_share(x: Sequence[float], y: Sequence[float]) -> float:
    """What a fitted quadratic term has of the time at the largest x."""
    return abs(fitted(x, y, (0, 1, 2))[2]) * x[-1] ** 2 / y[-1]


def _sizes(model: str, batch: int, sequence: int) -> dict[str, Any]:
    return {"model": model, "batch": batch, "sequence": sequence}


def _file(spec: ModelSpec, folder: Path, title: str = "model") -> str:
    path = folder / f"{title.replace(' ', '_')}_{spec.layers}.toml"
    path.write_text(to_toml(spec))
    return str(path)


def _measured(
    sizes: Mapping[str, dict[str, Any]], folder: Path, rounds: int | None
) -> dict[str, tuple[float, ...]]:
    """Seconds of a micro-batch of each, each in a process of its own, in turn."""
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("ours", folder=str(folder / str(index)), **each))
            for index, (name, each) in enumerate(sizes.items())
        }
        round_seconds = sum(worker.seconds() for worker in workers.values())
        sides = {name: partial(worker.seconds) for name, worker in workers.items()}
        return interleaved(sides, rounds or rounds_within(_BUDGET, round_seconds))
