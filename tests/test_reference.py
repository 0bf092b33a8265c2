"""The NumPy reference of `doctor` against float64 formulas, coremltools and the engine."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import MIL
from test_ops import TABLE, Case, assert_close, folded_value

from ane_train import mil
from ane_train.doctor.reference import FUNCTIONS, evaluate
from ane_train.errors import EngineError


def value(name: str, data: object, constant: bool = True) -> mil.Value:
    if isinstance(data, str):
        return mil.Value(name, mil.TensorType("string"), data)
    array = np.asarray(data)
    dtype = {"int64": "int32", "float64": "fp32"}.get(array.dtype.name) or MIL[array.dtype]
    return mil.Value(name, mil.TensorType(dtype, array.shape), array if constant else None)


def one_op(case: Case) -> tuple[mil.Program, list[np.ndarray]]:
    """The program of a case, made without the builder, which refuses what engines also take."""
    operands = {
        name: value(name, array, name in case.constant) for name, array in case.inputs.items()
    }
    parameters = {name: value(name, given) for name, given in case.parameters.items()}
    results = tuple(
        mil.Value(f"out{i}", mil.TensorType(case.result_dtype, array.shape))
        for i, array in enumerate(case.wanted())
    )
    given = {"values": tuple(operands.values())} if case.variadic else operands
    op = mil.Op(case.op, "op", {**given, **parameters}, results)
    inputs = tuple(item for item in operands.values() if not item.is_constant)
    program = mil.Program("main", "ios18", inputs, (op,), results)
    return program, [case.inputs[item.name] for item in inputs]


@pytest.mark.parametrize("case", TABLE, ids=Case.name)
def test_the_reference_is_float64_rounded_to_the_declared_type(case: Case) -> None:
    program, inputs = one_op(case)
    for got, want in zip(evaluate(program, inputs), case.wanted(), strict=True):
        if case.result_dtype == "fp16":
            # NumPy's order of sums in float64 may move a value across a rounding boundary.
            assert_close(case, got.astype(np.float16), want, "fp16", 1e-9 * np.abs(want))
        else:
            assert_close(case, got, want, "fp32", 1e-7 * np.abs(want))


@pytest.mark.parametrize("case", [case for case in TABLE if case.folds], ids=Case.name)
def test_the_reference_agrees_with_the_value_inference_of_coremltools(case: Case) -> None:
    program, inputs = one_op(case)
    theirs = folded_value(case)
    assert theirs is not None
    # coremltools computes fp16 in fp16, sums included.
    tolerance = 1e-2 if case.result_dtype == "fp16" else 1e-5
    for ours, folded in zip(evaluate(program, inputs), theirs, strict=True):
        np.testing.assert_allclose(ours, folded.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_the_reference_has_every_op() -> None:
    assert FUNCTIONS.keys() == mil.OPS.keys()


def test_a_result_is_rounded_where_it_is_stored_and_overflows_there() -> None:
    b = mil.Builder()
    x = b.input("x", (1, 2))
    program = b.build([b.mul(b.add(x, 1.0), 1.0), b.cast(b.mul(x, x), "fp32")])
    outputs = evaluate(program, [np.array([2048.0, 300.0])])
    assert outputs[0].tolist() == [[2048.0, 301.0]]
    assert outputs[1].tolist() == [[np.inf, np.inf]]


def test_a_kernel_of_several_places_is_refused_by_name() -> None:
    b = mil.Builder()
    kernel = b.constant(np.ones((4, 4, 1, 3)), "fp16")
    program = b.build([b.conv(b.input("x", (1, 4, 1, 8)), kernel, name="wide")])
    with pytest.raises(EngineError, match="wide: the reference has no kernel"):
        evaluate(program, [np.zeros((1, 4, 1, 8))])
