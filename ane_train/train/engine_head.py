"""The head on the engine: final norm and its backward, classifier in parts, softmax.

The CPU merges the parts, a few numbers per position; takes the loss; and applies the backward of
the classifier in fp32, in tiles of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_train import mil
from ane_train.model.arena import Arena, Array
from ane_train.model.memory import tile_rows
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.programs import (
    SUM_SCALE,
    Constants,
    classifier,
    final_norm_backward,
    softmax,
    split_vocabulary,
)
from ane_train.train.block import BlockContext
from ane_train.train.bound import BoundProgram, CompiledLayer, surface_of
from ane_train.train.head import HeadLoss, Tokens, classifier_name
from ane_train.train.norm import fitting_scale, sequences, stage_residual
from ane_train.train.static import CompiledSlot

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of the vocabulary; the softmax reads the surface that the classifier writes."""

    rows: range
    classifier: CompiledSlot
    softmax: BoundProgram


@dataclass(frozen=True, slots=True)
class Softmax:
    """Over all parts: log of the sum of exp(logits) [BS]; exponentials to probabilities [P, BS]."""

    log_sum: Doubles
    factors: Doubles


class EngineHead:
    """Owns the programs and buffers of the head for one evaluation. `slots` follow the weights."""

    def __init__(self, spec: ModelSpec, shared: BlockContext, weights: Arena) -> None:
        self._shared, self._classifier = shared, classifier_name(spec)
        self._parts = _parts(spec, shared, weights)
        gain = Constants({"norm": weights["norm"]}, shared.weight_file)
        layout = final_norm_backward(shared.shape, gain)
        self._norm_backward = CompiledSlot(shared, layout)
        self.slots = (*(part.classifier for part in self._parts), self._norm_backward)
        columns = shared.shape.columns
        tile = tile_rows(spec.vocabulary, columns)
        self._dlogits = np.zeros((tile, columns), np.float32)

    def logits(self, x: Array, weights: Arena) -> Array:
        """Logits [BS, V] of x [D, BS]."""
        self._classify(x)
        logits = np.empty((sum(len(part.rows) for part in self._parts), x.shape[1]), np.float32)
        for part in self._parts:
            part.classifier.bound.read("logits", logits[part.rows.start : part.rows.stop])
        return np.ascontiguousarray(logits.T)

    def loss(self, x: Array, targets: Tokens, weights: Arena) -> HeadLoss:
        """The loss of x [D, BS]; targets of -1 do not count."""
        self._classify(x)
        return self._loss(self._softmax(), targets)

    def loss_and_gradient(
        self, x: Array, targets: Tokens, scale: float, weights: Arena, gradients: Arena
    ) -> tuple[HeadLoss, Array]:
        """The loss and dx [D, BS] of scale * its sum; adds to what gradients there are."""
        self._classify(x)
        found = self._softmax()
        loss = self._loss(found, targets)
        dnormalized = self._classifier_backward(found, targets, scale, weights, gradients)
        return loss, self._through_norm(x, dnormalized, gradients)

    def _classify(self, x: Array) -> None:
        timings = self._shared.timings
        for part in self._parts:
            program = part.classifier.bound
            with timings.measure("io"):
                stage_residual(program, x, self._shared.shape)
            with timings.measure("engine"):
                program.request.evaluate()

    def _softmax(self) -> Softmax:
        """Of the logits of the last classification."""
        with self._shared.timings.measure("engine"):
            for part in self._parts:
                part.softmax.request.evaluate()
        with self._shared.timings.measure("io"):
            largest, sums = self._rows("largest"), self._rows("sum") / SUM_SCALE
        with np.errstate(invalid="ignore", over="ignore"):
            top = largest.max(axis=0)
            shares = np.exp(largest - top)
            total = (sums * shares).sum(axis=0)
            return Softmax(top + np.log(total), shares / total)

    def _rows(self, name: str) -> Doubles:
        """A row of each part's softmax, [P, BS]."""
        row = np.empty((1, self._shared.shape.columns), np.float32)
        rows = [part.softmax.read(name, row).astype(np.float64) for part in self._parts]
        return np.concatenate(rows)

    def _loss(self, found: Softmax, targets: Tokens) -> HeadLoss:
        """log sum exp(logits) - the target's logit, of what counts."""
        total = 0.0
        with self._shared.timings.measure("elementwise"):
            for part in self._parts:
                program = part.classifier.bound
                logits = program.layout.output["logits"]
                positions = _within(targets, part.rows)
                rows = targets[positions] - part.rows.start + logits.row
                with program.target.locked(read_only=True) as memory:
                    right = memory[rows, positions].astype(np.float64)
                total += float((found.log_sum[positions] - right).sum())
        return HeadLoss(total, int((targets >= 0).sum()))

    def _classifier_backward(
        self, found: Softmax, targets: Tokens, scale: float, weights: Arena, gradients: Arena
    ) -> Array:
        """The gradient of the normalised x [D, BS]; adds to the classifier's, if it has one."""
        context, timings = self._shared.engine.context, self._shared.timings
        normalized = np.empty((self._shared.shape.dim, len(targets)), np.float32)
        with timings.measure("io"):
            self._parts[0].classifier.bound.read("normalized", normalized)
        dnormalized = np.zeros_like(normalized)
        name = self._classifier
        for rows, dlogits in self._gradients_of_logits(found, targets, scale):
            with timings.measure("blas"):
                if name in gradients:
                    out = gradients[name][rows.start : rows.stop]
                    arithmetic.gemm(context, dlogits, normalized, out, transpose_b=True, beta=1.0)
                weight = weights[name][rows.start : rows.stop]
                arithmetic.gemm(context, weight, dlogits, dnormalized, transpose_a=True, beta=1.0)
        return dnormalized

    def _gradients_of_logits(
        self, found: Softmax, targets: Tokens, scale: float
    ) -> Iterator[tuple[range, Array]]:
        """scale * (softmax - one-hot), a tile [rows, BS] of the vocabulary at a time."""
        timings = self._shared.timings
        for part, factors in zip(self._parts, found.factors, strict=True):
            factor = np.where(targets >= 0, scale * factors, 0.0).astype(np.float32)
            block = part.softmax.layout.output["exponentials"]
            for rows in _tiles(part.rows, len(self._dlogits)):
                tile = self._dlogits[: len(rows)]
                row = block.row + rows.start - part.rows.start
                with timings.measure("io"):
                    part.softmax.target.read(row, 0, len(rows), block.columns, out=tile)
                with timings.measure("elementwise"):
                    np.multiply(tile, factor, out=tile)
                    positions = _within(targets, rows)
                    tile[targets[positions] - rows.start, positions] -= scale
                yield rows, tile

    def _through_norm(self, x: Array, dnormalized: Array, gradients: Arena) -> Array:
        """dx [D, BS]; adds to the gain's gradient, if any. Both inputs are scaled to fit fp16."""
        program, timings, shape = (
            self._norm_backward.bound,
            self._shared.timings,
            self._shared.shape,
        )
        with timings.measure("io"):
            of_x, of_dy = stage_residual(program, x, shape), []
            for column, part in sequences(dnormalized, shape):
                of_dy.append(fitting_scale(part))
                program.stage("dnormalized", part, scale=of_dy[-1], column=column)
        with timings.measure("engine"):
            program.request.evaluate()
        dx, gains = np.empty_like(x), np.empty_like(x)
        with timings.measure("io"):
            for index, (column, part) in enumerate(sequences(dx, shape)):
                program.read("dx", part, alpha=of_x[index] / of_dy[index], column=column)
            for index, (column, part) in enumerate(sequences(gains, shape)):
                program.read("norm", part, alpha=1 / of_dy[index], column=column)
        if "norm" in gradients:
            gradient = gradients["norm"]
            gradient += gains.sum(axis=1)
        return dx


def _parts(spec: ModelSpec, shared: BlockContext, weights: Arena) -> list[Part]:
    """One part, or as few as the chip allows; parts of one size share the softmax program."""
    engine, matrix = shared.engine, weights[classifier_name(spec)]
    programs: dict[int, CompiledLayer] = {}
    parts = []
    for rows in split_vocabulary(spec.vocabulary, spec.dim, mil.most_channels(engine.chip)):
        constants = {"norm": weights["norm"], "classifier": matrix[rows.start : rows.stop]}
        layout = classifier(shared.shape, Constants(constants, shared.weight_file))
        logits = surface_of(engine, layout.output)
        if len(rows) not in programs:
            over = softmax(layout.output)
            programs[len(rows)] = CompiledLayer(over, engine.compile(over.program, over.name))
        program = programs[len(rows)]
        target = surface_of(engine, program.layout.output)
        request = program.compiled.request([logits], [target])
        bound = BoundProgram(program.layout, logits, target, request)
        parts.append(Part(rows, CompiledSlot(shared, layout, logits), bound))
    return parts


def _within(targets: Tokens, rows: range) -> npt.NDArray[Any]:
    """The positions whose target is one of the rows."""
    return np.flatnonzero((targets >= rows.start) & (targets < rows.stop))


def _tiles(rows: range, size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))
