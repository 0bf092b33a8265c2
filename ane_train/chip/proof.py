"""Proves that a program computes the right thing on the engine at hand: before that, no timing.

An experiment carries outputs by NumPy that come from the numbers that went into the program, not
from its text or its weight files, so that a fault in those shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ane_train import mil
from ane_train.chip.results import SKIPPED, WRONG, Proof
from ane_train.doctor.run import WORST, errors_of, meaning, port_surfaces
from ane_train.isolation.scrub import scrub
from ane_train.native.engine import Context, Program, Request, Surface
from ane_train.native.library import NativeError
from ane_train.programs import Packing

Array = np.ndarray[Any, Any]
Model = Callable[[], Sequence[Array]]
ULP = 2.0**-11  # largest relative error of rounding to fp16
AGAINST = "NumPy"


class UnprovedError(Exception):
    """A program that is not to be timed; `status` of the result, and why."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(scrub(text))
        self.status = status


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a cheaper precision may cost: outputs of fp16, and the largest relative RMS error."""

    exact: Model
    bound: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """A program, its inputs (fp16 numbers, [C, W] each) and the outputs that it must give.

    tolerance: allowed RMS error relative to the RMS, by the program's arithmetic; of each of the
    blocks, where the one output is made of some.
    """

    text: str
    files: Mapping[str, bytes]
    inputs: Sequence[Array]
    model: Model
    tolerance: float
    accuracy: Accuracy | None = None
    blocks: Packing | None = None

    @contextmanager
    def prove(self, context: Context) -> Iterator[Trial]:
        """Compiles, evaluates and compares; UnprovedError where anything is not as it must be."""
        with ExitStack() as stack:
            try:
                program = context.compile(self.text, self.files)
                stack.callback(program.close)
                sources = port_surfaces(context, program.inputs, stack)
                targets = port_surfaces(context, program.outputs, stack)
                for surface, given in zip(sources, self.inputs, strict=True):
                    surface.write(given)
                request = program.request(sources, targets)
                stack.callback(request.close)
                request.evaluate()
            except NativeError as error:
                raise UnprovedError(meaning(error), str(error)) from error
            outputs = [target.read() for target in targets]
            proof = check(self._parts(outputs), self._parts(self.model()), self.tolerance)
            values = {} if self.accuracy is None else accuracy(outputs, self.accuracy)
            yield Trial(context, self, program, sources, targets, request, proof, values)

    def _parts(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """The blocks of the one output, lest an error in a small one is lost; else the outputs."""
        if self.blocks is None:
            return outputs
        (output,) = outputs
        return [
            output[part.row : part.row + part.rows, part.column : part.column + part.columns]
            for part in self.blocks.blocks.values()
        ]


@dataclass(frozen=True, slots=True)
class Trial:
    """An experiment that was proved right, with what can be timed of it."""

    context: Context
    experiment: Experiment
    program: Program
    sources: Sequence[Surface]
    targets: Sequence[Surface]
    request: Request
    proof: Proof
    values: Mapping[str, float] = field(default_factory=dict)

    def evaluate(self) -> None:
        """One evaluation."""
        self.request.evaluate()


def experiment(
    program: mil.Program,
    inputs: Sequence[Array],
    model: Model,
    tolerance: float,
    accuracy: Accuracy | None = None,
) -> Experiment:
    """The experiment on a built program."""
    text, files = mil.print_program(program), program.weight_files()
    return Experiment(text, files, inputs, model, tolerance, accuracy)


def check(outputs: Sequence[Array], wanted: Sequence[Array], tolerance: float) -> Proof:
    """The proof that outputs are what is wanted; UnprovedError if they are not."""
    worst = 0.0
    for got, right in zip(outputs, wanted, strict=True):
        errors = errors_of(got, right)
        if errors.unlike:
            raise UnprovedError(WRONG, f"not timed: {errors.unlike}")
        if errors.rms_relative > tolerance or errors.largest_relative > WORST * tolerance:
            text = f"not timed: off by {errors.rms_relative:.2g} of the RMS, {tolerance:.2g} is due"
            raise UnprovedError(WRONG, text)
        worst = max(worst, errors.rms_relative)
    return Proof(AGAINST, worst, tolerance)


def accuracy(outputs: Sequence[Array], wanted: Accuracy) -> dict[str, float]:
    """How far the outputs are from those of fp16; UnprovedError where that is beyond the bound."""
    pairs = zip(outputs, wanted.exact(), strict=True)
    error = max(errors_of(got, right).rms_relative for got, right in pairs)
    if not error <= wanted.bound:
        text = f"not timed: {error:.2g} of the RMS off fp16, at most {wanted.bound:.2g} is due"
        raise UnprovedError(WRONG, text)
    return {"relative_error": error, "error_bound": wanted.bound}


def require_memory(needed: float, free: float) -> None:
    """UnprovedError where an experiment would need more memory than is free."""
    if needed > free:
        text = f"needs {needed / 2**30:.1f} GiB of memory, more than is free"
        raise UnprovedError(SKIPPED, text)
