"""What MIL programs mean, in NumPy: float64 arithmetic, each result rounded to its declared type.

Slow and obvious, and written without a look at the engines: what they are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ane_train import mil
from ane_train.errors import EngineError

Array = np.ndarray[Any, Any]
Results = Array | tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of one op, by name, with the op's defaults."""

    op: mil.Op
    values: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def array(self, name: str, default: Any = None) -> Array:
        """A tensor argument: float64, int64 or bool."""
        return np.asarray(self.values.get(name, default))

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """A vector of integers or flags."""
        if name not in self.values:
            return None if default is None else tuple(default)
        return tuple(int(item) for item in np.ravel(self.values[name]))

    def ints(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A vector of integers or flags that has a default."""
        return self.integers(name, default) or ()

    def integer(self, name: str, default: int = 0) -> int:
        """An integer or a flag."""
        return int(self.values.get(name, default))

    def text(self, name: str) -> str:
        """A word."""
        return str(self.values[name])


def evaluate(program: mil.Program, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of a program, float64, from arrays in the order (and shapes) of its inputs."""
    known: dict[mil.Value, Any] = {}
    for value, array in zip(program.inputs, inputs, strict=True):
        known[value] = _rounded(np.reshape(array, value.shape), value.dtype)
    for value in program.constants:
        known[value] = _constant(value)
    with np.errstate(all="ignore"):
        for op in program.ops:
            known.update(zip(op.outputs, _results(op, known), strict=True))
    return [known[value] for value in program.outputs]


def _results(op: mil.Op, known: Mapping[mil.Value, Any]) -> list[Array]:
    values = {
        name: tuple(known[item] for item in bound) if isinstance(bound, tuple) else known[bound]
        for name, bound in op.arguments.items()
    }
    made = FUNCTIONS[op.kind](Given(op, values))
    arrays = made if isinstance(made, tuple) else (made,)
    return [_rounded(array, value.dtype) for array, value in zip(arrays, op.outputs, strict=True)]


def _constant(value: mil.Value) -> Any:
    return value.data if isinstance(value.data, str) else _rounded(value.data, value.dtype)


def _rounded(array: Any, dtype: str) -> Array:
    """The array as its declared type holds it, in the type that is computed with."""
    kind = np.dtype(mil.DTYPES[dtype].numpy)
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.asarray(array).astype(kind)
    return held if kind.kind == "b" else held.astype(np.float64 if kind.kind == "f" else np.int64)


def _unary(function: Callable[[Array], Any]) -> Callable[[Given], Results]:
    return lambda given: np.asarray(function(given.array("x")))


def _binary(function: Callable[[Array, Array], Any]) -> Callable[[Given], Results]:
    return lambda given: np.asarray(function(given.array("x"), given.array("y")))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _log(given: Given) -> Results:
    return np.asarray(np.log(given.array("x") + given.array("epsilon", 1e-45)))


def _rsqrt(given: Given) -> Results:
    return np.asarray(1 / np.sqrt(given.array("x") + given.array("epsilon", 1e-12)))


def _identity(given: Given) -> Results:
    return given.array("x")


def _cast(given: Given) -> Results:
    x = given.array("x")
    return np.trunc(x) if mil.DTYPES[given.text("dtype")].numpy.lstrip("u").startswith("int") else x


def _matmul(given: Given) -> Results:
    x, y = given.array("x"), given.array("y")
    x = np.swapaxes(x, -1, -2) if given.integer("transpose_x") else x
    y = np.swapaxes(y, -1, -2) if given.integer("transpose_y") else y
    return np.asarray(np.matmul(x, y))


def _conv(given: Given) -> Results:
    """A product over channels at every place; only kernels of one place."""
    x, weight = given.array("x"), given.array("weight")
    if weight[0, 0].size != 1:
        raise EngineError(f"{given.op.name}: the reference has no kernel {weight.shape[2:]}")
    groups, rank = given.integer("groups", 1), x.ndim - 2
    strides = given.ints("strides", (1,) * rank)
    x = x[(slice(None), slice(None), *(slice(None, None, step) for step in strides))]
    kernel = weight.reshape(groups, -1, weight.shape[1])
    parts = x.reshape(x.shape[0], groups, kernel.shape[2], -1)
    out: Array = np.matmul(kernel, parts).reshape(x.shape[0], -1, *x.shape[2:])
    return out + given.array("bias", 0.0).reshape(-1, *(1,) * rank) if "bias" in given else out


def _reshape(given: Given) -> Results:
    return given.array("x").reshape(given.op.outputs[0].shape)


def _transpose(given: Given) -> Results:
    return given.array("x").transpose(given.ints("perm"))


def _slice_by_size(given: Given) -> Results:
    starts = given.ints("begin")
    sizes = given.op.outputs[0].shape
    return given.array("x")[tuple(slice(b, b + n) for b, n in zip(starts, sizes, strict=True))]


def _slice_by_index(given: Given) -> Results:
    x = given.array("x")
    no = (0,) * x.ndim
    index: list[slice | int] = []
    for begin, end, stride, from_start, to_end, squeezed in zip(
        given.ints("begin"),
        given.ints("end"),
        given.ints("stride", (1,) * x.ndim),
        given.ints("begin_mask", no),
        given.ints("end_mask", no),
        given.ints("squeeze_mask", no),
        strict=True,
    ):
        part = slice(None if from_start else begin, None if to_end else end, stride)
        index.append(begin if squeezed else part)
    return np.asarray(x[tuple(index)])


def _concat(given: Given) -> Results:
    values, axis = given.values["values"], given.integer("axis")
    if not given.integer("interleave"):
        return np.concatenate(values, axis)
    return np.stack(values, axis % values[0].ndim + 1).reshape(given.op.outputs[0].shape)


def _split(given: Given) -> Results:
    axis = given.integer("axis")
    sizes = [output.shape[axis] for output in given.op.outputs]
    return tuple(np.split(given.array("x"), np.cumsum(sizes)[:-1], axis))


def _softmax(given: Given) -> Results:
    x, axis = given.array("x"), given.integer("axis", -1)
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _reduce(function: Callable[..., Any]) -> Callable[[Given], Results]:
    def apply(given: Given) -> Results:
        axes, keep = given.integers("axes"), bool(given.integer("keep_dims"))
        return np.asarray(function(given.array("x"), axis=axes, keepdims=keep))

    return apply


def _layer_norm(given: Given) -> Results:
    x = given.array("x")
    axes = tuple(axis % x.ndim for axis in given.ints("axes", range(x.ndim)))
    wide = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred**2).mean(axes, keepdims=True)
    scaled = centred / np.sqrt(variance + given.array("epsilon", 1e-5))
    gamma, beta = given.array("gamma", 1.0), given.array("beta", 0.0)
    gamma, beta = (part.reshape(wide) if part.ndim else part for part in (gamma, beta))
    return np.asarray(scaled * gamma + beta)


def _gather(given: Given) -> Results:
    x, indices = given.array("x"), given.array("indices")
    axis, batch = given.integer("axis") % x.ndim, given.integer("batch_dims")
    if not batch:
        return np.take(x, indices, axis)
    places = np.ndindex(*x.shape[:batch])
    taken = [np.take(x[place], indices[place], axis - batch) for place in places]
    return np.stack(taken).reshape(given.op.outputs[0].shape)


def _select(given: Given) -> Results:
    return np.where(given.array("cond"), given.array("a"), given.array("b"))


def _along(given: Given, name: str, rank: int) -> Array:
    """A scale or zero point, one number or one for each place on the axis, ready to broadcast."""
    vector = given.array(name, 0)
    if vector.ndim != 1:
        return vector
    axis = given.integer("axis") % rank
    return vector.reshape([-1 if place == axis else 1 for place in range(rank)])


def _quantize(given: Given) -> Results:
    x = given.array("input")
    limits = np.iinfo(mil.DTYPES[given.text("output_dtype")].numpy)
    scale, zero = _along(given, "scale", x.ndim), _along(given, "zero_point", x.ndim)
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max)


def _dequantize(parameter: str) -> Callable[[Given], Results]:
    def apply(given: Given) -> Results:
        x = given.array(parameter)
        scale, zero = _along(given, "scale", x.ndim), _along(given, "zero_point", x.ndim)
        return np.asarray(scale * (x - zero))

    return apply


FUNCTIONS: Mapping[str, Callable[[Given], Results]] = MappingProxyType(
    {
        "cast": _cast,
        "identity": _identity,
        "add": _binary(np.add),
        "sub": _binary(np.subtract),
        "mul": _binary(np.multiply),
        "real_div": _binary(np.divide),
        "maximum": _binary(np.maximum),
        "minimum": _binary(np.minimum),
        "pow": _binary(np.power),
        "sigmoid": _unary(_sigmoid),
        "silu": _unary(lambda x: x * _sigmoid(x)),
        "tanh": _unary(np.tanh),
        "relu": _unary(lambda x: np.maximum(x, 0)),
        "exp": _unary(np.exp),
        "log": _log,
        "sqrt": _unary(np.sqrt),
        "rsqrt": _rsqrt,
        "square": _unary(np.square),
        "matmul": _matmul,
        "conv": _conv,
        "reshape": _reshape,
        "transpose": _transpose,
        "slice_by_size": _slice_by_size,
        "slice_by_index": _slice_by_index,
        "concat": _concat,
        "split": _split,
        "expand_dims": _reshape,
        "squeeze": _reshape,
        "softmax": _softmax,
        "reduce_sum": _reduce(np.sum),
        "reduce_mean": _reduce(np.mean),
        "reduce_max": _reduce(np.max),
        "layer_norm": _layer_norm,
        "gather": _gather,
        "select": _select,
        "quantize": _quantize,
        "dequantize": _dequantize("input"),
        "constexpr_affine_dequantize": _dequantize("quantized_data"),
    }
)
