"""Builds a MIL program op by op; every value has its inferred type from the start.

Without a name, results are called after the op and immediates after the parameter that they are
for; equal immediates bound to parameters of one name are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .infer import TypeRuleError
from .names import Names
from .ops import CONSTANT_KINDS, OPS, Parameter, constant_data, infer_types
from .program import Op, Program
from .types import FLOATS, TensorType, Value

# Longer vectors, and every array of rank 2 or more, go to weight files.
IMMEDIATE_ELEMENTS = 16

Operand = Value | float | int
Argument = Value | Sequence[Value] | Sequence[int] | float | int | str | None


class Builder:
    """A MIL function in the making.

    Every op method takes `name`, returns its result and raises TypeRuleError (a ValueError) where
    the arguments break the op's definition. Python numbers become immediates of the other
    operand's dtype. `file` is the weight file of all constants that name no other.
    """

    def __init__(
        self, function: str = "main", opset: str = "ios18", file: str | None = None
    ) -> None:
        if opset not in ("ios16", "ios18"):
            raise ValueError(f"opset is ios16 or ios18, not {opset!r}")
        self._function = function
        self._opset = opset
        self._file = file
        self._inputs: list[Value] = []
        self._ops: list[Op] = []
        self._names = Names()
        self._immediates: dict[tuple[object, ...], Value] = {}

    def input(self, name: str, shape: Sequence[int], dtype: str = "fp16") -> Value:
        """A function input; inputs keep the order of these calls and exactly these names."""
        if name in self._names:
            raise ValueError(f"the name {name!r} is taken")
        value = Value(self._names.claim(name), TensorType(dtype, tuple(shape)))
        self._inputs.append(value)
        return value

    def constant(
        self,
        data: np.ndarray | Sequence[float] | float | str,
        dtype: str,
        name: str | None = None,
        file: str | None = None,
    ) -> Value:
        """A constant, rounded to `dtype` only when it is printed or written.

        Arrays of rank 2 or more and long vectors go to weight files: the one called `file`, else
        the builder's, else one of their own. An array is not copied: files written later hold what
        it holds then.
        """
        array = constant_data(dtype, data)
        if file is None and _is_immediate(array):
            return self._immediate(array, dtype, name or "constant", shared=name is None)
        unique = self._names.claim(name) if name else self._names.number("constant")
        return Value(unique, _type_of(array, dtype), array, file or self._file or unique)

    def build(self, outputs: Sequence[Value]) -> Program:
        """The program that returns these values, in this order."""
        made = {value for op in self._ops for value in op.outputs}
        if not outputs or not made.issuperset(outputs):
            raise ValueError("a program returns one or more results of its ops")
        return Program(
            self._function, self._opset, tuple(self._inputs), tuple(self._ops), tuple(outputs)
        )

    def op(
        self, kind: str, arguments: Mapping[str, Argument], name: str | None = None
    ) -> tuple[Value, ...]:
        """Any op of the table: Python values become immediates, None leaves an argument out."""
        row = OPS.get(kind)
        if row is None:
            raise TypeRuleError(f"there is no op {kind!r} in the table")
        parameters = {parameter.name: parameter for parameter in row.parameters}
        bound: dict[str, Value | tuple[Value, ...]] = {}
        for argument, given in arguments.items():
            if given is None:
                continue
            if argument not in parameters:
                raise TypeRuleError(f"{kind} has no parameter {argument!r}")
            bound[argument] = self._bind(parameters[argument], given, arguments)
        try:
            types = infer_types(kind, bound, self._opset)
        except TypeRuleError as error:
            raise TypeRuleError(f"{kind} {name}: {error}" if name else f"{kind}: {error}") from None
        return self._append(kind, name, bound, types)

    def _append(
        self,
        kind: str,
        name: str | None,
        arguments: dict[str, Value | tuple[Value, ...]],
        types: tuple[TensorType, ...],
    ) -> tuple[Value, ...]:
        unique = self._names.claim(name) if name else self._names.number(kind)
        if len(types) == 1:
            outputs: tuple[Value, ...] = (Value(unique, types[0]),)
        else:
            names = (self._names.claim(f"{unique}_{index}") for index in range(len(types)))
            outputs = tuple(map(Value, names, types))
        self._ops.append(Op(kind, unique, arguments, outputs))
        return outputs

    def _one(self, kind: str, name: str | None, **arguments: Argument) -> Value:
        return self.op(kind, arguments, name)[0]

    def _bind(
        self, parameter: Parameter, given: object, arguments: Mapping[str, Argument]
    ) -> Value | tuple[Value, ...]:
        if isinstance(given, Value):
            return (given,) if parameter.variadic else given
        if parameter.variadic:
            assert isinstance(given, Sequence)
            if not all(isinstance(item, Value) for item in given):
                raise TypeRuleError(f"{parameter.name} takes values")
            return tuple(given)
        dtype = self._immediate_dtype(parameter, arguments)
        return self._immediate(constant_data(dtype, given), dtype, parameter.name, shared=True)

    @staticmethod
    def _immediate_dtype(parameter: Parameter, arguments: Mapping[str, Argument]) -> str:
        if parameter.is_constant and len(CONSTANT_KINDS[parameter.kind][0]) == 1:
            return CONSTANT_KINDS[parameter.kind][0][0]
        for other in arguments.values():
            if isinstance(other, Value):
                return other.dtype
        raise TypeRuleError(f"{parameter.name} is a number, and no operand tells its dtype")

    def _immediate(self, data: np.ndarray | str, dtype: str, hint: str, *, shared: bool) -> Value:
        if isinstance(data, np.ndarray) and dtype in FLOATS:
            if not np.isfinite(data).all():
                raise ValueError(f"constant {hint!r} holds infinities or NaN")
            data = constant_data(dtype, data.astype(np.float64))
        if not shared:
            return Value(self._names.claim(hint), _type_of(data, dtype), data)
        content = data if isinstance(data, str) else (data.shape, data.tobytes())
        key = (hint, dtype, content)
        if key not in self._immediates:
            self._immediates[key] = Value(self._names.number(hint), _type_of(data, dtype), data)
        return self._immediates[key]

    def cast(self, x: Value, dtype: str, name: str | None = None) -> Value:
        """The elements of x as another dtype."""
        return self._one("cast", name, x=x, dtype=dtype)

    def identity(self, x: Value, name: str | None = None) -> Value:
        """A copy of x under another name."""
        return self._one("identity", name, x=x)

    def add(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """x + y, broadcast."""
        return self._one("add", name, x=x, y=y)

    def sub(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """x - y, broadcast."""
        return self._one("sub", name, x=x, y=y)

    def mul(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """x * y, broadcast."""
        return self._one("mul", name, x=x, y=y)

    def real_div(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """x / y, broadcast."""
        return self._one("real_div", name, x=x, y=y)

    def maximum(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """The larger of x and y, broadcast."""
        return self._one("maximum", name, x=x, y=y)

    def minimum(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """The smaller of x and y, broadcast."""
        return self._one("minimum", name, x=x, y=y)

    def pow(self, x: Operand, y: Operand, name: str | None = None) -> Value:
        """x to the power of y, broadcast."""
        return self._one("pow", name, x=x, y=y)

    def sigmoid(self, x: Value, name: str | None = None) -> Value:
        """1 / (1 + exp(-x))."""
        return self._one("sigmoid", name, x=x)

    def silu(self, x: Value, name: str | None = None) -> Value:
        """x * sigmoid(x)."""
        return self._one("silu", name, x=x)

    def tanh(self, x: Value, name: str | None = None) -> Value:
        """The hyperbolic tangent."""
        return self._one("tanh", name, x=x)

    def relu(self, x: Value, name: str | None = None) -> Value:
        """The larger of x and 0."""
        return self._one("relu", name, x=x)

    def exp(self, x: Value, name: str | None = None) -> Value:
        """The exponential."""
        return self._one("exp", name, x=x)

    def log(self, x: Value, epsilon: float = 1e-45, name: str | None = None) -> Value:
        """The natural logarithm of x + epsilon."""
        return self._one("log", name, x=x, epsilon=epsilon)

    def sqrt(self, x: Value, name: str | None = None) -> Value:
        """The square root."""
        return self._one("sqrt", name, x=x)

    def rsqrt(self, x: Value, epsilon: float = 1e-12, name: str | None = None) -> Value:
        """1 / sqrt(x + epsilon)."""
        return self._one("rsqrt", name, x=x, epsilon=epsilon)

    def square(self, x: Value, name: str | None = None) -> Value:
        """x * x."""
        return self._one("square", name, x=x)

    def matmul(
        self,
        x: Value,
        y: Value,
        transpose_x: bool = False,
        transpose_y: bool = False,
        name: str | None = None,
    ) -> Value:
        """[..., M, K] by [..., K, N]; the flags transpose the last two axes first."""
        return self._one("matmul", name, x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    def conv(
        self,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """[N, C, *D] by [O, C / groups, *K]: stride 1, no padding; `op` takes the rest."""
        ones = (1,) * (x.type.rank - 2)
        return self._one(
            "conv",
            name,
            x=x,
            weight=weight,
            bias=bias,
            strides=ones,
            pad_type="valid",
            pad=(0,) * (2 * len(ones)),
            dilations=ones,
            groups=groups,
        )

    def reshape(self, x: Value, shape: Sequence[int], name: str | None = None) -> Value:
        """The elements of x in row-major order; one -1 is inferred."""
        return self._one("reshape", name, x=x, shape=shape)

    def transpose(self, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
        """Axis i of the result is axis perm[i] of x."""
        return self._one("transpose", name, x=x, perm=perm)

    def slice_by_size(
        self, x: Value, begin: Sequence[int], size: Sequence[int], name: str | None = None
    ) -> Value:
        """The block of `size` at `begin`; a size of -1 takes the rest."""
        return self._one("slice_by_size", name, x=x, begin=begin, size=size)

    def slice_by_index(
        self,
        x: Value,
        begin: Sequence[int],
        end: Sequence[int],
        stride: Sequence[int] | None = None,
        name: str | None = None,
    ) -> Value:
        """x[begin:end:stride] along each axis; `op` takes the masks."""
        return self._one("slice_by_index", name, x=x, begin=begin, end=end, stride=stride)

    def concat(
        self, values: Sequence[Value], axis: int, interleave: bool = False, name: str | None = None
    ) -> Value:
        """The values one after another along the axis."""
        return self._one("concat", name, values=values, axis=axis, interleave=interleave)

    def split(
        self, x: Value, sizes: int | Sequence[int], axis: int, name: str | None = None
    ) -> tuple[Value, ...]:
        """Pieces along the axis: that many equal ones, or of these sizes."""
        key = "num_splits" if isinstance(sizes, int) else "split_sizes"
        return self.op("split", {"x": x, key: sizes, "axis": axis}, name)

    def expand_dims(self, x: Value, axes: Sequence[int], name: str | None = None) -> Value:
        """With axes of size 1 at these positions of the result."""
        return self._one("expand_dims", name, x=x, axes=axes)

    def squeeze(self, x: Value, axes: Sequence[int], name: str | None = None) -> Value:
        """Without these axes of size 1."""
        return self._one("squeeze", name, x=x, axes=axes)

    def softmax(self, x: Value, axis: int = -1, name: str | None = None) -> Value:
        """exp(x) over its sum along the axis."""
        return self._one("softmax", name, x=x, axis=axis)

    def reduce_sum(
        self, x: Value, axes: Sequence[int], keep_dims: bool = False, name: str | None = None
    ) -> Value:
        """The sum over the axes."""
        return self._one("reduce_sum", name, x=x, axes=axes, keep_dims=keep_dims)

    def reduce_mean(
        self, x: Value, axes: Sequence[int], keep_dims: bool = False, name: str | None = None
    ) -> Value:
        """The mean over the axes."""
        return self._one("reduce_mean", name, x=x, axes=axes, keep_dims=keep_dims)

    def reduce_max(
        self, x: Value, axes: Sequence[int], keep_dims: bool = False, name: str | None = None
    ) -> Value:
        """The largest element over the axes."""
        return self._one("reduce_max", name, x=x, axes=axes, keep_dims=keep_dims)

    def layer_norm(
        self,
        x: Value,
        axes: Sequence[int],
        gamma: Value | None = None,
        beta: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the axes."""
        return self._one(
            "layer_norm", name, x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon
        )

    def gather(
        self, x: Value, indices: Value, axis: int = 0, batch_dims: int = 0, name: str | None = None
    ) -> Value:
        """The slices of x along the axis that the indices name."""
        return self._one(
            "gather",
            name,
            x=x,
            indices=indices,
            axis=axis,
            batch_dims=batch_dims,
            validate_indices=False if self._opset == "ios18" else None,
        )

    def select(self, cond: Value, a: Operand, b: Operand, name: str | None = None) -> Value:
        """a where cond, else b."""
        return self._one("select", name, a=a, b=b, cond=cond)

    def quantize(
        self, x: Value, scale: float, output_dtype: str = "int8", name: str | None = None
    ) -> Value:
        """round(x / scale), saturated to the 8-bit dtype."""
        return self._one("quantize", name, input=x, scale=scale, output_dtype=output_dtype)

    def dequantize(
        self, x: Value, scale: float, dtype: str = "fp16", name: str | None = None
    ) -> Value:
        """x * scale, in `dtype`."""
        return self._one("dequantize", name, input=x, scale=self.constant(scale, dtype))

    def constexpr_affine_dequantize(
        self,
        quantized_data: Value,
        scale: Value,
        zero_point: Value,
        axis: int = 0,
        name: str | None = None,
    ) -> Value:
        """A constant stored in 8 bits: scale * (quantized_data - zero_point) along the axis."""
        return self._one(
            "constexpr_affine_dequantize",
            name,
            quantized_data=quantized_data,
            scale=scale,
            zero_point=zero_point,
            axis=axis,
        )


def _is_immediate(data: np.ndarray | str) -> bool:
    return isinstance(data, str) or (data.ndim <= 1 and data.size <= IMMEDIATE_ELEMENTS)


def _type_of(data: np.ndarray | str, dtype: str) -> TensorType:
    return TensorType(dtype, () if isinstance(data, str) else data.shape)
