"""How weights reach the programs: what the training step needs from a pipeline, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ane_train.model.arena import Arena, Array
from ane_train.programs import LayerProgram
from ane_train.train.bound import BoundProgram, Place
from ane_train.train.kept import Kept

Refresh = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """How weights reach the programs: "dynamic" as inputs, "static" as constants.

    With "static" only: extras puts head and norm backward on the engine; delta replaces the
    weights of compiled programs. sequences: how many lie side by side in an evaluation.
    """

    kind: str = "dynamic"
    extras: bool = False
    delta: bool = False
    sequences: int = 1


class BlockPrograms(Protocol):
    """Both programs of one block, holding the weights of the last refresh."""

    @property
    def forward(self) -> BoundProgram:
        """x in, y and taps out."""
        ...

    @property
    def backward(self) -> BoundProgram:
        """dy and taps in, dx and factors of the weight gradients out."""
        ...

    @property
    def kept(self) -> Kept:
        """What the last forward pass left for the backward pass."""
        ...

    def feed(self, x: Array, weights: Arena) -> None:
        """Stages the residual stream x [D, BS] for the forward program, normalised by whoever."""
        ...

    def inverse_rms(self, x: Array, weights: Arena) -> Array:
        """1 / rms of the columns of x [D, BS], which is what was fed last; [BS]."""
        ...

    def normalized(self) -> Place:
        """The normalised activations [D, BS] as the matrices were applied to them."""
        ...


class Pipeline(Protocol):
    """The programs of all blocks, and how they follow the weights."""

    @property
    def programs(self) -> tuple[LayerProgram, ...]:
        """Those of one layer."""
        ...

    def block(self, kind: str, layer: int) -> BlockPrograms:
        """The programs of "attention" or "feed_forward" of a layer."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the programs hold the current weights; if not, only a new process helps."""
        ...

    def refreshing(self) -> AbstractContextManager[Refresh]:
        """Inside, weights may change; call the function it gives for each layer that is done."""
        ...

    def close(self) -> None:
        """Ends threads. The engine stays open."""
        ...
