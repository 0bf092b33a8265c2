"""The dynamic pipeline: weights are inputs, four programs serve all layers, a refresh stages.

Each block has its own input surfaces, so that its weights stay staged. RMSNorm is the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ane_train.model.arena import Arena, Array
from ane_train.native import arithmetic
from ane_train.native.engine import Surface
from ane_train.programs import LayerProgram, layer_programs
from ane_train.programs.blocks import KINDS, BlockKind
from ane_train.train.block import BlockContext
from ane_train.train.bound import CompiledLayer, Place
from ane_train.train.kept import Kept
from ane_train.train.pipeline import Refresh


class StagedBlock:
    """The programs of one block with its weights in their input surfaces."""

    def __init__(
        self,
        kind: BlockKind,
        layer: int,
        shared: BlockContext,
        programs: dict[str, CompiledLayer],
        outputs: tuple[Surface, Surface],
    ) -> None:
        self.kind, self.prefix, self.shared = kind, f"layers.{layer}.", shared
        self.forward, self.backward = (
            programs[f"{kind.name}_{way}"].bind(shared.engine, output)
            for way, output in zip(("forward", "backward"), outputs, strict=True)
        )
        layouts = self.forward.layout, self.backward.layout
        surfaces = self.forward.target, self.backward.source
        self.kept = Kept(shared.engine, kind, *layouts, surfaces)
        self._inverse_rms = np.zeros(shared.shape.columns, np.float32)

    def stage(self, weights: Arena) -> None:
        """Rounds the current weights into both input surfaces."""
        with self.shared.timings.measure("io"):
            for weight in self.kind.weights:
                values = weights[self.prefix + weight.name]
                normalized = weight.right == "normalized"
                self.forward.stage(weight.name, values, transposed=normalized)
                self.backward.stage(weight.name, values, transposed=not normalized)
            if self.shared.shape.qk_norm and self.kind.gains:
                gamma = np.concatenate([weights[self.prefix + name] for name in self.kind.gains])
                repeated = np.repeat(gamma[:, None], self.shared.shape.sequence, axis=1)
                self.forward.stage("gamma", repeated)
                self.backward.stage("gamma", repeated)

    def feed(self, x: Array, weights: Arena) -> None:
        """Normalises x in fp32 and stages that."""
        shared = self.shared
        normalized = shared.workspace.array("normalized", *x.shape)
        with shared.timings.measure("elementwise"):
            arithmetic.rmsnorm_forward(
                shared.engine.context,
                x,
                weights[self.prefix + self.kind.norm],
                shared.shape.norm_epsilon,
                normalized,
                self._inverse_rms,
            )
        with shared.timings.measure("io"):
            self.forward.stage("x", normalized)

    def inverse_rms(self, x: Array, weights: Arena) -> Array:
        """That of the last feed."""
        return self._inverse_rms

    def normalized(self) -> Place:
        """The block x of the forward input."""
        return self.forward.input("x")


class DynamicPipeline:
    """Compiles four programs, once."""

    def __init__(self, shared: BlockContext, weights: Arena, layers: int) -> None:
        self.programs: tuple[LayerProgram, ...] = layer_programs(shared.shape)
        self.ready = True
        self._weights = weights
        engine = shared.engine
        compiled = {
            layout.name: CompiledLayer(layout, engine.compile(layout.program, layout.name))
            for layout in self.programs
        }
        layouts = {layout.name: layout for layout in self.programs}
        self._blocks = {
            (kind.name, layer): StagedBlock(
                kind, layer, shared, compiled, shared.outputs_of(kind, layer, layouts)
            )
            for layer in range(layers)
            for kind in KINDS
        }

    def block(self, kind: str, layer: int) -> StagedBlock:
        """The programs of a block."""
        return self._blocks[kind, layer]

    @contextmanager
    def refreshing(self) -> Iterator[Refresh]:
        """Gives the function that stages a layer's weights."""

        def stage(layer: int) -> None:
            for kind in KINDS:
                self._blocks[kind.name, layer].stage(self._weights)

        yield stage

    def close(self) -> None:
        """Nothing is open."""
