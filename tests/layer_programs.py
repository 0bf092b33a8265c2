"""Shapes of layers with random weights, and the decode programs of the small ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ane_train.model.layer import layer_shape
from ane_train.model.spec import list_models
from ane_train.programs import Constants, LayerShape
from ane_train.programs.decode import DecodeShape, decode_program

SHAPES = {spec.name: layer_shape(spec, spec.sequence) for spec in list_models()} | {
    "odd": LayerShape(17, 40, 6, 2, 24, 72, 1e4, 1e-5, True),
    "multi-head": LayerShape(32, 64, 4, 4, 16, 160, 1e4, 1e-5, False),
    "group of all": LayerShape(64, 64, 8, 1, 8, 128, 5e5, 1e-6, False),
    "three side by side": LayerShape(64, 40, 6, 2, 24, 72, 1e4, 1e-5, True, batch=3),
    "two side by side": LayerShape(32, 64, 4, 4, 16, 160, 1e4, 1e-5, False, batch=2),
}


def constants(shape: LayerShape, file: str | None = None) -> Constants:
    """Weights of a layer of this shape."""
    d, f, q, kv, e = shape.dim, shape.ffn, shape.query, shape.key, shape.head_size
    shapes = {"query": (q, d), "key": (kv, d), "value": (kv, d), "output": (d, q)}
    shapes |= {"gate": (f, d), "up": (f, d), "down": (d, f), "query_norm": (e,), "key_norm": (e,)}
    shapes |= {"attention_norm": (d,), "ffn_norm": (d,)}
    draw = np.random.default_rng(0).random
    return Constants({name: draw(size, np.float32) for name, size in shapes.items()}, file)


def decode_shape(name: str, layers: int = 2, cache: int = 128) -> DecodeShape:
    """For one token, or by `of_prompt` for 64."""
    return DecodeShape(replace(SHAPES[name], sequence=1), cache, layers, 64)


SMALL = ("odd", "multi-head", "group of all", "tiny")
DECODE = {
    f"{name} {form.tokens} {'int8' if int8 else 'fp16'}": decode_program(
        form, [constants(SHAPES[name])] * form.layers, int8=int8
    )
    for name in SMALL
    for form in (decode_shape(name), decode_shape(name).of_prompt())
    for int8 in (False, True)
}
