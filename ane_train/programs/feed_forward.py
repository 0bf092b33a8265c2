"""The SwiGLU feed-forward block (Shazeer 2020, arXiv 2002.05202) and its backward.

y = W2 (silu(h1) h3), h1 = W1 x, h3 = W3 x. RMSNorm before and the residual after are the CPU's.
"""

from __future__ import annotations

from ane_train import mil
from ane_train.programs.packing import (
    LayerProgram,
    Packing,
    pack_along_width,
    read_block,
    stack_along_channels,
    stack_outputs,
)
from ane_train.programs.shape import LayerShape


def feed_forward_forward_input(shape: LayerShape) -> Packing:
    """x = normalised activations [D, S]; all three weights as [D, F]."""
    d, f = shape.dim, shape.ffn
    parts = (("x", d, shape.sequence), ("gate", d, f), ("up", d, f), ("down", d, f))
    return pack_along_width(*parts)


def feed_forward_forward_output(shape: LayerShape) -> Packing:
    """y [D, S], h1 and h3 [F, S]."""
    return stack_along_channels(
        shape.sequence, ("y", shape.dim), ("h1", shape.ffn), ("h3", shape.ffn)
    )


def feed_forward_backward_input(shape: LayerShape) -> Packing:
    """dy [D, S], h1 and h3 [F, S]; all three weights as [F, D]."""
    s, d, f = shape.sequence, shape.dim, shape.ffn
    parts = [("dy", d, s), ("h1", f, s), ("h3", f, s)]
    parts += [("gate", f, d), ("up", f, d), ("down", f, d)]
    return pack_along_width(*parts)


def feed_forward_backward_output(shape: LayerShape) -> Packing:
    """dx [D, S]; gradients of h1, h3 [F, S]; silu(h1) h3 [F, S] for the gradient of W2."""
    f = shape.ffn
    return stack_along_channels(
        shape.sequence, ("dx", shape.dim), ("h1", f), ("h3", f), ("gated", f)
    )


def feed_forward_forward(shape: LayerShape) -> LayerProgram:
    """y, with taps h1 and h3."""
    b = mil.Builder()
    packing = feed_forward_forward_input(shape)
    surface = b.input("x", packing.shape)
    x = read_block(b, surface, packing["x"], "normalized_x")
    h1 = b.matmul(read_block(b, surface, packing["gate"], "gate_weight"), x, True, name="h1")
    h3 = b.matmul(read_block(b, surface, packing["up"], "up_weight"), x, True, name="h3")
    gated = b.mul(b.mul(h1, b.sigmoid(h1)), h3, name="gated")
    y = b.matmul(read_block(b, surface, packing["down"], "down_weight"), gated, name="y")
    output = feed_forward_forward_output(shape)
    program = b.build([stack_outputs(b, output, [y, h1, h3])])
    return LayerProgram("feed_forward_forward", program, packing, output)


def feed_forward_backward(shape: LayerShape) -> LayerProgram:
    """Gradients of x, h1 and h3 from dy; silu'(h) = s (1 + h (1 - s)) with s = sigmoid(h)."""
    b = mil.Builder()
    packing = feed_forward_backward_input(shape)
    surface = b.input("x", packing.shape)
    dy, h1, h3 = (read_block(b, surface, packing[name], name) for name in ("dy", "h1", "h3"))
    gate, up, down = (
        read_block(b, surface, packing[name], f"{name}_weight") for name in ("gate", "up", "down")
    )
    dgated = b.matmul(down, dy, name="dgated")
    s = b.sigmoid(h1, name="sigmoid")
    silu = b.mul(h1, s, name="silu")
    slope = b.mul(s, b.add(b.mul(h1, b.sub(1.0, s)), 1.0), name="slope")
    dh1 = b.mul(b.mul(dgated, h3), slope, name="dh1")
    dh3 = b.mul(dgated, silu, name="dh3")
    dx = b.add(b.matmul(gate, dh1, True), b.matmul(up, dh3, True), name="dx")
    output = feed_forward_backward_output(shape)
    program = b.build([stack_outputs(b, output, [dx, dh1, dh3, b.mul(silu, h3, name="gated")])])
    return LayerProgram("feed_forward_backward", program, packing, output)
