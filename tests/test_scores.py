"""softmax(q k + mask) as one step, and its backward as one, are the ops that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from engine_cases import Op, literal, program_text, run
from numpy.random import Generator, default_rng

from ane_train.native.engine import Context
from ane_train.programs.attention import MASKED

Arrays = dict[str, np.ndarray]
HEADS, DEPTH = 3, 24


def causal(rows: int, columns: int) -> np.ndarray:
    return np.where(np.arange(rows)[:, None] % columns >= np.arange(columns), 0.0, MASKED)


def windowed(rows: int, columns: int) -> np.ndarray:
    """Causal, and with keys that are too old masked too."""
    distance = np.arange(rows)[:, None] % columns - np.arange(columns)
    return np.where((distance >= 0) & (distance < 40), 0.0, MASKED)


def ahead(rows: int, columns: int) -> np.ndarray:
    """Lets a row see a few later keys."""
    return np.where(np.arange(rows)[:, None] % columns + 5 >= np.arange(columns), 0.0, MASKED)


def biased(rows: int, columns: int) -> np.ndarray:
    """Adds what is no mask, and masks a few columns everywhere."""
    bias = -0.5 * np.abs(np.arange(rows)[:, None] % columns - np.arange(columns))
    bias[:, columns // 2 : columns // 2 + 3] = MASKED
    return bias


def hides_all(rows: int, columns: int) -> np.ndarray:
    """Some rows have nothing but masked columns."""
    mask = causal(rows, columns)
    mask[::3] = MASKED
    return mask


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {
    "causal": causal,
    "windowed": windowed,
    "ahead": ahead,
    "biased": biased,
    "hides_all": hides_all,
}


def scores(mask: np.ndarray, keeps: bool) -> str:
    """The program; `keeps` returns what lies between the ops too, so that they stay three steps."""
    rows, columns = mask.shape
    shapes = {"q": (1, HEADS, rows, DEPTH), "k": (1, HEADS, DEPTH, columns)}
    shape = (1, HEADS, rows, columns)
    constant = literal(mask.astype(np.float16)[None, None])
    ops = [
        Op("mul", {"x": "q", "y": literal(np.float16(1))}, [("query", "fp16", shapes["q"])]),
        Op("mul", {"x": "k", "y": literal(np.float16(1))}, [("key", "fp16", shapes["k"])]),
        Op("matmul", {"x": "query", "y": "key"}, [("product", "fp16", shape)]),
        Op("add", {"x": "product", "y": constant}, [("sum", "fp16", shape)]),
        Op("softmax", {"x": "sum", "axis": literal(-1)}, [("p", "fp16", shape)]),
    ]
    inputs = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    return program_text(inputs, ops, ["p", "sum", "product"] if keeps else ["p"])


def factors(rng: Generator, rows: int, columns: int, scale: float) -> Arrays:
    return {
        "q": (scale * rng.standard_normal((1, HEADS, rows, DEPTH))).astype(np.float16),
        "k": rng.standard_normal((1, HEADS, DEPTH, columns)).astype(np.float16),
    }


def assert_same(inputs: Arrays, mask: np.ndarray, numerics: str = "fp16") -> None:
    hazards = 7 if numerics == "hazard" else 0
    arguments = {"numerics": numerics, "hazards": hazards, "blas": None}
    fused = run(Context(**arguments, threads=2), scores(mask, False), inputs)[0]
    apart = run(Context(**arguments, threads=2), scores(mask, True), inputs)[0]
    slow = run(Context(**arguments, reference=True), scores(mask, False), inputs)[0]
    np.testing.assert_array_equal(fused, apart)
    np.testing.assert_array_equal(fused, slow)


@pytest.mark.parametrize("numerics", ["fp16", "fp32", "hazard"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (100, 100), (140, 70), (5, 33)])
def test_scores_in_one_step_have_the_bits_of_three(
    rows: int, columns: int, name: str, numerics: str
) -> None:
    inputs = factors(default_rng(rows), rows, columns, 1.0)
    assert_same(inputs, MASKS[name](rows, columns), numerics)


@pytest.mark.parametrize("scale", [100.0, 300.0, 1000.0, 4000.0])
def test_a_masked_key_that_outweighs_its_mask_counts(scale: float) -> None:
    """Scores reach past the mask: the softmax of a row is then not that of what it leaves."""
    inputs = factors(default_rng(4), 100, 100, scale)
    assert_same(inputs, causal(100, 100))
    out = run(Context("fp16", threads=2), scores(causal(100, 100), False), inputs)[0]
    hidden = out[..., causal(100, 100) != 0]
    assert hidden.any() == (scale >= 1000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q", "k"])
def test_what_is_not_finite_spoils_what_it_spoiled(name: str, value: float) -> None:
    inputs = factors(default_rng(6), 64, 64, 1.0)
    inputs[name][0, 1, 20, 23] = value
    with np.errstate(invalid="ignore"):
        assert_same(inputs, causal(64, 64))


def test_with_tiles_scores_in_one_step_have_the_bits_of_three() -> None:
    inputs, mask = factors(default_rng(8), 400, 200, 1.0), causal(400, 200)
    with Context("fp16", threads=3) as context:
        fused, apart = (run(context, scores(mask, keeps), inputs)[0] for keeps in (False, True))
    np.testing.assert_array_equal(fused, apart)


def test_scores_before_the_softmax_are_nowhere_in_memory() -> None:
    mask = causal(128, 128)
    with Context("fp16", threads=1) as context:
        whole, apart = (
            context.compile(scores(mask, keeps)).cost.scratch_bytes for keeps in (False, True)
        )
    assert apart - whole >= 4 * HEADS * mask.size


# --- backward ---


def backward_ops(mask: np.ndarray) -> tuple[Arrays, list[Op]]:
    """p (dp - sum(p dp)) with dp = a b: inputs without values, and ops."""
    rows, columns = mask.shape
    shapes = {"q": (1, HEADS, rows, DEPTH), "k": (1, HEADS, DEPTH, columns)}
    shapes |= {"a": shapes["q"], "b": shapes["k"]}
    shape, sums = (1, HEADS, rows, columns), (1, HEADS, rows, 1)
    constant = literal(mask.astype(np.float16)[None, None])
    alone = {
        name: Op("mul", {"x": name, "y": literal(np.float16(1))}, [(f"{name}_1", "fp16", size)])
        for name, size in shapes.items()
    }
    axes = {"axes": literal(np.array([-1], np.int32)), "keep_dims": literal(True)}
    ops = [
        *alone.values(),
        Op("matmul", {"x": "q_1", "y": "k_1"}, [("product", "fp16", shape)]),
        Op("add", {"x": "product", "y": constant}, [("sum", "fp16", shape)]),
        Op("softmax", {"x": "sum", "axis": literal(-1)}, [("p", "fp16", shape)]),
        Op("matmul", {"x": "a_1", "y": "b_1"}, [("dp", "fp16", shape)]),
        Op("mul", {"x": "p", "y": "dp"}, [("weighed", "fp16", shape)]),
        Op("reduce_sum", {"x": "weighed", **axes}, [("total", "fp16", sums)]),
        Op("sub", {"x": "dp", "y": "total"}, [("centred", "fp16", shape)]),
        Op("mul", {"x": "p", "y": "centred"}, [("ds", "fp16", shape)]),
    ]
    return {name: np.zeros(size, np.float16) for name, size in shapes.items()}, ops


def backward(mask: np.ndarray, keeps: str) -> str:
    """The value named by `keeps` is returned too."""
    inputs, ops = backward_ops(mask)
    return program_text(inputs, ops, ["ds", "p", *([keeps] if keeps else [])])


BETWEEN = ("dp", "weighed", "total", "centred")


def assert_same_backward(
    inputs: Arrays, mask: np.ndarray, numerics: str = "fp16", blas: str = "none"
) -> None:
    hazards = 7 if numerics == "hazard" else 0
    arguments: dict[str, object] = {"numerics": numerics, "hazards": hazards}
    fast = arguments if blas == "any" else arguments | {"blas": None}
    one = run(Context(**fast, threads=2), backward(mask, ""), inputs)[0]
    for keeps in BETWEEN:
        apart = run(Context(**fast, threads=2), backward(mask, keeps), inputs)[0]
        np.testing.assert_array_equal(one, apart)
    if blas == "none":
        slow = run(Context(**arguments, blas=None, reference=True), backward(mask, ""), inputs)[0]
        np.testing.assert_array_equal(one, slow)


def four_factors(rng: Generator, rows: int, columns: int, scale: float) -> Arrays:
    once, again = factors(rng, rows, columns, 1.0), factors(rng, rows, columns, scale)
    return {**once, "a": again["q"], "b": again["k"]}


@pytest.mark.parametrize("numerics", ["fp16", "fp32", "hazard"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (140, 70), (5, 33), (20, 1100)])
def test_the_backward_in_one_step_is_that_of_five(
    rows: int, columns: int, name: str, numerics: str
) -> None:
    inputs = four_factors(default_rng(rows), rows, columns, 1.0)
    assert_same_backward(inputs, MASKS[name](rows, columns), numerics)


@pytest.mark.parametrize("scale", [300.0, 1000.0, 4000.0])
def test_gradients_beyond_fp16_spoil_what_they_spoiled(scale: float) -> None:
    """Where a hidden column's gradient is infinite, zero times that is not a number."""
    inputs = four_factors(default_rng(4), 100, 100, scale)
    with np.errstate(invalid="ignore"):
        assert_same_backward(inputs, causal(100, 100))
        out = run(Context("fp16", threads=2), backward(causal(100, 100), ""), inputs)[0]
    assert np.isnan(out).any() == (scale == 4000.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["q", "k", "a", "b"])
def test_what_is_not_finite_spoils_the_backward_as_before(name: str, value: float) -> None:
    inputs = four_factors(default_rng(6), 64, 64, 1.0)
    inputs[name][0, 1, 20, 23] = value
    with np.errstate(invalid="ignore"):
        assert_same_backward(inputs, causal(64, 64))


def test_with_tiles_the_backward_in_one_step_is_that_of_five() -> None:
    assert_same_backward(four_factors(default_rng(8), 400, 200, 1.0), causal(400, 200), blas="any")


def test_the_gradient_of_probabilities_is_nowhere_in_memory() -> None:
    mask = causal(128, 128)
    with Context("fp16", threads=1) as context:
        whole, apart = (
            context.compile(backward(mask, keeps)).cost.scratch_bytes for keeps in ("", "dp")
        )
    assert apart - whole >= 4 * HEADS * mask.size


# --- products of what the mask leaves ---


@dataclass(frozen=True)
class Side:
    """Where p or ds [rows, columns] stands in a product, and by what it is multiplied."""

    slot: str
    transposed: bool

    def other(self, rows: int, columns: int) -> tuple[int, int]:
        depth = rows if self.transposed == (self.slot == "x") else columns
        return (depth, DEPTH) if self.slot == "x" else (DEPTH, depth)

    def out(self, rows: int, columns: int) -> tuple[int, int]:
        line = columns if self.transposed == (self.slot == "x") else rows
        return (line, DEPTH) if self.slot == "x" else (DEPTH, line)

    def op(self, source: str, other: str, name: str, shape: tuple[int, ...]) -> Op:
        far = "y" if self.slot == "x" else "x"
        arguments = {self.slot: source, far: other}
        arguments |= {f"transpose_{self.slot}": literal(self.transposed)}
        arguments |= {f"transpose_{far}": literal(False)}
        return Op("matmul", arguments, [(name, "fp16", shape)])


SIDES = [Side(slot, transposed) for slot in "xy" for transposed in (False, True)]


def products(mask: np.ndarray, others: Arrays, hides: bool) -> str:
    """p and ds by `others`, one of each side.

    `hides` multiplies p and ds by 1 before, so that nothing is known of their zeros.
    """
    rows, columns = mask.shape
    inputs, ops = backward_ops(mask)
    outputs = []
    for source in ("p", "ds"):
        if hides:
            shape = (1, HEADS, rows, columns)
            factor = {"x": source, "y": literal(np.float16(1))}
            ops.append(Op("mul", factor, [(f"{source}_1", "fp16", shape)]))
        for side, other in zip(SIDES, others, strict=True):
            outputs.append(f"{source}_{other}")
            shape = (1, HEADS, *side.out(rows, columns))
            ops.append(side.op(f"{source}_1" if hides else source, other, outputs[-1], shape))
    return program_text(inputs | others, ops, outputs)


def other_factors(rng: Generator, rows: int, columns: int, heads: int) -> Arrays:
    shapes = [(1, heads, *side.other(rows, columns)) for side in SIDES]
    return {
        f"o{i}": rng.standard_normal(shape).astype(np.float16) for i, shape in enumerate(shapes)
    }


def assert_same_products(inputs: Arrays, mask: np.ndarray, others: Arrays, numerics: str) -> None:
    arguments = {"numerics": numerics, "hazards": 7 if numerics == "hazard" else 0, "blas": None}
    everything = inputs | others
    fast = run(Context(**arguments, threads=2), products(mask, others, False), everything)
    hidden = run(Context(**arguments, threads=2), products(mask, others, True), everything)
    slow = run(Context(**arguments, reference=True), products(mask, others, False), everything)
    for one, other, exact in zip(fast, hidden, slow, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, exact)


@pytest.mark.parametrize("numerics", ["fp16", "fp32", "bf16", "hazard"])
@pytest.mark.parametrize("heads", [HEADS, 1])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (260, 130), (150, 290)])
def test_products_leave_out_what_is_masked(
    rows: int, columns: int, name: str, heads: int, numerics: str
) -> None:
    rng = default_rng(rows)
    inputs, others = four_factors(rng, rows, columns, 1.0), other_factors(rng, rows, columns, heads)
    assert_same_products(inputs, MASKS[name](rows, columns), others, numerics)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["q", "b", "o0", "o1", "o2", "o3"])
def test_what_is_not_finite_spoils_products_as_before(name: str, value: float) -> None:
    rng = default_rng(6)
    inputs, others = four_factors(rng, 300, 300, 1.0), other_factors(rng, 300, 300, HEADS)
    (inputs | others)[name][0, 1, 17, 19] = value
    with np.errstate(invalid="ignore"):
        assert_same_products(inputs, causal(300, 300), others, "fp16")


@pytest.mark.parametrize("numerics", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["causal", "ahead"])
@pytest.mark.parametrize("value", [1.0, np.inf])
def test_with_tiles_products_leave_out_what_is_masked(
    value: float, name: str, numerics: str
) -> None:
    """Of a depth that tiles sum in one piece: whichever part of it is left out, the sum is one."""
    rng, mask = default_rng(8), MASKS[name](250, 250)
    others = other_factors(rng, 250, 250, HEADS)
    for other in others.values():
        other[0, 1, 20, 21] = value
    everything = four_factors(rng, 250, 250, 1.0) | others
    with Context(numerics, threads=3) as context:
        fast, hidden = (
            run(context, products(mask, others, hides), everything) for hides in (False, True)
        )
    for one, other in zip(fast, hidden, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_product_that_is_wanted_transposed_leaves_out_what_is_masked() -> None:
    """Where two of it are stacked, rows for columns."""
    rng, mask = default_rng(9), causal(300, 300)
    inputs, ops = backward_ops(mask)
    shape, turned = (1, HEADS, 300, 140), (1, HEADS, 140, 300)
    others = {"v": rng.standard_normal(shape).astype(np.float16)}
    ops.append(SIDES[0].op("p", "v", "out", shape))
    perm = {"x": "out", "perm": literal([0, 1, 3, 2])}
    ops.append(Op("transpose", perm, [("turned", "fp16", turned)]))
    pair = {"values": "(turned, turned)", "axis": literal(0), "interleave": literal(False)}
    ops.append(Op("concat", pair, [("stack", "fp16", (2, HEADS, 140, 300))]))
    doubled = {"x": "stack", "y": "stack"}
    ops.append(Op("add", doubled, [("doubled", "fp16", (2, HEADS, 140, 300))]))
    text = program_text(inputs | others, ops, ["stack", "doubled"])
    everything = four_factors(rng, 300, 300, 1.0) | others
    fast = run(Context("fp16", blas=None, threads=2), text, everything)
    slow = run(Context("fp16", blas=None, reference=True), text, everything)
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)
