"""The budget tells beforehand what the engine would refuse."""

from __future__ import annotations

import numpy as np
import pytest

from ane_train import mil
from ane_train.engine import Budget, Engine, EngineOptions, open_engine
from ane_train.errors import EngineError
from ane_train.native.library import NativeError


def doubling() -> mil.Program:
    b = mil.Builder()
    x = b.input("x", (1, 64, 1, 64))
    return b.build([b.mul(x, b.constant(np.full((1, 64, 1, 1), 2.0), "fp16"))])


def compile_all(engine: Engine, count: int) -> list[object]:
    return [engine.compile(doubling()) for _ in range(count)]


def test_what_fits_compiles_and_what_does_not_is_refused() -> None:
    engine = open_engine(EngineOptions("cpu", compile_limit=3))
    kept = compile_all(engine, 2)
    assert engine.budget.left == 1
    assert engine.budget.fits(1, 1)
    assert not engine.budget.fits(2, 2)
    kept += compile_all(engine, 1)
    assert engine.budget.left == 0
    with pytest.raises(NativeError) as refused:
        engine.compile(doubling())
    assert refused.value.status == "limit"


def test_closing_a_program_gives_back_its_load_but_not_its_compile() -> None:
    engine = open_engine(EngineOptions("cpu"))
    budget = Budget(engine.context, compile_limit=8, load_limit=2)
    first, second = compile_all(engine, 2)
    assert not budget.fits(1, 1)
    first.close()
    assert budget.fits(1, 1)
    assert budget.left == 6
    second.close()
    assert budget.fits(6, 2)
    assert not budget.fits(7, 2)
    assert not budget.fits(6, 3)


def test_without_limits_everything_fits() -> None:
    budget = open_engine(EngineOptions("cpu")).budget
    assert budget.left is None
    assert budget.fits(10**6, 10**6)
    budget.require(10**6, 10**6, "all")


@pytest.mark.parametrize(("compiles", "loads", "verb"), [(9, 1, "compiled"), (1, 5, "loaded")])
def test_what_no_process_could_do_is_said_with_both_numbers(
    compiles: int, loads: int, verb: str
) -> None:
    budget = Budget(open_engine(EngineOptions("cpu")).context, compile_limit=8, load_limit=4)
    budget.require(8, 4, "a step")
    with pytest.raises(EngineError, match=f"a step needs {max(compiles, loads)} programs {verb}"):
        budget.require(compiles, loads, "a step")
