"""Surfaces and requests: staging, versions and caches, locks, limits, lifetimes."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_c
from engine_cases import Op, literal, program_text, run

from ane_train.errors import EngineError
from ane_train.native.engine import (
    Context,
    ContextOptions,
    Program,
    Surface,
    describe_engine,
)
from ane_train.native.library import NativeError

ROWS, WIDTH = 8, 96


@pytest.fixture(params=["fp16", "fp32"])
def context(request: pytest.FixtureRequest) -> Iterator[Context]:
    with Context(request.param, threads=2) as opened:
        yield opened


def element_size(context: Context) -> int:
    return 4 if context.numerics == "fp32" else 2


def rounded(values: np.ndarray, size: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32) if size == 2 else values


# --- staging ---


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (5, 70), (33, 65), (300, 260), (0, 4), (3, 0)]
)
def test_a_written_block_is_the_scaled_source_rounded_once(
    size: int, transposed: bool, rows: int, columns: int
) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32) * 9
    with Context(threads=2) as context:
        surface = context.surface(rows + 3, columns + 7, size)
        whole = np.zeros((rows + 3, columns + 7), np.float32)
        surface.write(values.T if transposed else values, 2, 5, transposed=transposed, scale=1.25)
        whole[2 : 2 + rows, 5 : 5 + columns] = rounded(values * np.float32(1.25), size)
        np.testing.assert_array_equal(surface.array.astype(np.float32), whole)


def test_sources_may_be_strided_and_of_other_dtypes(context: Context) -> None:
    surface = context.surface(6, 10, 4)
    values = np.arange(240, dtype=np.float64).reshape(12, 20)
    for source in (values[::2, ::2], values.astype(np.float32)[::2, :10], values[:6, 9::-1]):
        surface.write(source)
        np.testing.assert_array_equal(surface.array, source.astype(np.float32))


def test_values_beyond_fp16_become_infinite_and_ties_go_to_even() -> None:
    with Context() as context:
        surface = context.surface(1, 5, 2)
        surface.write(np.array([[65519.0, 65520.0, -1e30, 2049.0, 2051.0]], np.float32))
        want = np.array([[65504.0, np.inf, -np.inf, 2048.0, 2052.0]], np.float16)
        np.testing.assert_array_equal(surface.array, want)


@pytest.mark.parametrize("size", [2, 4])
def test_reading_adds_a_multiple_of_the_block(size: int) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((40, 1500)).astype(np.float32)
    out = rng.standard_normal((30, 1400)).astype(np.float32)
    with Context(threads=2) as context:
        surface = context.surface(40, 1500, size)
        surface.write(values)
        block = rounded(values, size)[5:35, 50:1450]
        np.testing.assert_array_equal(surface.read(5, 50, 30, 1400), block)
        want = np.float32(0.5) * out + np.float32(2.0) * block
        addend, fresh = out.copy(), np.full_like(out, np.nan)
        surface.read(5, 50, 30, 1400, fresh, 2.0, 0.5, addend)
        np.testing.assert_array_equal(fresh, want)
        np.testing.assert_array_equal(addend, out)
        np.testing.assert_array_equal(
            surface.read(5, 50, 30, 1400, alpha=2.0, beta=0.5, addend=out), want
        )
        surface.read(5, 50, 30, 1400, out=out, alpha=2.0, beta=0.5)
        np.testing.assert_array_equal(out, want)


def test_an_addend_of_other_rows_than_the_array_is_refused(context: Context) -> None:
    surface, out = context.surface(2, 3, 4), np.ones((2, 3), np.float32)
    others = np.zeros((2, 4), np.float32), np.zeros((2, 6), np.float32)[:, ::2], out.astype("f8")
    for addend in (*others, np.zeros((2, 4), np.float32)[:, :3]):
        with pytest.raises(ValueError, match="the addend is not a float32 array with the rows"):
            surface.read(out=out, beta=1.0, addend=addend)
    np.testing.assert_array_equal(out, 1)


def test_beta_zero_does_not_read_what_was_there(context: Context) -> None:
    surface = context.surface(2, 3, 4)
    out = np.full((2, 3), np.nan, np.float32)
    np.testing.assert_array_equal(surface.read(out=out), 0)


def test_copies_within_a_surface_may_overlap(context: Context) -> None:
    values = np.arange(80, dtype=np.float32).reshape(8, 10)
    for row, column, source_row, source_column in ((2, 1, 0, 0), (0, 0, 2, 1), (1, 0, 1, 2)):
        surface = context.surface(8, 10, element_size(context))
        surface.write(values)
        surface.copy_from(row, column, surface, source_row, source_column, 5, 7)
        want = values.copy()
        source = values[source_row : source_row + 5, source_column : source_column + 7]
        want[row : row + 5, column : column + 7] = source
        np.testing.assert_array_equal(surface.array, want)


@pytest.mark.parametrize(
    ("row", "column"), [(1, 0), (0, 1), (8, 10), (9, 0), (2**63, 0), (0, 2**64 - 1), (2**64 - 4, 3)]
)
def test_a_block_that_leaves_the_surface_is_refused(
    context: Context, row: int, column: int
) -> None:
    surface, other = context.surface(8, 10, 4), context.surface(8, 10, 4)
    block = np.ones((8, 10), np.float32)
    attempts = (
        lambda: surface.write(block, row, column),
        lambda: surface.write(block.T, row, column, transposed=True),
        lambda: surface.read(row, column, 8, 10),
        lambda: surface.copy_from(row, column, other, 0, 0, 8, 10),
        lambda: surface.copy_from(0, 0, other, row, column, 8, 10),
    )
    for attempt in attempts:
        with pytest.raises(EngineError, match="leaves the surface"):
            attempt()
    np.testing.assert_array_equal(surface.array, 0)


def test_copies_between_element_sizes_are_refused(context: Context) -> None:
    with pytest.raises(EngineError, match="2-byte and 4-byte"):
        context.surface(1, 1, 2).copy_from(0, 0, context.surface(1, 1, 4), 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("channels", "width", "size"),
    [(0, 1, 2), (1, 0, 2), (1, 1, 3), (2**63, 2**63, 4), (2**40, 2**30, 2), (1, 2**64 - 1, 2)],
)
def test_senseless_surfaces_are_refused(
    context: Context, channels: int, width: int, size: int
) -> None:
    with pytest.raises(EngineError, match="surface of"):
        context.surface(channels, width, size)


# --- locks ---


def test_locks_balance(context: Context) -> None:
    surface = context.surface(2, 2, 4)
    with surface.locked() as memory:
        memory[...] = 3
        with pytest.raises(EngineError, match="locked already"), surface.locked():
            pass
    with surface.locked(read_only=True) as memory, pytest.raises(ValueError, match="read-only"):
        memory[...] = 4
    np.testing.assert_array_equal(surface.array, 3)


def test_unlocking_what_is_not_locked_is_an_error(context: Context) -> None:
    surface = context.surface(2, 2, 4)
    with pytest.raises(EngineError, match="is not locked"), surface.locked():
        surface._check(surface_unlock(surface))


def surface_unlock(surface: Surface) -> int:
    from ane_train.native.library import lib

    return int(lib.ane_surface_unlock(surface._pointer))


# --- requests ---

X_COLUMNS, W_COLUMNS = 32, 64


def packed_text() -> str:
    """out [64, 32] = w^T x of the blocks x [8, 32] and w [8, 64] of one input."""
    x, w = (1, ROWS, 1, X_COLUMNS), (1, ROWS, 1, W_COLUMNS)
    matrix = (1, 1, ROWS)
    ops = [
        Op("slice_by_size", slice_at(0, X_COLUMNS), [("xs", "fp16", x)]),
        Op("slice_by_size", slice_at(X_COLUMNS, W_COLUMNS), [("ws", "fp16", w)]),
        reshape("xs", "xm", (*matrix, X_COLUMNS)),
        reshape("ws", "wm", (*matrix, W_COLUMNS)),
        Op(
            "matmul",
            {"x": "wm", "y": "xm", "transpose_x": "bool(true)", "transpose_y": "bool(false)"},
            [("y", "fp16", (1, 1, W_COLUMNS, X_COLUMNS))],
        ),
        reshape("y", "out", (1, W_COLUMNS, 1, X_COLUMNS)),
    ]
    inputs = {"packed": np.zeros((1, ROWS, 1, WIDTH), np.float16)}
    return program_text(inputs, ops, ["out"])


def packed_program(context: Context) -> Program:
    return context.compile(packed_text())


def slice_at(begin: int, columns: int) -> dict[str, str]:
    size = literal([1, ROWS, 1, columns])
    return {"x": "packed", "begin": literal([0, 0, 0, begin]), "size": size}


def reshape(source: str, target: str, shape: tuple[int, ...]) -> Op:
    return Op("reshape", {"x": source, "shape": literal(list(shape))}, [(target, "fp16", shape)])


def surfaces(context: Context) -> tuple[Surface, Surface]:
    size = element_size(context)
    return context.surface(ROWS, WIDTH, size), context.surface(W_COLUMNS, X_COLUMNS, size)


class Interleaving:
    """Random writes to a surface that one request has been bound to all along."""

    def __init__(self, context: Context, seed: int) -> None:
        self.context, self.rng = context, random.Random(seed)
        self.source = np.random.default_rng(seed)
        self.program = packed_program(context)
        self.packed, self.out = surfaces(context)
        self.other, _ = surfaces(context)
        self.request = self.program.request([self.packed], [self.out])

    def block(self) -> tuple[int, int, int, int]:
        row, column = self.rng.randrange(ROWS), self.rng.randrange(WIDTH)
        return row, column, self.rng.randint(1, ROWS - row), self.rng.randint(1, WIDTH - column)

    def values(self, rows: int, columns: int) -> np.ndarray:
        return self.source.standard_normal((rows, columns)).astype(np.float32)

    def write_x(self) -> None:
        self.packed.write(self.values(ROWS, X_COLUMNS), 0, 0)

    def write_weight(self) -> None:
        self.packed.write(self.values(W_COLUMNS, ROWS), 0, X_COLUMNS, transposed=True)

    def write_block(self) -> None:
        row, column, rows, columns = self.block()
        self.packed.write(self.values(rows, columns), row, column)

    def write_many_cells(self) -> None:
        for _ in range(40):
            row, column, _, _ = self.block()
            self.packed.write(self.values(1, 1), row, column)

    def copy_block(self) -> None:
        row, column, rows, columns = self.block()
        self.other.write(self.values(ROWS, WIDTH))
        self.packed.copy_from(row, column, self.other, row, column, rows, columns)

    def lock(self) -> None:
        row, column, _, _ = self.block()
        with self.packed.locked() as memory:
            memory[row, column] = 7.5

    def look(self) -> None:
        with self.packed.locked(read_only=True):
            pass

    def evaluate(self) -> None:
        self.request.evaluate()
        fresh = self.context.surface(W_COLUMNS, X_COLUMNS, element_size(self.context))
        self.program.request([self.packed], [fresh]).evaluate()
        np.testing.assert_array_equal(self.out.array, fresh.array)

    def step(self) -> None:
        writes = [
            self.write_x, self.write_weight, self.write_block, self.write_many_cells,
            self.copy_block, self.lock, self.look,
        ]  # fmt: skip
        self.rng.choice([*writes, *[self.evaluate] * 7])()


@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize("seed", range(12))
def test_a_changed_block_is_always_seen(seed: int, limit: int) -> None:
    with Context("fp16", threads=2, cache_limit=limit) as context:
        interleaving = Interleaving(context, seed)
        for _ in range(60):
            interleaving.step()


def test_outputs_of_one_program_are_inputs_of_the_next(context: Context) -> None:
    shape = (1, 4, 1, 32)
    double = Op("add", {"x": "x", "y": "x"}, [("out", "fp16", shape)])
    text = program_text({"x": np.zeros(shape, np.float16)}, [double], ["out"])
    a, b, c = (context.surface(4, 32, element_size(context)) for _ in range(3))
    program = context.compile(text)
    first, second = program.request([a], [b]), program.request([b], [c])
    for value in (1.0, 1.0, 1.0, 2.0, 2.0, 3.0):
        a.write(np.full((4, 32), value, np.float32))
        first.evaluate()
        second.evaluate()
        np.testing.assert_array_equal(c.array, 4 * value)


def test_surfaces_must_fit_their_ports(context: Context) -> None:
    program = packed_program(context)
    packed, out = surfaces(context)
    size = element_size(context)
    wrong = [
        ([context.surface(ROWS, WIDTH + 1, size)], [out], "input 'packed'"),
        ([context.surface(ROWS + 1, WIDTH, size)], [out], "input 'packed'"),
        ([packed], [context.surface(W_COLUMNS, X_COLUMNS, 6 - size)], "output 'out'"),
        ([packed, packed], [out], "the program has 1 and 1"),
        ([packed], [], "the program has 1 and 1"),
    ]
    for inputs, outputs, message in wrong:
        with pytest.raises(EngineError, match=message):
            program.request(inputs, outputs)


def test_an_output_surface_serves_no_other_port(context: Context) -> None:
    shape = (1, 2, 1, 32)
    op = Op("add", {"x": "x", "y": "x"}, [("out", "fp16", shape)])
    program = context.compile(program_text({"x": np.zeros(shape, np.float16)}, [op], ["out"]))
    surface = context.surface(2, 32, element_size(context))
    with pytest.raises(EngineError, match="serves another port"):
        program.request([surface], [surface])


def test_surfaces_of_another_context_are_refused(context: Context) -> None:
    program = packed_program(context)
    packed, _ = surfaces(context)
    with Context(context.numerics) as other, pytest.raises(EngineError, match="another context"):
        program.request([packed], [surfaces(other)[1]])


def test_a_locked_surface_stops_an_evaluation(context: Context) -> None:
    packed, out = surfaces(context)
    request = packed_program(context).request([packed], [out])
    with packed.locked(), pytest.raises(EngineError, match="'packed' is locked"):
        request.evaluate()
    with out.locked(read_only=True), pytest.raises(EngineError, match="'out' is locked"):
        request.evaluate()
    with packed.locked(read_only=True):
        request.evaluate()


def test_an_unloaded_program_does_not_evaluate(context: Context) -> None:
    program = packed_program(context)
    packed, out = surfaces(context)
    request = program.request([packed], [out])
    assert context.counts().loaded == 1
    program.unload()
    program.unload()
    assert context.counts().loaded == 0
    with pytest.raises(NativeError, match="not loaded") as caught:
        request.evaluate()
    assert caught.value.status == "state"
    program.load()
    request.evaluate()


def test_the_compile_limit_counts_programs_ever_compiled() -> None:
    with Context(compile_limit=2) as context:
        packed_program(context).close()
        with pytest.raises(EngineError):
            context.compile("nonsense")
        packed_program(context).close()
        with pytest.raises(NativeError, match="limit of 2") as caught:
            packed_program(context)
        assert caught.value.status == "limit"
        assert context.counts().compiled == 2


def test_the_load_limit_counts_programs_that_are_loaded_now() -> None:
    with Context(load_limit=1) as context:
        first = packed_program(context)
        with pytest.raises(NativeError, match="limit of 1 loaded") as caught:
            packed_program(context)
        assert caught.value.status == "limit"
        first.unload()
        second = packed_program(context)
        with pytest.raises(NativeError, match="limit of 1 loaded"):
            first.load()
        second.close()
        first.load()
        assert context.counts().loaded == 1


def test_a_program_made_from_a_donor_is_not_compiled() -> None:
    with Context(compile_limit=1) as context, Context() as other:
        donor = packed_program(context)
        for _ in range(3):
            donor = context.compile(packed_text(), donor=donor)
        assert context.counts().compiled == 1
        with pytest.raises(NativeError, match="another engine"):
            other.compile(packed_text(), donor=donor)
        with pytest.raises(NativeError, match="the donor's text is another one"):
            context.compile(packed_text() + "\n", donor=donor)


def test_the_software_engine_describes_itself_and_compiles_for_nothing_else() -> None:
    assert describe_engine(ContextOptions())["engine"] == "software"
    with Context() as context:
        assert context.compile(packed_text(), engine="software").inputs
        with pytest.raises(NativeError, match="cannot compile for the hardware"):
            context.compile(packed_text(), engine="hardware")


def test_hardware_without_a_driver_is_missing(tmp_path: Path) -> None:
    hollow = tmp_path / "hollow.so"
    compile_c(hollow, "hollow.c", [], ["-shared", "-fPIC"])
    for driver, text in ((tmp_path / "none.so", "cannot open"), (hollow, "has no driver")):
        options = ContextOptions(engine="hardware", driver=str(driver))
        with pytest.raises(NativeError, match=text) as caught:
            describe_engine(options)
        assert caught.value.status == "missing"
        with pytest.raises(NativeError, match=text):
            Context(engine="hardware", driver=str(driver))


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1000, 77, 129), (768, 400, 500)])
def test_results_do_not_depend_on_the_number_of_threads(
    rows: int, depth: int, columns: int
) -> None:
    rng = np.random.default_rng(rows)
    inputs = {
        "x": rng.standard_normal((rows, depth)).astype(np.float32),
        "y": rng.standard_normal((depth, columns)).astype(np.float32),
    }
    flags = {"transpose_x": "bool(false)", "transpose_y": "bool(false)"}
    shape = (rows, columns)
    ops = [
        Op("matmul", {"x": "x", "y": "y", **flags}, [("product", "fp32", shape)]),
        Op("softmax", {"x": "product", "axis": literal(0)}, [("out", "fp32", shape)]),
    ]
    text = program_text(inputs, ops, ["product", "out"])
    first = run(Context(threads=1), text, inputs)
    for threads in (2, 3, 7):
        for a, b in zip(first, run(Context(threads=threads), text, inputs), strict=True):
            np.testing.assert_array_equal(a, b)


# --- lifetimes ---


def test_closing_gives_memory_back_at_once(context: Context) -> None:
    surface = context.surface(16, 64, 4)
    assert context.counts().surface_bytes == 16 * 64 * 4
    surface.close()
    surface.close()
    assert context.counts().surfaces == context.counts().surface_bytes == 0


def test_a_request_keeps_what_it_needs(context: Context) -> None:
    program = packed_program(context)
    packed, out = surfaces(context)
    packed.write(np.ones((ROWS, WIDTH), np.float32))
    request = program.request([packed], [out])
    with out.locked(read_only=True) as result:
        pass
    program.close()
    packed.close()
    out.close()
    gc.collect()
    request.evaluate()
    np.testing.assert_array_equal(result, ROWS)
    request.close()
    np.testing.assert_array_equal(result, ROWS)  # the view keeps the memory
    del result
    gc.collect()
    assert context.counts().surfaces == context.counts().loaded == 0


def test_children_outlive_their_context() -> None:
    context = Context()
    program, (packed, out) = packed_program(context), surfaces(context)
    packed.write(np.ones((ROWS, WIDTH), np.float32))
    request = program.request([packed], [out])
    context.close()
    del context
    gc.collect()
    request.evaluate()
    np.testing.assert_array_equal(out.read(), ROWS)


def test_use_after_close_is_an_error(context: Context) -> None:
    program, (packed, out) = packed_program(context), surfaces(context)
    request = program.request([packed], [out])
    for closed in (request, program, packed, context):
        closed.close()
    attempts = (
        request.evaluate,
        program.load,
        lambda: program.request([], []),
        lambda: program.cost,
        lambda: packed.write(np.zeros((1, 1), np.float32)),
        packed.read,
        lambda: packed.array,
        lambda: out.copy_from(0, 0, packed, 0, 0, 1, 1),
        lambda: context.surface(1, 1, 2),
        lambda: context.compile(""),
        context.counts,
    )
    for attempt in attempts:
        with pytest.raises(EngineError, match="is closed"):
            attempt()


def test_a_context_refuses_options_that_make_no_sense() -> None:
    for attempt in (
        lambda: Context("fp8"),
        lambda: Context(blas="/nonexistent/library.so"),
        lambda: Context(hazards=1 << 20),
    ):
        with pytest.raises(EngineError):
            attempt()
