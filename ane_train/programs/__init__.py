"""MIL programs of a transformer layer, each forward beside its backward.

Four programs serve every layer of a model: weights are inputs, so each is compiled once.
"""

from __future__ import annotations

from ane_train.programs.attention import attention_backward, attention_forward
from ane_train.programs.feed_forward import feed_forward_backward, feed_forward_forward
from ane_train.programs.packing import Block, LayerProgram, Packing
from ane_train.programs.shape import LayerShape

__all__ = [
    "Block",
    "LayerProgram",
    "LayerShape",
    "Packing",
    "attention_backward",
    "attention_forward",
    "feed_forward_backward",
    "feed_forward_forward",
    "layer_programs",
]


def layer_programs(shape: LayerShape) -> tuple[LayerProgram, ...]:
    """All programs of the dynamic pipeline, forward ones first."""
    return (
        attention_forward(shape),
        feed_forward_forward(shape),
        feed_forward_backward(shape),
        attention_backward(shape),
    )
