"""A compiled program bound to the surfaces of one layer, addressed by the names of its packing."""

from __future__ import annotations

from dataclasses import dataclass

from ane_train.engine import Engine
from ane_train.model.arena import Array
from ane_train.native.engine import Program, Request, Surface
from ane_train.programs import Block, LayerProgram, Packing


def surface_of(engine: Engine, packing: Packing) -> Surface:
    """A zeroed surface for a packing."""
    return engine.context.surface(packing.channels, packing.width, engine.element_size)


@dataclass(frozen=True, slots=True)
class CompiledLayer:
    """A layer program and what the engine made of it; shared by all layers."""

    layout: LayerProgram
    compiled: Program

    def bind(self, engine: Engine, output: Surface) -> BoundProgram:
        """Binds to a new input surface and to `output`."""
        source = surface_of(engine, self.layout.input)
        request = self.compiled.request([source], [output])
        return BoundProgram(self.layout, source, output, request)


@dataclass(frozen=True, slots=True)
class Place:
    """A block of a surface."""

    surface: Surface
    block: Block

    def read(self, out: Array) -> Array:
        """out = the block as fp32."""
        block = self.block
        return self.surface.read(block.row, block.column, block.rows, block.columns, out=out)

    def copy_from(self, other: Place) -> None:
        """Takes the elements of a block of the same shape, bit for bit."""
        to, block = self.block, other.block
        place = (block.row, block.column, block.rows, block.columns)
        self.surface.copy_from(to.row, to.column, other.surface, *place)


@dataclass(frozen=True, slots=True)
class BoundProgram:
    """One layer's program: stage blocks of the input, evaluate, read blocks of the output."""

    layout: LayerProgram
    source: Surface
    target: Surface
    request: Request

    def stage(
        self,
        name: str,
        values: Array,
        *,
        transposed: bool = False,
        scale: float = 1.0,
        column: int = 0,
    ) -> None:
        """Writes scale * fp32 values (transposed if asked) into the input block `name`, rounded.

        `column` is where in the block they begin.
        """
        block = self.layout.input[name]
        self.source.write(values, block.row, block.column + column, transposed, scale)

    def input(self, name: str) -> Place:
        """Where a block of the input is."""
        return Place(self.source, self.layout.input[name])

    def output(self, name: str) -> Place:
        """Where a block of the output is."""
        return Place(self.target, self.layout.output[name])

    def read(
        self,
        name: str,
        out: Array,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        addend: Array | None = None,
        column: int = 0,
    ) -> Array:
        """out = beta * addend + alpha * output block, as fp32; `out` may be part of the columns.

        The addend is `out` unless given.
        """
        block = self.layout.output[name]
        return self.target.read(
            block.row, block.column + column, block.rows, out.shape[1], out, alpha, beta, addend
        )
