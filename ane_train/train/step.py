"""One training step: micro-batches forward and backward, then the update.

Owns the weights, gradients and moments. Gradients are those of loss_scale * mean loss of each
micro-batch, summed over micro-batches; the update undoes scale and count. When it meets a value
that is not finite it changes nothing and names the tensor. Frozen weights and moments never move.
With LoRA only the adapters have gradients and moments, and weights are made from base and adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from ane_train.engine import Engine
from ane_train.model.adapters import Lora
from ane_train.model.arena import Arena, Array, initialize
from ane_train.model.layer import layer_shape
from ane_train.model.parameters import Parameter, parameters
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.native.arithmetic import Stretch
from ane_train.programs.blocks import KINDS
from ane_train.train.arrangement import ARRANGEMENTS
from ane_train.train.block import BlockContext, ResidualBlock
from ane_train.train.gradient_worker import GradientWorker
from ane_train.train.head import Embedding, Tokens
from ane_train.train.lora import Adapters
from ane_train.train.pipeline import PipelineOptions, Refresh
from ane_train.train.timings import Timings

DYNAMIC = PipelineOptions()


@dataclass(frozen=True, slots=True)
class AdamW:
    """Settings of the optimizer that stay the same during a run; clip 0 means no clipping."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, slots=True)
class Update:
    """What an update did. `bad` names the first tensor that was not finite: then nothing moved."""

    gradient_norm: float
    bad: str | None


def stretches(arena: Arena, trained: Iterable[Parameter]) -> list[Stretch]:
    """Where an update finds parameters in the arrays of arenas."""
    return [Stretch(*arena.span(parameter.name), parameter.decays) for parameter in trained]


def _nothing() -> None:
    """What comes before a change that nobody waits for."""


class TrainingStep:
    """A model bound to an engine, with its optimizer."""

    def __init__(
        self,
        spec: ModelSpec,
        engine: Engine,
        sequence: int,
        *,
        residual_scale: float = 1.0,
        pipeline: PipelineOptions = DYNAMIC,
        lora: Lora | None = None,
    ) -> None:
        self.spec, self.engine, self.sequence = spec, engine, sequence
        self.sequences = pipeline.sequences
        self.residual_scale = float(residual_scale)
        output_scale = 1.0 if residual_scale != 1.0 else (2 * spec.layers) ** -0.5
        self.table: tuple[Parameter, ...] = parameters(spec, output_scale)
        self.frozen: frozenset[str] = frozenset()
        self.weights = Arena(self.table)
        self.adapters = Adapters(spec, lora, engine.context) if lora else None
        self.optimized = self.adapters.table if self.adapters else self.table
        self.variables = self.adapters.values if self.adapters else self.weights
        self.gradients = Arena(self.optimized)
        self.first_moment, self.second_moment = Arena(self.optimized), Arena(self.optimized)
        self.timings = Timings()
        self.worker = GradientWorker(beside=engine.frees_processors)
        self.embedding = Embedding(spec, engine.context, self.timings)
        shape = layer_shape(spec, sequence, pipeline.sequences)
        alpha = self.residual_scale
        shared = BlockContext(
            engine,
            shape,
            self.worker,
            self.timings,
            alpha,
            pipeline.delta,
            adapters=self.adapters,
        )
        arranged = ARRANGEMENTS[pipeline.kind, pipeline.extras](spec, shared, self.weights)
        self.pipeline, self.head = arranged.pipeline, arranged.head
        order = [(layer, kind) for layer in range(spec.layers) for kind in KINDS]
        # What each block begins with, and what the last one makes: one array, since NumPy asks for
        # huge pages for large ones alone.
        streams = np.zeros((len(order) + 1, shape.dim, shape.columns), np.float32)
        *inputs, self.last = streams
        self.blocks = [
            ResidualBlock(kind, layer, arranged.shared, self.pipeline.block(kind.name, layer), x)
            for (layer, kind), x in zip(order, inputs, strict=True)
        ]

    def is_trained(self, parameter: Parameter) -> bool:
        """Whether updates move it, and its gradient counts for clipping: it is not frozen."""
        return parameter.name not in self.frozen

    def initialize(self, seed: int) -> None:
        """Fresh weights, in the programs."""
        initialize(self.weights, self.table, seed)
        if self.adapters:
            self.adapters.begin(self.weights, seed)
        self.refresh()

    def refresh(self) -> None:
        """Brings the weights into the programs of every layer; after any change of the weights.

        With LoRA: what is kept of the base, with the adapters.
        """
        with self.pipeline.refreshing() as refresh:
            for layer in range(self.spec.layers):
                self._refresh_layer(layer, refresh)

    def _refresh_layer(self, layer: int, refresh: Refresh) -> None:
        if self.adapters:
            with self.timings.measure("optimizer"):
                self.adapters.merge(layer, self.weights)
        refresh(layer)

    def _evaluations(self, inputs: Tokens, targets: Tokens) -> Iterator[tuple[Tokens, Tokens]]:
        """Tokens and targets [BS] of each evaluation, of inputs and targets of any number.

        The last evaluation is filled up with a sequence of which no target counts.
        """
        size = self.sequences
        for start in range(0, len(inputs), size):
            given, wanted = inputs[start : start + size], targets[start : start + size]
            missing = size - len(given)
            if missing:
                given = np.concatenate([given, np.repeat(given[:1], missing, axis=0)])
                wanted = np.concatenate([wanted, np.full_like(given[:missing], -1)])
            yield np.ascontiguousarray(given).ravel(), np.ascontiguousarray(wanted).ravel()

    def activations(self, tokens: Tokens, *, keep: bool = False) -> Array:
        """Residual stream [D, BS] after the last layer, of tokens [BS]; the same array each time.

        keep: blocks keep what their backward pass needs.
        """
        self.embedding.embed(tokens, self.weights, self.blocks[0].input)
        outputs = [*(block.input for block in self.blocks[1:]), self.last]
        for block, out in zip(self.blocks, outputs, strict=True):
            block.forward(out, self.weights, keep=keep)
        return self.last

    def logits(self, tokens: Tokens) -> Array:
        """Logits [S, V] of one sequence, whole in memory: for tests and short texts."""
        filled, _ = next(self._evaluations(tokens[None], tokens[None]))
        return self.head.logits(self.activations(filled), self.weights)[: self.sequence]

    def evaluate(self, inputs: Tokens, targets: Tokens, counted: float | None = None) -> float:
        """Mean loss in nats of inputs [N, S] against targets [N, S]; nothing is trained.

        The sum is divided by `counted`, the number of targets that count unless given.
        """
        losses = [
            self.head.loss(self.activations(tokens), wanted, self.weights)
            for tokens, wanted in self._evaluations(inputs, targets)
        ]
        counted = counted or max(1, sum(loss.count for loss in losses))
        return sum(loss.total for loss in losses) / counted

    def micro_batch(
        self,
        inputs: Tokens,
        targets: Tokens,
        loss_scale: float = 1.0,
        counted: float | None = None,
    ) -> float:
        """Mean loss of inputs [N, S]; adds the gradients of loss_scale times it.

        The sum is divided by `counted`, the number of targets that count unless given: with that
        of all micro-batches of a step divided by how many they are, the mean over them is that
        of one big batch, however the targets are distributed among them.
        """
        counted = counted or max(1, int((targets >= 0).sum()))
        total = 0.0
        for tokens, wanted in self._evaluations(inputs, targets):
            x = self.activations(tokens, keep=True)
            loss, dx = self.head.loss_and_gradient(
                x, wanted, loss_scale / counted, self.weights, self.gradients
            )
            total += loss.total
            for block in reversed(self.blocks):
                block.backward(dx, self.weights, self.gradients)
            self.embedding.embed_backward(tokens, dx, self.gradients)
            with self.timings.measure("blas"):
                self.worker.join()
        return total / counted

    def update(
        self,
        optimizer: AdamW,
        learning_rate: float,
        step: int,
        gradient_scale: float = 1.0,
        *,
        before_change: Callable[[], object] = _nothing,
    ) -> Update:
        """AdamW with gradients * gradient_scale, clipped by global norm; zeroes the gradients.

        `step` counts applied updates from 1. The programs get the new weights. A gradient that is
        not finite leaves weights and moments as they were. Whoever reads them on another thread
        makes `before_change` wait: they change nowhere else while a run goes on.
        """
        with self.timings.measure("optimizer"):
            norm, bad = self._gradient_norm(gradient_scale)
        if bad is None:
            before_change()
            clipping = optimizer.clip / norm if 0 < optimizer.clip < norm else 1.0
            with self.timings.measure("optimizer"):
                self._apply(optimizer, learning_rate, step, gradient_scale * clipping)
            self.refresh()
        with self.timings.measure("optimizer"):
            self.gradients.flat.fill(0.0)
        return Update(norm, bad)

    def _gradient_norm(self, gradient_scale: float) -> tuple[float, str | None]:
        squares = 0.0
        for parameter in filter(self.is_trained, self.optimized):
            gradient = self.gradients[parameter.name].reshape(-1)
            square = arithmetic.sum_squares(self.engine.context, gradient)
            if not isfinite(square):
                return float("nan"), parameter.name
            squares += square
        return sqrt(squares) * gradient_scale, None

    def _apply(self, optimizer: AdamW, learning_rate: float, step: int, scale: float) -> None:
        """In one pass over memory: no layer stays in a cache until it is staged anyway."""
        arithmetic.adamw(
            self.engine.context,
            *(arena.flat for arena in self._arenas()),
            stretches=stretches(self.gradients, filter(self.is_trained, self.optimized)),
            learning_rate=learning_rate,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            epsilon=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            gradient_scale=scale,
            step=step,
        )

    def _arenas(self) -> Sequence[Arena]:
        return (self.variables, self.gradients, self.first_moment, self.second_moment)

    def close(self) -> None:
        """Ends the threads of gradients and of the pipeline. The engine stays open."""
        self.pipeline.close()
        self.worker.close()
