"""The fast evaluator against its slow twin: random programs give the same bits.

With the built-in matrix product, whose order of additions both share, nothing may differ; with
OpenBLAS a product may differ by rounding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from engine_cases import Op, literal, program_text, run

from ane_train.native.engine import Context

Shape = tuple[int, ...]
HAZARDS = 7
UNARY = ("sigmoid", "tanh", "relu", "square", "identity", "silu", "exp")
BINARY = ("add", "sub", "mul", "maximum", "minimum")


def size(shape: Shape) -> int:
    return int(np.prod(shape))


def broadcast(a: Shape, b: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def factors(count: int, rank: int, rng: random.Random) -> Shape:
    """A random shape of that many elements and of that rank."""
    out = []
    for _ in range(rank - 1):
        out.append(rng.choice([d for d in range(1, min(count, 24) + 1) if count % d == 0]))
        count //= out[-1]
    out.append(count)
    rng.shuffle(out)
    return tuple(out)


@dataclass
class RandomProgram:
    """Grows a program op by op; every value can be an operand of every later op."""

    rng: random.Random
    dtype: str = "fp16"
    values: list[tuple[str, Shape]] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def pick(self) -> tuple[str, Shape]:
        recent = self.values[-6:]
        return self.rng.choice(recent if self.rng.random() < 0.7 else self.values)

    def emit(self, kind: str, arguments: dict[str, str], *shapes: Shape) -> None:
        results = []
        for shape in shapes:
            results.append((f"v{len(self.values)}", self.dtype, shape))
            self.values.append((f"v{len(self.values)}", shape))
        self.ops.append(Op(kind, arguments, results))

    def unary(self) -> None:
        name, shape = self.pick()
        self.emit(self.rng.choice(UNARY), {"x": name}, shape)

    def binary(self) -> None:
        (a, a_shape), (b, b_shape) = self.pick(), self.pick()
        shape = broadcast(a_shape, b_shape)
        if shape is None or size(shape) > 60000 or len(shape) > 5:
            b, shape = literal(np.array(self.rng.choice([0.5, -1.0, 2.0]), np.float16)), a_shape
            if self.dtype == "fp32":
                b = b.replace("fp16", "fp32")
        self.emit(self.rng.choice(BINARY), {"x": a, "y": b}, shape)

    def reshape(self) -> None:
        name, shape = self.pick()
        target = factors(size(shape), self.rng.randint(1, 5), self.rng)
        self.emit("reshape", {"x": name, "shape": literal(list(target))}, target)

    def transpose(self) -> None:
        name, shape = self.pick()
        perm = self.rng.sample(range(len(shape)), len(shape))
        out = tuple(shape[axis] for axis in perm)
        self.emit("transpose", {"x": name, "perm": literal(perm)}, out)

    def slice_by_size(self) -> None:
        name, shape = self.pick()
        begin = [self.rng.randrange(n) for n in shape]
        length = [self.rng.randint(1, n - b) for n, b in zip(shape, begin, strict=True)]
        arguments = {"x": name, "begin": literal(begin), "size": literal(length)}
        self.emit("slice_by_size", arguments, tuple(length))

    def slice_by_index(self) -> None:
        name, shape = self.pick()
        steps = [self.rng.choice([1, 1, 2, 3]) for _ in shape]
        begin = [self.rng.randrange(n) for n in shape]
        out = tuple(-(-(n - b) // s) for n, b, s in zip(shape, begin, steps, strict=True))
        lists = {"begin": begin, "end": list(shape), "stride": steps}
        arguments = {key: literal(value) for key, value in lists.items()}
        self.emit("slice_by_index", {"x": name, **arguments}, out)

    def concat(self) -> None:
        _, shape = self.pick()
        parts = [name for name, other in self.values if other == shape]
        chosen = [self.rng.choice(parts) for _ in range(self.rng.randint(1, 3))]
        axis = self.rng.randrange(len(shape))
        out = (*shape[:axis], shape[axis] * len(chosen), *shape[axis + 1 :])
        if size(out) > 60000:
            return
        arguments = {"axis": literal(axis), "interleave": literal(self.rng.random() < 0.2)}
        self.emit("concat", {"values": f"({', '.join(chosen)})", **arguments}, out)

    def split(self) -> None:
        name, shape = self.pick()
        axis = max(range(len(shape)), key=lambda i: shape[i])
        if shape[axis] < 2:
            return
        first = self.rng.randint(1, shape[axis] - 1)
        sizes = [first, shape[axis] - first]
        shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
        arguments = {"split_sizes": literal(sizes), "axis": literal(axis)}
        self.emit("split", {"x": name, **arguments}, *shapes)

    def softmax(self) -> None:
        name, shape = self.pick()
        axis = self.rng.randrange(len(shape))
        self.emit("softmax", {"x": name, "axis": literal(axis)}, shape)

    def reduce(self) -> None:
        name, shape = self.pick()
        axes = sorted(self.rng.sample(range(len(shape)), self.rng.randint(1, len(shape))))
        out = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
        arguments = {"x": name, "axes": literal(axes), "keep_dims": literal(True)}
        kind = self.rng.choice(["reduce_sum", "reduce_mean", "reduce_max"])
        self.emit(kind, arguments, out)

    def layer_norm(self) -> None:
        name, shape = self.pick()
        self.emit("layer_norm", {"x": name, "axes": literal([len(shape) - 1])}, shape)

    def matmul(self) -> None:
        name, shape = self.pick()
        if len(shape) < 2:
            return
        rows, columns = self.rng.randint(0, 1), self.rng.randint(0, 1)
        inner = shape[-2] if rows else shape[-1]
        other = [
            (candidate, its)
            for candidate, its in self.values
            if len(its) >= 2
            and (its[-1] if columns else its[-2]) == inner
            and broadcast(shape[:-2], its[:-2]) is not None
        ]
        if not other:
            other, columns = [(name, shape)], 1 - rows
        candidate, its = self.rng.choice(other)
        batch = broadcast(shape[:-2], its[:-2])
        out = (*batch, shape[-1] if rows else shape[-2], its[-2] if columns else its[-1])
        if size(out) > 60000:
            return
        flags = {"transpose_x": literal(bool(rows)), "transpose_y": literal(bool(columns))}
        self.emit("matmul", {"x": name, "y": candidate, **flags}, out)

    def grow(self, count: int) -> None:
        kinds = [
            self.unary, self.unary, self.binary, self.binary, self.binary, self.reshape,
            self.transpose, self.slice_by_size, self.slice_by_index, self.concat, self.split,
            self.softmax, self.reduce, self.layer_norm, self.matmul, self.matmul,
        ]  # fmt: skip
        while len(self.ops) < count:
            self.rng.choice(kinds)()


def random_program(seed: int) -> tuple[str, dict[str, np.ndarray]]:
    """Text and inputs: one packed, one of another shape; some or all of the values are returned."""
    rng = random.Random(seed)
    dtype = "fp32" if seed % 5 == 4 else "fp16"
    source = np.random.default_rng(seed)
    shapes = {"v0": (1, rng.choice([6, 12, 24]), 1, rng.choice([32, 60, 96]))}
    shapes["v1"] = factors(rng.choice([24, 96, 720]), rng.randint(1, 5), rng)
    inputs = {
        name: source.standard_normal(shape).astype(np.float16 if dtype == "fp16" else np.float32)
        for name, shape in shapes.items()
    }
    program = RandomProgram(rng, dtype, list(shapes.items()))
    program.grow(rng.randint(1, 25))
    made = [name for op in program.ops for name, *_ in op.results]
    outputs = rng.sample(made, rng.randint(1, min(4, len(made))))
    return program_text(inputs, program.ops, outputs), inputs


def assert_same_bits(fast: list[np.ndarray], slow: list[np.ndarray]) -> None:
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, b)  # NaN equals NaN


@pytest.fixture(scope="module", params=["fp16", "fp32", "bf16", "hazard"])
def twins(request: pytest.FixtureRequest) -> tuple[Context, Context]:
    hazards = HAZARDS if request.param == "hazard" else 0
    return (
        Context(request.param, hazards, threads=2, blas=None),
        Context(request.param, hazards, threads=1, blas=None, reference=True),
    )


@pytest.mark.parametrize("seed", range(120))
def test_random_programs_give_the_same_bits_as_the_reference(
    seed: int, twins: tuple[Context, Context]
) -> None:
    text, inputs = random_program(seed)
    fast, slow = (run(context, text, inputs) for context in twins)
    assert_same_bits(fast, slow)


EXACT = 2**23  # whole numbers below it have exact sums in fp32, in any order


@dataclass
class StackedProgram(RandomProgram):
    """Outputs put together of pieces, which later ops read too; `largest` bounds each value."""

    width: int = 64  # of the outputs: rows of 64 lie side by side, others have gaps between them
    largest: dict[str, float] = field(default_factory=dict)

    def bounded(self, kind: str, arguments: dict[str, str], shape: Shape, largest: float) -> str:
        self.emit(kind, arguments, shape)
        name = self.values[-1][0]
        self.largest[name] = largest
        return name

    def combine(self) -> None:
        a, shape = self.pick()
        b = self.rng.choice([name for name, its in self.values if its == shape])
        kind = self.rng.choice(["add", "sub", "maximum"])
        self.bounded(kind, {"x": a, "y": b}, shape, self.largest[a] + self.largest[b])

    def scale(self) -> None:
        name, shape = self.pick()
        factor = literal(np.array(64.0, np.float16))
        self.bounded("mul", {"x": name, "y": factor}, shape, 64 * self.largest[name])

    def convolve(self) -> None:
        name, (_, channels, height, width) = self.pick()
        largest = 2 * self.largest[name] * channels + 1
        if largest > EXACT or channels * height * width > 10000:
            return
        weight = [[[[self.rng.randint(-2, 2)]] for _ in range(channels)] for _ in range(self.width)]
        arguments = {
            "x": name, "weight": literal(np.array(weight, np.float16)),
            "strides": literal([1, 1]), "pad_type": literal("valid"),
            "pad": literal([0, 0, 0, 0]), "dilations": literal([1, 1]), "groups": literal(1),
            "bias": literal(np.array([i % 2 for i in range(self.width)], np.float16)),
        }  # fmt: skip
        self.bounded("conv", arguments, (1, self.width, height, width), largest)

    def reshaped(self, name: str, shape: Shape) -> str:
        arguments = {"x": name, "shape": literal(list(shape))}
        return self.bounded("reshape", arguments, shape, self.largest[name])

    def turn(self) -> None:
        name, shape = self.rng.choice(self.values)
        rows, columns = shape[0] * shape[1], size(shape[2:])
        if len(shape) == 2:
            rows, columns = shape
        elif len(shape) == 4:
            name = self.reshaped(name, (rows, columns))
        else:
            return
        arguments = {"x": name, "perm": literal([1, 0])}
        turned = self.bounded("transpose", arguments, (columns, rows), self.largest[name])
        self.reshaped(turned, (1, columns, 1, rows))

    def multiply(self) -> None:
        """Rows of one by columns of another, in the way of a program for the ANE."""
        a, a_shape = self.pick()
        others = [(b, its) for b, its in self.values if len(its) == 4 and its[1] == a_shape[1]]
        b, b_shape = self.rng.choice(others)
        largest = self.largest[a] * self.largest[b] * a_shape[1]
        if largest > EXACT or (a_shape[3] % self.width and b_shape[3] % self.width):
            return
        batch = (1,) * self.rng.randint(0, 1)
        left = self.reshaped(a, (*batch, a_shape[1], a_shape[3]))
        right = self.reshaped(b, (*batch, b_shape[1], b_shape[3]))
        arguments = {"x": left, "y": right, "transpose_x": literal(True)}
        arguments["transpose_y"] = literal(False)
        out = self.bounded("matmul", arguments, (*batch, a_shape[3], b_shape[3]), largest)
        if self.rng.random() < 0.7:
            self.reshaped(out, (1, a_shape[3], 1, b_shape[3]))

    def pick(self) -> tuple[str, Shape]:
        return self.rng.choice([value for value in self.values if len(value[1]) == 4])

    def stack(self, names: list[str]) -> str:
        """[1, rows, 1, width]; a part of the names is stacked by itself first."""
        shapes = dict(self.values)
        if len(names) > 2 and self.rng.random() < 0.5:
            names = [self.stack(names[:2]), *names[2:]]
            shapes = dict(self.values)
        rows = [size(shapes[name]) // self.width for name in names]
        parts = [
            name
            if shapes[name] == (1, n, 1, self.width)
            else self.reshaped(name, (1, n, 1, self.width))
            for name, n in zip(names, rows, strict=True)
        ]
        return self.joined(parts, 1, (1, sum(rows), 1, self.width))

    def joined(self, parts: list[str], axis: int, shape: Shape) -> str:
        """Along the last axis, elements of the parts take turns."""
        arguments = {"values": f"({', '.join(parts)})", "axis": literal(axis)}
        arguments["interleave"] = literal(axis == 3)
        return self.bounded("concat", arguments, shape, max(self.largest[name] for name in parts))

    def outputs(self) -> list[str]:
        made = [name for op in self.ops for name, *_ in op.results]
        shapes = dict(self.values)
        pieces = [name for name in made if size(shapes[name]) % self.width == 0] or ["v0"]
        out = []
        for _ in range(self.rng.randint(1, 2)):
            out.append(self.stack([self.rng.choice(pieces) for _ in range(self.rng.randint(1, 5))]))
            pieces += [name for name, shape in self.values if shape[2:] == (1, self.width)]
        if self.rng.random() < 0.3:
            part, shape = self.pick()
            same = [name for name, other in self.values if other == shape]
            whole = (*shape[:3], 2 * shape[3])
            out.append(self.joined([part, self.rng.choice(same)], 3, whole))
        return out


def stacked_program(seed: int, whole: bool) -> tuple[str, dict[str, np.ndarray]]:
    """Text and inputs, which are whole numbers if the result may not depend on their order."""
    rng = random.Random(seed)
    source = np.random.default_rng(seed)
    width = rng.choice([48, 64])
    shapes = {"v0": (1, rng.choice([24, 96]), 1, width), "v1": (1, width, 1, 4 * width)}
    inputs = {
        name: (source.integers(-3, 4, shape) if whole else source.standard_normal(shape)).astype(
            np.float16
        )
        for name, shape in shapes.items()
    }
    program = StackedProgram(rng, "fp16", list(shapes.items()), width=width)
    program.largest = dict.fromkeys(shapes, 3.0)
    kinds = [program.combine, program.scale, program.turn, program.convolve]
    for _ in range(rng.randint(2, 14)):
        rng.choice([*kinds, program.multiply, program.multiply])()
    outputs = program.outputs()
    return program_text(inputs, program.ops, outputs), inputs


@pytest.mark.parametrize("seed", range(60))
def test_stacked_outputs_have_the_same_bits_as_the_reference(
    seed: int, twins: tuple[Context, Context]
) -> None:
    text, inputs = stacked_program(seed, whole=False)
    fast, slow = (run(context, text, inputs) for context in twins)
    assert_same_bits(fast, slow)


def test_products_that_an_output_wants_in_another_order(twins: tuple[Context, Context]) -> None:
    """Interleaved along their columns, and turned where a stack of others reads them."""
    shapes: dict[str, Shape] = {"v0": (64, 48), "v1": (64, 32)}
    program = StackedProgram(random.Random(1), "fp16", list(shapes.items()))
    program.largest = dict.fromkeys(shapes, 1.0)
    turned = {"x": "v0", "y": "v1", "transpose_x": literal(True), "transpose_y": literal(False)}
    taken, stacked = (program.bounded("matmul", turned, (48, 32), 1.0) for _ in range(2))
    back = program.bounded("transpose", {"x": stacked, "perm": literal([1, 0])}, (32, 48), 1.0)
    stack = {"values": f"({back}, {back})", "axis": literal(0), "interleave": literal(False)}
    both = program.bounded("concat", stack, (64, 48), 1.0)
    doubled = program.bounded("add", {"x": both, "y": both}, (64, 48), 2.0)
    pair = {"values": f"({taken}, {taken})", "axis": literal(1), "interleave": literal(True)}
    mixed = program.bounded("concat", pair, (48, 64), 1.0)
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(its).astype(np.float16) for name, its in shapes.items()}
    text = program_text(inputs, program.ops, [mixed, stacked, both, doubled])
    fast, slow = (run(context, text, inputs) for context in twins)
    assert_same_bits(fast, slow)


@pytest.mark.parametrize("numerics", ["fp16", "bf16"])
@pytest.mark.parametrize("seed", range(60))
def test_stacked_products_of_whole_numbers_are_exact_in_any_order(seed: int, numerics: str) -> None:
    text, inputs = stacked_program(seed, whole=True)
    fast = run(Context(numerics, threads=2), text, inputs)
    slow = run(Context(numerics, threads=1, blas=None, reference=True), text, inputs)
    assert_same_bits(fast, slow)


@pytest.mark.parametrize("seed", range(40))
def test_constant_folding_does_not_change_a_result(seed: int) -> None:
    text, inputs = random_program(seed)
    head, _, tail = text.partition(") {\n")
    function = head.rindex("(")
    constants = "".join(
        f"        {literal(array).partition('(')[0]} {name} = const()"
        f'[name = string("{name}"), val = {literal(array)}];\n'
        for name, array in inputs.items()
    )
    folded = f"{head[:function]}(tensor<fp32, [1]> unused) {{\n{constants}{tail}"
    context = Context("fp16", threads=2, blas=None)
    fast = run(context, text, inputs)
    assert_same_bits(run(context, folded, {"unused": np.zeros(1, np.float32)}), fast)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(37, 65, 130), (256, 64, 256), (1, 300, 5)])
def test_products_by_blas_differ_from_the_reference_by_rounding_alone(
    rows: int, depth: int, columns: int
) -> None:
    rng = np.random.default_rng(rows)
    inputs = {
        "x": rng.standard_normal((2, 3, depth, rows)).astype(np.float32),
        "y": rng.standard_normal((3, columns, depth)).astype(np.float32),
    }
    arguments = {"x": "x", "y": "y", "transpose_x": "bool(true)", "transpose_y": "bool(true)"}
    op = Op("matmul", arguments, [("out", "fp32", (2, 3, rows, columns))])
    text = program_text(inputs, [op], ["out"])
    fast = run(Context("fp16", threads=2), text, inputs)[0]
    slow = run(Context("fp16", reference=True), text, inputs)[0]
    bound = (
        depth
        * 2.0**-23
        * np.matmul(np.abs(inputs["x"]).swapaxes(-1, -2), np.abs(inputs["y"]).swapaxes(-1, -2))
    )
    assert np.all(np.abs(fast - slow) <= bound)
