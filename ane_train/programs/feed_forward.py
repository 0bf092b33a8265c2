"""The SwiGLU feed-forward block (Shazeer 2020, arXiv 2002.05202) and its backward.

y = W2 (silu(h1) h3), h1 = W1 x, h3 = W3 x. The residual after is the CPU's, and so is the RMSNorm
before, unless weights are constants.
"""

from __future__ import annotations

from ane_train.programs.operands import (
    Constants,
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
from ane_train.programs.shape import LayerShape


def feed_forward_forward_input(shape: LayerShape) -> Packing:
    """x = normalised activations [D, BS]; all three weights as [D, F]."""
    d, f = shape.dim, shape.ffn
    parts = (("x", d, shape.columns), ("gate", d, f), ("up", d, f), ("down", d, f))
    return pack_along_width(*parts)


def feed_forward_backward_input(shape: LayerShape, constants: Constants | None = None) -> Packing:
    """dy [D, BS], h1 and h3 [F, BS]; all three weights as [F, D], unless they are constants.

    Where the program goes through the norm, x [D, BS] and epsilon besides.
    """
    s, d, f = shape.columns, shape.dim, shape.ffn
    if constants is not None:
        residual = residual_parts(shape) if constants.norm_backward else ()
        return stack_inputs(s, ("dy", d), ("h1", f), ("h3", f), *residual)
    parts = [("dy", d, s), ("h1", f, s), ("h3", f, s)]
    parts += [("gate", f, d), ("up", f, d), ("down", f, d)]
    return pack_along_width(*parts)


def feed_forward_forward_output(shape: LayerShape, *, static: bool = False) -> Packing:
    """y [D, BS], h1 and h3 [F, BS]; the normalised x [D, BS] where the program normalises."""
    taps = [("normalized", shape.dim)] if static else []
    parts = (("y", shape.dim), ("h1", shape.ffn), ("h3", shape.ffn), *taps)
    return stack_along_channels(shape.columns, *parts)


def feed_forward_backward_output(shape: LayerShape, *, through_norm: bool = False) -> Packing:
    """dx [D, BS]; gradients of h1, h3 [F, BS]; silu(h1) h3 [F, BS] for the gradient of W2.

    Where the program goes through the norm, its gain's per position [D, BS] besides.
    """
    f = shape.ffn
    gain = [("ffn_norm", shape.dim)] if through_norm else []
    return stack_along_channels(
        shape.columns, ("dx", shape.dim), ("h1", f), ("h3", f), ("gated", f), *gain
    )


def feed_forward_forward(shape: LayerShape, constants: Constants | None = None) -> LayerProgram:
    """y, with taps h1 and h3."""
    b = builder(constants)
    packing = feed_forward_forward_input(shape)
    given = forward_operands(b, packing, constants, shape, "ffn_norm")
    x, taps = given.normalized()
    h1 = given.apply("gate", x, "h1")
    h3 = given.apply("up", x, "h3")
    gated = b.mul(b.mul(h1, b.sigmoid(h1)), h3, name="gated")
    y = given.apply("down", gated, "y")
    output = feed_forward_forward_output(shape, static=constants is not None)
    program = b.build([stack_outputs(b, output, [y, h1, h3, *taps])])
    return LayerProgram("feed_forward_forward", program, given.packing, output)


def feed_forward_backward(shape: LayerShape, constants: Constants | None = None) -> LayerProgram:
    """Gradients of x, h1 and h3 from dy; silu'(h) = s (1 + h (1 - s)) with s = sigmoid(h)."""
    b = builder(constants)
    packing = feed_forward_backward_input(shape, constants)
    given = backward_operands(b, packing, constants, "ffn_norm")
    dy, h1, h3 = (given.read(name) for name in ("dy", "h1", "h3"))
    dgated = given.apply("down", dy, "dgated")
    s = b.sigmoid(h1, name="sigmoid")
    silu = b.mul(h1, s, name="silu")
    slope = b.mul(s, b.add(b.mul(h1, b.sub(1.0, s)), 1.0), name="slope")
    dh1 = b.mul(b.mul(dgated, h3), slope, name="dh1")
    dh3 = b.mul(dgated, silu, name="dh3")
    dx = b.add(given.apply("gate", dh1, "dx_gate"), given.apply("up", dh3, "dx_up"), name="dx")
    gated = b.mul(silu, h3, name="gated")
    dx, gain = given.through_norm(dx)
    output = feed_forward_backward_output(shape, through_norm=bool(gain))
    program = b.build([stack_outputs(b, output, [dx, dh1, dh3, gated, *gain])])
    return LayerProgram("feed_forward_backward", program, packing, output)
