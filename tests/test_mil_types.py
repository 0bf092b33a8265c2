"""Type rules: coremltools agrees with ours, and what it lets pass by mistake is refused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from mil_front import FP32, TYPE, UNSUPPORTED, WEIGHTS, Case, Outcome, front, program
from mil_type_cases import GENERATORS
from mil_type_oracle import OpCase, Type, infer

SAMPLES = 60


@pytest.mark.parametrize("generate", GENERATORS, ids=lambda generate: generate.__name__)
def test_rule_agrees_with_coremltools(generate: Callable[[Random], OpCase]) -> None:
    random = Random(generate.__name__)
    uses = [generate(random) for _ in range(SAMPLES)]
    expected = [infer(use) for use in uses]
    guess = Type("fp16", (7,))
    texts = [
        use.text(types or [guess] * use.results) for use, types in zip(uses, expected, strict=True)
    ]
    found = front().run([Case(text) for text in texts])
    assert 0 < sum(types is None for types in expected) < SAMPLES or generate.__name__ == "softmax"
    for types, text, outcome in zip(expected, texts, found, strict=True):
        if types is not None:
            assert outcome.error is None, (outcome.error, text)
        else:
            assert outcome.error is not None, text
            assert not outcome.error.text.startswith("declared"), (outcome.error, text)


def refused(*body: str, status: int = TYPE, **options: str) -> str:
    """The message of a program's error, which is of this status and has a position in the body."""
    error = front().one(program(*body, **options)).error
    assert error is not None
    assert error.status == status, error
    assert 4 <= error.line < 4 + len(body), error
    assert error.column > 12
    return error.text


def constant(name: str, type_: str, literal: str) -> str:
    return f"{type_} {name} = const()[val = {type_}({literal})]"


def accepted(*body: str, **options: str) -> Outcome:
    outcome = front().one(program(*body, **options))
    assert outcome.error is None, outcome.error
    return outcome


X = "tensor<fp16, [1, 4, 1, 8]>"
RELU = f"{X} y = relu(x = x)"
LAX = {
    "a slice past the end": (
        f"{X} y = slice_by_size(begin = tensor<int32, [4]>([0, 0, 0, 4]), "
        "size = tensor<int32, [4]>([1, 4, 1, 8]), x = x)",
        "8 from 4 on axis 3",
    ),
    "a slice that begins past the end": (
        f"{X} y = slice_by_size(begin = tensor<int32, [4]>([0, 0, 0, 8]), "
        "size = tensor<int32, [4]>([1, 4, 1, -1]), x = x)",
        "8 on axis 3",
    ),
    "a slice of nothing": (
        f"{X} y = slice_by_size(begin = tensor<int32, [4]>([0, 0, 0, 0]), "
        "size = tensor<int32, [4]>([1, 0, 1, 8]), x = x)",
        "0 from 0",
    ),
    "a repeated axis in a permutation": (
        f"{X} y = transpose(perm = tensor<int32, [4]>([0, 1, 1, 3]), x = x)",
        "permutation",
    ),
    "an axis of softmax out of range": (f"{X} y = softmax(axis = int32(4), x = x)", "axis 4"),
    "a negative axis out of range": (f"{X} y = softmax(axis = int32(-5), x = x)", "axis -5"),
    "an axis of a sum named twice": (
        "tensor<fp16, [1, 8]> y = reduce_sum(axes = tensor<int32, [2]>([1, -3]), x = x)",
        "twice",
    ),
    "an axis to squeeze named twice": (
        "tensor<fp16, [4, 8]> y = squeeze(axes = tensor<int32, [2]>([0, -4]), x = x)",
        "twice",
    ),
    "rank 6 by expand_dims": (
        "tensor<fp16, [1, 4, 1, 8]> y = expand_dims(axes = tensor<int32, [2]>([0, 1]), x = x)",
        "rank above 5",
    ),
    "rank 6 by reshape": (
        f"{X} y = reshape(shape = tensor<int32, [6]>([1, 1, 1, 4, 1, 8]), x = x)",
        "rank above 5",
    ),
    "sizes of a split that do not add up": (
        "tensor<fp16, [1, 4, 1, 3]> y, tensor<fp16, [1, 4, 1, 4]> z = split(axis = int32(3), "
        "split_sizes = tensor<int32, [2]>([3, 4]), x = x)",
        "the sizes make 7",
    ),
    "an index of gather out of range": (
        "tensor<fp16, [1, 1, 1, 8]> y = gather(axis = int32(1), indices = tensor<int32, [1]>([4]), "
        "x = x)",
        "index 4",
    ),
    "a negative batch of gather": (
        f"{X} y = gather(batch_dims = int32(-1), indices = int32(0), x = x)",
        "-1",
    ),
}


@pytest.mark.parametrize("what", LAX)
def test_what_coremltools_lets_pass_is_refused(what: str) -> None:
    statement, message = LAX[what]
    assert message in refused(statement)


WRONG = {
    "an undefined value": (f"{X} y = add(x = x, y = z)", TYPE, "'z'"),
    "a value used before it is made": (f"{X} y = relu(x = y)", TYPE, "'y'"),
    "an unknown argument": (f"{X} y = relu(x = x, alpha = x)", TYPE, "no parameter 'alpha'"),
    "a missing argument": (f"{X} y = add(x = x)", TYPE, "'y' is missing"),
    "a repeated argument": (f"{X} y = relu(x = x, x = x)", TYPE, "twice"),
    "two values where one is taken": (f"{X} y = relu(x = (x, x))", TYPE, "one value"),
    "an unknown attribute": (f"{X} y = relu(x = x)[alpha = int32(1)]", TYPE, "'alpha'"),
    "a name that is no string": (f"{X} y = relu(x = x)[name = int32(1)]", TYPE, "string"),
    "two names": (f'{X} y = relu(x = x)[name = string("a"), name = string("b")]', TYPE, "one name"),
    "a redefined input": (f"{X} x = relu(x = x)", TYPE, "line 3"),
    "an unknown op": (f"{X} y = gelu(x = x)", UNSUPPORTED, "'gelu'"),
    "another shape than declared": ("tensor<fp16, [4]> y = relu(x = x)", TYPE, "declared"),
    "another dtype than declared": (f"{X.replace('16', '32')} y = relu(x = x)", TYPE, "declared"),
    "two results of an op of one": (f"{X} y, {X} z = relu(x = x)", TYPE, "one value"),
    "a rank of 6": ("tensor<fp16, [1, 1, 1, 1, 1, 1]> y = relu(x = x)", TYPE, "rank 6"),
    "a dimension of 0": ("tensor<fp16, [1, 0]> y = relu(x = x)", TYPE, "dimension of 0"),
    "a dimension of 2^63": (f"tensor<fp16, [{2**63}]> y = relu(x = x)", TYPE, "too large"),
    "2^93 elements": (f"tensor<fp16, {[2**31 - 1] * 3}> y = relu(x = x)", TYPE, "too large"),
    "an unknown dtype": ("tensor<fp8, [1]> y = relu(x = x)", UNSUPPORTED, "'fp8'"),
    "a type with too many parts": ("tensor<fp16, [1], [1]> y = relu(x = x)", TYPE, "tensor<dtype"),
    "a dictionary as a value": ("dict<string, string> y = relu(x = x)", UNSUPPORTED, "'dict'"),
    "a variable of int64": ("tensor<int64, [1]> y = relu(x = x)", UNSUPPORTED, "int64"),
    "a perm that is not constant": (f"{X} y = transpose(perm = x, x = x)", UNSUPPORTED, "constant"),
    "a flag that is a number": (
        f"{X} y = matmul(transpose_x = int32(1), x = x, y = x)",
        TYPE,
        "scalar bool",
    ),
    "an axis that is a list": (
        f"{X} y = softmax(axis = tensor<int32, [1]>([1]), x = x)",
        TYPE,
        "scalar int32",
    ),
    "a reshape to more elements": (
        f"{X} y = reshape(shape = tensor<int32, [2]>([5, -1]), x = x)",
        TYPE,
        "has 32",
    ),
    "a reshape to 2^62 elements": (
        f"{X} y = reshape(shape = tensor<int32, [4]>([2147483647, 2147483647, 2147483647, 2]), "
        "x = x)",
        TYPE,
        "elements",
    ),
    "a concat beyond the bounds": (
        "tensor<fp16, [2147483647]> y = concat(axis = int32(0), values = (big, big))",
        TYPE,
        "too large",
    ),
    "a product beyond the bounds": (
        "tensor<fp16, [2147483647]> y = mul(x = big, y = column)",
        TYPE,
        "too large",
    ),
    "a conv with a kernel of 3": (
        "tensor<fp16, [1, 1, 1, 6]> y = conv(weight = tensor<fp16, [1, 4, 1, 3]>("
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), x = x)",
        UNSUPPORTED,
        "kernel",
    ),
    "a conv that pads": (
        "tensor<fp16, [1, 1, 1, 8]> y = conv(pad = tensor<int32, [4]>([0, 0, 1, 0]), "
        'pad_type = string("custom"), weight = tensor<fp16, [1, 4, 1, 1]>([1, 2, 3, 4]), x = x)',
        UNSUPPORTED,
        "more than 0",
    ),
    "constexpr before ios16": (
        "tensor<fp16, [1]> y = constexpr_affine_dequantize()[axis = int32(0), quantized_data = "
        "tensor<int8, [1]>([1]), scale = fp16(1), zero_point = int8(0)]",
        TYPE,
        "ios16",
    ),
    "quantize before ios17": (
        'tensor<int8, [1, 4, 1, 8]> y = quantize(input = x, output_dtype = string("int8"), '
        "scale = fp16(1))",
        TYPE,
        "ios17",
    ),
    "a scale of 0": (
        "tensor<int8, [1, 4, 1, 8]> y = quantize(axis = int32(1), input = x, output_dtype = "
        'string("int8"), scale = tensor<fp16, [4]>([1, 0, 1, 1]))',
        TYPE,
        "scale of 0",
    ),
}
OPSETS = {"constexpr before ios16": "ios15", "quantize before ios17": "ios16"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_statement_is_refused_with_its_reason(what: str) -> None:
    statement, status, message = WRONG[what]
    inputs = f"{X} x, tensor<fp16, [2147483647]> big, tensor<fp16, [65536, 1]> column"
    opset = OPSETS.get(what, "ios18")
    assert message in refused(statement, status=status, inputs=inputs, opset=opset)


BLOB = 'BLOBFILE(path = string("w"), offset = uint64(64))'
# Type, literal, expected status, and a word of the message.
LITERALS = {
    "too few elements": ("tensor<int32, [3]>", "[1, 2]", TYPE, "2 elements"),
    "too many elements": ("tensor<fp16, [1]>", "[1, 2]", TYPE, "2 elements"),
    "an empty list": ("tensor<fp16, [1]>", "[]", TYPE, "0 elements"),
    "rows of unequal length": ("tensor<fp16, [2, 2]>", "[[1, 2, 3], [4]]", TYPE, "3 elements"),
    "lists nested too deeply": ("tensor<fp16, [1]>", "[[1]]", TYPE, "literal"),
    "a list for a scalar": ("fp16", "[1]", TYPE, "literal"),
    "a float for an integer": ("int32", "1.0", TYPE, "literal"),
    "an integer for a bool": ("bool", "1", TYPE, "literal"),
    "a bool for a float": ("fp16", "true", TYPE, "literal"),
    "a string for a float": ("fp16", '"1"', TYPE, "literal"),
    "a number for a string": ("string", "1", TYPE, "literal"),
    "a tuple": ("fp16", "(1)", TYPE, "literal"),
    "nothing": ("fp16", "", TYPE, "literal"),
    "an int8 of 128": ("int8", "128", TYPE, "-128 to 127"),
    "a negative uint8": ("uint8", "-1", TYPE, "0 to 255"),
    "an int32 of 2^31": ("int32", str(2**31), TYPE, "outside"),
    "an int32 of 1 - 2^64": ("int32", str(1 - 2**64), TYPE, "outside"),
    "an int32 of 2^64": ("int32", str(2**64), TYPE, "literal"),
    "an int64 beyond int32": ("int64", str(2**40), TYPE, "outside"),
    "a list of strings": ("tensor<string, [1]>", '["a"]', UNSUPPORTED, "strings"),
    "bools of a file": ("bool", BLOB, UNSUPPORTED, "bool"),
    "an absent file": ("int8", BLOB, WEIGHTS, "'w'"),
    "a file without offset": ("int8", 'BLOBFILE(path = string("w"))', TYPE, "BLOBFILE"),
    "a signed offset": ("int8", BLOB.replace("uint64", "int32"), TYPE, "BLOBFILE"),
    "a negative offset": ("int8", BLOB.replace("64)", "-64)"), TYPE, "BLOBFILE"),
}


@pytest.mark.parametrize("what", LITERALS)
def test_a_literal_that_is_not_of_its_type_is_refused(what: str) -> None:
    type_, literal, status, message = LITERALS[what]
    assert message in refused(constant("c", type_, literal), RELU, status=status)


CONSTANTS = {
    "another type than declared": ("int32 c = const()[val = fp16(1)]", "declared"),
    "no value": ('fp16 c = const()[name = string("c")]', "val"),
    "an unknown attribute": ("fp16 c = const()[val = fp16(1), what = fp16(1)]", "val"),
    "two constants": ("fp16 c, fp16 d = const()[val = fp16(1)]", "one value"),
}


@pytest.mark.parametrize("what", CONSTANTS)
def test_a_wrong_constant_is_refused_with_its_reason(what: str) -> None:
    statement, message = CONSTANTS[what]
    assert message in refused(statement, RELU)


def test_a_redefined_name_is_refused_at_the_second_definition() -> None:
    twice = [constant("b", "bool", "true")] * 2
    error = front().one(program(*twice, RELU)).error
    assert error is not None
    assert (error.status, error.line, error.column) == (TYPE, 5, 18)
    assert "line 4" in error.text


OUTPUTS = {
    "an undefined value": ("z", 12),
    "a value twice": ("y, y", 15),
    "nothing": ("", 7 + 4),
    "a string": ("s", 12),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_a_wrong_return_is_refused(what: str) -> None:
    outputs, column = OUTPUTS[what]
    body = ('string s = const()[val = string("s")]', RELU)
    error = front().one(program(*body, outputs=outputs)).error
    assert error is not None
    assert (error.status, error.line) == (TYPE, 6)
    assert error.column >= column


def test_a_large_declared_type_costs_no_memory() -> None:
    type_ = "tensor<fp16, [2147483647, 512]>"
    assert (
        accepted(f"{type_} y = relu(x = x)", inputs=f"{type_} x").value("y").shape[0] == 2**31 - 1
    )


def test_constants_are_decoded_in_row_major_order_nested_or_flat() -> None:
    nested = (
        "tensor<int32, [2, 3]> a = const()[val = tensor<int32, [2, 3]>([[1, 2, 3], [4, 5, -6]])]"
    )
    flat = (
        "tensor<bool, [2, 2]> b = const()[val = tensor<bool, [2, 2]>([true, false, false, true])]"
    )
    lone = "tensor<fp32, [1, 1]> c = const()[val = tensor<fp32, [1, 1]>(0x1.8p+1)]"
    outcome = accepted(nested, flat, lone, RELU)
    assert outcome.value("a").data == (1, 2, 3, 4, 5, -6)
    assert outcome.value("b").data == (1, 0, 0, 1)
    assert outcome.value("c").data == (3.0,)


# Statement, slot of the parameter, what it is bound to.
NORMALISED = {
    "a negative axis": (f"{X} y = softmax(axis = int32(-1), x = x)", 1, (3,)),
    "axes are sorted": (
        "tensor<fp16, [4, 1]> y = reduce_sum("
        "axes = tensor<int32, [2]>([-1, 0]), x = x)", 1, (0, 3)),
    "a permutation": (
        "tensor<fp16, [1, 8, 4, 1]> y = transpose("
        "perm = tensor<int32, [4]>([0, -1, 1, -2]), x = x)", 1, (0, 3, 1, 2)),
    "an open size": (
        "tensor<fp16, [4, 8]> y = reshape(shape = tensor<int32, [2]>([4, -1]), x = x)", 1, (4, 8)),
    "sizes inherited from the end": (
        "tensor<fp16, [4, 1, 8]> y = reshape("
        "shape = tensor<int32, [3]>([0, 0, 0]), x = x)", 1, (4, 1, 8)),
    "the rest of an axis": (
        "tensor<fp16, [1, 3, 1, 8]> y = slice_by_size(begin = tensor<int32, [4]>([0, 1, 0, 0]), "
        "size = tensor<int32, [4]>([-1, -1, -1, -1]), x = x)", 2, (1, 3, 1, 8)),
}  # fmt: skip


@pytest.mark.parametrize("what", NORMALISED)
def test_constant_parameters_are_bound_in_their_plain_form(what: str) -> None:
    statement, slot, expected = NORMALISED[what]
    assert accepted(statement).bound(0, slot) == expected


def test_a_shared_constant_keeps_its_value_when_ops_read_it_differently() -> None:
    outcome = accepted(
        "int32 last = const()[val = int32(-1)]",
        f"{X} y = softmax(axis = last, x = x)",
        "tensor<fp16, [2]> w = const()[val = tensor<fp16, [2]>([1, 2])]",
        "tensor<fp16, [2]> z = softmax(axis = last, x = w)",
    )
    assert outcome.value("last").data == (-1,)
    assert [outcome.bound(0, 1), outcome.bound(1, 1)] == [(3,), (0,)]


def test_masks_of_slice_by_index_end_in_exact_positions() -> None:
    outcome = accepted(
        "tensor<fp16, [1, 2, 4]> y = slice_by_index(begin = tensor<int32, [4]>([0, -1, 0, 7]), "
        "begin_mask = tensor<bool, [4]>([true, false, false, false]), "
        "end = tensor<int32, [4]>([9, 0, 5, 0]), end_mask = tensor<bool, [4]>([false, true, false, "
        "true]), squeeze_mask = tensor<bool, [4]>([false, false, true, false]), "
        "stride = tensor<int32, [4]>([1, -2, 1, -2]), x = x)"
    )
    assert [outcome.bound(0, slot) for slot in range(1, 7)] == [
        (0, 3, 0, 7), (1, 0, 1, 0), (1, -2, 1, -2), None, None, (0, 0, 1, 0)
    ]  # fmt: skip


def test_a_vector_multiplies_as_the_definition_says() -> None:
    inputs = "tensor<fp16, [3]> v, tensor<fp16, [10, 4, 3]> m, tensor<fp16, [10, 3, 2]> n"
    outcome = accepted(
        "tensor<fp16, [10, 4]> a = matmul(x = m, y = v)",
        "tensor<fp16, [10, 2]> b = matmul(x = v, y = n)",
        "fp16 y = matmul(x = v, y = v)",
        inputs=inputs,
    )
    assert len(outcome.ops) == 3


def test_weights_of_conv_may_come_from_constexpr_but_not_from_an_input() -> None:
    inputs = "tensor<fp16, [1, 4, 1, 8]> x, tensor<fp16, [2, 4, 1, 1]> w"
    statement = "tensor<fp16, [1, 2, 1, 8]> y = conv(weight = w, x = x)"
    assert "constant" in refused(statement, status=UNSUPPORTED, inputs=inputs)
    made = (
        "tensor<fp16, [2, 4, 1, 1]> w = constexpr_affine_dequantize()[axis = int32(0), "
        "quantized_data = tensor<int8, [2, 4, 1, 1]>([1, 2, 3, 4, 5, 6, 7, 8]), "
        "scale = tensor<fp16, [2]>([0.5, 2]), zero_point = int8(1)]"
    )
    outcome = accepted(made, statement)
    assert [op.kind for op in outcome.ops] == ["constexpr_affine_dequantize", "conv"]


def test_fp16_immediates_keep_their_precision_in_fp32_numerics() -> None:
    text = program("fp16 c = const()[val = fp16(0x1.0001p+0)]", f"{X} y = mul(x = x, y = c)")
    rounded, kept = front().run([Case(text), Case(text, numerics=FP32)])
    assert rounded.value("c").data == (1.0,)
    assert kept.value("c").data == (1 + 2**-16,)
