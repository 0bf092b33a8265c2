"""Both ends of the network: the embedding, and the head: final norm, classifier, cross-entropy.

Here both are fp32 on the CPU. The classifier runs in tiles of positions, so that no [BS, V] array
is ever whole in memory where V is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ane_train.errors import DataError
from ane_train.model.arena import Arena, Array
from ane_train.model.memory import tile_positions
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.train.timings import Timings
from ane_train.train.workspace import Workspace

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HeadLoss:
    """Sum of the losses in nats over the targets that count, and their number."""

    total: float
    count: int


class Head(Protocol):
    """From the residual stream x [D, BS] after the last layer to the loss, and back."""

    def logits(self, x: Array, weights: Arena) -> Array:
        """Logits [BS, V], whole in memory."""
        ...

    def loss(self, x: Array, targets: Tokens, weights: Arena) -> HeadLoss:
        """The loss; targets of -1 do not count."""
        ...

    def loss_and_gradient(
        self, x: Array, targets: Tokens, scale: float, weights: Arena, gradients: Arena
    ) -> tuple[HeadLoss, Array]:
        """The loss and dx [D, BS] of scale * its sum; dx may be the same array the next time.

        Adds to the gradients of classifier and norm, where they have any.
        """
        ...


def classifier_name(spec: ModelSpec) -> str:
    """The parameter that the classifier multiplies by."""
    return "embedding" if spec.tied_embeddings else "classifier"


class Embedding:
    """The rows of the embedding, looked up and added to, on the CPU in fp32."""

    def __init__(self, spec: ModelSpec, context: Context, timings: Timings) -> None:
        self.spec, self.context, self.timings = spec, context, timings

    def embed(self, tokens: Tokens, weights: Arena, x: Array) -> None:
        """x [D, BS] = rows of the embedding. DataError for a token outside the vocabulary."""
        largest, smallest = int(tokens.max()), int(tokens.min())
        if largest >= self.spec.vocabulary or smallest < 0:
            bad = largest if largest >= self.spec.vocabulary else smallest
            raise DataError(
                f"token {bad} is outside the model's vocabulary of {self.spec.vocabulary}; "
                "prepare the data with this model's tokenizer"
            )
        with self.timings.measure("elementwise"):
            arithmetic.embedding_forward(self.context, weights["embedding"], tokens, x)

    def embed_backward(self, tokens: Tokens, dx: Array, gradients: Arena) -> None:
        """Adds dx [D, BS] to the rows of the embedding's gradient, if it has one."""
        if "embedding" not in gradients:
            return
        with self.timings.measure("elementwise"):
            arithmetic.embedding_backward(self.context, dx, tokens, gradients["embedding"])


class CpuHead:
    """Owns a tile of logits; what else it works on it shares with the blocks, by role."""

    def __init__(
        self,
        spec: ModelSpec,
        columns: int,
        context: Context,
        timings: Timings,
        workspace: Workspace,
    ) -> None:
        self.spec, self.context, self.timings = spec, context, timings
        self.workspace = workspace
        self.classifier = classifier_name(spec)
        self.normalized = workspace.array("normalized", spec.dim, columns)
        self.inverse_rms = np.zeros(columns, np.float32)
        self.tile = tile_positions(spec.vocabulary, columns)
        self.tile_logits = np.zeros((self.tile, spec.vocabulary), np.float32)

    def logits(self, x: Array, weights: Arena) -> Array:
        """Logits [BS, V] of x [D, BS]."""
        self.normalize(x, weights)
        return np.concatenate(
            [self.logits_of(*bounds, weights).copy() for bounds in self._tiles(x.shape[1])]
        )

    def _tiles(self, positions: int) -> Iterator[tuple[int, int]]:
        for start in range(0, positions, self.tile):
            yield start, min(start + self.tile, positions)

    def normalize(self, x: Array, weights: Arena) -> None:
        """The final norm of x [D, BS], kept for the tiles."""
        with self.timings.measure("elementwise"):
            arithmetic.rmsnorm_forward(
                self.context,
                x,
                weights["norm"],
                self.spec.norm_epsilon,
                self.normalized,
                self.inverse_rms,
            )

    def logits_of(self, start: int, stop: int, weights: Arena) -> Array:
        """Logits [stop - start, V] of normalised positions; a view of the tile buffer."""
        logits = self.tile_logits[: stop - start]
        with self.timings.measure("blas"):
            arithmetic.gemm(
                self.context,
                self.normalized[:, start:stop],
                weights[self.classifier],
                logits,
                transpose_a=True,
                transpose_b=True,
            )
        return logits

    def loss(self, x: Array, targets: Tokens, weights: Arena) -> HeadLoss:
        """The loss of final activations x [D, S]; targets of -1 do not count."""
        self.normalize(x, weights)
        total = 0.0
        for start, stop in self._tiles(len(targets)):
            logits = self.logits_of(start, stop, weights)
            total += self._cross_entropy(logits, targets[start:stop], 0.0)
        return HeadLoss(total, int((targets >= 0).sum()))

    def loss_and_gradient(
        self, x: Array, targets: Tokens, scale: float, weights: Arena, gradients: Arena
    ) -> tuple[HeadLoss, Array]:
        """The loss and dx [D, BS] of scale * its sum; adds to what gradients there are."""
        self.normalize(x, weights)
        dnormalized = self.workspace.array("dnormalized", *x.shape)
        total = 0.0
        for start, stop in self._tiles(len(targets)):
            logits = self.logits_of(start, stop, weights)
            total += self._cross_entropy(logits, targets[start:stop], scale)
            self._tile_backward(logits, start, dnormalized, weights, gradients)
        dx = self.workspace.array("dx", *x.shape)
        dx.fill(0.0)
        with self.timings.measure("elementwise"):
            arithmetic.rmsnorm_backward(
                self.context,
                x,
                weights["norm"],
                self.inverse_rms,
                dnormalized,
                dx,
                gradients.views.get("norm", np.empty_like(weights["norm"])),
            )
        return HeadLoss(total, int((targets >= 0).sum())), dx

    def _cross_entropy(self, logits: Array, targets: Tokens, scale: float) -> float:
        losses = np.empty(len(targets), np.float32)
        with self.timings.measure("elementwise"):
            arithmetic.cross_entropy(self.context, logits, targets, scale, losses)
        return float(losses.sum(dtype=np.float64))

    def _tile_backward(
        self, dlogits: Array, start: int, dnormalized: Array, weights: Arena, gradients: Arena
    ) -> None:
        positions = slice(start, start + len(dlogits))
        with self.timings.measure("blas"):
            if self.classifier in gradients:
                arithmetic.gemm(
                    self.context,
                    dlogits,
                    self.normalized[:, positions],
                    gradients[self.classifier],
                    transpose_a=True,
                    transpose_b=True,
                    beta=1.0,
                )
            arithmetic.gemm(
                self.context,
                weights[self.classifier],
                dlogits,
                dnormalized[:, positions],
                transpose_a=True,
                transpose_b=True,
            )
