"""MIL programs of a transformer layer, each forward beside its backward.

Four programs serve a layer. Where weights are inputs (the dynamic pipeline), each is compiled once
for all layers; where they are constants (the static one), once for each layer and update.
"""

from __future__ import annotations

from ane_train.programs.attention import attention_backward, attention_forward
from ane_train.programs.classifier import (
    SUM_SCALE,
    classifier,
    final_norm_backward,
    softmax,
    split_vocabulary,
)
from ane_train.programs.feed_forward import feed_forward_backward, feed_forward_forward
from ane_train.programs.limits import sequences_per_evaluation
from ane_train.programs.operands import Constants
from ane_train.programs.packing import Block, LayerProgram, Packing
from ane_train.programs.shape import LayerShape

__all__ = [
    "SUM_SCALE",
    "Block",
    "Constants",
    "LayerProgram",
    "LayerShape",
    "Packing",
    "attention_backward",
    "attention_forward",
    "classifier",
    "feed_forward_backward",
    "feed_forward_forward",
    "final_norm_backward",
    "layer_programs",
    "sequences_per_evaluation",
    "softmax",
    "split_vocabulary",
]


def layer_programs(
    shape: LayerShape, constants: Constants | None = None
) -> tuple[LayerProgram, ...]:
    """All programs of a layer, forward ones first; without constants, weights are inputs."""
    return (
        attention_forward(shape, constants),
        feed_forward_forward(shape, constants),
        feed_forward_backward(shape, constants),
        attention_backward(shape, constants),
    )
