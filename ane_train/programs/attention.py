"""Self-attention with grouped queries: projections, rotation, softmax, and their backward.

Query heads that share a key head are extra rows of one product: q is [1, K, r*S, E] against k
[1, K, E, S], so nothing is tiled and the backward products sum over the group by themselves; with
r = 1 it is multi-head attention. The residual after is the CPU's, and so is the RMSNorm before,
unless weights are constants. The backward program computes the probabilities again instead of
reading [H, S, S] values back.

Where B sequences lie side by side, the linear parts see B S columns. Attention sees B times as many
heads of S columns each, those of one sequence after the other, and so shares rotation and mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ane_train import mil
from ane_train.programs.head_norm import (
    Normalized,
    head_norm_backward,
    head_norm_forward,
    mean_row,
)
from ane_train.programs.heads import (
    as_heads,
    as_rows,
    group_heads,
    side_by_side,
    ungroup_heads,
)
from ane_train.programs.operands import (
    Constants,
    Operands,
    backward_operands,
    builder,
    forward_operands,
    residual_parts,
)
from ane_train.programs.packing import (
    LayerProgram,
    Packing,
    pack_along_width,
    stack_along_channels,
    stack_inputs,
    stack_outputs,
)
from ane_train.programs.rotary import Rotary, rotary, rotary_backward, rotary_forward
from ane_train.programs.shape import LayerShape

# Added to the scores of keys in the future: exp() of it is 0 in fp16, and no sum can overflow.
MASKED = -1e4


def attention_forward_input(shape: LayerShape) -> Packing:
    """x = normalised activations [D, BS]; weights as [D, out], the output projection as [D, Q]."""
    s, d = shape.columns, shape.dim
    parts = [("x", d, s), ("query", d, shape.query), ("key", d, shape.key)]
    parts += [("value", d, shape.key), ("output", d, shape.query)]
    return pack_along_width(*parts, *_gamma_part(shape))


def attention_forward_output(shape: LayerShape, *, static: bool = False) -> Packing:
    """y [D, BS]; the heads before the output projection; q, k, v before norm and rotation.

    Where the program normalises, the normalised x [D, BS] besides.
    """
    q, kv = shape.query, shape.key
    taps = [("normalized", shape.dim)] if static else []
    parts = (("y", shape.dim), ("heads", q), ("query", q), ("key", kv), ("value", kv), *taps)
    return stack_along_channels(shape.columns, *parts)


def attention_backward_input(shape: LayerShape, constants: Constants | None = None) -> Packing:
    """dy [D, BS] and the forward taps; weights as [Q, D] or [KV, D], unless they are constants.

    Where the program goes through the norm, x [D, BS] and epsilon besides.
    """
    s, d, q, kv = shape.columns, shape.dim, shape.query, shape.key
    if constants is not None:
        residual = residual_parts(shape) if constants.norm_backward else ()
        return stack_inputs(s, ("dy", d), ("q", q), ("k", kv), ("v", kv), *residual)
    parts = [("dy", d, s), ("q", q, s), ("k", kv, s), ("v", kv, s)]
    parts += [("query", q, d), ("key", kv, d), ("value", kv, d), ("output", q, d)]
    return pack_along_width(*parts, *_gamma_part(shape))


def attention_backward_output(shape: LayerShape, *, through_norm: bool = False) -> Packing:
    """dx [D, BS]; gradients of q, k, v before norm and rotation; of gammas per position [E, BS].

    Where the program goes through the norm, its gain's per position [D, BS] besides.
    """
    q, kv, e = shape.query, shape.key, shape.head_size
    parts = [("dx", shape.dim), ("query", q), ("key", kv), ("value", kv)]
    gammas = [("query_norm", e), ("key_norm", e)] if shape.qk_norm else []
    gain = [("attention_norm", shape.dim)] if through_norm else []
    return stack_along_channels(shape.columns, *parts, *gammas, *gain)


def _gamma_part(shape: LayerShape) -> list[tuple[str, int, int]]:
    """Both gammas, one above the other, repeated in S columns: no narrow tensor, no broadcast."""
    return [("gamma", 2 * shape.head_size, shape.sequence)] if shape.qk_norm else []


def causal_mask(shape: LayerShape) -> np.ndarray:
    """[1, 1, r*S, S]: 0 where the key is not after the query, MASKED elsewhere."""
    s = shape.sequence
    mask = np.where(np.tri(s, dtype=bool), 0.0, MASKED)
    return np.tile(mask, (shape.ratio, 1)).reshape(1, 1, shape.ratio * s, s)


@dataclass(frozen=True, slots=True)
class _Tables:
    """What forward and backward share. The query's rotation holds the factor 1/sqrt(E)."""

    query: Rotary
    key: Rotary
    mask: mil.Value
    row: mil.Value | None
    query_gamma: mil.Value | None
    key_gamma: mil.Value | None


def _tables(b: mil.Builder, given: Operands, shape: LayerShape) -> _Tables:
    query = rotary(b, shape, "query", shape.head_size**-0.5)
    key = rotary(b, shape, "key")
    mask = b.constant(causal_mask(shape), "fp16", name="mask")
    if not shape.qk_norm:
        return _Tables(query, key, mask, None, None, None)
    return _Tables(query, key, mask, mean_row(b, shape), *given.gammas(shape))


@dataclass(frozen=True, slots=True)
class _Rotated:
    """A projection after norm and rotation, and what its backward needs."""

    value: mil.Value
    normalized: Normalized | None


def _rotate_forward(
    b: mil.Builder, x: mil.Value, tables: _Tables, shape: LayerShape, name: str
) -> _Rotated:
    table, gamma = _of(tables, name)
    normalized = None
    if gamma is not None and tables.row is not None:
        normalized = head_norm_forward(b, x, tables.row, shape, name)
        x = b.mul(normalized.value, gamma)
    return _Rotated(rotary_forward(b, x, table, f"{name}_rotated"), normalized)


def _rotate_backward(
    b: mil.Builder,
    dy: mil.Value,
    forward: _Rotated,
    tables: _Tables,
    shape: LayerShape,
    name: str,
) -> tuple[mil.Value, list[mil.Value]]:
    """The gradient [1, n, E, BS] before norm and rotation; gamma's, if any, summed over heads."""
    table, gamma = _of(tables, name)
    dx = rotary_backward(b, dy, table, f"{name}_unrotated")
    if forward.normalized is None or gamma is None or tables.row is None:
        return side_by_side(b, dx, shape), []
    product = side_by_side(b, b.mul(dx, forward.normalized.value), shape)
    dgamma = b.reduce_sum(product, axes=(1,), keep_dims=True, name=f"{name}_dgamma")
    du = b.mul(dx, gamma)
    dx = head_norm_backward(b, du, forward.normalized, tables.row, f"d{name}")
    return side_by_side(b, dx, shape), [dgamma]


def _of(tables: _Tables, name: str) -> tuple[Rotary, mil.Value | None]:
    if name == "query":
        return tables.query, tables.query_gamma
    return tables.key, tables.key_gamma


def _probabilities(b: mil.Builder, q: mil.Value, k: mil.Value, mask: mil.Value) -> mil.Value:
    """softmax(q k + mask) [1, BK, r*S, S] of q [1, BK, r*S, E] and k [1, BK, E, S]."""
    scores = b.add(b.matmul(q, k, name="scores"), mask)
    return b.softmax(scores, axis=-1, name="probabilities")


def attention_forward(shape: LayerShape, constants: Constants | None = None) -> LayerProgram:
    """y = Wo attention(Wq x, Wk x, Wv x), with taps for the backward pass."""
    b = builder(constants)
    packing = attention_forward_input(shape)
    given = forward_operands(b, packing, constants, shape, "attention_norm")
    x, taps = given.normalized()
    tables = _tables(b, given, shape)
    q, k, v = (given.apply(name, x, name) for name in ("query", "key", "value"))
    query = _rotate_forward(b, as_heads(b, q, shape.heads, shape), tables, shape, "query")
    key = _rotate_forward(b, as_heads(b, k, shape.kv_heads, shape), tables, shape, "key")
    grouped = group_heads(b, query.value, shape, "grouped_query")
    probabilities = _probabilities(b, grouped, key.value, tables.mask)
    values = as_heads(b, v, shape.kv_heads, shape)
    mixed = b.matmul(probabilities, values, transpose_y=True, name="mixed")
    together = side_by_side(b, ungroup_heads(b, mixed, shape, "mixed_heads"), shape)
    heads = as_rows(b, together, shape)
    y = given.apply("output", heads, "y")
    output = attention_forward_output(shape, static=constants is not None)
    program = b.build([stack_outputs(b, output, [y, heads, q, k, v, *taps])])
    return LayerProgram("attention_forward", program, given.packing, output)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Activations of the backward program as heads; dheads: gradient of the heads' outputs."""

    query: _Rotated
    key: _Rotated
    value: mil.Value
    dheads: mil.Value


def _backward_inputs(
    b: mil.Builder, given: Operands, tables: _Tables, shape: LayerShape
) -> _Inputs:
    dheads = given.apply("output", given.read("dy"), "dheads")
    heads = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
    q, k, v = (as_heads(b, given.read(name), count, shape) for name, count in heads.items())
    query = _rotate_forward(b, q, tables, shape, "query")
    key = _rotate_forward(b, k, tables, shape, "key")
    return _Inputs(query, key, v, as_heads(b, dheads, shape.heads, shape))


def _softmax_backward(b: mil.Builder, p: mil.Value, dp: mil.Value) -> mil.Value:
    """p (dp - sum(p dp)) along the last axis."""
    total = b.reduce_sum(b.mul(p, dp), axes=(-1,), keep_dims=True, name="dprobabilities_sum")
    return b.mul(p, b.sub(dp, total), name="dscores")


def attention_backward(shape: LayerShape, constants: Constants | None = None) -> LayerProgram:
    """Gradients of x, of q, k, v before norm and rotation, and of the gammas, from dy."""
    b = builder(constants)
    packing = attention_backward_input(shape, constants)
    operands = backward_operands(b, packing, constants, "attention_norm")
    tables = _tables(b, operands, shape)
    given = _backward_inputs(b, operands, tables, shape)
    query = group_heads(b, given.query.value, shape, "grouped_query")
    dmixed = group_heads(b, given.dheads, shape, "dmixed")
    p = _probabilities(b, query, given.key.value, tables.mask)
    dv = b.matmul(dmixed, p, transpose_x=True, name="dvalue")
    dp = b.matmul(dmixed, given.value, name="dprobabilities")
    dscores = _softmax_backward(b, p, dp)
    dgrouped = b.matmul(dscores, given.key.value, transpose_y=True, name="dgrouped_query")
    dkey_rotated = b.matmul(query, dscores, transpose_x=True, name="dkey_rotated")
    dquery_rotated = ungroup_heads(b, dgrouped, shape, "dquery_rotated")
    dq, query_gamma = _rotate_backward(b, dquery_rotated, given.query, tables, shape, "query")
    dk, key_gamma = _rotate_backward(b, dkey_rotated, given.key, tables, shape, "key")
    gradients = {"query": dq, "key": dk, "value": side_by_side(b, dv, shape)}
    dx, gain = operands.through_norm(_project_back(b, operands, gradients, shape))
    output = attention_backward_output(shape, through_norm=bool(gain))
    values = [dx, *gradients.values(), *query_gamma, *key_gamma, *gain]
    program = b.build([stack_outputs(b, output, values)])
    return LayerProgram("attention_backward", program, packing, output)


def _project_back(
    b: mil.Builder, given: Operands, gradients: dict[str, mil.Value], shape: LayerShape
) -> mil.Value:
    """dx = Wq^T dq + Wk^T dk + Wv^T dv, D x BS."""
    parts = [
        given.apply(name, as_rows(b, gradient, shape), f"dx_{name}")
        for name, gradient in gradients.items()
    ]
    return b.add(b.add(parts[0], parts[1]), parts[2], name="dx")
