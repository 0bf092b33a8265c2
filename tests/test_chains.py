"""Steps of attention that run together, head after head, give the bits of steps one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from engine_cases import Op, evaluate, literal, program_text
from layer_programs import SHAPES
from numpy.random import default_rng

from ane_train import mil
from ane_train.native.engine import Context
from ane_train.programs import LayerProgram, LayerShape
from ane_train.programs.attention import MASKED, attention_backward, attention_forward

Arrays = dict[str, np.ndarray]
HEADS, ROWS, DEPTH = 4, 96, 16
NAMES = ("q", "k", "v", "w")
STACK = (2, HEADS // 2, ROWS, ROWS)  # probabilities
MATRIX = (2, HEADS // 2, ROWS, DEPTH)


class Builder:
    """Ops of a program, and scores among them. What is given is made by ops before them all."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        one = literal(np.float16(1))
        self.given = {name: self.emit("mul", MATRIX, x=name, y=one) for name in NAMES}
        hidden = np.arange(ROWS)[:, None] < np.arange(ROWS)
        self.mask = literal(np.where(hidden, MASKED, 0.0).astype(np.float16)[None, None])

    def emit(self, kind: str, result: tuple[int, ...], **arguments: object) -> str:
        name = f"v{len(self.ops)}"
        texts = {k: v if isinstance(v, str) else literal(v) for k, v in arguments.items()}
        self.ops.append(Op(kind, texts, [(name, "fp16", result)]))
        return name

    def product(self, a: str, b: str, result: tuple[int, ...], turned: str = "") -> str:
        flags = {"transpose_x": "a" in turned, "transpose_y": "b" in turned}
        return self.emit("matmul", result, x=a, y=b, **flags)

    def probabilities(self, q: str, k: str) -> str:
        added = self.emit("add", STACK, x=self.product(q, k, STACK, "b"), y=self.mask)
        return self.emit("softmax", STACK, x=added, axis=-1)


def program(kind: str) -> str:
    """Probabilities by values: in the same heads, or where no matrix goes its own way."""
    b = Builder()
    q, k, v, w = b.given.values()
    p = b.probabilities(q, k)
    outputs = []
    if kind == "same":
        outputs = [b.product(p, v, MATRIX), b.product(p, w, MATRIX, "a")]
    elif kind == "kept":
        outputs = [b.product(p, v, MATRIX), p]
    elif kind == "other heads":
        turned = b.emit("transpose", STACK, x=p, perm=[1, 0, 2, 3])
        outputs = [b.product(turned, v, MATRIX), b.product(p, v, MATRIX)]
    elif kind == "a head less":
        fewer = (1, HEADS // 2, ROWS, ROWS)
        part = b.emit("slice_by_size", fewer, x=p, begin=[1, 0, 0, 0], size=list(fewer))
        outputs = [b.product(part, v, MATRIX), b.product(p, v, MATRIX)]
    elif kind == "one matrix":
        flat = b.emit("reshape", (HEADS * ROWS, ROWS), x=p, shape=[HEADS * ROWS, ROWS])
        outputs = [b.product(flat, flat, (ROWS, ROWS), "a")]
    elif kind == "scores of a product":
        again = b.probabilities(b.product(p, v, MATRIX), w)
        outputs = [b.product(again, v, MATRIX)]
    inputs = {name: np.zeros(MATRIX, np.float16) for name in NAMES}
    return program_text(inputs, b.ops, outputs)


KINDS = ["same", "kept", "other heads", "a head less", "one matrix", "scores of a product"]


def assert_bits_of_the_reference(
    text: str, inputs: Arrays, numerics: str = "fp16", files: Mapping[str, bytes] | None = None
) -> None:
    def results(threads: int, *, reference: bool = False) -> list[np.ndarray]:
        hazards = 7 if numerics == "hazard" else 0
        arguments = {"threads": threads, "blas": None, "reference": reference}
        with Context(numerics, hazards, **arguments) as context:
            return evaluate(context, context.compile(text, files), list(inputs.values()))

    slow = results(1, reference=True)
    assert all(np.isfinite(each).all() and each.any() for each in slow)
    for threads in (1, 2, 3, 6):
        for ours, theirs in zip(results(threads), slow, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numerics", ["fp16", "fp32", "hazard"])
def test_each_head_by_itself_gives_the_bits_of_the_reference(kind: str, numerics: str) -> None:
    rng = default_rng(5)
    inputs = {name: rng.standard_normal(MATRIX).astype(np.float16) for name in NAMES}
    assert_bits_of_the_reference(program(kind), inputs, numerics)


@pytest.mark.parametrize("name", ["odd", "multi-head", "three side by side", "two side by side"])
@pytest.mark.parametrize("make", [attention_forward, attention_backward])
def test_attention_gives_the_bits_of_the_reference(
    name: str, make: Callable[[LayerShape], LayerProgram]
) -> None:
    attention = make(SHAPES[name]).program
    (port,) = attention.inputs
    x = 0.3 * default_rng(6).standard_normal(port.type.shape)
    inputs, files = {port.name: x.astype(np.float16)}, attention.weight_files("fp16")
    assert_bits_of_the_reference(mil.print_program(attention), inputs, files=files)


def test_a_thread_has_memory_for_the_probabilities_of_one_head() -> None:
    bytes_of_one = 4 * ROWS * ROWS
    sizes = {}
    for kind in ("same", "kept"):
        for threads in (1, 2, HEADS):
            with Context("fp16", threads=threads, blas=None) as context:
                sizes[kind, threads] = context.compile(program(kind)).cost.scratch_bytes
    assert sizes["same", 2] - sizes["same", 1] == bytes_of_one
    assert sizes["same", HEADS] - sizes["same", 1] == (HEADS - 1) * bytes_of_one
    assert sizes["kept", HEADS] == sizes["kept", 2] == sizes["kept", 1]
