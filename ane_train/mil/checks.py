"""The checks behind the chip rules: what each says must hold, and the reason where it does not.

A check looks at one subject: a port (function input or output), a value, an op, or the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .chips import Chip
from .program import Op, Program
from .types import Value

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max")

MISSING_OPS = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "sinh", "tan", "mod"),
    *("logical_and", "logical_or", "logical_xor", "one_hot", "reduce_prod", "non_zero", "shape"),
    *("scatter", "scatter_along_axis", "scatter_nd", "sliding_windows", "band_part"),
    *("rnn", "lstm", "gru", "random_normal", "make_list"),
)
# Ops that the hardware lacks or does wrong, with the reason.
UNAVAILABLE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(MISSING_OPS, "the engine has no such op"),
        "tile": "makes every later evaluation of the process fail: use concat",
        "gelu": "does not compile, or is off by 8 %: compose it from tanh",
        "scaled_dot_product_attention": "ignores the mask: compose it from matmul and softmax",
        "constexpr_cast": "fails everywhere",
        "sin": "needs M3 or later: use a constant table",
        "cos": "needs M3 or later: use a constant table",
    }
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a check may look at besides its subject."""

    program: Program
    chip: Chip
    producers: Mapping[Value, Op]

    def is_made_by(self, value: Value, kinds: tuple[str, ...]) -> bool:
        """Whether an op of one of these kinds makes the value."""
        op = self.producers.get(value)
        return op is not None and op.kind in kinds


def _argument(op: Op, name: str) -> Value:
    value = op.arguments[name]
    assert isinstance(value, Value)
    return value


def _integers(op: Op, name: str) -> tuple[int, ...]:
    value = op.constant(name)
    if value is None or not isinstance(value.data, np.ndarray):
        return ()
    return tuple(int(item) for item in value.data.ravel())


# Of a port.


def port_dtype(port: Value, _: Context) -> str | None:
    """A port holds floats."""
    return None if port.dtype in ("fp16", "fp32") else f"is {port.dtype}: ports are fp16"


def port_fp32(port: Value, _: Context) -> str | None:
    """A port holds fp16."""
    return "is fp32: make it fp16" if port.dtype == "fp32" else None


def port_shape(port: Value, _: Context) -> str | None:
    """A port has the shape [1, C, 1, W]."""
    is_image = port.type.rank == 4 and port.shape[0] == 1 and port.shape[2] == 1
    return None if is_image else f"is {port.type}: only [1, C, 1, W] is proven"


def port_channels(port: Value, _: Context) -> str | None:
    """A port has 64 channels or more."""
    narrow = port.type.rank == 4 and port.shape[1] < 64
    return f"has {port.shape[1]} channels: at least 64 are proven" if narrow else None


def width_multiple(multiple: int) -> Callable[[Value, Context], str | None]:
    """A check that a port's width is a multiple of this."""

    def check(port: Value, _: Context) -> str | None:
        width = port.shape[-1] if port.shape else 1
        return f"has width {width}: make it a multiple of {multiple}" if width % multiple else None

    return check


# Of the program.


def ports_sorted(program: Program, _: Context) -> str | None:
    """Inputs, and outputs, are in alphabetical order."""
    for ports, what in ((program.inputs, "inputs"), (program.outputs, "outputs")):
        names = [port.name for port in ports]
        if names != sorted(names):
            return f"{what} are not in alphabetical order: {', '.join(names)}"
    return None


def ports_alike(program: Program, _: Context) -> str | None:
    """Inputs, and outputs, have one size in bytes."""
    for ports, what in ((program.inputs, "inputs"), (program.outputs, "outputs")):
        if len({port.type.bytes for port in ports}) > 1:
            return f"{what} differ in size: pad them to one size"
    return None


def ports_single(program: Program, _: Context) -> str | None:
    """One input and one output."""
    count = max(len(program.inputs), len(program.outputs))
    return f"has {count} ports on one side: one is proven everywhere" if count > 1 else None


def weights_size(program: Program, _: Context) -> str | None:
    """Constants in weight files stay below 2 GiB."""
    total = sum(value.type.bytes for value in program.constants if value.file is not None)
    return f"holds {total >> 20} MiB of constants: at most 2048" if total > 2**31 else None


def file_per_constant(program: Program, _: Context) -> str | None:
    """No weight file holds two constants."""
    shared = [file.path for file in program.files if len(file.constants) > 1]
    return f"keeps several constants in {shared[0]}: one file each" if shared else None


def opset(program: Program, context: Context) -> str | None:
    """The program's opset is the one proven on the chip."""
    older = context.chip.opset
    return f"is {program.opset}: {older} is proven" if program.opset > older else None


# Of a function input or a computed value.


def channels(value: Value, context: Context) -> str | None:
    """Axes before the last two stay within the chip's channel limit."""
    size, limit = max(value.shape[:-2], default=1), context.chip.channel_limit
    return f"{value.type} has an axis of {size} channels: at most {limit}" if size > limit else None


def spatial(value: Value, context: Context) -> str | None:
    """The last two axes stay within the chip's spatial limit."""
    size, limit = max(value.shape[-2:], default=1), context.chip.spatial_limit
    return f"{value.type} has a spatial axis of {size}: at most {limit}" if size > limit else None


# Of an op.


def unavailable(op: Op, _: Context) -> str | None:
    """The engine has the op."""
    return UNAVAILABLE.get(op.kind)


def always(reason: str) -> Callable[[Op, Context], str]:
    """A check that every op fails, for this reason."""
    return lambda op, context: reason


def computes_fp32(op: Op, _: Context) -> str | None:
    """The result is not fp32; a cast may be."""
    if op.kind == "cast" or op.outputs[0].dtype != "fp32":
        return None
    return "computes in fp32: the engine knows fp16 only"


def constant_range(op: Op, _: Context) -> str | None:
    """Immediate fp16 operands are finite in fp16."""
    for value in op.operands:
        if value.dtype == "fp16" and isinstance(value.data, np.ndarray) and value.file is None:
            largest = float(np.abs(value.data).max())
            if largest >= 65520:  # rounds to infinity
                return f"constant {value.name!r} holds {largest:g}: fp16 ends at 65504"
    return None


def _contraction(op: Op) -> int:
    transposed = any(_integers(op, "transpose_x"))
    return _argument(op, "x").shape[-2 if transposed else -1]


def matmul_depth(op: Op, context: Context) -> str | None:
    """The contraction stays within the chip's spatial limit."""
    depth, limit = _contraction(op), context.chip.spatial_limit
    return f"contracts {depth} elements: at most {limit}" if depth > limit else None


def matmul_depth_32(op: Op, _: Context) -> str | None:
    """The contraction is a multiple of 32."""
    depth = _contraction(op)
    return f"contracts {depth} elements: make it a multiple of 32" if depth % 32 else None


def matmul_constant(op: Op, context: Context) -> str | None:
    """Both operands are computed."""
    for name in ("x", "y"):
        if _argument(op, name).is_constant:
            return f"operand {name} is a constant: pass it as an input or use conv"
    return None


def matmul_rank(op: Op, _: Context) -> str | None:
    """The product has rank 3."""
    rank = op.outputs[0].type.rank
    return f"has rank {rank}: only 3 is proven" if rank != 3 else None


def conv_weight(op: Op, context: Context) -> str | None:
    """The weights are constant."""
    weight = _argument(op, "weight")
    if weight.is_constant or context.is_made_by(weight, ("constexpr_affine_dequantize",)):
        return None
    return "has run-time weights, which may be ignored: use matmul"


def conv_channels(op: Op, _: Context) -> str | None:
    """Fewer than 32000 input channels."""
    channels = _argument(op, "x").shape[1]
    return f"has {channels} input channels: fewer than 32000" if channels >= 32000 else None


def conv_kernel(op: Op, _: Context) -> str | None:
    """The kernel is at most 13 wide."""
    width = _argument(op, "weight").shape[-1]
    return f"has a kernel of width {width}: at most 13" if width > 13 else None


def conv_bias(op: Op, _: Context) -> str | None:
    """No bias."""
    return "has a bias: add it in an op of its own" if "bias" in op.arguments else None


def width_slice(op: Op, _: Context) -> str | None:
    """No slice begins inside the last axis."""
    last = _argument(op, "x").type.rank - 1
    moved = _integers(op, "begin")[-1:] not in ((0,), ())
    if op.kind == "split":
        moved = _integers(op, "axis")[0] in (-1, last)
    return "slices the last axis: values beyond 4094 become infinite" if moved else None


def width_concat(op: Op, _: Context) -> str | None:
    """No concatenation along the last axis."""
    last = op.outputs[0].type.rank - 1
    return "concatenates along the last axis" if _integers(op, "axis")[0] in (-1, last) else None


def interleave(op: Op, _: Context) -> str | None:
    """No interleaving."""
    return (
        "interleaves: only interleave = false is proven"
        if any(_integers(op, "interleave"))
        else None
    )


def softmax_axis(op: Op, _: Context) -> str | None:
    """Along the last axis."""
    last = op.outputs[0].type.rank - 1
    axis = (_integers(op, "axis") or (-1,))[0]
    return None if axis in (-1, last) else f"is along axis {axis}: only the last is proven"


def softmax_length(op: Op, _: Context) -> str | None:
    """Over a power of two of elements."""
    axis = (_integers(op, "axis") or (-1,))[0]
    length = op.outputs[0].shape[axis]
    return f"is over {length} elements: a power of two is proven" if length & (length - 1) else None


def root_of_reduction(op: Op, context: Context) -> str | None:
    """A root does not follow a reduction."""
    if context.is_made_by(_argument(op, "x"), REDUCTIONS):
        return "follows a reduction: use pow with -0.5 or 0.5"
    return None


def small_epsilon(op: Op, _: Context) -> str | None:
    """Epsilon keeps the argument away from fp16 underflow."""
    epsilon = op.constant("epsilon")
    if epsilon is not None and isinstance(epsilon.data, np.ndarray) and epsilon.data >= 7.6e-6:
        return None
    return "is infinite for inputs below 7.6e-6: add a larger epsilon"


def long_reduction(op: Op, _: Context) -> str | None:
    """At most 2048 elements are added in fp16."""
    count = _argument(op, "x").type.elements // op.outputs[0].type.elements
    return f"adds {count} elements in fp16: sum by matmul with ones" if count > 2048 else None


def input_reduction(op: Op, context: Context) -> str | None:
    """No function input is reduced directly."""
    return "reduces a function input" if _argument(op, "x") in context.program.inputs else None


def zero_product(op: Op, context: Context) -> str | None:
    """A reduction is not multiplied by zero."""
    x, y = _argument(op, "x"), _argument(op, "y")
    for reduced, factor in ((x, y), (y, x)):
        zero = isinstance(factor.data, np.ndarray) and factor.file is None and not factor.data.any()
        if zero and context.is_made_by(reduced, REDUCTIONS):
            return "multiplies a reduction by zero"
    return None


def batch_broadcast(op: Op, _: Context) -> str | None:
    """No broadcast along axis 0."""
    x, y = _argument(op, "x"), _argument(op, "y")
    ranks_match = x.type.rank == y.type.rank == 4
    return "broadcasts along axis 0" if ranks_match and x.shape[0] != y.shape[0] else None


def column_broadcast(op: Op, _: Context) -> str | None:
    """No [C, S] by [C, 1]."""
    x, y = _argument(op, "x"), _argument(op, "y")
    ranks_match = x.type.rank == y.type.rank == 2
    return "broadcasts a column of rank 2" if ranks_match and x.shape[1] != y.shape[1] else None
