"""The verifier: every rule has a program that breaks it and one that keeps it, on its chips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from coremltools_oracle import infer
from test_mil_builder import cases, random_program

from ane_train import mil
from ane_train.errors import EngineError
from ane_train.mil.rules import OP_RULES, PORT_RULES, PROGRAM_RULES, VALUE_RULES, Rule

ROWS = (*PORT_RULES, *PROGRAM_RULES, *VALUE_RULES, *OP_RULES)
PORT = (1, 64, 1, 64)
Make = Callable[[mil.Builder, mil.Value], mil.Value]


def program(
    make: Make, shape: tuple[int, ...] = PORT, dtype: str = "fp16", opset: str = "ios18"
) -> mil.Program:
    b = mil.Builder(opset=opset)
    return b.build([make(b, b.input("x", shape, dtype))])


def relu(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.relu(x)


def ports(*inputs: tuple[str, tuple[int, ...]], outputs: tuple[str, ...] = ("y",)) -> mil.Program:
    b = mil.Builder()
    values = [b.input(name, shape) for name, shape in inputs]
    total = values[0]
    for value in values[1:]:
        total = b.add(total, b.reduce_max(value, (3,), keep_dims=True))
    return b.build([b.relu(total, name=name) for name in outputs])


def weights(shape: tuple[int, ...], file: str | None, count: int = 2) -> mil.Program:
    def make(b: mil.Builder, x: mil.Value) -> mil.Value:
        for _ in range(count):
            x = b.mul(x, b.constant(np.broadcast_to(np.float32(1), shape), "fp16", file=file))
        return x

    return program(make)


def convolution(width: int = 1, bias: bool = False, channels: int = 64) -> mil.Program:
    def make(b: mil.Builder, x: mil.Value) -> mil.Value:
        weight = b.constant(np.ones((64, channels, 1, width)), "fp16")
        return b.conv(x, weight, b.constant(np.ones(64), "fp16") if bias else None)

    return program(make, (1, channels, 1, 64))


def product(inner: int, rank: int = 3, constant: bool = False) -> mil.Program:
    def make(b: mil.Builder, x: mil.Value) -> mil.Value:
        if constant:
            ones = b.constant(np.ones((64, inner)), "fp16")
            return b.matmul(ones, b.reshape(x, (inner, 64)))
        flat = b.reshape(x, (1,) * (rank - 2) + (inner, 64))
        return b.matmul(flat, flat, transpose_x=True)

    return program(make, (1, inner, 1, 64))


def long_product(inner: int) -> mil.Program:
    return program(lambda b, x: b.matmul(b.reshape(x, (64, inner)), b.reshape(x, (inner, 64))),
                   (1, 64, 1, inner))  # fmt: skip


def unknown(kind: str) -> mil.Program:
    sound = program(relu)
    return replace(sound, ops=(replace(sound.ops[0], kind=kind),))


def slices(begin: int) -> mil.Program:
    return program(lambda b, x: b.slice_by_size(x, (0, 0, 0, begin), (1, 64, 1, 64)),
                   (1, 64, 1, 128))  # fmt: skip


def total(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.reduce_sum(b.relu(x), (1,), keep_dims=True)


def gathered(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.gather(x, b.constant([0, 1], "int32"), axis=1)


def normed(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.layer_norm(x, (1,))


def runtime_conv(b: mil.Builder, x: mil.Value) -> mil.Value:
    return b.conv(x, b.reshape(b.slice_by_size(x, (0,) * 4, (1, 64, 1, 64)), (64, 64, 1, 1)))


def constexpr_conv(b: mil.Builder, x: mil.Value) -> mil.Value:
    data = b.constant(np.ones((64, 64, 1, 1), np.int8), "int8")
    scale, zero = b.constant(0.5, "fp16"), b.constant(0, "int8")
    return b.conv(x, b.constexpr_affine_dequantize(data, scale, zero))


@dataclass(frozen=True, slots=True)
class Case:
    bad: mil.Program
    good: mil.Program


def columns(shape: tuple[int, int]) -> Make:
    return lambda b, x: b.add(b.relu(x), b.constant(np.ones(shape), "fp16"))


def batches(count: int) -> Make:
    return lambda b, x: b.add(x, b.constant(np.ones((count, 64, 1, 64)), "fp16"))


CASES = {
    "port-dtype": Case(program(lambda b, x: b.cast(x, "fp16"), dtype="int32"), program(relu)),
    "port-fp32": Case(program(relu, dtype="fp32"), program(relu)),
    "port-shape": Case(program(relu, (64, 64)), program(relu)),
    "port-channels": Case(program(relu, (1, 63, 1, 64)), program(relu)),
    "port-width": Case(program(relu, (1, 64, 1, 48)), program(relu, (1, 64, 1, 32))),
    "port-width-64": Case(program(relu, (1, 64, 1, 32)), program(relu)),
    "port-order": Case(ports(("b", PORT), ("a", PORT)), ports(("a", PORT), ("b", PORT))),
    "port-sizes": Case(
        ports(("a", PORT), ("b", (1, 64, 1, 128))), ports(("a", PORT), ("b", PORT))
    ),
    "port-count": Case(ports(("a", PORT), outputs=("y", "z")), ports(("a", PORT))),
    "weights-size": Case(weights((2**19, 64, 1, 64), "w", 1), weights((64, 1, 64), None)),
    "file-per-constant": Case(weights((64, 1, 64), "w"), weights((64, 1, 64), None)),
    "opset": Case(program(relu), program(relu, opset="ios16")),
    "channel-limit": Case(program(relu, (1, 65537, 1, 64)), program(relu, (1, 65536, 1, 64))),
    "spatial-limit": Case(program(relu, (1, 64, 1, 65600)), program(relu, (1, 64, 1, 16384))),
    "op-unavailable": Case(unknown("tile"), program(relu)),
    "op-unproven": Case(program(lambda b, x: b.square(x)), program(lambda b, x: b.mul(x, x))),
    "op-fp32": Case(
        program(lambda b, x: b.relu(b.cast(x, "fp32"))), program(lambda b, x: b.cast(x, "fp32"))
    ),
    "constant-range": Case(
        program(lambda b, x: b.add(x, -65520.0)), program(lambda b, x: b.add(x, -65504.0))
    ),
    "matmul-depth": Case(long_product(65600), long_product(16384)),
    "matmul-depth-32": Case(product(48), product(64)),
    "matmul-constant": Case(product(64, constant=True), product(64)),
    "matmul-rank": Case(product(64, rank=4), product(64)),
    "conv-weight": Case(program(runtime_conv), program(constexpr_conv)),
    "conv-channels": Case(convolution(channels=32000), convolution(channels=31999)),
    "conv-kernel": Case(convolution(width=14), convolution(width=13)),
    "conv-bias": Case(convolution(bias=True), convolution()),
    "width-slice": Case(slices(64), slices(0)),
    "width-concat": Case(
        program(lambda b, x: b.concat([x, x], -1)), program(lambda b, x: b.concat([x, x], 1))
    ),
    "interleave": Case(
        program(lambda b, x: b.concat([x, x], 1, interleave=True)),
        program(lambda b, x: b.concat([x, x], 1)),
    ),
    "softmax-axis": Case(
        program(lambda b, x: b.softmax(x, 1)), program(lambda b, x: b.softmax(x, 3))
    ),
    "softmax-length": Case(
        program(lambda b, x: b.softmax(x), (1, 64, 1, 192)), program(lambda b, x: b.softmax(x))
    ),
    "root": Case(
        program(lambda b, x: b.sqrt(total(b, x))), program(lambda b, x: b.pow(total(b, x), 0.5))
    ),
    "small-epsilon": Case(
        program(lambda b, x: b.log(x)), program(lambda b, x: b.log(x, epsilon=1e-5))
    ),
    "long-sum": Case(program(total, (1, 2049, 1, 64)), program(total, (1, 2048, 1, 64))),
    "input-reduction": Case(
        program(lambda b, x: b.reduce_max(x, (1,), keep_dims=True)), program(total)
    ),
    "zero-product": Case(
        program(lambda b, x: b.mul(total(b, x), 0.0)), program(lambda b, x: b.mul(x, 0.0))
    ),
    "batch-broadcast": Case(program(batches(2)), program(batches(1))),
    "column-broadcast": Case(
        program(columns((64, 1)), (64, 64)), program(columns((1, 64)), (64, 64))
    ),
    "layer-norm": Case(program(normed), program(relu)),
    "gather": Case(program(gathered), program(relu)),
    "cast": Case(program(lambda b, x: b.cast(x, "fp32")), program(relu)),
    "quantize": Case(
        program(lambda b, x: b.dequantize(b.quantize(x, 0.5), 0.5)), program(relu)
    ),
}  # fmt: skip


def severities(checked: mil.Program, chip: str, rule: str) -> set[str]:
    return {found.severity for found in mil.verify(checked, chip) if found.rule == rule}


def test_every_rule_of_the_tables_has_a_case() -> None:
    assert CASES.keys() == {row.name for row in ROWS}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_on_its_chips_and_on_no_other(rule: str) -> None:
    for chip in mil.CHIPS:
        expected = {row.severity for row in ROWS if row.name == rule and chip in row.chips}
        assert severities(CASES[rule].bad, chip, rule) == expected


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_silent_about_a_program_that_keeps_it(rule: str) -> None:
    for chip in mil.CHIPS:
        assert severities(CASES[rule].good, chip, rule) == set()


def test_no_two_rows_of_a_rule_speak_on_one_chip() -> None:
    pairs = [(row.name, chip) for row in ROWS for chip in row.chips]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize(("chip", "limit"), [("m1", 16384), ("m3", 16384), ("m4", 65536)])
def test_the_spatial_limit_is_that_of_the_chip(chip: str, limit: int) -> None:
    assert not severities(program(relu, (1, 64, 1, limit)), chip, "spatial-limit")
    assert severities(program(relu, (1, 64, 1, limit + 64)), chip, "spatial-limit") == {"refuse"}
    assert not severities(long_product(limit), chip, "matmul-depth")
    assert severities(long_product(limit + 64), chip, "matmul-depth") == {"refuse"}


def test_a_transposed_operand_contracts_its_rows() -> None:
    turned = program(
        lambda b, x: b.matmul(b.reshape(x, (16384, 64)), b.reshape(x, (16384, 64)), True),
        (1, 16384, 1, 64),
    )
    assert not severities(turned, "m3", "matmul-depth")


def test_the_shape_of_a_training_program_is_accepted_everywhere() -> None:
    def make(b: mil.Builder, x: mil.Value) -> mil.Value:
        act = b.reshape(b.slice_by_size(x, (0, 0, 0, 0), (1, 64, 1, 64)), (1, 1, 64, 64))
        weight = b.reshape(b.slice_by_size(x, (0, 0, 0, 64), (1, 64, 1, 128)), (1, 1, 64, 128))
        y = b.matmul(weight, act, transpose_x=True)
        return b.reshape(b.softmax(y), (1, 128, 1, 64))

    packed = program(make, (1, 64, 1, 192))
    for chip in mil.CHIPS:
        mil.require(packed, chip)
    assert mil.verify(packed, "m4") == []


def test_require_raises_the_first_reason_to_refuse() -> None:
    with pytest.raises(EngineError, match=r"program 'main' on m4: x: has width 48: make it"):
        mil.require(program(relu, (1, 64, 1, 48)), "m4")


def test_an_unknown_chip_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown chip 'm9'"):
        mil.verify(program(relu), "m9")


def test_hazards_are_the_flags_of_the_engine() -> None:
    assert [mil.hazards(chip) for chip in mil.CHIPS] == [7, 7, 3, 3, 3]


def first(*values: mil.Value) -> mil.Program:
    """A program of one op made by hand, so that nothing checks it on the way."""
    x = mil.Value("x", mil.TensorType("fp16", PORT))
    return mil.Program("main", "ios18", (x,), (mil.Op("relu", "y", {"x": x}, values),), values)


def sound() -> mil.Program:
    return program(lambda b, x: b.softmax(b.relu(x, name="r"), 3, name="y"))


def with_argument(
    kind: str, arguments: dict[str, list[int] | int], shape: tuple[int, ...]
) -> mil.Program:
    """An op on [1, 64, 1, 64] whose declared type is `shape`, wrong or not."""
    x = mil.Value("x", mil.TensorType("fp16", PORT))
    bound: dict[str, mil.Value | tuple[mil.Value, ...]] = {"x": x}
    for name, given in arguments.items():
        data = np.asarray(given, np.int32)
        bound[name] = mil.Value(name, mil.TensorType("int32", data.shape), data)
    outputs = (mil.Value("y", mil.TensorType("fp16", shape)),)
    return mil.Program("main", "ios18", (x,), (mil.Op(kind, "y", bound, outputs),), outputs)


LAX = {
    "slice past the end": with_argument(
        "slice_by_size", {"begin": [0, 0, 0, 32], "size": [1, 64, 1, 64]}, PORT
    ),
    "repeated axis": with_argument("transpose", {"perm": [0, 1, 1, 3]}, (1, 64, 64, 64)),
    "softmax axis": with_argument("softmax", {"axis": 4}, PORT),
    "rank above 5": with_argument("expand_dims", {"axes": [0, 1]}, (1, 1, *PORT)),
}


@pytest.mark.parametrize("case", LAX)
def test_what_coremltools_lets_pass_is_refused(case: str) -> None:
    infer(LAX[case])
    refused = {found.rule for found in mil.verify(LAX[case], "m4") if found.severity == "refuse"}
    assert refused <= {"type", "rank"}
    assert "type" in refused


def broken_programs() -> dict[str, mil.Program]:
    good = sound()
    relu_op, softmax_op = good.ops
    wide = mil.Value("y", mil.TensorType("fp16", (1, 64, 64)))
    same_name = mil.Value("x", mil.TensorType("fp16", PORT))
    odd_name = mil.Value("1y", mil.TensorType("fp16", PORT))
    return {
        "name": first(odd_name),
        "unique-name": first(same_name),
        "order": replace(good, ops=(softmax_op, relu_op)),
        "output": replace(good, outputs=good.inputs),
        "rank": replace(good, inputs=(mil.Value("z", mil.TensorType("fp16", (1,) * 6)),)),
        "type": first(wide),
        "unused": replace(good, outputs=relu_op.outputs),
    }


@pytest.mark.parametrize(("rule", "broken"), broken_programs().items())
def test_a_broken_structure_is_found(rule: str, broken: mil.Program) -> None:
    assert rule in {found.rule for found in mil.verify(broken, "m4")}
    assert rule not in {found.rule for found in mil.verify(sound(), "m4")}


@pytest.mark.parametrize(("kind", "opset"), list(cases()))
def test_the_structure_of_valid_programs_is_sound(kind: str, opset: str) -> None:
    structure = broken_programs().keys() - {"unused"}
    for seed in range(3):
        findings = mil.verify(random_program(kind, opset, seed), "m4")
        assert structure.isdisjoint(found.rule for found in findings)


def test_an_output_named_twice_and_no_output_are_refused() -> None:
    good = sound()
    for outputs in ((), good.outputs * 2):
        assert severities(replace(good, outputs=outputs), "m4", "output") == {"refuse"}


def test_an_op_that_no_table_has_is_refused() -> None:
    assert severities(unknown("frobnicate"), "m4", "type") == {"refuse"}


def test_a_missing_argument_is_found() -> None:
    good = sound()
    bare = replace(good, ops=(replace(good.ops[0], arguments={}), good.ops[1]))
    assert severities(bare, "m4", "type") == {"refuse"}


def test_every_row_says_where_it_comes_from() -> None:
    def is_complete(row: Rule) -> bool:
        return bool(row.source) and bool(row.chips) and row.severity in ("refuse", "warn")

    assert all(is_complete(row) for row in ROWS)
