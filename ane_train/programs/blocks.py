"""Both kinds of block of a layer as data: their matrices, taps, and the factors of gradients.

Whoever runs a block and whoever predicts what that takes walk these two tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from ane_train.programs.packing import Packing


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix W [out, in], and where the factors of its gradient are.

    dW += left right^T with left [out, BS] and right [in, BS]; a factor is "program.side.block", or
    "normalized": the block's normalised input.
    """

    name: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class BlockKind:
    """One kind of block. `taps` are (output block of forward, input block of backward)."""

    name: str
    norm: str
    weights: tuple[Weight, ...]
    taps: tuple[tuple[str, str], ...]
    gains: tuple[str, ...] = ()


ATTENTION = BlockKind(
    "attention",
    "attention_norm",
    (
        Weight("query", "backward.output.query", "normalized"),
        Weight("key", "backward.output.key", "normalized"),
        Weight("value", "backward.output.value", "normalized"),
        Weight("output", "backward.input.dy", "forward.output.heads"),
    ),
    (("query", "q"), ("key", "k"), ("value", "v")),
    ("query_norm", "key_norm"),
)
FEED_FORWARD = BlockKind(
    "feed_forward",
    "ffn_norm",
    (
        Weight("gate", "backward.output.h1", "normalized"),
        Weight("up", "backward.output.h3", "normalized"),
        Weight("down", "backward.input.dy", "backward.output.gated"),
    ),
    (("h1", "h1"), ("h3", "h3")),
)
KINDS = (ATTENTION, FEED_FORWARD)


def kept_blocks(kind: BlockKind, output: Packing) -> list[str]:
    """Blocks of the forward output that are factors of gradients, by which they are kept."""
    paths = [path for weight in kind.weights for path in (weight.left, weight.right)]
    names = [path.rpartition(".")[2] for path in paths if path.startswith("forward.output.")]
    return [*names, *({"normalized"} & output.blocks.keys())]
