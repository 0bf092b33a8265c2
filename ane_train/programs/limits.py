"""How many sequences lie side by side in one evaluation: as many as a chip's limits allow."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from ane_train import mil
from ane_train.programs.attention import attention_backward_input, attention_forward_input
from ane_train.programs.feed_forward import (
    feed_forward_backward_input,
    feed_forward_forward_input,
)
from ane_train.programs.packing import stack_inputs
from ane_train.programs.shape import LayerShape

_WEIGHTS_ARE_INPUTS = (
    attention_forward_input,
    attention_backward_input,
    feed_forward_forward_input,
    feed_forward_backward_input,
)


def sequences_per_evaluation(
    shape: LayerShape, batch: int, chip: str | mil.Chip | None, *, static: bool
) -> int:
    """Of `batch` sequences, how many an evaluation takes: as few evaluations as fit, alike in size.

    At least 1, even where the programs of one sequence pass the limits. Where the chip is unknown,
    what any chip takes.
    """
    sizes = range(1, batch + 1)
    most = max(1, bisect_left(sizes, True, key=lambda n: _passes(shape, n, chip, static=static)))
    evaluations = -(-batch // most)
    return -(-batch // evaluations)


def _passes(shape: LayerShape, batch: int, chip: str | mil.Chip | None, *, static: bool) -> bool:
    """Whether the widest value or the one of most channels passes a limit."""
    several = replace(shape, batch=batch)
    widths = [stack_inputs(several.columns).width]
    if not static:
        widths += [packing(several).width for packing in _WEIGHTS_ARE_INPUTS]
    return max(widths) > mil.most_columns(chip) or batch * shape.heads > mil.most_channels(chip)
