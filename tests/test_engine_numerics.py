"""What the numerics promise: where values are rounded, how sums accumulate, what defects show."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import Op, literal, program_text, run

from ane_train.mil import Hazard
from ane_train.native.engine import Context
from ane_train.native.library import NativeError


def apply(
    context: Context, kind: str, *arrays: np.ndarray, shape: tuple[int, ...] = (), **rest: object
) -> np.ndarray:
    """One op on arrays; the result has the first array's dtype, and its shape unless given."""
    names = ("x", "y")[: len(arrays)]
    inputs = dict(zip(names, arrays, strict=True))
    parameters = {name: literal(value) for name, value in rest.items()}
    dtype = "fp16" if arrays[0].dtype == np.float16 else "fp32"
    result = ("out", dtype, shape or arrays[0].shape)
    op = Op(kind, {name: name for name in names} | parameters, [result])
    return run(context, program_text(inputs, [op], ["out"]), inputs)[0]


@pytest.fixture(scope="module")
def fp16() -> Context:
    return Context("fp16", threads=2)


# --- accuracy ---


def ulps(got: np.ndarray, want: np.ndarray) -> float:
    """Largest error in units in the last place of fp32, subnormals included."""
    unit = np.spacing(np.maximum(np.abs(want), np.finfo(np.float32).tiny).astype(np.float32))
    return float(np.max(np.abs(got.astype(np.float64) - want) / unit.astype(np.float64)))


@pytest.mark.parametrize(
    ("kind", "low", "high", "function"),
    [
        ("exp", -87.0, 88.5, np.exp),
        ("tanh", -20.0, 20.0, np.tanh),
        ("tanh", -0.7, 0.7, np.tanh),
        ("sigmoid", -80.0, 80.0, lambda x: 1 / (1 + np.exp(-x))),
        ("log", 1e-6, 1e6, np.log),
        ("log", 0.5, 2.0, np.log),
    ],
)
def test_functions_are_within_three_units_of_fp32(
    fp16: Context, kind: str, low: float, high: float, function: object
) -> None:
    x = np.linspace(low, high, 200_003).astype(np.float32)
    want = function(x.astype(np.float64))  # type: ignore[operator]
    assert ulps(apply(fp16, kind, x), want) <= 3


def test_powers_are_within_one_unit_of_fp32(fp16: Context) -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-20, 20, 50_000)).astype(np.float32)
    y = rng.uniform(-3, 3, 50_000).astype(np.float32)
    assert ulps(apply(fp16, "pow", x, y), x.astype(np.float64) ** y.astype(np.float64)) <= 1


def test_subnormal_results_are_kept(fp16: Context) -> None:
    x = np.linspace(-103, -87, 5001).astype(np.float32)
    np.testing.assert_allclose(apply(fp16, "exp", x), np.exp(x.astype(np.float64)), atol=3e-45)
    tiny = (np.arange(1, 2000) * 2.0**-149).astype(np.float32)
    logarithm = apply(fp16, "log", tiny, epsilon=np.float32(0))
    np.testing.assert_allclose(logarithm, np.log(tiny.astype(np.float64)), rtol=1e-6)


SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 3.0, 1e30, np.inf, -np.inf, np.nan], np.float32
)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("exp", np.exp), ("log", np.log), ("sqrt", np.sqrt), ("tanh", np.tanh),
        ("square", np.square), ("relu", lambda x: np.maximum(x, 0)),
    ],
)  # fmt: skip
def test_special_values_go_through_functions(fp16: Context, kind: str, function: object) -> None:
    with np.errstate(all="ignore"):
        want = function(SPECIAL.astype(np.float64)).astype(np.float32)  # type: ignore[operator]
    exact = {"epsilon": np.float32(0)} if kind == "log" else {}
    np.testing.assert_allclose(apply(fp16, kind, SPECIAL, **exact), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "function"), [("pow", np.power), ("maximum", np.maximum), ("minimum", np.minimum)]
)
def test_special_values_go_through_pairs(fp16: Context, kind: str, function: object) -> None:
    x, y = (grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    exponents = y.copy()
    with np.errstate(all="ignore"):
        want = function(x.astype(np.float64), y).astype(np.float32)  # type: ignore[operator]
    got = apply(fp16, kind, x, exponents)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_masked_score_has_no_probability(fp16: Context) -> None:
    scores = np.array([[1.0, -np.inf, 2.0, -1e4], [3.0, -1e4, -1e4, -1e4]], np.float16)
    out = apply(fp16, "softmax", scores, axis=-1)
    assert out[0, 1] == out[0, 3] == 0
    np.testing.assert_array_equal(out[1], [1, 0, 0, 0])


# --- rounding ---


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "real_div"])
def test_fp16_arithmetic_is_that_of_ieee(fp16: Context, kind: str) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 16, (2, 200_000)).astype(np.uint16)
    x, y = bits.view(np.float16)
    functions = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide}
    with np.errstate(all="ignore"):
        want = functions[kind](x, y)
    np.testing.assert_array_equal(apply(fp16, kind, x, y), want)


def chain(context: Context, x: np.ndarray) -> np.ndarray:
    """(x * x) * x - x, by three ops that are one step of the fast evaluator."""
    ops = [
        Op("mul", {"x": "x", "y": "x"}, [("a", "fp16", x.shape)]),
        Op("mul", {"x": "a", "y": "x"}, [("b", "fp16", x.shape)]),
        Op("sub", {"x": "b", "y": "x"}, [("c", "fp16", x.shape)]),
    ]
    return run(context, program_text({"x": x}, ops, ["c"]), {"x": x})[0]


def test_each_value_of_a_chain_is_rounded(fp16: Context) -> None:
    x = np.random.default_rng(2).standard_normal((7, 1000)).astype(np.float16)
    np.testing.assert_array_equal(chain(fp16, x), (x * x) * x - x)


def test_nothing_is_rounded_in_fp32_numerics() -> None:
    x = np.random.default_rng(2).standard_normal((7, 1000)).astype(np.float16)
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(chain(Context("fp32"), x), (wide * wide) * wide - wide)


def test_values_declared_fp32_are_not_rounded_in_fp16_numerics(fp16: Context) -> None:
    x = np.random.default_rng(3).standard_normal(500).astype(np.float32)
    np.testing.assert_array_equal(apply(fp16, "square", x), x * x)


@pytest.mark.parametrize("reference", [False, True])
def test_sums_accumulate_wide(reference: bool) -> None:
    ones = np.ones((2, 16384), np.float16)
    context = Context("fp16", reference=reference)
    total = apply(context, "reduce_sum", ones, shape=(2, 1), axes=[1], keep_dims=True)
    np.testing.assert_array_equal(total, 16384)
    product = apply(context, "matmul", ones, ones.T.copy(), shape=(2, 2))
    np.testing.assert_array_equal(product, 16384)


# --- hazards ---


@pytest.fixture(params=[False, True], ids=["fast", "reference"])
def hazardous(request: pytest.FixtureRequest) -> Context:
    flags = Hazard.MATMUL_RANGE | Hazard.REDUCE_FP16 | Hazard.WIDTH_SLICE
    return Context("hazard", int(flags), threads=2, reference=request.param)


def test_a_hazardous_sum_stalls_where_fp16_does(hazardous: Context, fp16: Context) -> None:
    rng = np.random.default_rng(4)
    x = np.concatenate([np.ones((1, 4096)), rng.standard_normal((1, 4096))]).astype(np.float16)
    want = np.zeros(2, np.float16)
    for column in x.T:
        want += column
    assert want[0] == 2048
    got = apply(hazardous, "reduce_sum", x, shape=(2, 1), axes=[1], keep_dims=True)
    np.testing.assert_array_equal(got[:, 0], want)
    mean = apply(hazardous, "reduce_mean", x, shape=(2, 1), axes=[1], keep_dims=True)
    np.testing.assert_array_equal(mean[0], np.float16(0.5))
    largest = apply(hazardous, "reduce_max", x, shape=(2, 1), axes=[1], keep_dims=True)
    np.testing.assert_array_equal(largest[:, 0], x.max(1))
    exact = apply(fp16, "reduce_sum", x, shape=(2, 1), axes=[1], keep_dims=True)
    assert exact[0, 0] == 4096


def test_a_hazardous_product_beyond_its_range_is_infinite(hazardous: Context) -> None:
    x = np.array([[181.0, 32752.0, -32768.0, 32736.0, 65504.0]], np.float16).T
    out = apply(hazardous, "matmul", x, np.array([[1.0, -1.0]], np.float16), shape=(5, 2))
    want = np.array([181.0, 32752.0, -np.inf, 32736.0, np.inf])
    np.testing.assert_array_equal(out, np.stack([want, -want], axis=1))


@pytest.mark.parametrize(("begin", "saturates"), [([0, 0], False), ([1, 0], False), ([0, 1], True)])
def test_a_hazardous_slice_off_the_first_column_saturates(
    hazardous: Context, begin: list[int], saturates: bool
) -> None:
    x = np.array([[1.0, 4094.0, -4096.0, 5000.0]] * 3, np.float16)
    rows, columns = 3 - begin[0], 4 - begin[1]
    arguments = {"begin": begin, "size": [rows, columns]}
    got = apply(hazardous, "slice_by_size", x, shape=(rows, columns), **arguments)
    want = x[begin[0] :, begin[1] :].copy()
    if saturates:
        want[np.abs(want) > 4094] *= np.float16(np.inf)
    np.testing.assert_array_equal(got, want)


def test_flags_show_nothing_outside_hazard_numerics() -> None:
    ones = np.ones((1, 4096), np.float16)
    context = Context("fp16", hazards=int(Hazard.REDUCE_FP16))
    total = apply(context, "reduce_sum", ones, shape=(1, 1), axes=[1], keep_dims=True)
    np.testing.assert_array_equal(total, 4096)


# --- errors of an evaluation ---


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("index", [5, -6, 2**31 - 1, -(2**31)])
def test_gather_outside_its_axis_is_an_error_with_a_place(reference: bool, index: int) -> None:
    inputs = {"x": np.zeros((5, 2), np.float16), "i": np.array([0, index], np.int32)}
    op = Op("gather", {"x": "x", "indices": "i", "axis": "int32(0)"}, [("out", "fp16", (2, 2))])
    context = Context("fp16", reference=reference)
    with pytest.raises(NativeError, match=r"outside \[0, 5\)") as caught:
        run(context, program_text(inputs, [op], ["out"]), inputs)
    assert caught.value.status == "evaluate"
    assert caught.value.line == 5
