"""Thousands of mutated programs and weight files: an error with line and column, or a program."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mil_front import FP16, FP32, Case, Outcome, front, program
from mil_seeds import ACCEPTED, SEEDS, WEIGHTS, seed_files
from mil_type_cases import GENERATORS
from mil_type_oracle import Type

BATCH, EXAMPLES = 50, 80  # 4000 mutated programs
NUMBERS = [b"0", b"-1", b"1", b"3", b"6", b"2147483648", b"-9223372036854775808", b"1e400"]
NUMBERS += [b"9223372036854775807", b"18446744073709551615", b"36893488147419103232", b"0x1p-1080"]
TOKEN = re.compile(rb'"[^"]*"|[\w@.+-]+|->|\S')

Edit = Callable[[bytes], bytes]


def _tokens(text: bytes) -> list[tuple[int, int]]:
    return [match.span() for match in TOKEN.finditer(text)] or [(0, len(text))]


def flip(place: int, bit: int) -> Edit:
    def edit(text: bytes) -> bytes:
        at = place % max(len(text), 1)
        return text[:at] + bytes(byte ^ 1 << bit for byte in text[at : at + 1]) + text[at + 1 :]

    return edit


def delete(place: int, count: int) -> Edit:
    def edit(text: bytes) -> bytes:
        at = place % max(len(text), 1)
        return text[:at] + text[at + count :]

    return edit


def insert(place: int, new: bytes) -> Edit:
    def edit(text: bytes) -> bytes:
        at = place % max(len(text), 1)
        return text[:at] + new + text[at:]

    return edit


def swap(first: int, second: int) -> Edit:
    """Exchanges two tokens."""

    def edit(text: bytes) -> bytes:
        spans = _tokens(text)
        (a, b), (c, d) = sorted((spans[first % len(spans)], spans[second % len(spans)]))
        return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:] if b <= c else text

    return edit


def renumber(place: int, number: bytes) -> Edit:
    def edit(text: bytes) -> bytes:
        spans = [match.span() for match in re.finditer(rb"-?\b\d[\w.]*", text)] or [(0, 0)]
        start, end = spans[place % len(spans)]
        return text[:start] + number + text[end:]

    return edit


def repeat(place: int, count: int) -> Edit:
    """Doubles a run of tokens."""

    def edit(text: bytes) -> bytes:
        spans = _tokens(text)
        first = place % len(spans)
        start, end = spans[first][0], spans[min(first + count, len(spans) - 1)][1]
        return text[:end] + text[start:end] + text[end:]

    return edit


PLACE = st.integers(0, 1 << 16)
EDITS = st.one_of(
    st.builds(flip, PLACE, st.integers(0, 7)),
    st.builds(delete, PLACE, st.sampled_from([1, 2, 8, 80])),
    st.builds(insert, PLACE, st.binary(min_size=1, max_size=3)),
    st.builds(insert, PLACE, st.sampled_from([b"(", b"[", b"{{", b"<", b")", b"?", b"->", b'"'])),
    st.builds(swap, PLACE, PLACE),
    st.builds(renumber, PLACE, st.sampled_from(NUMBERS)),
    st.builds(renumber, PLACE, st.sampled_from(NUMBERS)),
    st.builds(repeat, PLACE, st.integers(0, 40)),
)
MUTATION = st.tuples(st.sampled_from(sorted(SEEDS)), st.lists(EDITS, min_size=1, max_size=3))


def check(case: Case, outcome: Outcome) -> None:
    """A program refused is refused somewhere; a program accepted prints."""
    for error in (outcome.error, outcome.print_error):
        assert error is None or (error.line >= 1 and error.column >= 1 and error.text), error
        if error is not None:
            assert isinstance(case.text, bytes)
            assert error.line <= case.text.count(b"\n") + 1
    assert outcome.error is not None or outcome.printed is not None
    assert (outcome.print_error is None) == (outcome.printed is not None)


FUZZED = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True
)


@FUZZED
@given(st.lists(MUTATION, min_size=BATCH, max_size=BATCH), st.sampled_from([FP16, FP32]))
def test_mutated_programs_are_refused_somewhere_or_accepted(
    mutations: list[tuple[str, list[Edit]]], numerics: int
) -> None:
    cases = []
    for name, edits in mutations:
        text = SEEDS[name].encode()
        for edit in edits:
            text = edit(text)
        cases.append(Case(text, seed_files(), numerics))
    outcomes = front().run(cases)
    for case, outcome in zip(cases, outcomes, strict=True):
        check(case, outcome)
    printed = [outcome.printed for outcome in outcomes if outcome.printed is not None]
    again = front().run([Case(text) for text in printed])
    assert [outcome.printed for outcome in again] == printed


@settings(FUZZED, max_examples=10)
@given(st.lists(st.lists(EDITS, min_size=1, max_size=3), min_size=BATCH, max_size=BATCH))
def test_mutated_weight_files_are_refused_or_accepted(mutations: list[list[Edit]]) -> None:
    texts = [SEEDS[name] for name in ("convolution", "every_op")]
    cases = []
    for count, edits in enumerate(mutations):
        data = seed_files()[WEIGHTS]
        for edit in edits:
            data = edit(data)
        cases.append(Case(texts[count % 2].encode(), {WEIGHTS: data}))
    for case, outcome in zip(cases, front().run(cases), strict=True):
        check(case, outcome)


SIZES = ["0", "1", "-1", "2", "3", "5", "-3", "8", "65536", "2147483647", "-2147483648"]
DTYPES = ["fp16", "fp32", "int32", "int8", "uint8", "int64", "bool", "string"]
WORDS = (
    r"(?<=[ \[(])-?\d+\b",
    rf"\b({'|'.join(DTYPES)})\b",
    r"(?<= = )\w+(?=\()",
    r"(?<= = )\w+\b",
)


def reword(random: Random, text: str) -> str:
    """Changes a number, a dtype, an op or a value, so that the text stays well-formed as a rule."""
    kind = random.choice((0, 0, 1, 2, 3))
    words = list(re.finditer(WORDS[kind], text))
    if not words:
        return text
    new = random.choice((SIZES, DTYPES)[kind]) if kind < 2 else random.choice(words).group()
    start, end = random.choice(words).span()
    return text[:start] + new + text[end:]


def well_formed(random: Random) -> str:
    """One of the accepted seeds, or a use of one op."""
    if random.random() < 0.4:
        return random.choice(sorted(ACCEPTED.values()))
    use = random.choice(GENERATORS)(random)
    types = [argument for argument in use.arguments.values() if isinstance(argument, Type)]
    return use.text((types[:1] or [Type("fp16", (2,))]) * use.results)


def test_programs_of_changed_meaning_are_refused_somewhere_or_accepted() -> None:
    random, cases = Random(0), []
    for _ in range(6000):
        text = well_formed(random)
        for _ in range(random.choice((1, 1, 2, 3))):
            text = reword(random, text)
        cases.append(Case(text.encode(), seed_files(), random.choice((FP16, FP32))))
    outcomes = front().run(cases)
    for case, outcome in zip(cases, outcomes, strict=True):
        check(case, outcome)
    assert sum(outcome.error is None for outcome in outcomes) > 200


def test_every_prefix_of_a_program_is_refused_where_it_ends() -> None:
    text = SEEDS["convolution"].encode()
    cases = [Case(text[:end], seed_files()) for end in range(len(text.rstrip()))]
    for case, outcome in zip(cases, front().run(cases), strict=True):
        check(case, outcome)
        assert outcome.error is not None


def test_memory_grows_with_the_text_alone() -> None:
    type_ = "tensor<fp16, [2147483647, 512]>"
    count = 5000
    body = [f"{type_} v{i + 1} = add(x = v{i}, y = v0)" for i in range(count)]
    text = program(*body, inputs=f"{type_} v0", outputs=f"v{count}")
    base = front().peak(Case(program(body[0], inputs=f"{type_} v0", outputs="v1")))
    assert front().peak(Case(text)) - base < 300 * len(text)
