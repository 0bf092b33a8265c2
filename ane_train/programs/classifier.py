"""The end of the network with constant weights: final norm, classifier, softmax, norm's backward.

The classifier is a 1x1 convolution with V output channels; where a chip takes fewer, it is split
into parts of the vocabulary. `softmax` gives exp(l - max) and its sum over one part rather than
quotients: these need no subnormal numbers of fp16, as 1/V does for V > 16384, and parts combine by
the larger maximum. The backward of the classifier is the CPU's: its convolution would have V input
channels, of which 32000 are known to fail (maderix).
"""

from __future__ import annotations

import numpy as np

from ane_train import mil
from ane_train.programs.operands import ConstantOperands, Constants, builder, residual_parts
from ane_train.programs.packing import (
    LayerProgram,
    Packing,
    stack_along_channels,
    stack_inputs,
    stack_outputs,
)
from ane_train.programs.shape import LayerShape

SUM_SCALE = 2.0**-8  # of the sums of exponentials, which reach V: fp16 ends at 65504
_LONGEST_SUM = 16384  # channels that one convolution adds up: the shortest limit of any chip


def split_vocabulary(vocabulary: int, dim: int, most_channels: int) -> tuple[range, ...]:
    """The rows of each part: as few parts as the limit on channels allows, of nearly equal size.

    A part's output holds its logits and the normalised x [D, BS]. ValueError where not one fits.
    """
    most = most_channels - dim
    if most < 1:
        raise ValueError(f"{most_channels} channels do not hold {dim} activations and a logit")
    count = -(-vocabulary // most)
    bounds = [vocabulary * part // count for part in range(count + 1)]
    return tuple(map(range, bounds, bounds[1:]))


def classifier(shape: LayerShape, constants: Constants) -> LayerProgram:
    """Logits [V', BS] of the residual stream, and the normalised x, for V' rows of the vocabulary.

    constants: "norm" [D] and "classifier" [V', D].
    """
    b = builder(constants)
    packing = stack_inputs(shape.columns, *residual_parts(shape))
    given = ConstantOperands(b, packing, constants, "norm")
    x, taps = given.normalized()
    logits = given.apply("classifier", x, "logits")
    rows = len(constants.values["classifier"])
    output = stack_along_channels(shape.columns, ("logits", rows), ("normalized", shape.dim))
    program = b.build([stack_outputs(b, output, [logits, *taps])])
    return LayerProgram("classifier", program, packing, output)


def softmax(source: Packing) -> LayerProgram:
    """Of the block logits [V', BS] of a classifier's output, which it takes as its input.

    largest [1, BS] over V'; exponentials = exp(logits - largest) [V', BS]; sum [1, BS] of these,
    times SUM_SCALE. Sums are convolutions, which accumulate wide.
    """
    b = mil.Builder()
    surface, block = b.input("x", source.shape), source["logits"]
    size = (1, block.rows, 1, block.columns)
    logits = b.slice_by_size(surface, (0, block.row, 0, 0), size, name="logits")
    largest = b.reduce_max(logits, axes=(1,), keep_dims=True, name="largest")
    exponentials = b.exp(b.sub(logits, largest), name="exponentials")
    parts = (("exponentials", block.rows), ("largest", 1), ("sum", 1))
    output = stack_along_channels(block.columns, *parts)
    values = [exponentials, largest, _sum(b, exponentials)]
    return LayerProgram("softmax", b.build([stack_outputs(b, output, values)]), source, output)


def _sum(b: mil.Builder, x: mil.Value) -> mil.Value:
    """SUM_SCALE times the sum of x [1, C, 1, S] over C, in stretches that a convolution can add."""
    _, channels, _, columns = x.type.shape
    total = None
    for start in range(0, channels, _LONGEST_SUM):
        count = min(_LONGEST_SUM, channels - start)
        row = b.constant(np.full((1, count, 1, 1), SUM_SCALE), "fp16", name=f"sum_row_{start}")
        part = b.conv(b.slice_by_size(x, (0, start, 0, 0), (1, count, 1, columns)), row)
        total = part if total is None else b.add(total, part)
    assert total is not None
    return total


def final_norm_backward(shape: LayerShape, constants: Constants) -> LayerProgram:
    """dx [D, BS] and the gain's gradient per position [D, BS] from dnormalized [D, BS], x, epsilon.

    constants: "norm" [D].
    """
    b = builder(constants)
    parts = (("dnormalized", shape.dim), *residual_parts(shape))
    packing = stack_inputs(shape.columns, *parts)
    given = ConstantOperands(b, packing, constants, "norm")
    dx, gain = given.through_norm(given.read("dnormalized"))
    output = stack_along_channels(shape.columns, ("dx", shape.dim), ("norm", shape.dim))
    program = b.build([stack_outputs(b, output, [dx, *gain])])
    return LayerProgram("final_norm_backward", program, packing, output)
