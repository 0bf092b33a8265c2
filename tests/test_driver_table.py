"""The layer between the public API and a driver: statuses, locks, counts, and software on its side.

The driver is a toy in C that computes nothing and fails where it is told to.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_c, core

from ane_train import mil
from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import EngineError
from ane_train.native.engine import Context, ContextOptions, Program, describe_engine
from ane_train.native.library import NativeError

CALLS = {
    "open": "missing",
    "surface": "memory",
    "lock": "system",
    "unlock": "system",
    "compile": "compile",
    "load": "limit",
    "unload": "evaluate",
    "request": "evaluate",
    "evaluate": "evaluate",
}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("toy") / "toy.so"
    error_only = [path for path in core("base") if path.name == "error.c"]
    flags = ["-shared", "-fPIC"]
    return str(compile_c(library, "toy_driver.c", error_only, flags))


@pytest.fixture
def context(toy: str) -> Context:
    return Context(engine="hardware", driver=toy, threads=2)


def text(op: str = "sigmoid") -> str:
    b = mil.Builder()
    b_op = getattr(b, op)
    return mil.print_program(b.build([b_op(b.input("x", (1, 64, 1, 64)), name="y")]))


def alive(driver: str) -> list[int]:
    gc.collect()
    facts = describe_engine(ContextOptions(engine="hardware", driver=driver))
    numbers: list[int] = facts["alive"]
    return numbers


def use_all_calls(driver: str) -> None:
    """Every function of the table, in the order of a training run."""
    context = Context(engine="hardware", driver=driver)
    source, target = (context.surface(64, 64, 2) for _ in range(2))
    program = context.compile(text())
    request = program.request([source], [target])
    source.write(np.ones((64, 64), np.float32))
    request.evaluate()
    target.read()
    target.copy_from(0, 0, source, 0, 0, 64, 64)
    program.unload()


@pytest.mark.parametrize("call", [None, *CALLS])
def test_a_failing_call_is_told_and_leaves_nothing_alive(
    call: str | None, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if call is None:
        use_all_calls(toy)
    else:
        monkeypatch.setenv("TOY_FAIL", call)
        with pytest.raises(NativeError, match=f"{call} was told to fail") as caught:
            use_all_calls(toy)
        assert (caught.value.status, caught.value.code) == (CALLS[call], 42)
        assert caught.value.domain == f"toy.{call}"
        del caught
        monkeypatch.delenv("TOY_FAIL")
    assert alive(toy) == [0, 0, 0, 0, 0, 0]


def test_counts_are_those_of_the_driver(context: Context, toy: str) -> None:
    program = context.compile(text())
    surface = context.surface(64, 64, 2)
    counts = context.counts()
    assert (counts.compiled, counts.loaded, counts.surfaces) == (1, 1, 1)
    assert counts.surface_bytes == 64 * 128 + 4096
    assert alive(toy) == [1, 1, 0, 1, 1, 0]
    program.unload()
    assert alive(toy)[4] == context.counts().loaded == 0
    surface.close()


def test_the_limits_hold_on_any_driver(toy: str) -> None:
    with Context(engine="hardware", driver=toy, compile_limit=2, load_limit=1) as context:
        first = context.compile(text())
        with pytest.raises(NativeError, match="limit of 1 loaded"):
            context.compile(text())
        first.close()
        with pytest.raises(NativeError, match="limit of 2 compiled"):
            context.compile(text())


def test_a_program_may_run_in_software_on_the_surfaces_of_a_driver(context: Context) -> None:
    with pytest.raises(NativeError, match="no tanh") as caught:
        context.compile(text("tanh"))
    assert caught.value.status == "compile"
    compiled = context.counts().compiled
    program = context.compile(text("tanh"), engine="software")
    assert context.counts().compiled == compiled
    assert run(program, context, 0.5) == np.float16(np.tanh(0.5))


def run(program: Program, context: Context, value: float) -> np.float16:
    source, target = (context.surface(64, 64, 2) for _ in range(2))
    source.write(np.full((64, 64), value, np.float32))
    program.request([source], [target]).evaluate()
    last: np.float16 = target.array[63, 63]
    return last


def test_software_refuses_surfaces_whose_rows_lie_elsewhere(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_WIDE_ROWS", "1")
    program = context.compile(text("tanh"), engine="software")
    with pytest.raises(NativeError, match="rows of 256 bytes where the plan has 128"):
        run(program, context, 0.5)


def test_an_ane_that_computes_nothing_is_not_opened(toy: str) -> None:
    with pytest.raises(EngineError, match="gives wrong numbers on the ANE"):
        open_engine(EngineOptions("ane", driver=toy))
    assert alive(toy) == [0, 0, 0, 0, 0, 0]


def test_the_ane_engine_needs_its_library(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no Apple Neural Engine"):
        open_engine(EngineOptions("ane"))
    with pytest.raises(EngineError, match="cannot open the driver"):
        open_engine(EngineOptions("ane", driver=str(tmp_path / "none.so")))
