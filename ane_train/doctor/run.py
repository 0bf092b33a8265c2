"""Runs cases on an engine: compile, evaluate, compare, and a verdict whatever happens.

The reference is the software engine where the engine at hand is the ANE, and NumPy where it is the
software engine itself. Hazards are held against NumPy everywhere.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from ane_train import mil
from ane_train.doctor import reference
from ane_train.doctor.cases import Case
from ane_train.doctor.report import (
    ABSENT,
    CONFIRMED,
    FAILED,
    HAZARD,
    OK,
    REFUSED,
    SKIPPED,
    WRONG,
    Found,
)
from ane_train.doctor.rows import Array
from ane_train.engine.profile import digest
from ane_train.isolation.scrub import scrub
from ane_train.model.memory import available
from ane_train.native.engine import Context, Port, Program, Surface
from ane_train.native.library import NativeError

SEED = 20
EVALUATIONS = 5
WORST = 8  # times the allowed RMS error that a single element may be off
_LARGE = 1e-30
# Statuses of a NativeError that are about the program, and about what is around it where the error
# is of one of these domains.
_REFUSALS = frozenset({"compile", "parse", "type", "unsupported", "weights"})
_WANTS = frozenset({"memory", "limit", "system"})
_AROUND = frozenset({"", "POSIX"})


@dataclass(frozen=True, slots=True)
class Bench:
    """The engine to be tried, and the one to compare with; None: NumPy."""

    context: Context
    peer: Context | None = None


@dataclass(frozen=True, slots=True)
class Errors:
    """Of the worst block of an output; `unlike` says what is infinite or NaN on one side only."""

    largest: float = 0.0
    largest_relative: float = 0.0
    rms: float = 0.0
    rms_relative: float = 0.0
    unlike: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one program did: outputs as fp32 [C, W], milliseconds and bytes."""

    outputs: list[Array]
    compile_ms: float
    evaluate_ms: float
    surface_bytes: int
    constant_bytes: int
    scratch_bytes: int


class _StoppedError(Exception):
    """A case that got no further: the verdict that the error means, and why."""

    def __init__(self, error: BaseException) -> None:
        self.verdict = meaning(error)
        kind = "" if isinstance(error, NativeError) else f"{type(error).__name__}: "
        tried = "not tried: " if self.verdict == SKIPPED else ""
        super().__init__(scrub(f"{tried}{kind}{error}"))


def meaning(error: BaseException) -> str:
    """The verdict on a program whose compile or evaluation ended with this error.

    A want of room, files or memory says nothing of a program unless the ANE reports it.
    """
    if not isinstance(error, NativeError):
        return FAILED
    if error.status in _WANTS and error.domain in _AROUND:
        return SKIPPED
    return REFUSED if error.status in _REFUSALS else FAILED


def try_case(case: Case, bench: Bench) -> Found:
    """What came of a case. Never raises an Exception."""
    found = describe(case, OK, "")
    needed = memory_needed(case.program)
    if needed > available():
        text = f"needs {needed / 2**30:.1f} GiB of memory, more than is free"
        return replace(found, verdict=SKIPPED, text=text)
    try:
        inputs = case.inputs(SEED)
        measured = measure(bench.context, case.program, inputs)
        wanted = _wanted(case, bench, inputs)
    except _StoppedError as stopped:
        return _judged(replace(found, verdict=stopped.verdict, text=str(stopped)))
    except Exception as error:  # a case must not end the list
        return replace(found, verdict=FAILED, text=str(_StoppedError(error)))
    errors = compare(case, measured.outputs, wanted)
    found = _with_errors(_with_costs(found, measured), errors, case.tolerance)
    return _judged(found)


def compared(found: Found, got: Array, wanted: Array, tolerance: float) -> Found:
    """`found` with the errors of an array and the verdict that follows from the tolerance."""
    return _with_errors(found, errors_of(got, wanted), tolerance)


def describe(case: Case, verdict: str, text: str) -> Found:
    """What a case is, with a verdict and nothing measured."""
    return Found(
        case.name,
        case.group,
        verdict,
        case.needed,
        case.static,
        case.question,
        text,
        case.rule,
        case.hazard,
        digest(mil.print_program(case.program)),
    )


def memory_needed(program: mil.Program) -> int:
    """Bytes of the reference's float64 values and of the constants, about what any engine takes."""
    made = (value for op in program.ops for value in op.outputs)
    values = (*program.inputs, *program.constants, *made)
    return 8 * sum(value.type.elements for value in values)


def measure(
    context: Context, program: mil.Program, inputs: Sequence[Array], evaluations: int = EVALUATIONS
) -> Measured:
    """Compiles and evaluates a program; the times are of one compile and a median of evaluations.

    inputs: [C, W] each. Raises _StoppedError with the verdict that a refusal or failure means.
    """
    with ExitStack() as stack:
        start = time.perf_counter()
        try:
            compiled = context.compile(mil.print_program(program), program.weight_files())
        except Exception as error:
            raise _StoppedError(error) from error
        compile_ms = 1e3 * (time.perf_counter() - start)
        stack.callback(compiled.close)
        try:
            outputs, evaluate_ms, bytes_ = _evaluated(context, compiled, inputs, evaluations, stack)
        except Exception as error:
            raise _StoppedError(error) from error
        cost = compiled.cost
        return Measured(
            outputs, compile_ms, evaluate_ms, bytes_, cost.constant_bytes, cost.scratch_bytes
        )


def _evaluated(
    context: Context,
    compiled: Program,
    inputs: Sequence[Array],
    evaluations: int,
    stack: ExitStack,
) -> tuple[list[Array], float, int]:
    sources = port_surfaces(context, compiled.inputs, stack)
    targets = port_surfaces(context, compiled.outputs, stack)
    for source, values in zip(sources, inputs, strict=True):
        source.write(values)
    request = compiled.request(sources, targets)
    stack.callback(request.close)
    times = []
    for _ in range(evaluations):
        start = time.perf_counter()
        request.evaluate()
        times.append(time.perf_counter() - start)
    bytes_ = sum(item.channels * item.width * item.element_size for item in sources + targets)
    return [target.read() for target in targets], 1e3 * statistics.median(times), bytes_


def port_surfaces(context: Context, ports: Sequence[Port], stack: ExitStack) -> list[Surface]:
    """A surface for each port, closed with the stack."""
    surfaces = []
    for port in ports:
        size = 2 if port.dtype == "fp16" else 4
        surface = context.surface(math.prod(port.shape[:-1]), port.shape[-1], size)
        stack.callback(surface.close)
        surfaces.append(surface)
    return surfaces


def _wanted(case: Case, bench: Bench, inputs: Sequence[Array]) -> list[Array]:
    if bench.peer is not None and case.group != HAZARD:
        return measure(bench.peer, case.program, inputs, evaluations=1).outputs
    outputs = reference.evaluate(case.program, inputs)
    return [output.reshape(-1, output.shape[-1]) for output in outputs]


def compare(case: Case, got: Sequence[Array], wanted: Sequence[Array]) -> Errors:
    """Errors of the worst block of all outputs."""
    pairs = list(zip(got, wanted, strict=True))
    if case.blocks is not None:
        if case.folded:
            pairs = [(ours.reshape(-1, 1), theirs.reshape(-1, 1)) for ours, theirs in pairs]
        blocks = case.blocks.blocks.values()
        places = [
            np.s_[part.row : part.row + part.rows, part.column : part.column + part.columns]
            for part in blocks
        ]
        pairs = [(pairs[0][0][place], pairs[0][1][place]) for place in places]
    return max(
        (errors_of(*pair) for pair in pairs), key=lambda error: (error.unlike, error.rms_relative)
    )


def errors_of(got: Array, wanted: Array) -> Errors:
    """How far one array is off the other."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return Errors(unlike="finite where the reference is not")
    if not np.isfinite(got[finite]).all():
        share = 1 - np.isfinite(got[finite]).mean()
        return Errors(unlike=f"{share:.1%} of the results are infinite or NaN")
    if not finite.any():
        return Errors()
    error, size = np.abs(got[finite] - wanted[finite]), np.abs(wanted[finite])
    rms, scale = _rms(error), max(_rms(size), _LARGE)
    return Errors(
        float(error.max()), float((error / np.maximum(size, scale)).max()), rms, rms / scale
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def verdict_of(errors: Errors, tolerance: float) -> str:
    """Whether errors are within the RMS error that is allowed, and no element far beyond it."""
    right = (
        not errors.unlike
        and errors.rms_relative <= tolerance
        and errors.largest_relative <= WORST * tolerance
    )
    return OK if right else WRONG


def _with_costs(found: Found, measured: Measured) -> Found:
    return replace(
        found,
        compile_ms=measured.compile_ms,
        evaluate_ms=measured.evaluate_ms,
        surface_bytes=measured.surface_bytes,
        constant_bytes=measured.constant_bytes,
        scratch_bytes=measured.scratch_bytes,
    )


def _with_errors(found: Found, errors: Errors, tolerance: float) -> Found:
    text, verdict = errors.unlike, verdict_of(errors, tolerance)
    if verdict == WRONG and not text:
        text = f"off by {errors.rms_relative:.2g} of the RMS, {errors.largest:.3g} at most"
    known = not errors.unlike
    return replace(
        found,
        verdict=verdict,
        text=text,
        max_error=errors.largest if known else None,
        max_error_relative=errors.largest_relative if known else None,
        rms_error=errors.rms if known else None,
        rms_error_relative=errors.rms_relative if known else None,
    )


def _judged(found: Found) -> Found:
    """A hazard's verdict answers its question; any other stays.

    Whether numbers go wrong is not answered by a program that gives none.
    """
    if found.group != HAZARD or found.verdict == SKIPPED:
        return found
    if found.verdict == OK:
        return replace(found, verdict=ABSENT, text="no")
    if found.hazard and found.verdict != WRONG:
        return replace(found, verdict=SKIPPED, text=f"not known, {found.verdict}: {found.text}")
    return replace(found, verdict=CONFIRMED, text=f"yes, {found.verdict}: {found.text}")


def crashed(case: Case, text: str) -> Found:
    """What is found of a case that ended its process."""
    return _judged(describe(case, FAILED, scrub(text)))
