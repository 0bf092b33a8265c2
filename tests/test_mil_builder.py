"""The builder: types agree with coremltools on random programs; names are deterministic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from coremltools_oracle import infer

from ane_train import mil
from ane_train.mil.infer import TypeRuleError

ROOT = Path(__file__).parent.parent
Draw = np.random.Generator
Example = Callable[[mil.Builder, Draw], mil.Value | tuple[mil.Value, ...]]


def shape(rng: Draw, low: int = 1, high: int = 5) -> tuple[int, ...]:
    return tuple(int(size) for size in rng.integers(1, 7, size=rng.integers(low, high + 1)))


def tensor(b: mil.Builder, rng: Draw, sizes: tuple[int, ...], dtype: str = "") -> mil.Value:
    return b.input(f"in_{len(b._inputs)}", sizes, dtype or str(rng.choice(["fp16", "fp32"])))


def any_tensor(b: mil.Builder, rng: Draw, low: int = 1, high: int = 5) -> mil.Value:
    return tensor(b, rng, shape(rng, low, high))


def some_axes(rng: Draw, rank: int, low: int = 1) -> tuple[int, ...]:
    chosen = rng.permutation(rank)[: rng.integers(low, rank + 1)]
    return tuple(int(axis) - rank * int(rng.integers(2)) for axis in chosen)


def one_axis(rng: Draw, rank: int) -> int:
    return int(rng.integers(-rank, rank))


def broadcastable(rng: Draw, sizes: tuple[int, ...]) -> tuple[int, ...]:
    thinned = [size if rng.integers(2) else 1 for size in sizes]
    return tuple(thinned[rng.integers(len(sizes)) :])


def binary(kind: str) -> Example:
    def example(b: mil.Builder, rng: Draw) -> mil.Value:
        x = any_tensor(b, rng)
        if rng.integers(4) == 0:
            return b.op(kind, {"x": x, "y": 0.5} if rng.integers(2) else {"x": 0.5, "y": x})[0]
        y = tensor(b, rng, broadcastable(rng, x.shape), x.dtype)
        return b.op(kind, {"x": x, "y": y} if rng.integers(2) else {"x": y, "y": x})[0]

    return example


def unary(kind: str) -> Example:
    return lambda b, rng: b.op(kind, {"x": any_tensor(b, rng)})[0]


def rooted(kind: str) -> Example:
    return lambda b, rng: b.op(kind, {"x": any_tensor(b, rng), "epsilon": 0.25})[0]


def reduction(kind: str) -> Example:
    def example(b: mil.Builder, rng: Draw) -> mil.Value:
        x = any_tensor(b, rng)
        axes = None if rng.integers(4) == 0 else some_axes(rng, x.type.rank)
        return b.op(kind, {"x": x, "axes": axes, "keep_dims": bool(rng.integers(2))})[0]

    return example


def cast(b: mil.Builder, rng: Draw) -> mil.Value:
    return b.cast(any_tensor(b, rng), str(rng.choice(["fp16", "fp32", "int32", "bool"])))


def matmul(b: mil.Builder, rng: Draw) -> mil.Value:
    m, k, n = (int(size) for size in rng.integers(1, 9, size=3))
    tx, ty = (bool(flag) for flag in rng.integers(2, size=2))
    batch = shape(rng, 0, 3)
    other = broadcastable(rng, batch) if batch else ()
    x = tensor(b, rng, (*batch, *((k, m) if tx else (m, k))))
    return b.matmul(x, tensor(b, rng, (*other, *((n, k) if ty else (k, n))), x.dtype), tx, ty)


def conv(b: mil.Builder, rng: Draw) -> mil.Value:
    axes, groups = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    kernel = tuple(int(size) for size in rng.integers(1, 4, size=axes))
    inner, outer = (int(size) for size in rng.integers(1, 4, size=2))
    sizes = tuple(int(size) for size in rng.integers(7, 12, size=axes))
    x = tensor(b, rng, (2, inner * groups, *sizes), "fp16")
    weight = b.constant(np.ones((outer * groups, inner, *kernel)), "fp16")
    bias = b.constant(np.ones(outer * groups), "fp16") if rng.integers(2) else None
    if rng.integers(2):
        return b.conv(x, weight, bias, groups)
    arguments: dict[str, Any] = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "groups": groups,
        "strides": [int(stride) for stride in rng.integers(1, 3, size=axes)],
        "dilations": [int(step) for step in rng.integers(1, 3, size=axes)],
        "pad": [int(pad) for pad in rng.integers(0, 3, size=2 * axes)],
        "pad_type": str(rng.choice(["custom", "valid", "same"])),
    }
    return b.op("conv", arguments)[0]


def reshape(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    wanted = [x.shape[axis] for axis in rng.permutation(x.type.rank)]
    if len(wanted) > 1 and rng.integers(2):
        wanted = [wanted[0] * wanted[1], *wanted[2:]]
    if rng.integers(2):
        wanted[int(rng.integers(len(wanted)))] = -1
    return b.reshape(x, wanted)


def transpose(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    rank = x.type.rank
    return b.transpose(x, [int(a) - rank * int(rng.integers(2)) for a in rng.permutation(rank)])


def slice_by_size(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    begin = [int(rng.integers(0, size)) for size in x.shape]
    size = [
        -1 if rng.integers(3) == 0 else int(rng.integers(1, length - first + 1))
        for length, first in zip(x.shape, begin, strict=True)
    ]
    return b.slice_by_size(x, begin, size)


def slice_by_index(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    begin = [int(rng.integers(0, size)) for size in x.shape]
    end = [
        int(rng.integers(first + 1, length + 1))
        for length, first in zip(x.shape, begin, strict=True)
    ]
    masks = {
        f"{side}_mask": [bool(flag) for flag in rng.integers(2, size=x.type.rank)]
        for side in ("begin", "end", "squeeze")
        if rng.integers(2)
    }
    stride = [int(step) for step in rng.integers(1, 4, size=x.type.rank)]
    arguments = {"x": x, "begin": begin, "end": end, "stride": stride, **masks}
    return b.op("slice_by_index", arguments)[0]


def concat(b: mil.Builder, rng: Draw) -> mil.Value:
    first = any_tensor(b, rng)
    axis = one_axis(rng, first.type.rank)
    values = [first]
    for _ in range(int(rng.integers(0, 4))):
        sizes = list(first.shape)
        sizes[axis] = int(rng.integers(1, 5))
        values.append(tensor(b, rng, tuple(sizes), first.dtype))
    return b.concat(values, axis)


def split(b: mil.Builder, rng: Draw) -> tuple[mil.Value, ...]:
    sizes = [int(size) for size in rng.integers(1, 5, size=rng.integers(2, 5))]
    equal = bool(rng.integers(2))
    lengths = list(shape(rng))
    axis = one_axis(rng, len(lengths))
    lengths[axis] = sizes[0] * len(sizes) if equal else sum(sizes)
    return b.split(tensor(b, rng, tuple(lengths)), len(sizes) if equal else sizes, axis)


def expand_dims(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng, 1, 3)
    rank = x.type.rank + int(rng.integers(1, 3))
    axes = rng.permutation(rank)[: rank - x.type.rank]
    return b.expand_dims(x, [int(axis) - rank * int(rng.integers(2)) for axis in axes])


def squeeze(b: mil.Builder, rng: Draw) -> mil.Value:
    sizes = (1, *shape(rng, 1, 4))
    ones = [axis for axis, size in enumerate(sizes) if size == 1]
    axes = ones[: int(rng.integers(1, len(ones) + 1))]
    return b.squeeze(tensor(b, rng, sizes), axes)


def softmax(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    return b.softmax(x, one_axis(rng, x.type.rank))


def layer_norm(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    axes = tuple(range(int(rng.integers(x.type.rank)), x.type.rank))
    sizes = [x.shape[axis] for axis in axes]
    gamma, beta = (b.constant(np.ones(sizes), x.dtype) for _ in range(2))
    return b.layer_norm(x, axes, *((gamma, beta) if rng.integers(2) else (None, None)))


def gather(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng, 1, 3)
    axis = int(rng.integers(x.type.rank))
    batch = int(rng.integers(axis + 1))
    indices = tensor(b, rng, x.shape[:batch] + shape(rng, 1, 2), "int32")
    return b.gather(x, indices, axis, batch)


def select(b: mil.Builder, rng: Draw) -> mil.Value:
    cond = tensor(b, rng, shape(rng), "bool")
    return b.select(cond, tensor(b, rng, cond.shape, "fp16"), 0.5)


def quantize(b: mil.Builder, rng: Draw) -> mil.Value:
    x = any_tensor(b, rng)
    if rng.integers(2):
        return b.quantize(x, 0.5, str(rng.choice(["int8", "uint8"])))
    axis = int(rng.integers(x.type.rank))
    scale = b.constant(np.full(x.shape[axis], 0.5), x.dtype)
    zero = b.constant(np.ones(x.shape[axis], np.int8), "int8")
    arguments = {"input": x, "scale": scale, "zero_point": zero, "axis": axis}
    return b.op("quantize", {**arguments, "output_dtype": "int8"})[0]


def dequantize(b: mil.Builder, rng: Draw) -> mil.Value:
    x = b.quantize(any_tensor(b, rng), 0.5, str(rng.choice(["int8", "uint8"])))
    return b.dequantize(x, 0.5, str(rng.choice(["fp16", "fp32"])))


def affine_dequantize(b: mil.Builder, rng: Draw) -> mil.Value:
    sizes = shape(rng, 1, 4)
    axis = one_axis(rng, len(sizes))
    data = b.constant(np.ones(sizes, np.int8), "int8")
    vector = bool(rng.integers(2))
    scale = b.constant(np.full(sizes[axis], 0.5) if vector else 0.5, "fp16")
    zero = b.constant(np.ones(sizes[axis], np.int8) if vector else 1, "int8")
    return b.constexpr_affine_dequantize(data, scale, zero, axis)


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        **{
            kind: binary(kind)
            for kind in ("add", "sub", "mul", "real_div", "maximum", "minimum", "pow")
        },
        **{
            kind: unary(kind)
            for kind in ("sigmoid", "silu", "tanh", "relu", "exp", "sqrt", "square", "identity")
        },
        **{kind: rooted(kind) for kind in ("log", "rsqrt")},
        **{kind: reduction(kind) for kind in ("reduce_sum", "reduce_mean", "reduce_max")},
        "cast": cast,
        "matmul": matmul,
        "conv": conv,
        "reshape": reshape,
        "transpose": transpose,
        "slice_by_size": slice_by_size,
        "slice_by_index": slice_by_index,
        "concat": concat,
        "split": split,
        "expand_dims": expand_dims,
        "squeeze": squeeze,
        "softmax": softmax,
        "layer_norm": layer_norm,
        "gather": gather,
        "select": select,
        "quantize": quantize,
        "dequantize": dequantize,
        "constexpr_affine_dequantize": affine_dequantize,
    }
)


def random_program(kind: str, opset: str, seed: int, count: int = 8) -> mil.Program:
    b, rng = mil.Builder(opset=opset), np.random.default_rng(seed)
    outputs: list[mil.Value] = []
    for _ in range(count):
        made = EXAMPLES[kind](b, rng)
        outputs.extend(made if isinstance(made, tuple) else (made,))
    return b.build(outputs)


def cases() -> Iterator[tuple[str, str]]:
    for kind, row in mil.OPS.items():
        for opset in ("ios16", "ios18"):
            if row.since <= opset:
                yield kind, opset


def test_every_op_of_the_table_has_an_example() -> None:
    assert EXAMPLES.keys() == mil.OPS.keys()


@pytest.mark.parametrize(("kind", "opset"), list(cases()))
def test_inferred_types_agree_with_coremltools(kind: str, opset: str) -> None:
    for seed in range(3):
        infer(random_program(kind, opset, seed))


def test_the_oracle_notices_a_wrong_declaration() -> None:
    b = mil.Builder()
    x = b.input("x", (1, 64, 1, 64))
    op = mil.Op("relu", "y", {"x": x}, (mil.Value("y", mil.TensorType("fp16", (1, 64))),))
    with pytest.raises(AssertionError, match="relu y"):
        infer(mil.Program("main", "ios18", (x,), (op,), op.outputs))


def test_the_table_has_the_rows_of_the_software_engine() -> None:
    source = (ROOT / "csrc/cpu/ops.def").read_text()
    rows = {
        name: {word.rstrip("!?*%"): "?" in word for word in slots.split()}
        for name, slots in re.findall(r'^MIL_OP\((\w+),\s*"([^"]*)"', source, re.MULTILINE)
    }
    ours = {
        kind: {parameter.name: parameter.optional for parameter in row.parameters}
        for kind, row in mil.OPS.items()
    }
    assert ours == rows


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("add", {"x": (2, 3), "y": (3, 2)}, "do not broadcast"),
        ("matmul", {"x": (2, 3), "y": (2, 3)}, "contraction of 3 with 2"),
        ("matmul", {"x": (3,), "y": (3, 2)}, "rank 2 or more"),
        ("reshape", {"x": (2, 3), "shape": (4, 2)}, "does not reshape"),
        ("reshape", {"x": (2, 3), "shape": (-1, -1)}, "more than one -1"),
        ("transpose", {"x": (2, 3), "perm": (0, 0)}, "name an axis twice"),
        ("transpose", {"x": (2, 3), "perm": (0,)}, "for rank 2"),
        ("slice_by_size", {"x": (4, 4), "begin": (0, 2), "size": (4, 3)}, "leaves fp16"),
        ("slice_by_size", {"x": (4, 4), "begin": (0, 4), "size": (4, -1)}, "leaves fp16"),
        ("slice_by_index", {"x": (4,), "begin": (3,), "end": (2,)}, "slice 3:2:1"),
        ("slice_by_index", {"x": (4,), "begin": (0,), "end": (9,)}, "slice 0:9:1"),
        ("concat", {"values": [(2, 3), (3, 3)], "axis": 1}, "concat along axis 1"),
        ("concat", {"values": [(2, 3)], "axis": 2}, "axis 2 is outside"),
        ("split", {"x": (4, 3), "num_splits": 2, "axis": 1}, "does not split into 2"),
        ("split", {"x": (4, 3), "split_sizes": (1, 1), "axis": 1}, "does not split into"),
        ("softmax", {"x": (2, 3), "axis": 2}, "axis 2 is outside"),
        ("reduce_sum", {"x": (2, 3), "axes": (0, -2)}, "name an axis twice"),
        ("squeeze", {"x": (2, 1), "axes": (0,)}, "not all of size 1"),
        ("expand_dims", {"x": (1, 2, 3, 4, 5), "axes": (0,)}, "above 5"),
        ("cast", {"x": (2,), "dtype": "string"}, "cannot cast to 'string'"),
        ("softmax", {}, "parameter 'x' is missing"),
        ("softmax", {"x": (2,), "axes": (0,)}, "no parameter 'axes'"),
        ("tile", {"x": (2,)}, "no op 'tile'"),
    ],
)
def test_broken_arguments_are_refused(kind: str, arguments: dict[str, Any], reason: str) -> None:
    b = mil.Builder()

    def bind(name: str, given: Any) -> Any:
        if name in ("x", "y"):
            return b.input(name, given)
        if name == "values":
            return [b.input(f"v{index}", sizes) for index, sizes in enumerate(given)]
        return given

    bound = {name: bind(name, given) for name, given in arguments.items()}
    with pytest.raises(TypeRuleError, match=reason):
        b.op(kind, bound)


def test_operands_of_different_dtypes_are_refused() -> None:
    b = mil.Builder()
    with pytest.raises(TypeRuleError, match="different dtypes: fp16, fp32"):
        b.add(b.input("x", (2,), "fp16"), b.input("y", (2,), "fp32"))


def test_a_parameter_that_must_be_constant_takes_no_computed_value() -> None:
    b = mil.Builder()
    x, s = b.input("x", (2, 2)), b.input("s", (1,), "int32")
    with pytest.raises(TypeRuleError, match="'shape' takes a constant"):
        b.op("reshape", {"x": x, "shape": s})


def test_ops_of_a_later_opset_are_refused() -> None:
    b = mil.Builder(opset="ios16")
    with pytest.raises(TypeRuleError, match="quantize needs ios18"):
        b.quantize(b.input("x", (2, 2)), 0.5)


def test_a_number_takes_the_dtype_of_the_other_operand() -> None:
    b = mil.Builder()
    for dtype in ("fp16", "fp32", "int32"):
        b.mul(b.input(f"x_{dtype}", (2, 2), dtype), 3)
        assert b._ops[-1].operands[1].dtype == dtype


def test_a_fraction_is_no_immediate_of_an_integer_operand() -> None:
    b = mil.Builder()
    with pytest.raises(ValueError, match="not of type int32"):
        b.mul(b.input("x", (2,), "int32"), 0.5)


def test_two_numbers_have_no_dtype() -> None:
    with pytest.raises(TypeRuleError, match="no operand tells its dtype"):
        mil.Builder().mul(1.0, 2.0)


def test_equal_immediates_are_shared_and_others_are_not() -> None:
    b = mil.Builder()
    x = b.input("x", (1, 64, 1, 64))
    y = b.mul(b.mul(b.add(x, 0.5), 0.5), np.float32(0.25))
    y = b.relu(b.reshape(b.reshape(y, (64, 64)), (64, 64)))
    names = [value.name for value in b.build([y]).constants]
    assert names == ["y_0", "y_1", "shape_0"]


def test_positive_and_negative_zero_are_two_immediates() -> None:
    b = mil.Builder()
    y = b.mul(b.add(b.input("x", (4,)), 0.0), -0.0)
    assert len(b.build([y]).constants) == 2


def test_names_are_kept_and_numbered_only_where_taken() -> None:
    b = mil.Builder()
    x = b.input("x", (4,))
    values = [b.relu(x, name="y"), b.relu(x, name="y"), b.relu(x, name="x"), b.relu(x), b.relu(x)]
    assert [value.name for value in values] == ["y", "y_1", "x_1", "relu_0", "relu_1"]
    assert [piece.name for piece in b.split(x, 2, 0, name="y")] == ["y_2_0", "y_2_1"]


def test_an_input_keeps_exactly_its_name() -> None:
    b = mil.Builder()
    b.input("x", (4,))
    with pytest.raises(ValueError, match="'x' is taken"):
        b.input("x", (4,))


@pytest.mark.parametrize("name", ["", "1x", "a b", "a-b", "tensor", "true"])
def test_names_follow_the_grammar(name: str) -> None:
    with pytest.raises(ValueError, match="no MIL name"):
        mil.Builder().input(name, (4,))


def test_the_same_calls_give_the_same_text() -> None:
    texts = {mil.print_program(random_program("conv", "ios18", 3)) for _ in range(2)}
    assert len(texts) == 1


def test_constants_keep_their_precision_and_cannot_be_changed_through_the_program() -> None:
    data = np.full((64, 64), 1 / 3)
    constant = mil.Builder().constant(data, "fp16")
    assert isinstance(constant.data, np.ndarray)
    assert constant.data.dtype == np.float64
    assert constant.data.base is data
    with pytest.raises(ValueError, match="read-only"):
        constant.data[0, 0] = 1


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_constants_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="infinities or NaN"):
        mil.Builder().constant(np.array([1.0, value]), "fp16")


def test_only_results_of_ops_are_returned() -> None:
    b = mil.Builder()
    x = b.input("x", (4,))
    b.relu(x)
    for outputs in ([], [x], [b.constant(1.0, "fp16")]):
        with pytest.raises(ValueError, match="returns one or more results"):
            b.build(outputs)


def test_constants_are_those_in_use_in_order_of_first_use() -> None:
    b = mil.Builder()
    x = b.input("x", (64, 64))
    unused, second, first = (b.constant(np.ones((64, 64)), "fp16", name=n) for n in "abc")
    program = b.build([b.mul(b.mul(x, first), second)])
    assert program.constants == (first, second)
    assert unused not in program.constants
