"""Random uses of each op, right and wrong, for the comparison of type rules with coremltools'.

Each generator makes what the op's definition decides about. Where coremltools accepts what its own
documentation forbids (a slice past the end, a repeated axis), the generators stay away: those
rules have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mil_type_oracle import Constant, OpCase, Type

FLOATS = ("fp16", "fp32")
NUMBERS = (*FLOATS, "int32")
MOVABLE = (*NUMBERS, "bool")
ANY = (*MOVABLE, "int8", "uint8", "int16", "uint16")


def ints(*values: int) -> Constant:
    return Constant("int32", list(values))


def integer(value: int) -> Constant:
    return Constant("int32", value)


def flag(value: bool) -> Constant:
    return Constant("bool", value)


def shape(random: Random, low: int = 1, high: int = 4) -> tuple[int, ...]:
    return tuple(random.choice((1, 2, 3, 4, 6)) for _ in range(random.randint(low, high)))


def _dtype(random: Random, allowed: tuple[str, ...]) -> str:
    return random.choice(allowed if random.random() < 0.85 else ANY)


def _opset(random: Random) -> int:
    return random.choice((15, 16, 17, 18))


def _axis(random: Random, rank: int) -> int:
    return (
        random.randint(-rank - 1, rank) if random.random() < 0.2 else random.randrange(-rank, rank)
    )


def _axes(random: Random, rank: int) -> list[int]:
    axes = random.sample(range(rank), random.randint(1, rank))
    return [axis - rank if random.random() < 0.3 else axis for axis in axes]


def binary(random: Random) -> OpCase:
    kind = random.choice(("add", "sub", "mul", "real_div", "maximum", "minimum", "pow"))
    x = shape(random, 0)
    y = tuple(1 if random.random() < 0.3 else dim for dim in x[random.randint(0, len(x)) :])
    if random.random() < 0.2:
        y = shape(random)
    dtype = _dtype(random, NUMBERS)
    other = dtype if random.random() < 0.9 else random.choice(NUMBERS)
    pair = [Type(dtype, x), Type(other, y)]
    random.shuffle(pair)
    return OpCase(kind, {"x": pair[0], "y": pair[1]}, _opset(random))


def unary(random: Random) -> OpCase:
    kind = random.choice(("sigmoid", "silu", "tanh", "relu", "exp", "sqrt"))
    return OpCase(kind, {"x": Type(_dtype(random, FLOATS), shape(random, 0))}, _opset(random))


def with_epsilon(random: Random) -> OpCase:
    kind, dtype = random.choice(("log", "rsqrt")), _dtype(random, FLOATS)
    arguments: dict[str, Type | Constant] = {"x": Type(dtype, shape(random))}
    if random.random() < 0.7:
        other = dtype if random.random() < 0.6 and dtype in FLOATS else random.choice(FLOATS)
        arguments["epsilon"] = Constant(other, 0.5)
    return OpCase(kind, arguments, _opset(random))


def cast(random: Random) -> OpCase:
    target = Constant("string", random.choice((*ANY, "fp17")))
    return OpCase(
        "cast",
        {"x": Type(_dtype(random, MOVABLE), shape(random, 0)), "dtype": target},
        _opset(random),
    )


def matmul(random: Random) -> OpCase:
    rows, inner, columns = (random.choice((2, 3, 5)) for _ in range(3))
    flags = random.random() < 0.5, random.random() < 0.5
    wrong = random.random() < 0.15
    batch = shape(random, 0, 2)
    other = tuple(random.choice((1, dim)) for dim in batch[random.randint(0, len(batch)) :])
    if random.random() < 0.1:
        other = shape(random, 1, 2)
    x = (inner, rows) if flags[0] else (rows, inner)
    y = (columns, inner + wrong) if flags[1] else (inner + wrong, columns)
    dtype = _dtype(random, NUMBERS)
    arguments = {
        "x": Type(dtype, (*batch, *x)),
        "y": Type(dtype if random.random() < 0.9 else random.choice(NUMBERS), (*other, *y)),
        "transpose_x": flag(flags[0]),
        "transpose_y": flag(flags[1]),
    }
    return OpCase("matmul", arguments, _opset(random))


def conv(random: Random) -> OpCase:
    groups, spatial = random.choice((1, 1, 2, 3)), random.randint(1, 3)
    inner, outer = groups * random.randint(1, 3), groups * random.randint(1, 3)
    wrong = random.random() < 0.1
    dtype = _dtype(random, FLOATS)
    weight = [[[0.5]] * (inner // groups + wrong)] * outer
    for _ in range(spatial - 1):
        weight = [[[pixel] for pixel in row] for row in weight]  # type: ignore[misc]
    x = Type(dtype, (random.randint(1, 2), inner, *shape(random, spatial, spatial)))
    arguments: dict[str, Type | Constant] = {
        "x": x,
        "weight": Constant(dtype if dtype in FLOATS else "fp16", weight),
        "pad_type": Constant("string", random.choice(("valid", "same", "custom", "same_lower"))),
        "groups": integer(groups),
    }
    if arguments["pad_type"].value == "custom" or random.random() < 0.5:  # type: ignore[union-attr]
        arguments["pad"] = ints(*[0] * (2 * spatial))
    if random.random() < 0.7:
        arguments["strides"] = ints(*(random.randint(1, 3) for _ in range(spatial)))
    if random.random() < 0.3:
        arguments["bias"] = Constant(dtype if dtype in FLOATS else "fp16", [0.5] * outer)
    return OpCase("conv", arguments, _opset(random))


def reshape(random: Random) -> OpCase:
    x = shape(random, 1, 4)
    target = list(x)
    random.shuffle(target)
    if len(target) > 1 and random.random() < 0.5:
        target[-2:] = [target[-2] * target[-1]]
    if random.random() < 0.4:
        target[random.randrange(len(target))] = -1
    if random.random() < 0.3:
        target[random.randrange(len(target))] = random.choice((0, 5, -1))
    return OpCase(
        "reshape", {"x": Type(_dtype(random, MOVABLE), x), "shape": ints(*target)}, _opset(random)
    )


def transpose(random: Random) -> OpCase:
    x = shape(random)
    perm = random.sample(range(len(x)), len(x))
    perm = [axis - len(x) if random.random() < 0.2 else axis for axis in perm]
    if random.random() < 0.1:
        perm.append(len(x))
    return OpCase(
        "transpose", {"x": Type(_dtype(random, MOVABLE), x), "perm": ints(*perm)}, _opset(random)
    )


def slice_by_size(random: Random) -> OpCase:
    x = shape(random)
    begin = [random.randrange(dim) for dim in x]
    size = [random.choice((-1, random.randint(1, d - b))) for d, b in zip(x, begin, strict=True)]
    if random.random() < 0.1:
        begin.append(0)
    arguments = {"x": Type(_dtype(random, MOVABLE), x), "begin": ints(*begin), "size": ints(*size)}
    return OpCase("slice_by_size", arguments, _opset(random))


def slice_by_index(random: Random) -> OpCase:
    x = shape(random)
    begin, end, stride = [], [], []
    for dim in x:
        step = random.choice((1, 1, 2, 3, -1, -2)) if dim > 1 else 1
        first, last = sorted((random.randrange(dim), random.randrange(dim)))
        first, last = (first, last + 1) if step > 0 else (last, first - 1)
        begin.append(first - dim if random.random() < 0.2 else first)
        end.append(last - dim if step > 0 and last < dim and random.random() < 0.2 else last)
        stride.append(step)
    masks = {
        name: Constant(
            "bool", [random.random() < 0.2 or (name == "end_mask" and last < 0) for last in end]
        )
        for name in ("begin_mask", "end_mask", "squeeze_mask")
    }
    squeezed = masks["squeeze_mask"].value
    stride = [1 if single else step for single, step in zip(squeezed, stride, strict=True)]
    arguments = {
        "x": Type(_dtype(random, MOVABLE), x),
        "begin": ints(*begin),
        "end": ints(*end),
        "stride": ints(*stride),
        **masks,
    }
    return OpCase("slice_by_index", arguments, _opset(random))


def concat(random: Random) -> OpCase:
    base, dtype = shape(random), _dtype(random, MOVABLE)
    axis, interleave = _axis(random, len(base)), random.random() < 0.2
    parts = []
    for _ in range(random.randint(1, 3)):
        part = list(base)
        if not interleave and -len(base) <= axis < len(base):
            part[axis] = random.randint(1, 4)
        if random.random() < 0.08:
            part[random.randrange(len(part))] += 1
        parts.append(Type(dtype if random.random() < 0.95 else "fp32", tuple(part)))
    return OpCase(
        "concat",
        {"values": parts, "axis": integer(axis), "interleave": flag(interleave)},
        _opset(random),
    )


def split(random: Random) -> OpCase:
    x = list(shape(random))
    axis = random.randrange(-len(x), len(x))
    sizes = [random.randint(1, 3) for _ in range(random.randint(1, 3))]
    even = random.random() < 0.5
    x[axis] = len(sizes) * 2 + (random.random() < 0.2) if even else sum(sizes)
    arguments: dict[str, Type | Constant] = {"x": Type(_dtype(random, MOVABLE), tuple(x))}
    if even:
        arguments["num_splits"] = integer(len(sizes))
    else:
        arguments["split_sizes"] = ints(*sizes)
    return OpCase("split", {**arguments, "axis": integer(axis)}, _opset(random), len(sizes))


def expand_dims(random: Random) -> OpCase:
    x = shape(random, 1, 3)
    rank = len(x) + random.randint(1, 2)
    axes = random.sample(range(rank), rank - len(x))
    axes = [axis - rank if random.random() < 0.3 else axis for axis in axes]
    if random.random() < 0.1:
        axes[0] = rank
    return OpCase(
        "expand_dims", {"x": Type(_dtype(random, MOVABLE), x), "axes": ints(*axes)}, _opset(random)
    )


def squeeze(random: Random) -> OpCase:
    x = shape(random)
    arguments: dict[str, Type | Constant] = {"x": Type(_dtype(random, MOVABLE), x)}
    if random.random() < 0.8:
        arguments["axes"] = ints(*_axes(random, len(x)))
    return OpCase("squeeze", arguments, _opset(random))


def softmax(random: Random) -> OpCase:
    x = shape(random)
    arguments: dict[str, Type | Constant] = {"x": Type(_dtype(random, FLOATS), x)}
    if random.random() < 0.7:
        arguments["axis"] = integer(random.randrange(-len(x), len(x)))
    return OpCase("softmax", arguments, _opset(random))


def reduce(random: Random) -> OpCase:
    x = shape(random)
    arguments: dict[str, Type | Constant] = {"x": Type(_dtype(random, NUMBERS), x)}
    if random.random() < 0.8:
        arguments["axes"] = ints(*_axes(random, len(x)))
    if random.random() < 0.8:
        arguments["keep_dims"] = flag(random.random() < 0.5)
    kind = random.choice(("reduce_sum", "reduce_mean", "reduce_max"))
    return OpCase(kind, arguments, _opset(random))


def layer_norm(random: Random) -> OpCase:
    x = shape(random, 1, 3)
    axes = random.sample(range(len(x)), random.randint(1, min(2, len(x))))
    dtype, affine = _dtype(random, FLOATS), [0.5]
    gamma_dtype = dtype if dtype in FLOATS and random.random() < 0.8 else random.choice(FLOATS)
    affine = 0.5  # type: ignore[assignment]
    for axis in sorted(axes, reverse=True):
        affine = [affine] * (x[axis] + (random.random() < 0.1))  # type: ignore[list-item]
    arguments: dict[str, Type | Constant] = {"x": Type(dtype, x), "axes": ints(*axes)}
    if random.random() < 0.6:
        arguments["gamma"] = Constant(gamma_dtype, affine)
    if random.random() < 0.4 and "gamma" in arguments:
        arguments["beta"] = Constant(gamma_dtype, affine)
    arguments["epsilon"] = Constant(gamma_dtype, 0.5)
    return OpCase("layer_norm", arguments, _opset(random))


def gather(random: Random) -> OpCase:
    x = shape(random, 1, 3)
    opset, axis = _opset(random), _axis(random, len(x))
    arguments: dict[str, Type | Constant] = {
        "x": Type(_dtype(random, NUMBERS), x),
        "indices": Type(
            random.choice(("int32", "int32", "uint16", "int8", "fp16")), shape(random, 0, 2)
        ),
        "axis": integer(axis),
    }
    if opset > 15 and random.random() < 0.5:
        arguments["batch_dims"] = integer(0)
    return OpCase("gather", arguments, opset)


def select(random: Random) -> OpCase:
    a = shape(random)
    b = tuple(random.choice((1, dim)) for dim in a)
    cond = tuple(random.choice((1, dim)) for dim in a)
    dtype = _dtype(random, MOVABLE)
    other = dtype if random.random() < 0.9 else random.choice(MOVABLE)
    return OpCase(
        "select",
        {
            "cond": Type("bool" if random.random() < 0.9 else "int32", cond),
            "a": Type(dtype, a),
            "b": Type(other, b),
        },
        _opset(random),
    )


def _scale(random: Random, dtype: str, size: int | None) -> Constant:
    return Constant(dtype, 0.5 if size is None else [0.5] * (size + (random.random() < 0.1)))


def quantize(random: Random) -> OpCase:
    x, dtype = shape(random), _dtype(random, FLOATS)
    axis = random.choice((None, _axis(random, len(x))))
    inside = axis is not None and -len(x) <= axis < len(x)
    target = random.choice(("int8", "uint8", "int8", "int32"))
    scale = _scale(random, dtype if dtype in FLOATS else "fp16", x[axis] if inside else None)  # type: ignore[index]
    arguments: dict[str, Type | Constant] = {"input": Type(dtype, x), "scale": scale}
    if random.random() < 0.5:
        zero = random.choice(("int8", "uint8"))
        shaped = 1 if scale.type.shape == () else [1] * len(scale.value)
        arguments["zero_point"] = Constant(zero, shaped)
    if axis is not None:
        arguments["axis"] = integer(axis)
    arguments["output_dtype"] = Constant("string", target)
    return OpCase("quantize", arguments, random.choice((17, 18)))


def dequantize(random: Random) -> OpCase:
    x, dtype = shape(random), random.choice(("int8", "uint8", "int8", "int32"))
    axis = random.choice((None, _axis(random, len(x))))
    inside = axis is not None and -len(x) <= axis < len(x)
    scale = _scale(random, random.choice(FLOATS), x[axis] if inside else None)  # type: ignore[index]
    arguments: dict[str, Type | Constant] = {"input": Type(dtype, x), "scale": scale}
    if random.random() < 0.5:
        shaped = 1 if scale.type.shape == () else [1] * len(scale.value)
        arguments["zero_point"] = Constant(random.choice(("int8", "uint8")), shaped)
    if axis is not None:
        arguments["axis"] = integer(axis)
    return OpCase("dequantize", arguments, random.choice((17, 18)))


def constexpr_affine_dequantize(random: Random) -> OpCase:
    rows, columns = random.randint(1, 3), random.randint(1, 3)
    axis = random.choice((-3, -2, -1, 0, 1, 2))
    size = (rows, columns)[axis % 2]
    dtype = random.choice(("int8", "uint8"))
    zero = random.choice(("int8", "uint8", "fp32"))
    arguments = {
        "quantized_data": Constant(dtype, [[1] * columns] * rows),
        "zero_point": Constant(zero, random.choice((1, [1] * size))),
        "scale": _scale(random, random.choice(FLOATS), random.choice((None, size))),
        "axis": integer(axis),
    }
    return OpCase("constexpr_affine_dequantize", arguments, random.choice((16, 17, 18)))


GENERATORS: tuple[Callable[[Random], OpCase], ...] = (
    binary,
    unary,
    with_epsilon,
    cast,
    matmul,
    conv,
    reshape,
    transpose,
    slice_by_size,
    slice_by_index,
    concat,
    split,
    expand_dims,
    squeeze,
    softmax,
    reduce,
    layer_norm,
    gather,
    select,
    quantize,
    dequantize,
    constexpr_affine_dequantize,
)
