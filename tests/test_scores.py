"""softmax(q k + mask) as one step, and its backward as one, are the ops that they stand for."""

from __future__ import annotations

from collections.abc import Callable

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


def backward(mask: np.ndarray, keeps: str) -> str:
    """p (dp - sum(p dp)) with dp = a b; the value named by `keeps` is returned too."""
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
    inputs = {name: np.zeros(size, np.float16) for name, size in shapes.items()}
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
