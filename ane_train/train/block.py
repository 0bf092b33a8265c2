"""Half a layer: x + alpha * f(norm(x)), f being attention or the feed-forward, and its backward.

The residual and the weight gradients are fp32 on the CPU; f runs on the engine, in programs that a
pipeline fills with weights, and the norm's backward where `norm` says. What differs between the two
kinds of block is in `programs.blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ane_train.engine import Engine
from ane_train.model.arena import Arena, Array
from ane_train.native import arithmetic
from ane_train.native.engine import Surface
from ane_train.programs import LayerProgram, LayerShape
from ane_train.programs.blocks import BlockKind, Weight
from ane_train.train.bound import Place, surface_of
from ane_train.train.gradient_worker import GradientWorker
from ane_train.train.lora import Adapters
from ane_train.train.norm import CpuNorm, NormBackward
from ane_train.train.pipeline import BlockPrograms
from ane_train.train.timings import Timings
from ane_train.train.workspace import Workspace


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What all blocks of a model share."""

    engine: Engine
    shape: LayerShape
    worker: GradientWorker
    timings: Timings
    alpha: float
    delta: bool = False  # constants are replaced in compiled programs
    norm: type[NormBackward] = CpuNorm
    adapters: Adapters | None = None  # trained in place of the matrices
    workspace: Workspace = field(default_factory=Workspace)
    outputs: dict[tuple[str, int], Surface] = field(default_factory=dict)

    @property
    def weight_file(self) -> str | None:
        """The one file of a program's constants; None: each has its own. See Constants."""
        return "weights" if self.delta else None

    def outputs_of(
        self, kind: BlockKind, layer: int, layouts: Mapping[str, LayerProgram]
    ) -> tuple[Surface, Surface]:
        """The surfaces of a block's forward and backward outputs.

        All layers have one for each. Where gradients are computed beside the engine, they alternate
        between two for the latter, which is read while the next layer writes.
        """
        number = layer % 2 if self.worker.is_beside else 0
        forward = self._output(layouts[f"{kind.name}_forward"], 0)
        return forward, self._output(layouts[f"{kind.name}_backward"], number)

    def _output(self, layout: LayerProgram, number: int) -> Surface:
        key = layout.name, number
        if key not in self.outputs:
            self.outputs[key] = surface_of(self.engine, layout.output)
        return self.outputs[key]


class ResidualBlock:
    """One block of one layer."""

    def __init__(
        self,
        kind: BlockKind,
        layer: int,
        shared: BlockContext,
        programs: BlockPrograms,
        x: Array,
    ) -> None:
        """x [D, BS]: where its input will be."""
        self.kind = kind
        self.prefix = f"layers.{layer}."
        self.shared = shared
        self.programs = programs
        shape = shared.shape
        self.norm = shared.norm(self)
        self.gains = (*(kind.gains if shape.qk_norm else ()), *self.norm.gains)
        self.input = x

    def forward(self, out: Array, weights: Arena, *, keep: bool) -> None:
        """out [D, BS] = x + alpha * f(norm(x)) of x in `input`; keeps what backward needs, or not.

        `input` has to stay as it is until then.
        """
        timings, program = self.shared.timings, self.programs.forward
        self.programs.feed(self.input, weights)
        with timings.measure("engine"):
            program.request.evaluate()
        with timings.measure("io"):
            program.read("y", out, alpha=self.shared.alpha, beta=1.0, addend=self.input)
            if keep:
                self.programs.kept.save()

    def backward(self, dx: Array, weights: Arena, gradients: Arena) -> None:
        """dx [D, BS], the gradient of the block's output, becomes that of its input, in place."""
        shared, program = self.shared, self.programs.backward
        with shared.timings.measure("blas"):
            shared.worker.wait(program.target)
        with shared.timings.measure("io"):
            program.stage("dy", dx, scale=shared.alpha)
        self.norm.feed(self.input)
        with shared.timings.measure("engine"):
            program.request.evaluate()
        self.norm.backward(self.input, dx, weights, gradients)
        shared.worker.submit(lambda: self._weight_gradients(gradients), program.target)

    def _weight_gradients(self, gradients: Arena) -> None:
        """Of what has gradients. A job of the worker."""
        with self.shared.timings.measure(self.shared.worker.kind):
            for weight in self.kind.weights:
                self._matrix_gradient(weight, gradients)
            for name in self.gains:
                if self.prefix + name in gradients:
                    columns = self._read(self._place(f"backward.output.{name}"), "left")
                    gradient = gradients[self.prefix + name]
                    gradient += columns.sum(axis=1)

    def _matrix_gradient(self, weight: Weight, gradients: Arena) -> None:
        name, adapters = self.prefix + weight.name, self.shared.adapters
        has_adapter = adapters is not None and name in adapters
        if name not in gradients and not has_adapter:
            return
        left, right = self._place(weight.left), self._place(weight.right)
        if adapters is not None:
            factors = self._read(left, "left"), self._read(right, "right")
            adapters.backward(name, *factors, gradients, self.shared.worker.workspace)
        else:
            arithmetic.outer_product(
                (left.surface, left.block), (right.surface, right.block), gradients[name]
            )

    def _place(self, path: str) -> Place:
        if path == "normalized":
            return self.programs.normalized()
        way, side, name = path.split(".")
        if way == "forward":
            return self.programs.kept[name]
        program = self.programs.backward
        return program.input(name) if side == "input" else program.output(name)

    def _read(self, place: Place, role: str) -> Array:
        shape = place.block.rows, place.block.columns
        return place.read(self.shared.worker.workspace.array(role, *shape))
