"""What the backward pass needs of a forward output, which the next layer overwrites."""

from __future__ import annotations

from ane_train.engine import Engine
from ane_train.native.engine import Surface
from ane_train.programs import Block, LayerProgram
from ane_train.programs.blocks import BlockKind, kept_blocks
from ane_train.train.bound import Place


class Kept:
    """Taps go into the input of the layer's backward program, factors of gradients into surfaces.

    `output` is the surface of the forward output, `source` that of the backward input.
    """

    def __init__(
        self,
        engine: Engine,
        kind: BlockKind,
        forward: LayerProgram,
        backward: LayerProgram,
        surfaces: tuple[Surface, Surface],
    ) -> None:
        output, source = surfaces
        self._factors = {
            name: _place_for(engine, forward.output[name])
            for name in kept_blocks(kind, forward.output)
        }
        taps = ((tap, Place(source, backward.input[name])) for tap, name in kind.taps)
        self._copies = [
            (Place(output, forward.output[name]), to)
            for name, to in (*taps, *self._factors.items())
        ]

    def save(self) -> None:
        """Copies them, bit for bit; after an evaluation that a backward pass follows."""
        for place, to in self._copies:
            to.copy_from(place)

    def __getitem__(self, name: str) -> Place:
        """Where a factor was saved."""
        return self._factors[name]


def _place_for(engine: Engine, block: Block) -> Place:
    surface = engine.context.surface(block.rows, block.columns, engine.element_size)
    return Place(surface, Block(0, 0, block.rows, block.columns))
