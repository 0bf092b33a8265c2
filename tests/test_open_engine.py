"""An engine opened by name has the numerics asked for, and a chip's defects if so asked."""

from __future__ import annotations

import numpy as np
import pytest

from ane_train import mil
from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import EngineError


def evaluated(numerics: str, chip: str | None, build, value: float) -> float:
    """What a program of one [1, 64, 1, 128] input makes of `value` in its last column."""
    engine = open_engine(EngineOptions("cpu", numerics, chip))
    b = mil.Builder()
    x = b.input("x", (1, 64, 1, 128))
    program = engine.compile(b.build([build(b, x)]))
    source = engine.context.surface(64, 128, engine.element_size)
    target = engine.context.surface(64, 64, engine.element_size)
    source.write(np.full((64, 128), value, np.float32), 0, 0)
    program.request([source], [target]).evaluate()
    return float(target.array[5, 7])


def product(b: mil.Builder, x: mil.Value) -> mil.Value:
    """The sum over 64 channels, in each of 64 columns, by a product."""
    halves = b.reshape(b.slice_by_size(x, (0, 0, 0, 0), (1, 64, 1, 64)), (1, 1, 64, 64))
    ones = b.constant(np.ones((1, 1, 64, 64)), "fp16", name="ones")
    return b.reshape(b.matmul(ones, halves), (1, 64, 1, 64))


def right_half(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.slice_by_size(x, (0, 0, 0, 64), (1, 64, 1, 64))


@pytest.mark.parametrize(
    ("numerics", "chip", "expected"),
    [
        ("fp16", None, 38400.0),
        ("fp32", None, 38400.0),
        ("hazard", None, np.inf),
        ("hazard", "m5", np.inf),
    ],
)
def test_a_product_beyond_32752_is_infinite_in_hazard_mode(
    numerics: str, chip: str | None, expected: float
) -> None:
    assert evaluated(numerics, chip, product, 600.0) == expected


@pytest.mark.parametrize(("chip", "expected"), [("m1", np.inf), ("m2", np.inf), ("m4", 5000.0)])
def test_a_slice_along_the_width_saturates_on_old_chips(chip: str, expected: float) -> None:
    assert evaluated("hazard", chip, right_half, 5000.0) == expected
    assert evaluated("fp16", chip, right_half, 5000.0) == 5000.0


def test_a_chip_refuses_what_is_known_to_fail_on_it() -> None:
    with pytest.raises(EngineError, match="matmul_0: operand x is a constant"):
        evaluated("fp16", "m1", product, 1.0)
