"""The conformance table of ops: the engine against NumPy in float64 and against coremltools.

Each case runs as a program of one op in each numerics, by both evaluators, and once more with all
inputs constant, so that it is folded when it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_cases import MIL, NUMPY, Op, literal, program_text, run

from ane_train.native.engine import Context

ROOT = Path(__file__).resolve().parent.parent
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One op on given inputs. `expected` takes float64 (or integer) inputs by name."""

    op: str
    inputs: Arrays
    expected: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None  # of the result; None: of the first input
    slack: Callable[..., np.ndarray] | None = None  # absolute error that accumulation may add
    constant: tuple[str, ...] = ()  # inputs that have to be constants
    variadic: bool = False
    folds: bool = True  # coremltools has a value for it
    label: str = ""

    @property
    def result_dtype(self) -> str:
        return self.dtype or MIL[next(iter(self.inputs.values())).dtype]

    def wanted(self) -> list[np.ndarray]:
        values = {
            name: array.astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in self.inputs.items()
        }
        with np.errstate(all="ignore"):
            results = self.expected(*values.values())
        return list(results) if isinstance(results, (tuple, list)) else [np.asarray(results)]

    def name(self) -> str:
        shapes = "_".join("x".join(map(str, a.shape)) or "scalar" for a in self.inputs.values())
        dtype = MIL[next(iter(self.inputs.values())).dtype]
        return f"{self.op}-{dtype}-{shapes}{'-' if self.label else ''}{self.label}"


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def floats(shape: tuple[int, ...], dtype: str, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Values that both float dtypes hold exactly."""
    values = generator(seed, *shape).standard_normal(shape) * scale
    return np.asarray(values, np.float16).astype(NUMPY[dtype])


def integers(
    shape: tuple[int, ...], low: int, high: int, dtype: str = "int32", seed: int = 0
) -> np.ndarray:
    return generator(seed, *shape).integers(low, high, shape).astype(NUMPY[dtype])


FLOATS = ("fp16", "fp32")
PAIRS = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((1, 1, 7), (2, 6, 1)),
    ((700,), (700,)),
    ((3, 1, 2, 1, 600), (1, 4, 1, 3, 1)),
    ((), (4,)),
    ((), ()),
]


def binary_cases() -> Iterator[Case]:
    ops: dict[str, Any] = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide,
        "maximum": np.maximum, "minimum": np.minimum,
    }  # fmt: skip
    for op, function in ops.items():
        for a, b in PAIRS:
            for dtype in FLOATS:
                inputs = {"x": floats(a, dtype, 1), "y": floats(b, dtype, 2)}
                yield Case(op, inputs, lambda x, y, f=function: f(x, y))
        if op != "real_div":
            inputs = {"x": integers((3, 5), -9, 9), "y": integers((1, 5), -9, 9, seed=1)}
            yield Case(op, inputs, lambda x, y, f=function: f(x, y))
    for dtype in FLOATS:
        base = np.abs(floats((4, 33), dtype, 3)) + NUMPY[dtype](0.125)
        for exponent in (-0.5, 0.5, 1.0, 2.0, 3.0, -1.5):
            y = np.array(exponent, NUMPY[dtype])
            yield Case("pow", {"x": base, "y": y}, lambda x, y: x**y, label=str(exponent))
        yield Case("pow", {"x": base, "y": floats((4, 1), dtype, 5, 1.0)}, lambda x, y: x**y)
        whole = {"x": floats((5, 6), dtype, 6), "y": np.full((6,), 3, NUMPY[dtype])}
        yield Case("pow", whole, lambda x, y: x**y, label="negative")
    whole = {"x": integers((3, 5), -5, 5), "y": integers((5,), 0, 5)}
    yield Case("pow", whole, lambda x, y: x**y)
    divided = {"x": integers((3, 5), -50, 50), "y": np.array([3, -7, 2, 5, -1], np.int32)}
    yield Case("real_div", divided, lambda x, y: np.trunc(x / y), folds=False)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def unary_cases() -> Iterator[Case]:
    any_sign: dict[str, Any] = {
        "sigmoid": sigmoid, "silu": lambda x: x * sigmoid(x), "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0), "exp": np.exp, "square": np.square,
    }  # fmt: skip
    positive: dict[str, Any] = {
        "log": np.log, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    }  # fmt: skip
    shapes = [(2, 3, 4, 5), (1031,), (1, 1, 1, 2, 3), ()]
    for dtype in FLOATS:
        for shape in shapes:
            for op, function in any_sign.items():
                yield Case(op, {"x": floats(shape, dtype, 7)}, function, folds=op != "silu")
            for op, function in positive.items():
                x = np.abs(floats(shape, dtype, 8)) + NUMPY[dtype](0.25)
                yield Case(op, {"x": x}, function)
        wide = np.linspace(-17, 11, 4001).astype(np.float16).astype(NUMPY[dtype])
        for op, function in any_sign.items():
            yield Case(op, {"x": wide}, function, folds=op != "silu", label="wide")
        x = np.abs(floats((3, 4), dtype, 9))
        for op, function in (("log", np.log), ("rsqrt", lambda v: 1 / np.sqrt(v))):
            epsilon = np.float16(0.25).astype(NUMPY[dtype])
            parameters = {"epsilon": np.array(epsilon)}
            yield Case(op, {"x": x}, lambda x, f=function: f(x + 0.25), parameters, label="epsilon")


def product_slack(depth: int) -> Callable[..., np.ndarray]:
    """Float accumulation of `depth` products, in any order."""

    def slack(x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
        return (depth + 2) * 2.0**-24 * np.matmul(np.abs(x), np.abs(y))

    return slack


def flipped(x: np.ndarray, flag: bool) -> np.ndarray:
    return np.swapaxes(x, -1, -2) if flag else x


def matmul_cases() -> Iterator[Case]:
    shapes = [
        ((5, 7), (7, 3)),
        ((2, 3, 8, 16), (2, 3, 16, 4)),
        ((1, 3, 8, 16), (2, 1, 16, 4)),
        ((2, 2, 6, 5), (5, 4)),
        ((6, 5), (3, 2, 5, 1)),
        ((1, 1, 1, 9), (1, 4, 9, 70)),
        ((2, 1, 3, 6, 5), (1, 2, 1, 5, 7)),
    ]
    for a, b in shapes:
        for dtype in FLOATS:
            for x_flag, y_flag in ((False, False), (True, False), (False, True), (True, True)):
                x = np.ascontiguousarray(flipped(floats(a, dtype, 10), x_flag))
                y = np.ascontiguousarray(flipped(floats(b, dtype, 11), y_flag))

                def expected(
                    x: np.ndarray, y: np.ndarray, f: bool = x_flag, g: bool = y_flag
                ) -> np.ndarray:
                    return np.matmul(flipped(x, f), flipped(y, g))

                def slack(
                    x: np.ndarray, y: np.ndarray, f: bool = x_flag, g: bool = y_flag
                ) -> np.ndarray:
                    return product_slack(x.shape[-1] + x.shape[-2])(flipped(x, f), flipped(y, g))

                flags = {"transpose_x": x_flag, "transpose_y": y_flag}
                label = f"{int(x_flag)}{int(y_flag)}"
                yield Case("matmul", {"x": x, "y": y}, expected, flags, slack=slack, label=label)
    vectors = {"x": floats((6,), "fp16", 12), "y": floats((2, 6, 4), "fp16", 13)}
    yield Case("matmul", vectors, np.matmul, slack=product_slack(6), folds=False)
    vectors = {"x": floats((2, 4, 6), "fp16", 12), "y": floats((6,), "fp16", 13)}
    yield Case("matmul", vectors, np.matmul, slack=product_slack(6), folds=False)
    vectors = {"x": floats((6,), "fp16", 12), "y": floats((6,), "fp16", 13)}
    yield Case("matmul", vectors, np.matmul, slack=product_slack(6), folds=False)
    whole = {"x": integers((2, 3, 4), -9, 9), "y": integers((4, 5), -9, 9)}
    yield Case("matmul", whole, np.matmul)


def conv_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        for spatial, strides in (
            ((6,), (1,)),
            ((4, 5), (1, 1)),
            ((5, 6), (2, 3)),
            ((1, 9), (1, 2)),
        ):
            for groups in (1, 2):
                for biased in (False, True):
                    yield conv_case(dtype, spatial, strides, groups, biased)


def conv_case(
    dtype: str, spatial: tuple[int, ...], strides: tuple[int, ...], groups: int, biased: bool
) -> Case:
    ones = (1,) * len(spatial)
    inputs = {
        "x": floats((2, 8, *spatial), dtype, 14),
        "weight": floats((6, 8 // groups, *ones), dtype, 15),
    }
    if biased:
        inputs["bias"] = floats((6,), dtype, 16)

    def expected(x: np.ndarray, weight: np.ndarray, bias: Any = 0.0) -> np.ndarray:
        picked = x[(slice(None), slice(None), *(slice(None, None, step) for step in strides))]
        parts = picked.reshape(2, groups, 8 // groups, *picked.shape[2:])
        kernel = weight.reshape(groups, 6 // groups, 8 // groups)
        out = np.einsum("goc,ngc...->ngo...", kernel, parts)
        out = out.reshape(2, 6, *picked.shape[2:])
        return out + (np.reshape(bias, (1, 6, *ones)) if biased else 0.0)

    def slack(**inputs: np.ndarray) -> np.ndarray:
        return 12 * 2.0**-24 * expected(**{name: np.abs(a) for name, a in inputs.items()})

    parameters = {
        "strides": np.array(strides, np.int32), "pad_type": "valid", "groups": groups,
        "dilations": np.ones(len(spatial), np.int32), "pad": np.zeros(2 * len(spatial), np.int32),
    }  # fmt: skip
    label = f"stride{strides[0]}-groups{groups}-bias{int(biased)}"
    constant = ("weight", "bias")
    return Case(
        "conv", inputs, expected, parameters, slack=slack, constant=constant, folds=False,
        label=label,
    )  # fmt: skip


def movement_cases() -> Iterator[Case]:
    for dtype in ("fp16", "fp32", "int32", "bool"):
        x = integers((2, 3, 4, 5), -9, 9, dtype, 17)
        if dtype == "bool":
            x = integers((2, 3, 4, 5), 0, 2, dtype, 17)
        yield Case("identity", {"x": x}, lambda x: x)
        yield Case("reshape", {"x": x}, lambda x: x.reshape(6, 20), {"shape": [6, 20]})
        yield Case(
            "reshape", {"x": x}, lambda x: x.reshape(1, 4, 15, 2, 1), {"shape": [1, 4, -1, 2, 1]}
        )
        yield Case("expand_dims", {"x": x[0]}, lambda x: x[None, :, :, None], {"axes": [0, 3]})
        yield Case("squeeze", {"x": x[:1, :, :1]}, lambda x: x[0, :, 0], {"axes": [0, -2]})
        yield Case("squeeze", {"x": x[:1, :, :1]}, lambda x: x[0, :, 0], label="all")
        for perm in ((0, 1, 3, 2), (3, 2, 1, 0), (1, 0, 2, 3), (-1, 0, 2, 1)):
            order = tuple(axis % 4 for axis in perm)
            yield Case(
                "transpose", {"x": x}, lambda x, o=order: x.transpose(o), {"perm": list(perm)},
                label="".join(map(str, order)),
            )  # fmt: skip
        yield from slice_cases(x)
        yield from join_cases(x)
    large = floats((3, 70, 130), "fp16", 18)
    yield Case("transpose", {"x": large}, lambda x: x.transpose(2, 0, 1), {"perm": [2, 0, 1]})
    yield Case("transpose", {"x": large[0]}, lambda x: x.T, {"perm": [1, 0]})


def slice_cases(x: np.ndarray) -> Iterator[Case]:
    by_size = {"begin": [0, 1, 2, 1], "size": [2, 2, -1, 3]}
    yield Case("slice_by_size", {"x": x}, lambda x: x[:, 1:3, 2:, 1:4], by_size)
    by_index = {"begin": [0, 0, -1, 4], "end": [1, 3, -5, 0], "stride": [1, 2, -2, -1]}
    yield Case("slice_by_index", {"x": x}, lambda x: x[0:1, 0:3:2, -1:-5:-2, 4:0:-1], by_index)
    masked = {
        "begin": [1, 0, 3, 2], "end": [0, 2, 0, 5], "begin_mask": [False, False, True, False],
        "end_mask": [False, False, True, False], "squeeze_mask": [True, False, False, False],
    }  # fmt: skip
    yield Case("slice_by_index", {"x": x}, lambda x: x[1, 0:2, :, 2:5], masked, label="masks")


def join_cases(x: np.ndarray) -> Iterator[Case]:
    for axis in (0, 2, -1):
        parts = {"a": x, "b": x[::-1].copy(), "c": x}
        yield Case(
            "concat", parts, lambda a, b, c, k=axis: np.concatenate([a, b, c], k),
            {"axis": axis, "interleave": False}, variadic=True, label=f"axis{axis}",
        )  # fmt: skip
    interleaved = {"a": x, "b": x[::-1].copy()}
    yield Case(
        "concat", interleaved,
        lambda a, b: np.stack([a, b], 3).reshape(2, 3, 8, 5),
        {"axis": 2, "interleave": True}, variadic=True, folds=False, label="interleave",
    )  # fmt: skip
    even = {"axis": 2, "num_splits": 2}
    yield Case("split", {"x": x}, lambda x: np.split(x, 2, 2), even, label="even")
    uneven = {"axis": -1, "split_sizes": [1, 3, 1]}
    yield Case("split", {"x": x}, lambda x: np.split(x, [1, 4], -1), uneven, label="uneven")


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def row_cases() -> Iterator[Case]:
    sums = {"reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max}
    for dtype in FLOATS:
        for shape, axis in (((2, 3, 4, 37), -1), ((2, 3, 40, 5), 2), ((6, 7), 0), ((130,), 0)):
            x = floats(shape, dtype, 19)
            yield Case(
                "softmax",
                {"x": x},
                lambda x, k=axis: softmax(x, k),
                {"axis": axis},
                label=str(axis),
            )
        for shape, axes in (((2, 3, 4, 37), [3]), ((2, 3, 4, 37), [1]), ((2, 5, 6), [0, -1]),
                            ((3, 4), None)):  # fmt: skip
            for keep in (False, True):
                for op, function in sums.items():
                    yield reduce_case(op, function, floats(shape, dtype, 20, 0.5), axes, keep)
        yield from layer_norm_cases(dtype)
    for op, function in sums.items():
        if op != "reduce_mean":
            yield reduce_case(op, function, integers((3, 4, 5), -9, 9), [0, 2], True)


def reduce_case(op: str, function: Any, x: np.ndarray, axes: list[int] | None, keep: bool) -> Case:
    chosen = tuple(range(x.ndim)) if axes is None else tuple(axes)
    parameters: dict[str, Any] = {"keep_dims": keep} | ({} if axes is None else {"axes": axes})

    def slack(x: np.ndarray) -> np.ndarray:
        return 4 * 2.0**-24 * np.abs(x).sum(axis=chosen, keepdims=keep)

    def expected(x: np.ndarray) -> np.ndarray:
        return function(x, axis=chosen, keepdims=keep)

    label = f"{axes}-{int(keep)}"
    return Case(op, {"x": x}, expected, parameters, slack=slack, label=label)


def layer_norm_cases(dtype: str) -> Iterator[Case]:
    for shape, axes in (((2, 3, 40), [2]), ((2, 6, 5), [1]), ((2, 3, 4), [1, 2])):
        normalized = tuple(shape[axis] for axis in axes)
        inputs = {
            "x": floats(shape, dtype, 21),
            "gamma": floats(normalized, dtype, 22),
            "beta": floats(normalized, dtype, 23),
        }

        def expected(
            x: np.ndarray, gamma: Any = 1.0, beta: Any = 0.0, axes: Any = tuple(axes)
        ) -> np.ndarray:
            wide = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
            centred = x - x.mean(axes, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 2.0**-10)
            return scaled * np.reshape(gamma, wide if np.ndim(gamma) else ()) + np.reshape(
                beta, wide if np.ndim(beta) else ()
            )

        def slack(x: np.ndarray, **_: Any) -> np.ndarray:
            return np.full(x.shape, 1e-5)

        epsilon = np.array(2.0**-10, NUMPY[dtype])
        parameters = {"axes": axes, "epsilon": epsilon}
        constant = ("gamma", "beta")
        yield Case(
            "layer_norm", inputs, expected, parameters, slack=slack, constant=constant,
            label=f"affine{axes}",
        )  # fmt: skip
        plain = {"x": inputs["x"]}
        yield Case("layer_norm", plain, expected, parameters, slack=slack, label=f"plain{axes}")


def choice_cases() -> Iterator[Case]:
    for dtype in ("fp16", "fp32", "int32"):
        x = integers((4, 6, 5), -9, 9, dtype, 24)
        for axis, indices in ((0, [3, 0, 0]), (1, [[5, 1], [2, 2]]), (-1, 4)):
            given = {"x": x, "indices": np.array(indices, np.int32)}
            yield Case(
                "gather", given, lambda x, indices, k=axis: np.take(x, indices, k), {"axis": axis},
                label=f"axis{axis}",
            )  # fmt: skip
        batch = {"x": x, "indices": integers((4, 3), 0, 6, seed=25)}
        yield Case(
            "gather", batch,
            lambda x, indices: np.stack([row[i] for row, i in zip(x, indices, strict=True)]),
            {"axis": 1, "batch_dims": 1}, label="batch",
        )  # fmt: skip
        picks = {
            "cond": integers((2, 3, 5), 0, 2, "bool"),
            "a": integers((2, 3, 5), -9, 9, dtype, 26),
            "b": integers((2, 3, 5), -9, 9, dtype, 27),
        }
        yield Case("select", picks, np.where, dtype=dtype, label=dtype)


def cast_cases() -> Iterator[Case]:
    values = np.array([[-3.75, -0.5, 0.0, 0.5], [1.5, 2.5, 100.25, 2000.0]])
    for source in ("fp16", "fp32", "int32", "bool"):
        for target in ("fp16", "fp32", "int32", "bool"):
            x = values.astype(NUMPY[source])
            yield Case(
                "cast", {"x": x}, lambda x, t=target: x.astype(NUMPY[t]), {"dtype": target},
                dtype=target, label=target,
            )  # fmt: skip
    for target in ("int8", "uint8"):
        x = integers((3, 4), 0, 120)
        yield Case("cast", {"x": x}, lambda x: x, {"dtype": target}, dtype=target, label=target)


def quantize_cases() -> Iterator[Case]:
    ranges = {"int8": (-128, 127), "uint8": (0, 255)}
    for dtype in FLOATS:
        for stored, (low, high) in ranges.items():
            x = integers((3, 4, 5), -400, 400, dtype, 28) * NUMPY[dtype](0.25)
            for axis in (None, 1):
                shape = () if axis is None else (4,)
                scale = np.full(shape, 0.5, NUMPY[dtype])
                zero = integers(shape, 1, 9, stored, 29)
                yield quantize_case(x, scale, zero, axis, (low, high))
                yield dequantize_case(integers((3, 4, 5), low, high, stored, 30), scale, zero, axis)
                yield affine_case(integers((3, 4, 5), low, high, stored, 31), scale, zero, axis)


def along(vector: np.ndarray, axis: int | None) -> np.ndarray:
    return vector if axis is None else vector.reshape(1, 4, 1)


def affine_parameters(axis: int | None) -> dict[str, Any]:
    return {} if axis is None else {"axis": axis}


def quantize_case(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None, limits: tuple[int, int]
) -> Case:
    parameters = affine_parameters(axis) | {"output_dtype": MIL[zero.dtype]}
    return Case(
        "quantize",
        {"input": x, "scale": scale, "zero_point": zero},
        lambda input, scale, zero_point: np.clip(  # noqa: A006
            np.round(input / along(scale, axis)) + along(zero_point, axis).astype(int), *limits
        ),
        parameters, dtype=MIL[zero.dtype], constant=("scale", "zero_point"),
        label=f"{MIL[zero.dtype]}-{axis}",
    )  # fmt: skip


def dequantize_case(q: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None) -> Case:
    return Case(
        "dequantize",
        {"input": q, "scale": scale, "zero_point": zero},
        lambda input, scale, zero_point: (  # noqa: A006
            along(scale, axis) * (input.astype(int) - along(zero_point, axis).astype(int))
        ),
        affine_parameters(axis), dtype=MIL[scale.dtype], constant=("scale", "zero_point"),
        label=f"{MIL[scale.dtype]}-{axis}",
    )  # fmt: skip


def affine_case(q: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None) -> Case:
    return Case(
        "constexpr_affine_dequantize",
        {"quantized_data": q, "scale": scale, "zero_point": zero},
        lambda quantized_data, scale, zero_point: (
            along(scale, axis) * (quantized_data.astype(int) - along(zero_point, axis).astype(int))
        ),
        {"axis": axis or 0}, dtype=MIL[scale.dtype],
        constant=("quantized_data", "scale", "zero_point"), label=f"{MIL[scale.dtype]}-{axis}",
    )  # fmt: skip


TABLE = [
    *binary_cases(), *unary_cases(), *matmul_cases(), *conv_cases(), *movement_cases(),
    *row_cases(), *choice_cases(), *cast_cases(), *quantize_cases(),
]  # fmt: skip


def case_text(case: Case, constants: set[str]) -> tuple[str, dict[str, np.ndarray]]:
    """The program of a case and its remaining inputs."""
    dynamic = {name: array for name, array in case.inputs.items() if name not in constants}
    operand = {
        name: name if name in dynamic else literal(array) for name, array in case.inputs.items()
    }
    parameters = {name: literal(value) for name, value in case.parameters.items()}
    arguments = {"values": f"({', '.join(operand.values())})"} if case.variadic else operand
    wanted = case.wanted()
    results = [
        (f"out{i}" if len(wanted) > 1 else "out", case.result_dtype, value.shape)
        for i, value in enumerate(wanted)
    ]
    op = Op(case.op, {**arguments, **parameters}, results)
    if not dynamic:
        dynamic = {"unused": np.zeros((1, 1), np.float32)}
    return program_text(dynamic, [op], [name for name, *_ in results]), dynamic


def assert_close(case: Case, got: np.ndarray, want: np.ndarray, numerics: str, slack: Any) -> None:
    assert got.shape == want.shape
    if case.result_dtype not in FLOATS:
        np.testing.assert_array_equal(got.astype(np.int64), want.astype(np.int64))
    elif case.result_dtype == "fp16" and numerics != "fp32":
        assert got.dtype == np.float16
        below = np.nextafter((want - slack).astype(np.float16), np.float16(-np.inf))
        above = np.nextafter((want + slack).astype(np.float16), np.float16(np.inf))
        assert np.all((got >= below) & (got <= above))
    else:
        bound = slack + 1e-6 * np.abs(want) + 1e-37
        assert np.all((np.abs(got - want) <= bound) | (got == want))


@pytest.fixture(scope="module")
def contexts() -> Iterator[dict[tuple[str, bool], Context]]:
    opened = {
        (numerics, reference): Context(numerics, threads=2, reference=reference)
        for numerics in ("fp16", "fp32", "hazard")
        for reference in (False, True)
    }
    yield opened
    for context in opened.values():
        context.close()


@pytest.mark.parametrize("case", TABLE, ids=Case.name)
def test_an_op_agrees_with_numpy_in_float64(
    case: Case, contexts: dict[tuple[str, bool], Context]
) -> None:
    wanted = case.wanted()
    values = {name: array.astype(np.float64) for name, array in case.inputs.items()}
    slack = case.slack(**values) if case.slack else 0.0
    variants = [set(case.constant), set(case.inputs)]
    for (numerics, _), context in contexts.items():
        for constants in variants:
            text, inputs = case_text(case, constants)
            for got, want in zip(run(context, text, inputs), wanted, strict=True):
                assert_close(case, got, want, numerics, slack)


def test_the_table_covers_every_op() -> None:
    known = re.findall(r"MIL_OP\((\w+),", (ROOT / "csrc/cpu/ops.def").read_text())
    assert set(known) - {"name"} == {case.op for case in TABLE}


def folded_value(case: Case) -> list[np.ndarray] | None:
    """What coremltools makes of the op when all its inputs are constants."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    with Function({}, opset_version=ct.target.iOS17):
        values: dict[str, Any] = dict(case.inputs)
        if case.variadic:
            values = {"values": list(values.values())}
        made = getattr(mb, case.op)(**values, **case.parameters)
    outputs = made if isinstance(made, (list, tuple)) else [made]
    found = [
        out.val if out.val is not None else out.op.materialized_val_inference() for out in outputs
    ]
    return None if any(value is None for value in found) else [np.asarray(v) for v in found]


@pytest.mark.parametrize("case", [case for case in TABLE if case.folds], ids=Case.name)
def test_an_op_agrees_with_the_value_inference_of_coremltools(
    case: Case, contexts: dict[tuple[str, bool], Context]
) -> None:
    text, inputs = case_text(case, set(case.constant))
    got = run(contexts["fp16", False], text, inputs)
    folded = folded_value(case)
    assert folded is not None
    for ours, theirs in zip(got, folded, strict=True):
        if case.result_dtype not in FLOATS:
            np.testing.assert_array_equal(ours.astype(np.int64), theirs.astype(np.int64))
            continue
        # It computes fp16 in fp16, sums included.
        tolerance = 1e-2 if case.result_dtype == "fp16" else 1e-5
        np.testing.assert_allclose(
            ours.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance
        )
