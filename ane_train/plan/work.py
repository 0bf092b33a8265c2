"""A step as data: which programs are evaluated, what the CPU does around them, and on which lane.

Amounts do not depend on the chip. Letters: S sequence, D model dimension, F feed-forward size.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

MAIN, GRADIENTS = "main", "gradients"
# Phases of one pass, in their order; "update" happens once in a step.
PHASES = ("forward", "head", "backward", "update")
CATEGORIES = ("engine", "copies", "blas", "elementwise")
# What a kind of work is shown as. Units: bytes read and written; FLOP for "blas"; elements for
# "exp", "transpose" and "strided" (far apart in memory); pairs for "rotation" (sine and cosine).
KINDS = MappingProxyType(
    {
        "copy": "copies",
        "convert": "copies",
        "blas": "blas",
        "accumulate": "blas",
        "elementwise": "elementwise",
        "exp": "elementwise",
        "transpose": "elementwise",
        "strided": "elementwise",
        "rotation": "elementwise",
    }
)


@dataclass(frozen=True, slots=True)
class Work:
    """An amount of one of KINDS on a lane; lanes run beside each other within a phase."""

    kind: str
    amount: float
    lane: str = MAIN


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run of a program: FLOP of its products, bytes of its surfaces and constants.

    `staged` are the bytes that the CPU puts into its input each time; `restaged` those of weights,
    which follow each update. Elements are fp16, or fp32 that the program casts.
    """

    flops: float
    bytes_in: float
    bytes_out: float
    constants: float = 0
    staged: float = 0
    restaged: float = 0
    element_size: int = 2


@dataclass(frozen=True, slots=True)
class Row:
    """What is done `times` times in a phase of a pass; in "update", of a step."""

    name: str
    phase: str
    times: int
    works: tuple[Work, ...]
    evaluation: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All of a step of `sequences` sequences of S tokens, and how many programs it compiles.

    passes: how often it goes forward and backward, with several sequences side by side.
    """

    title: str
    rows: tuple[Row, ...]
    sequences: int = 1
    sequence: int = 256
    compiles: int = 0
    passes: int = 1

    def times(self, row: Row) -> int:
        """How often a row happens in the step."""
        return row.times * (1 if row.phase == "update" else self.passes)

    @property
    def evaluations(self) -> int:
        """Of programs, in the step."""
        return sum(self.times(row) for row in self.rows if row.evaluation)

    @property
    def staged(self) -> float:
        """Bytes that the CPU writes into inputs of programs in the step, weights with them."""
        return sum(self.staged_by(row) for row in self.rows)

    def staged_by(self, row: Row) -> float:
        """Those of one row: activations each time, weights once for each of its layers."""
        if row.evaluation is None:
            return 0
        return self.times(row) * row.evaluation.staged + row.times * row.evaluation.restaged

    @property
    def flops(self) -> float:
        """Of all products in the step, on the engine and by BLAS."""
        return sum(
            self.times(row)
            * (
                (row.evaluation.flops if row.evaluation else 0)
                + sum(work.amount for work in row.works if work.kind == "blas")
            )
            for row in self.rows
        )
