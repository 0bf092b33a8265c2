"""What `generate` runs: a layer with a cache, for a token and for a prompt, and the classifier.

Weights are constants, in fp16 and in int8. All of them are of usual size, so that what a layer adds
to the residual stream counts beside it. The classifier of one token is the CPU's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ane_train.doctor.cases import ONE_OP, WHOLE_PROGRAM, Case
from ane_train.doctor.report import DECODE, OK, Found
from ane_train.doctor.rows import Array, Draw
from ane_train.doctor.run import compared
from ane_train.model.layer import layer_shape
from ane_train.model.parameters import parameters
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.programs import Constants
from ane_train.programs.decode import (
    DecodeShape,
    decode_input,
    decode_program,
    mask_rows,
    rotary_tables,
    token_scale,
)
from ane_train.programs.quantize import quantize

PROMPT = 64
CLASSIFIER = "classifier"
_SEED = 5
_MOST_ROWS = 4096


def decode_cases(spec: ModelSpec, sequence: int) -> Iterator[Case]:
    """One layer of `spec`, its cache as wide as a text of `sequence` tokens needs."""
    cache = max(2 * PROMPT, 1 << (sequence - 1).bit_length())
    token = DecodeShape(layer_shape(spec, 1), cache, 1, PROMPT)
    constants = Constants(_layer(spec))
    for shape in (token, token.of_prompt()):
        for int8 in (False, True):
            layout = decode_program(shape, [constants], int8=int8)
            yield Case(
                f"{layout.name}{' int8' * int8}",
                DECODE,
                layout.program,
                _draw(shape),
                WHOLE_PROGRAM,
                blocks=layout.output,
                folded=shape.tokens == 1,
            )


def _layer(spec: ModelSpec) -> Mapping[str, Array]:
    random, prefix = np.random.default_rng(_SEED), "layers.0."
    table = parameters(replace(spec, layers=1, vocabulary=1))
    return {
        parameter.name.removeprefix(prefix): _weight(random, parameter.shape)
        for parameter in table
        if parameter.name.startswith(prefix)
    }


def _weight(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Matrices [out, in] of 1/sqrt(in), gains near 1."""
    values = random.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return np.asarray(1 + values / 10, np.float32)
    return np.asarray(values * np.float32(shape[1] ** -0.5), np.float32)


def _draw(shape: DecodeShape) -> Draw:
    """A cache with room for just the prompt and one token; standard normal keys, values and x."""
    layer, n, packing = shape.layer, shape.tokens, decode_input(shape)
    start = shape.cache - shape.prompt - 1

    def draw(random: np.random.Generator) -> list[Array]:
        surface = np.zeros((packing.channels, packing.width), np.float32)
        caches = 2 * layer.key
        surface[:caches, :start] = random.standard_normal((caches, start), np.float32)
        x: Any = random.standard_normal((layer.dim, n), np.float32)
        scale, epsilon = token_scale(x, layer.dim, layer.norm_epsilon)
        mask, place = mask_rows(shape, start, n)
        rows = {"x": [*(x * scale), scale, epsilon, *rotary_tables(layer, start, n)]}
        for name, values in (rows | {"mask": mask, "place": place}).items():
            row, part = packing[name].row, np.asarray(values, np.float32)
            surface[row : row + len(part), : part.shape[1]] = part
        return [surface]

    return draw


def try_classifier(context: Context, spec: ModelSpec, *, int8: bool) -> Found:
    """The kernel for logits of one token from stored weights, against NumPy. NativeError."""
    random, rows = np.random.default_rng(_SEED), min(spec.vocabulary, _MOST_ROWS)
    weight = _weight(random, (rows, spec.dim))
    x, logits = random.standard_normal(spec.dim, np.float32), np.empty(rows, np.float32)
    stored = quantize(weight) if int8 else None
    matrix: Any = weight.astype(np.float16) if stored is None else stored.values
    start = time.perf_counter()
    arithmetic.matvec(context, matrix, x, logits, None if stored is None else stored.scales)
    milliseconds = 1e3 * (time.perf_counter() - start)
    exact = matrix.astype(np.float64) @ x
    exact *= 1 if stored is None else stored.scales
    found = Found(f"{CLASSIFIER}{' int8' * int8}", DECODE, OK, evaluate_ms=milliseconds)
    return compared(found, logits, exact, ONE_OP)
