"""What is tried: one table of cases, each a MIL program with inputs drawn from a seed.

Surfaces have 64 channels or more and widths that are multiples of 64, except where a hazard asks
for others, so that a case fails for its own reason only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ane_train import mil
from ane_train.doctor.hazards import hazard_rows
from ane_train.doctor.ops import OP_ROWS, input_channels
from ane_train.doctor.report import HAZARD, OP, PROGRAM, STATIC
from ane_train.doctor.rows import WIDTH, Array, Draw
from ane_train.programs import LayerProgram, Packing

# Relative RMS error that is allowed. Data that only moves stays as it is; one op is off by a few
# units in the last place of fp16; in a layer's program such errors add up.
EXACT, ONE_OP, WHOLE_PROGRAM = 0.0, 4e-3, 1e-2
MOVEMENT = frozenset(
    {
        *("identity", "reshape", "transpose", "slice_by_size", "slice_by_index", "concat"),
        *("split", "expand_dims", "squeeze", "gather", "select", "maximum", "minimum", "relu"),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """One program to try.

    draw: values [C, W] for each input. tolerance: allowed RMS error of each block of the output,
    relative to the block's RMS. folded: whether the output is one column in rows of its width.
    needed, static, question, rule, hazard: as in `report.Found`.
    """

    name: str
    group: str
    program: mil.Program
    draw: Draw
    tolerance: float
    needed: bool = False
    static: bool = False
    blocks: Packing | None = None
    folded: bool = False
    question: str = ""
    rule: str = ""
    hazard: str = ""

    def inputs(self, seed: int) -> list[Array]:
        """The input values, fp16 numbers, one array [C, W] for each input; the same each time."""
        drawn = self.draw(np.random.default_rng([seed, len(self.name), *self.name.encode()]))
        return [np.asarray(array, np.float16) for array in drawn]


def all_cases(
    programs: Sequence[LayerProgram], static: Sequence[LayerProgram], vocabulary: int
) -> list[Case]:
    """Every case for a model: its programs with weights as inputs and as constants, ops, hazards.

    Training needs the first, and the ops that they are made of.
    """
    return [
        *program_cases(programs),
        *program_cases(static, STATIC),
        *op_cases(_kinds(programs), _kinds(static)),
        *hazard_cases(vocabulary),
    ]


def _kinds(programs: Iterable[LayerProgram]) -> set[str]:
    return {op.kind for layout in programs for op in layout.program.ops}


def program_cases(programs: Iterable[LayerProgram], group: str = PROGRAM) -> list[Case]:
    """The programs of a pipeline, each with activations and weights of usual size."""
    return [
        Case(
            layout.name,
            group,
            layout.program,
            _packed(layout.input),
            WHOLE_PROGRAM,
            needed=group == PROGRAM,
            static=group == STATIC,
            blocks=layout.output,
        )
        for layout in programs
    ]


def op_cases(dynamic: Iterable[str], static: Iterable[str] = ()) -> list[Case]:
    """One program per op of the table, given the ops of each pipeline."""
    needed, others = frozenset(dynamic), frozenset(static)
    cases = []
    for row in OP_ROWS:
        b = mil.Builder()
        channels = input_channels(row)
        x = b.input("x", (1, channels, 1, WIDTH))
        program = b.build([row.build(b, x)])
        tolerance = EXACT if row.kind in MOVEMENT else ONE_OP
        used = row.kind in needed, row.kind in others - needed
        cases.append(Case(row.name, OP, program, row.draw(channels), tolerance, *used))
    return cases


def hazard_cases(vocabulary: int) -> list[Case]:
    """What is known to go wrong on some chips, each as a question."""
    return [
        Case(
            row.name,
            HAZARD,
            row.program,
            row.draw,
            ONE_OP,
            question=row.question,
            rule=row.rule,
            hazard=row.hazard,
        )
        for row in hazard_rows(vocabulary)
    ]


def _packed(packing: Packing) -> Draw:
    """Weights of 1/sqrt(D), gammas near 1, a small epsilon; anything else standard normal."""

    def draw(random: np.random.Generator) -> list[Array]:
        surface: Array = np.zeros((packing.channels, packing.width), np.float32)
        for name, block in packing.blocks.items():
            values: Any = random.standard_normal((block.rows, block.columns), np.float32)
            place = (
                slice(block.row, block.row + block.rows),
                slice(block.column, block.column + block.columns),
            )
            surface[place] = _scaled(name, values)
        return [surface]

    return draw


def _scaled(name: str, values: Array) -> Array:
    scale = _SCALES.get(name)
    return values if scale is None else scale(values)


def _as_weight(values: Array) -> Array:
    return np.asarray(values * float(min(values.shape)) ** -0.5)


def _as_gamma(values: Array) -> Array:
    return 1 + values * 0.1


def _as_epsilon(values: Array) -> Array:
    return np.full_like(values, 1e-3)


_SCALES: dict[str, Callable[[Array], Array]] = {
    **dict.fromkeys(("query", "key", "value", "output", "gate", "up", "down"), _as_weight),
    "gamma": _as_gamma,
    "epsilon": _as_epsilon,
}
