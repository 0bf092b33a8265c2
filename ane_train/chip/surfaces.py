"""The simplest experiment, x + 1 on a surface, for what is about surfaces and calls alone."""

from __future__ import annotations

import numpy as np

from ane_train import mil
from ane_train.chip.chains import Array, draw_columns, repeated
from ane_train.chip.proof import ULP, Experiment, experiment

SMALLEST = 64  # channels and width of the smallest surface that every report calls valid
_SEED = 7


def plus_one(channels: int, width: int, dtype: str = "fp16") -> Experiment:
    """x + 1 on [1, C, 1, W]; with "fp32" on surfaces of fp32, computed in fp16."""
    b = mil.Builder()
    x = b.input("x", (1, channels, 1, width), dtype)
    inside = x if dtype == "fp16" else b.cast(x, "fp16")
    y = b.add(inside, 1.0)
    program = b.build([y if dtype == "fp16" else b.cast(y, dtype)])
    columns = draw_columns(np.random.default_rng([_SEED, channels]), channels)
    values = repeated(columns, width)

    def model() -> list[Array]:
        return [(values.astype(np.float64) + 1).astype(np.float16)]

    return experiment(program, [values], model, ULP)
