"""Half a layer: x + alpha * f(norm(x)), f being attention or the feed-forward, and its backward.

The norm, the residual and the weight gradients are fp32 on the CPU; f runs on the engine. What
differs between the two kinds of block is in the tables ATTENTION and FEED_FORWARD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ane_train.engine import Engine
from ane_train.model.arena import Arena, Array
from ane_train.native import arithmetic
from ane_train.native.engine import Surface
from ane_train.programs import LayerShape
from ane_train.train.bound import CompiledLayer
from ane_train.train.gradient_worker import GradientWorker
from ane_train.train.timings import Timings
from ane_train.train.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix W [out, in], how it is staged, and where the factors of its gradient are.

    dW += left right^T with left [out, S] and right [in, S]; a factor is "program.side.block".
    """

    name: str
    forward_transposed: bool
    backward_transposed: bool
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
        Weight("query", True, False, "backward.output.query", "forward.input.x"),
        Weight("key", True, False, "backward.output.key", "forward.input.x"),
        Weight("value", True, False, "backward.output.value", "forward.input.x"),
        Weight("output", False, True, "backward.input.dy", "forward.output.heads"),
    ),
    (("query", "q"), ("key", "k"), ("value", "v")),
    ("query_norm", "key_norm"),
)
FEED_FORWARD = BlockKind(
    "feed_forward",
    "ffn_norm",
    (
        Weight("gate", True, False, "backward.output.h1", "forward.input.x"),
        Weight("up", True, False, "backward.output.h3", "forward.input.x"),
        Weight("down", False, True, "backward.input.dy", "backward.output.gated"),
    ),
    (("h1", "h1"), ("h3", "h3")),
)


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What all blocks of a model share."""

    engine: Engine
    shape: LayerShape
    programs: Mapping[str, CompiledLayer]
    worker: GradientWorker
    timings: Timings
    alpha: float
    workspace: Workspace = field(default_factory=Workspace)


class ResidualBlock:
    """One block of one layer, with its own input surfaces, so that its weights stay staged."""

    def __init__(
        self, kind: BlockKind, layer: int, shared: BlockContext, backward_output: Surface
    ) -> None:
        self.kind = kind
        self.prefix = f"layers.{layer}."
        self.shared = shared
        shape = shared.shape
        self.gains = kind.gains if shape.qk_norm else ()
        self.forward_program = shared.programs[f"{kind.name}_forward"].bind(shared.engine)
        backward = shared.programs[f"{kind.name}_backward"]
        self.backward_program = backward.bind(shared.engine, backward_output)
        self.input = np.zeros((shape.dim, shape.sequence), np.float32)
        self.inverse_rms = np.zeros(shape.sequence, np.float32)

    def stage_weights(self, weights: Arena) -> None:
        """Rounds the current weights into both input surfaces."""
        with self.shared.timings.measure("io"):
            for weight in self.kind.weights:
                values = weights[self.prefix + weight.name]
                for program, transposed in (
                    (self.forward_program, weight.forward_transposed),
                    (self.backward_program, weight.backward_transposed),
                ):
                    program.stage(weight.name, values, transposed=transposed)
            if self.gains:
                gamma = np.concatenate([weights[self.prefix + name] for name in self.gains])
                repeated = np.repeat(gamma[:, None], self.shared.shape.sequence, axis=1)
                self.forward_program.stage("gamma", repeated)
                self.backward_program.stage("gamma", repeated)

    def forward(self, x: Array, weights: Arena) -> None:
        """x [D, S] becomes x + alpha * f(norm(x)), in place; keeps what backward needs."""
        shared, program = self.shared, self.forward_program
        with shared.timings.measure("elementwise"):
            np.copyto(self.input, x)
            normalized = shared.workspace.array("normalized", *x.shape)
            arithmetic.rmsnorm_forward(
                shared.engine.context,
                x,
                weights[self.prefix + self.kind.norm],
                shared.shape.norm_epsilon,
                normalized,
                self.inverse_rms,
            )
        with shared.timings.measure("io"):
            program.stage("x", normalized)
        with shared.timings.measure("engine"):
            program.request.evaluate()
        with shared.timings.measure("io"):
            program.read("y", x, alpha=shared.alpha, beta=1.0)

    def backward(self, dx: Array, weights: Arena, gradients: Arena) -> None:
        """dx [D, S], the gradient of the block's output, becomes that of its input, in place."""
        shared, program = self.shared, self.backward_program
        with shared.timings.measure("blas"):
            shared.worker.wait(program.target)
        with shared.timings.measure("io"):
            program.stage("dy", dx, scale=shared.alpha)
            for tap, name in self.kind.taps:
                program.copy_tap(name, self.forward_program, tap)
        with shared.timings.measure("engine"):
            program.request.evaluate()
        with shared.timings.measure("io"):
            dnormalized = program.read("dx", shared.workspace.array("dnormalized", *dx.shape))
        with shared.timings.measure("elementwise"):
            norm = self.prefix + self.kind.norm
            arithmetic.rmsnorm_backward(
                shared.engine.context,
                self.input,
                weights[norm],
                self.inverse_rms,
                dnormalized,
                dx,
                gradients[norm],
            )
        shared.worker.submit(lambda: self._weight_gradients(gradients), program.target)

    def _weight_gradients(self, gradients: Arena) -> None:
        """Runs on the gradient thread."""
        with self.shared.timings.measure("overlapped"):
            for weight in self.kind.weights:
                left = self._factor(weight.left, "left")
                right = self._factor(weight.right, "right")
                out = gradients[self.prefix + weight.name]
                context = self.shared.engine.context
                arithmetic.gemm(context, left, right, out, transpose_b=True, beta=1.0)
            for name in self.gains:
                columns = self._factor(f"backward.output.{name}", "left")
                gradient = gradients[self.prefix + name]
                gradient += columns.sum(axis=1)

    def _factor(self, path: str, role: str) -> Array:
        program_name, side, block_name = path.split(".")
        program = self.forward_program if program_name == "forward" else self.backward_program
        packing = program.layout.input if side == "input" else program.layout.output
        block = packing[block_name]
        out = self.shared.worker.workspace.array(role, block.rows, block.columns)
        if side == "input":
            return program.read_input(block_name, out)
        return program.read(block_name, out)


def bind_blocks(shared: BlockContext, layers: int) -> list[ResidualBlock]:
    """All blocks in forward order. Backward outputs alternate between two surfaces a kind."""
    outputs: dict[tuple[str, int], Surface] = {}
    blocks = []
    for layer in range(layers):
        for kind in (ATTENTION, FEED_FORWARD):
            key = (kind.name, layer % 2)
            program = shared.programs[f"{kind.name}_backward"]
            if key not in outputs:
                outputs[key] = program.surface(shared.engine, program.layout.output)
            blocks.append(ResidualBlock(kind, layer, shared, outputs[key]))
    return blocks
