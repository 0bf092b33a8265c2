"""print and parse are inverse on canonical text; malformed text is refused where it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_front import FP32, PARSE, TYPE, UNSUPPORTED, Case, front, program
from mil_seeds import ACCEPTED, SEEDS, seed_files

RELU = "tensor<fp16, [1, 4, 1, 8]> y = relu(x = x)"


@pytest.mark.parametrize("name", SEEDS)
def test_canonical_text_prints_as_it_is(name: str) -> None:
    assert front().one(SEEDS[name], files=seed_files()).printed == SEEDS[name]


@pytest.mark.parametrize("name", ACCEPTED)
def test_valid_programs_of_both_dialects_are_accepted(name: str) -> None:
    assert front().one(ACCEPTED[name], files=seed_files()).error is None


@pytest.mark.parametrize("name", SEEDS)
def test_space_between_tokens_does_not_matter(name: str) -> None:
    text = SEEDS[name]
    tight = "".join(line.strip() for line in text.splitlines())
    loose = text.replace("(", " (\r\n\t").replace(",", " , ").replace("]", " ] ")
    found = front().run([Case(tight, seed_files()), Case(loose, seed_files())])
    assert [outcome.printed for outcome in found] == [text, text]


NORMALISED = {
    "decimals become hexadecimal": ("fp32(0.5)", "fp32(0x1p-1)"),
    "whole numbers of a float type too": ("fp16(-12)", "fp16(-0x1.8p+3)"),
    "hexadecimal digits are normalised": ("fp32(0X1.80P+01)", "fp32(0x1.8p+1)"),
    "exponents": ("fp16(2.5E-1)", "fp16(0x1p-2)"),
    "negative zero is kept": ("fp16(-0.0)", "fp16(-0x0p+0)"),
    "negative zero as a whole number too": ("fp16(-0)", "fp16(-0x0p+0)"),
    "precision beyond fp16 is kept": ("fp16(0.1)", "fp16(0x1.999999999999ap-4)"),
    "infinity": ("fp16(-inf)", "fp16(-inf)"),
    "not a number": ("fp32(-nan)", "fp32(nan)"),
    "a subnormal double": ("fp32(0x1p-1074)", "fp32(0x1p-1074)"),
    "whole numbers lose leading zeros": ("int32(007)", "int32(7)"),
    "lists are spaced": ("tensor<fp16,[2]>([1,.5])", "tensor<fp16, [2]>([0x1p+0, 0x1p-1])"),
}


@pytest.mark.parametrize("rule", NORMALISED)
def test_literals_print_in_canonical_form(rule: str) -> None:
    written, canonical = NORMALISED[rule]
    statement = "int32 y = foo(v = {})"
    assert front().one(program(statement.format(written))).printed == program(
        statement.format(canonical)
    )


ORDERED = {
    "arguments and attributes by name": (
        'int32 y = foo(z = x, a = x, b = x)[val = int32(1), name = string("y")]',
        'int32 y = foo(a = x, b = x, z = x)[name = string("y"), val = int32(1)]',
    ),
    "a shorter name before a longer one": (
        "int32 y = f(ab = x, a = x)",
        "int32 y = f(a = x, ab = x)",
    ),
    "a single value loses its parentheses": ("int32 y = f(v = (x))", "int32 y = f(v = x)"),
    "empty attributes vanish": ("int32 y = f()[]", "int32 y = f()"),
    "a file's path comes first as written": (
        'int32 y = f(v = int32(BLOBFILE(path = string("w"), offset = uint64(64))))',
        'int32 y = f(v = int32(BLOBFILE(path = string("w"), offset = uint64(64))))',
    ),
}


@pytest.mark.parametrize("rule", ORDERED)
def test_statements_print_in_canonical_order(rule: str) -> None:
    written, canonical = ORDERED[rule]
    assert front().one(program(written)).printed == program(canonical)


def test_the_final_newline_and_the_build_info_may_be_absent() -> None:
    text = program(RELU)
    outcome = front().one(text.rstrip("\n"))
    assert (outcome.error, outcome.printed) == (None, text)


def test_a_program_may_have_a_whole_version_and_a_core_ml_opset() -> None:
    text = program(RELU).replace("1.3", "1").replace("ios18", "CoreML8")
    outcome = front().one(text)
    assert (outcome.error, outcome.printed) == (None, text)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40))
def test_floats_print_to_the_same_double(values: list[float]) -> None:
    literals = ", ".join(map(repr, values))
    text = program(
        f"tensor<fp32, [{len(values)}]> y = f(v = tensor<fp32, [{len(values)}]>([{literals}]))"
    )
    printed = front().one(text).printed
    assert printed is not None
    read = [float.fromhex(word) for word in printed.split("([")[1].split("])")[0].split(", ")]
    assert [(value, math.copysign(1, value)) for value in read] == [
        (value, math.copysign(1, value)) for value in values
    ]
    assert front().one(printed).printed == printed


TIES = [1 + 2**-11, 1 + 2**-11 + 2**-40, 1 + 3 * 2**-11 - 2**-40, 65519.99999999, 65520.0, 2**-25]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.floats(width=64, allow_nan=False) | st.floats(-70000, 70000), min_size=1, max_size=40
    )
)
def test_fp16_constants_are_rounded_once_and_fp32_numerics_keep_them(values: list[float]) -> None:
    values = values + TIES
    literals = ", ".join(value.hex() if math.isfinite(value) else repr(value) for value in values)
    type_ = f"tensor<fp16, [{len(values)}]>"
    text = program(f"{type_} y = const()[val = {type_}([{literals}])]")
    rounded, kept = front().run([Case(text), Case(text, numerics=FP32)])
    with np.errstate(over="ignore"):
        assert rounded.value("y").data == tuple(np.array(values).astype(np.float16).tolist())
        assert kept.value("y").data == tuple(np.array(values).astype(np.float32).tolist())


def test_escapes_in_strings_are_kept_in_print_and_decoded_in_values() -> None:
    text = program(r'string s = const()[val = string("a\"b\\c\nd")]', RELU)
    outcome = front().one(text)
    assert (outcome.printed, outcome.value("s").text) == (text, 'a"b\\c\nd')


def test_what_the_engine_cannot_run_is_parsed_and_then_refused_by_name() -> None:
    flexible = SEEDS["flexible"]
    several = front().one(flexible)
    attribute = front().one(flexible[: flexible.index("    func second")] + "}\n")
    dimension = front().one(program("tensor<fp16, [1, ?]> y = relu(x = x)"))
    op = front().one(program("tensor<fp16, [1]> y = gelu(x = x)"))
    errors = [outcome.error for outcome in (several, attribute, dimension, op)]
    assert [error and error.status for error in errors] == [UNSUPPORTED] * 4
    words = ("'second'", "'FlexibleShapeInformation'", "'?'", "'gelu'")
    assert all(error and word in error.text for error, word in zip(errors, words, strict=True))


# Text, expected status, line and column, and a word of the message.
HEAD = "program(1.3)\n{\n    func main<ios18>(fp16 x) {\n"
MALFORMED = {
    "empty text": ("", PARSE, 1, 1, "program"),
    "another word": ("programme(1.3)", PARSE, 1, 1, "program"),
    "a text that ends": ("program(1.3", PARSE, 1, 12, "ends"),
    "no version": ("program()", PARSE, 1, 9, "version"),
    "an unknown version": ("program(2.0)\n{\n}", UNSUPPORTED, 1, 9, "2.0"),
    "no function": ("program(1.3)\n{\n}", TYPE, 3, 1, "no function"),
    "text after the end": (program(RELU) + "x", PARSE, 7, 1, "end of the text"),
    "a stray byte": ("program(1.3)\n{ \x01", PARSE, 2, 3, "0x01"),
    "a NUL byte": ("program(1.3)\n{ \0", PARSE, 2, 3, "0x00"),
    "a byte beyond ASCII": ("program(1.3)\né", PARSE, 2, 1, "0xc3"),
    "a comment": ("program(1.3)\n// what\n{", PARSE, 2, 1, "'/'"),
    "an unknown opset": (program(RELU, opset="ios14"), UNSUPPORTED, 3, 15, "ios14"),
    "a missing semicolon": (HEAD + "fp16 y = relu(x = x)\n}", PARSE, 5, 1, "';'"),
    "a missing argument name": (HEAD + "fp16 y = relu(x)", PARSE, 4, 16, "'='"),
    "a bare literal": (HEAD + "fp16 y = add(x = 1)", PARSE, 4, 18, "typed literal"),
    "an empty list of values": (HEAD + "fp16 y = f(v = ())", PARSE, 4, 17, "name of a value"),
    "an unclosed string": (HEAD + 'fp16 y = f()[name = string("y)];\n', PARSE, 4, 28, "quote"),
    "an unknown escape": (HEAD + 'fp16 y = f()[name = string("\\q")]', PARSE, 4, 30, "escape"),
    "no exponent": (HEAD + "fp16 y = f(v = fp16(0x3c00))", PARSE, 4, 21, "0x1.8p+1"),
    "two points": (HEAD + "fp16 y = f(v = fp16(1.2.3))", PARSE, 4, 21, "malformed number"),
    "a number with letters": (HEAD + "fp16 y = f(v = fp16(12ab))", PARSE, 4, 21, "malformed"),
    "a number beyond doubles": (HEAD + "fp16 y = f(v = fp16(1e999))", PARSE, 4, 21, "too large"),
    "a negative dimension": (HEAD + "tensor<fp16, [-1]> y = f()", PARSE, 4, 15, "dimension"),
    "a huge dimension": (HEAD + f"tensor<fp16, [{2**64}]> y = f()", PARSE, 4, 15, "64 bits"),
    "a key without a value": (HEAD + 'fp16 y = f(d = d<a>({{"k"}}))', PARSE, 4, 26, "','"),
    "an unclosed type": (HEAD + "tensor<fp16, [1] y = f()", PARSE, 4, 18, "'>'"),
    "outputs without an arrow": (HEAD + "}\n(y);\n}", PARSE, 5, 1, "'->'"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_text_is_refused_where_it_is(what: str) -> None:
    text, status, line, column, word = MALFORMED[what]
    error = front().one(text).error
    assert error is not None
    assert (error.status, error.line, error.column) == (status, line, column), error
    assert word in error.text


@pytest.mark.parametrize("unit", ["tensor<", "tuple<tensor<", "dict<string, "])
def test_deep_nesting_of_types_is_refused(unit: str) -> None:
    error = front().one(HEAD + unit * 100000).error
    assert error is not None
    assert (error.status, "deep" in error.text) == (PARSE, True)


@pytest.mark.parametrize("unit", ["[", "(", "{{", "BLOBFILE(a = int32("])
def test_deep_nesting_of_literals_is_refused(unit: str) -> None:
    error = front().one(HEAD + "fp16 y = f(v = int32(" + unit * 100000).error
    assert error is not None
    assert (error.status, "deep" in error.text) == (PARSE, True)


def test_a_number_of_a_million_digits_is_refused() -> None:
    error = front().one(HEAD + f"fp16 y = f(v = int32({'9' * 1000000}))").error
    assert error is not None
    assert (error.status, error.line, error.column) == (PARSE, 4, 22)
