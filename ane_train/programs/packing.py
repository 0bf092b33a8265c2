"""How matrices share a surface: side by side along the width, or stacked along the channels.

Inputs with weights are packed along the width, all else is stacked. One packed fp16 input and one
stacked fp16 output per program is the form that is known to run on every chip on which training was
shown. Letters: C channels, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ane_train import mil

WIDTH_MULTIPLE = 64
MINIMUM_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [row, row + rows) of columns [column, column + columns) of a surface."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Named blocks of one [1, C, 1, W] surface."""

    channels: int
    width: int
    blocks: dict[str, Block]

    def __getitem__(self, name: str) -> Block:
        return self.blocks[name]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The surface's shape, (1, C, 1, W)."""
        return (1, self.channels, 1, self.width)

    @property
    def elements(self) -> int:
        """Number of elements of the surface."""
        return self.channels * self.width


def pack_along_width(*parts: tuple[str, int, int]) -> Packing:
    """Packs (name, rows, columns) side by side; C is the tallest, W a multiple of 64."""
    blocks: dict[str, Block] = {}
    column = 0
    for name, rows, columns in parts:
        blocks[name] = Block(0, column, rows, columns)
        column += columns
    width = -(-column // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    channels = max(MINIMUM_CHANNELS, *(rows for _, rows, _ in parts))
    return Packing(channels, width, blocks)


def stack_inputs(columns: int, *parts: tuple[str, int]) -> Packing:
    """Stacks (name, rows) of so many columns each; C is at least 64, W a multiple of 64."""
    stacked = stack_along_channels(columns, *parts)
    width = -(-columns // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    return Packing(max(MINIMUM_CHANNELS, stacked.channels), width, stacked.blocks)


def stack_along_channels(columns: int, *parts: tuple[str, int]) -> Packing:
    """Stacks (name, rows) of so many columns each."""
    blocks: dict[str, Block] = {}
    row = 0
    for name, rows in parts:
        blocks[name] = Block(row, 0, rows, columns)
        row += rows
    return Packing(row, columns, blocks)


@dataclass(frozen=True, slots=True)
class LayerProgram:
    """One MIL program with the layout of its one input and its one output."""

    name: str
    program: mil.Program
    input: Packing
    output: Packing


def read_block(builder: mil.Builder, surface: mil.Value, block: Block, name: str) -> mil.Value:
    """The block as a [1, 1, rows, columns] matrix."""
    begin = (0, block.row, 0, block.column)
    packed = builder.slice_by_size(surface, begin, (1, block.rows, 1, block.columns))
    return builder.reshape(packed, (1, 1, block.rows, block.columns), name=name)


def stack_outputs(
    builder: mil.Builder, output: Packing, values: Sequence[mil.Value], name: str = "output"
) -> mil.Value:
    """Concatenates matrices (any rank-4 shape of as many elements) in the order of the packing."""
    parts = [
        builder.reshape(value, (1, block.rows, 1, block.columns))
        for value, block in zip(values, output.blocks.values(), strict=True)
    ]
    return builder.concat(parts, axis=1, name=name)
