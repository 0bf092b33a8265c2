"""Type rules: what each op demands of its arguments and which types it yields.

Definitions: coremltools 9.0, MIL op reference (iOS15 to iOS18); stricter where that accepts what
cannot run: slices past the end, repeated axes, axes out of range, empty results. A broken rule is a
TypeRuleError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .types import DTYPES, FLOATS, TensorType, Value

Types = tuple[TensorType, ...]


class TypeRuleError(ValueError):
    """An op's arguments break its definition."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one op, read by name with the op's defaults."""

    values: Mapping[str, Value | tuple[Value, ...]]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def type(self, name: str) -> TensorType:
        """Type of a single-valued argument."""
        value = self.values[name]
        assert isinstance(value, Value)
        return value.type

    def list(self, name: str) -> tuple[Value, ...]:
        """Values of a variadic argument."""
        value = self.values[name]
        return value if isinstance(value, tuple) else (value,)

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A constant vector of integers or flags."""
        if name not in self.values:
            return tuple(default)
        data = self._data(name)
        assert isinstance(data, np.ndarray)
        return tuple(int(item) for item in data.ravel())

    def integer(self, name: str, default: int = 0) -> int:
        """A constant integer or flag."""
        return self.integers(name, (default,))[0]

    def text(self, name: str, default: str = "") -> str:
        """A constant string."""
        return str(self._data(name)) if name in self.values else default

    def _data(self, name: str) -> np.ndarray | str:
        value = self.values[name]
        assert isinstance(value, Value)
        assert value.data is not None
        return value.data


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise TypeRuleError(reason)


def _axis(axis: int, rank: int, what: str = "axis") -> int:
    _require(-rank <= axis < rank, f"{what} {axis} is outside a tensor of rank {rank}")
    return axis % rank


def _axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    resolved = tuple(_axis(axis, rank) for axis in axes)
    _require(len(set(resolved)) == len(resolved), f"axes {list(axes)} name an axis twice")
    return resolved


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    result: list[int] = []
    for position in range(1, max(map(len, shapes)) + 1):
        sizes = {shape[-position] for shape in shapes if len(shape) >= position} - {1}
        listed = " and ".join(str(list(shape)) for shape in shapes)
        _require(len(sizes) <= 1, f"shapes {listed} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def _same_dtype(*types: TensorType) -> str:
    dtypes = {type_.dtype for type_ in types}
    _require(len(dtypes) == 1, f"operands have different dtypes: {', '.join(sorted(dtypes))}")
    return dtypes.pop()


def same(args: Arguments) -> Types:
    """The type of x."""
    return (args.type("x"),)


def cast(args: Arguments) -> Types:
    """The shape of x in another dtype."""
    dtype = args.text("dtype")
    _require(dtype in DTYPES and dtype != "string", f"cannot cast to {dtype!r}")
    return (TensorType(dtype, args.type("x").shape),)


def float_unary(args: Arguments) -> Types:
    """Elementwise on floats; an epsilon has the dtype of x."""
    if "epsilon" in args:
        _same_dtype(args.type("x"), args.type("epsilon"))
    return same(args)


def broadcast(args: Arguments) -> Types:
    """NumPy's broadcasting of x and y, of one dtype."""
    x, y = args.type("x"), args.type("y")
    return (TensorType(_same_dtype(x, y), _broadcast(x.shape, y.shape)),)


def select(args: Arguments) -> Types:
    """A where cond, else b."""
    a, b, cond = args.type("a"), args.type("b"), args.type("cond")
    shape = _broadcast(a.shape, b.shape)
    _require(_broadcast(shape, cond.shape) == shape, f"cond {cond} is wider than its operands")
    return (TensorType(_same_dtype(a, b), shape),)


def matmul(args: Arguments) -> Types:
    """[..., M, K] x [..., K, N], batches broadcast; the flags transpose the last two axes."""
    x, y = args.type("x"), args.type("y")
    _require(x.rank >= 2 and y.rank >= 2, f"matmul takes tensors of rank 2 or more: {x}, {y}")
    rows, inner = x.shape[-2:] if not args.integer("transpose_x") else x.shape[:-3:-1]
    depth, columns = y.shape[-2:] if not args.integer("transpose_y") else y.shape[:-3:-1]
    _require(inner == depth, f"contraction of {inner} with {depth}: {x} by {y}")
    batch = _broadcast(x.shape[:-2], y.shape[:-2]) if x.rank > 2 or y.rank > 2 else ()
    return (TensorType(_same_dtype(x, y), (*batch, rows, columns)),)


def conv(args: Arguments) -> Types:
    """[N, C, *D] by [O, C / groups, *K] to [N, O, *D']."""
    x, weight = args.type("x"), args.type("weight")
    _require(3 <= x.rank == weight.rank, f"conv of {x} by weights {weight}")
    groups = args.integer("groups", 1)
    _require(
        groups >= 1 and x.shape[1] == weight.shape[1] * groups,
        f"{x.shape[1]} channels by weights for {weight.shape[1]} in {groups} groups",
    )
    _require(weight.shape[0] % groups == 0, f"{weight.shape[0]} outputs in {groups} groups")
    if "bias" in args:
        _require(args.type("bias").shape == weight.shape[:1], f"bias is {args.type('bias')}")
        _same_dtype(x, args.type("bias"))
    spatial = _conv_spatial(args, x.shape[2:], weight.shape[2:])
    return (TensorType(_same_dtype(x, weight), (x.shape[0], weight.shape[0], *spatial)),)


def _conv_spatial(
    args: Arguments, sizes: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[int, ...]:
    strides = args.integers("strides", [1] * len(sizes))
    dilations = args.integers("dilations", [1] * len(sizes))
    pad_type = args.text("pad_type", "valid")
    pad = args.integers("pad", [0] * 2 * len(sizes))
    _require(len(strides) == len(dilations) == len(sizes), "one stride and dilation for each axis")
    _require(min(strides) >= 1 and min(dilations) >= 1, "strides and dilations are at least 1")
    _require(len(pad) == 2 * len(sizes) and min(pad) >= 0, f"pad is {list(pad)}")
    _require(pad_type in ("valid", "custom", "same"), f"pad_type {pad_type!r} is not supported")
    if pad_type == "same":
        return tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    result = []
    for axis, size in enumerate(sizes):
        extra = sum(pad[2 * axis : 2 * axis + 2]) if pad_type == "custom" else 0
        room = size + extra - dilations[axis] * (kernel[axis] - 1) - 1
        _require(room >= 0, f"kernel {list(kernel)} is larger than the padded input {list(sizes)}")
        result.append(room // strides[axis] + 1)
    return tuple(result)


def reshape(args: Arguments) -> Types:
    """The same elements in row-major order; one -1 is inferred, a 0 keeps the axis of x."""
    x, wanted = args.type("x"), list(args.integers("shape"))
    _require(min(wanted, default=1) >= -1, f"shape {wanted} has a negative size")
    _require(wanted.count(-1) <= 1, f"shape {wanted} has more than one -1")
    if 0 in wanted:
        _require(len(wanted) == x.rank, f"a 0 in shape {wanted} needs rank {x.rank}")
        wanted = [size or x.shape[axis] for axis, size in enumerate(wanted)]
    known = math.prod(size for size in wanted if size != -1)
    shape = tuple(x.elements // known if size == -1 else size for size in wanted)
    _require(math.prod(shape) == x.elements, f"{x} does not reshape to {wanted}")
    return (TensorType(x.dtype, shape),)


def transpose(args: Arguments) -> Types:
    """Axis i of the result is axis perm[i] of x."""
    x, perm = args.type("x"), args.integers("perm")
    _require(len(perm) == x.rank, f"perm {list(perm)} for rank {x.rank}")
    resolved = _axes(perm, x.rank)
    return (TensorType(x.dtype, tuple(x.shape[axis] for axis in resolved)),)


def slice_by_size(args: Arguments) -> Types:
    """A block from `begin`; a negative begin counts from the end, a size of -1 takes the rest."""
    x, begin, size = args.type("x"), args.integers("begin"), args.integers("size")
    _require(len(begin) == len(size) == x.rank, f"begin {begin} and size {size} for {x}")
    shape = []
    for length, first, count in zip(x.shape, begin, size, strict=True):
        start = first + length if first < 0 else first
        taken = length - start if count == -1 else count
        inside = start >= 0 and taken >= 1 and start + taken <= length
        _require(inside, f"slice at {list(begin)} of size {list(size)} leaves {x}")
        shape.append(taken)
    return (TensorType(x.dtype, tuple(shape)),)


def slice_by_index(args: Arguments) -> Types:
    """x[begin:end:stride] along each axis; masks take the whole side, squeezed axes vanish."""
    x = args.type("x")
    bounds = [args.integers("begin"), args.integers("end"), args.integers("stride", [1] * x.rank)]
    masks = [args.integers(f"{m}_mask", [0] * x.rank) for m in ("begin", "end", "squeeze")]
    _require(
        all(len(given) == x.rank for given in bounds + masks), f"one bound for each axis of {x}"
    )
    shape = []
    for axis, length in enumerate(x.shape):
        begin, end, stride = (bound[axis] for bound in bounds)
        begin_mask, end_mask, squeezed = (mask[axis] for mask in masks)
        if squeezed:
            _axis(begin, length, "squeezed index")
            continue
        _require(stride != 0, "stride is 0")
        taken = slice(None if begin_mask else begin, None if end_mask else end, stride)
        inside = (begin_mask or -length <= begin < length) and (
            end_mask or -length <= end <= length
        )
        count = len(range(*taken.indices(length)))
        _require(bool(inside) and count >= 1, f"slice {begin}:{end}:{stride} of {length} elements")
        shape.append(count)
    return (TensorType(x.dtype, tuple(shape)),)


def concat(args: Arguments) -> Types:
    """Values of equal rank, dtype and shape except along the axis."""
    types = [value.type for value in args.list("values")]
    _require(len(types) > 0, "concat of no values")
    first = types[0]
    axis = _axis(args.integer("axis"), first.rank)
    rest = [(t.rank, t.shape[:axis], t.shape[axis + 1 :]) for t in types]
    listed = ", ".join(map(str, types))
    _require(len(set(rest)) == 1, f"concat along axis {axis} of {listed}")
    if args.integer("interleave"):
        _require(len(set(types)) == 1, f"interleaved concat of {listed}")
    total = sum(t.shape[axis] for t in types)
    shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    return (TensorType(_same_dtype(*types), shape),)


def split(args: Arguments) -> Types:
    """Pieces of x along an axis: num_splits equal ones, or those of split_sizes."""
    x = args.type("x")
    axis = _axis(args.integer("axis"), x.rank)
    sizes = args.integers("split_sizes")
    count = args.integer("num_splits", len(sizes))
    _require(count >= 1, "split needs num_splits or split_sizes")
    if not sizes:
        _require(x.shape[axis] % count == 0, f"{x} does not split into {count} along axis {axis}")
        sizes = (x.shape[axis] // count,) * count
    fits = len(sizes) == count and min(sizes) >= 1 and sum(sizes) == x.shape[axis]
    _require(fits, f"{x} does not split into {list(sizes)} along axis {axis}")
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return tuple(TensorType(x.dtype, (*before, size, *after)) for size in sizes)


def expand_dims(args: Arguments) -> Types:
    """Axes of size 1 at the given positions of the result."""
    x, axes = args.type("x"), args.integers("axes")
    shape = list(x.shape)
    for axis in sorted(_axes(axes, x.rank + len(axes))):
        shape.insert(axis, 1)
    return (TensorType(x.dtype, tuple(shape)),)


def squeeze(args: Arguments) -> Types:
    """Without the given axes, each of size 1; without any such axis where none is given."""
    x = args.type("x")
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    axes = _axes(args.integers("axes", ones), x.rank)
    _require(set(axes) <= set(ones), f"axes {list(axes)} of {x} are not all of size 1")
    kept = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return (TensorType(x.dtype, kept),)


def softmax(args: Arguments) -> Types:
    """The type of x; the axis lies within it."""
    _axis(args.integer("axis", -1), args.type("x").rank)
    return same(args)


def reduce(args: Arguments) -> Types:
    """Axes gone, or of size 1 with keep_dims; all axes where none is given."""
    x = args.type("x")
    axes = _axes(args.integers("axes", range(x.rank)), x.rank)
    if args.integer("keep_dims"):
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    else:
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return (TensorType(x.dtype, shape),)


def layer_norm(args: Arguments) -> Types:
    """The type of x; gamma and beta have the shape of the normalised axes."""
    x = args.type("x")
    axes = _axes(args.integers("axes", range(x.rank)), x.rank)
    normalized = tuple(size for axis, size in enumerate(x.shape) if axis in axes)
    for name in ("gamma", "beta"):
        if name in args:
            found = args.type(name)
            _require(found.shape == normalized, f"{name} is {found}, not {list(normalized)}")
    present = [name for name in ("gamma", "beta", "epsilon") if name in args]
    _same_dtype(x, *(args.type(name) for name in present))
    return (x,)


def gather(args: Arguments) -> Types:
    """Slices of x along the axis at the indices; the first batch_dims axes are shared."""
    x, indices = args.type("x"), args.type("indices")
    axis, batch = _axis(args.integer("axis"), x.rank), args.integer("batch_dims")
    _require(0 <= batch <= min(axis, indices.rank), f"batch_dims is {batch}")
    _require(x.shape[:batch] == indices.shape[:batch], f"batches of {x} and {indices} differ")
    shape = x.shape[:axis] + indices.shape[batch:] + x.shape[axis + 1 :]
    return (TensorType(x.dtype, shape),)


def quantize(args: Arguments) -> Types:
    """int8 or uint8 of round(input / scale) + zero_point."""
    source, dtype = args.type("input"), args.text("output_dtype")
    _require(dtype in ("int8", "uint8"), f"cannot quantize to {dtype!r}")
    _same_dtype(source, args.type("scale"))
    _check_scale(args, source)
    if "zero_point" in args:
        _same_dtype(TensorType(dtype), args.type("zero_point"))
    return (TensorType(dtype, source.shape),)


def dequantize(args: Arguments) -> Types:
    """The scale's dtype of scale * (input - zero_point)."""
    source = args.type("input")
    _check_scale(args, source)
    if "zero_point" in args:
        _same_dtype(source, args.type("zero_point"))
    return (TensorType(args.type("scale").dtype, source.shape),)


def _check_scale(args: Arguments, source: TensorType) -> None:
    scale = args.type("scale")
    if "zero_point" in args:
        found = args.type("zero_point")
        _require(found.shape == scale.shape, f"zero_point is {found}, scale is {scale}")
    if scale.rank == 0:
        _require("axis" not in args, "a scalar scale takes no axis")
        return
    _require(scale.rank == 1 and "axis" in args, "a vector of scales needs an axis")
    axis = _axis(args.integer("axis"), source.rank)
    _require(scale.shape == source.shape[axis : axis + 1], f"scale {scale} along axis {axis}")


def affine_dequantize(args: Arguments) -> Types:
    """A constant: the scale's dtype of scale * (quantized_data - zero_point)."""
    source, scale = args.type("quantized_data"), args.type("scale")
    axis = _axis(args.integer("axis"), source.rank)
    for name in ("scale", "zero_point"):
        found = args.type(name)
        allowed = ((), source.shape[axis : axis + 1])
        _require(found.shape in allowed, f"{name} is {found} along axis {axis} of {source}")
    _require(scale.dtype in FLOATS, f"scale is {scale}")
    return (TensorType(scale.dtype, source.shape),)
