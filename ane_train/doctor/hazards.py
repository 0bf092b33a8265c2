"""Known hazards as questions: programs that are right where the hazard is absent.

What each is about, and who reported it, is in `mil.chips` and `mil.rules`; a row names the defect
or the rule. A hazard is absent if the program is accepted and right, else confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.doctor.rows import CHANNELS, WIDTH, Array, Draw, constant, normal

SMALLEST = ((1, 1), (4, 4), (1, 64), (16, 64))  # channels and width that some call too small
WIDTHS = (1, 16, 32, 64)
LONG_SUM = 4096  # ones; in fp16 their sum stalls at 2048


@dataclass(frozen=True, slots=True)
class HazardRow:
    """A question with its program; hazard: name of a mil.Hazard; rule: name of a chip rule."""

    name: str
    question: str
    program: mil.Program
    draw: Draw
    hazard: str = ""
    rule: str = ""


def hazard_rows(vocabulary: int) -> list[HazardRow]:
    """Every row, for a model with V rows of the vocabulary."""
    return [
        _matmul_range(),
        _reduce_fp16(),
        _width_slice(),
        *_several_ports(),
        *_widths(),
        *_small_surfaces(),
        _constant_operand(),
        _fp32_port(),
        _classifier(vocabulary),
    ]


def _built(build: Callable[[mil.Builder], mil.Value | list[mil.Value]]) -> mil.Program:
    b = mil.Builder()
    made = build(b)
    return b.build(made if isinstance(made, list) else [made])


def _matmul_range() -> HazardRow:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, 2 * CHANNELS, 1, WIDTH))
        size = (1, CHANNELS, 1, WIDTH)
        ones, large = (
            b.reshape(b.slice_by_size(x, (0, row, 0, 0), size), (1, 1, CHANNELS, WIDTH))
            for row in (0, CHANNELS)
        )
        return b.reshape(b.matmul(ones, large), size)

    values = np.ones((2 * CHANNELS, WIDTH))
    values[CHANNELS:] = 600
    return HazardRow(
        "matmul beyond 32752",
        "Do products of 38400 become infinite?",
        _built(build),
        constant(values),
        hazard="MATMUL_RANGE",
    )


def _reduce_fp16() -> HazardRow:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, LONG_SUM, 1, WIDTH))
        total = b.reduce_sum(x, (1,), keep_dims=True)
        return b.mul(b.slice_by_size(x, (0, 0, 0, 0), (1, CHANNELS, 1, WIDTH)), total)

    return HazardRow(
        "reduce_sum in fp16",
        f"Does the sum of {LONG_SUM} ones stall in fp16?",
        _built(build),
        constant(np.ones((LONG_SUM, WIDTH))),
        hazard="REDUCE_FP16",
    )


def _width_slice() -> HazardRow:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, CHANNELS, 1, 2 * WIDTH))
        return b.slice_by_size(x, (0, 0, 0, WIDTH), (1, CHANNELS, 1, WIDTH))

    return HazardRow(
        "slice along the width",
        "Does 5000 become infinite in a slice along the last axis?",
        _built(build),
        constant(np.full((CHANNELS, 2 * WIDTH), 5000.0)),
        hazard="WIDTH_SLICE",
    )


def _several_ports() -> Iterator[HazardRow]:
    yield _difference(
        "two inputs", ("a", "b"), WIDTH, "Do two inputs of one size fail?", "port-count"
    )
    yield _difference(
        "two inputs, not in order",
        ("b", "a"),
        WIDTH,
        "Are inputs bound in alphabetical order, not as declared?",
        "port-order",
    )
    yield _difference(
        "two inputs of unequal size",
        ("a", "b"),
        2 * WIDTH,
        "Do two inputs of unequal size fail?",
        "port-sizes",
    )

    def build(b: mil.Builder) -> list[mil.Value]:
        x = b.input("x", (1, CHANNELS, 1, WIDTH))
        return [b.add(x, 1.0, name="p"), b.mul(x, 2.0, name="q")]

    draw = normal(CHANNELS)
    yield HazardRow("two outputs", "Do two outputs fail?", _built(build), draw, rule="port-count")


def _difference(
    name: str, names: tuple[str, str], width: int, question: str, rule: str
) -> HazardRow:
    """first - second, of which the second input has this width and only the first columns count."""

    def build(b: mil.Builder) -> mil.Value:
        first = b.input(names[0], (1, CHANNELS, 1, WIDTH))
        second = b.input(names[1], (1, CHANNELS, 1, width))
        if width != WIDTH:
            second = b.slice_by_size(second, (0, 0, 0, 0), first.shape)
        return b.sub(first, second, name="y")

    def draw(random: np.random.Generator) -> list[Array]:
        return [random.standard_normal((CHANNELS, size)) for size in (WIDTH, width)]

    return HazardRow(name, question, _built(build), draw, rule=rule)


def _doubled(channels: int, width: int, dtype: str = "fp16") -> mil.Program:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, channels, 1, width), dtype)
        return b.add(b.cast(x, "fp16"), 1.0) if dtype == "fp32" else b.add(x, x)

    return _built(build)


def _widths() -> Iterator[HazardRow]:
    for width in WIDTHS:
        yield HazardRow(
            f"width {width}",
            f"Does a surface of width {width} fail?",
            _doubled(CHANNELS, width),
            normal(CHANNELS, width),
            rule="port-width" if width % 32 else "port-width-64" if width % 64 else "",
        )


def _small_surfaces() -> Iterator[HazardRow]:
    for channels, width in SMALLEST:
        yield HazardRow(
            f"surface {channels} x {width}",
            f"Does a surface of {channels} x {width} fail?",
            _doubled(channels, width),
            normal(channels, width),
            rule="port-channels" if width % 64 == 0 else "",
        )


def _constant_operand() -> HazardRow:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, CHANNELS, 1, WIDTH))
        weight = np.eye(CHANNELS)[::-1].reshape(1, 1, CHANNELS, CHANNELS)
        matrix = b.reshape(x, (1, 1, CHANNELS, WIDTH))
        product = b.matmul(b.constant(weight, "fp16", name="weight"), matrix)
        return b.reshape(product, x.shape)

    return HazardRow(
        "matmul by a constant",
        "Does a constant operand of matmul fail?",
        _built(build),
        normal(CHANNELS),
        rule="matmul-constant",
    )


def _fp32_port() -> HazardRow:
    return HazardRow(
        "fp32 input",
        "Does an fp32 input fail?",
        _doubled(CHANNELS, WIDTH, "fp32"),
        normal(CHANNELS),
        rule="port-fp32",
    )


def _classifier(vocabulary: int) -> HazardRow:
    def build(b: mil.Builder) -> mil.Value:
        x = b.input("x", (1, CHANNELS, 1, WIDTH))
        random = np.random.default_rng(vocabulary)
        weight = random.standard_normal((vocabulary, CHANNELS, 1, 1), np.float32)
        return b.conv(x, b.constant(weight / CHANNELS**0.5, "fp16", name="weight"))

    return HazardRow(
        "conv with V outputs",
        f"Does a 1x1 convolution with {vocabulary} outputs fail?",
        _built(build),
        normal(CHANNELS),
    )
