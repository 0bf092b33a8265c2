"""Opening an engine by name, and saying why this one."""

from __future__ import annotations

from dataclasses import dataclass

from ane_train import mil
from ane_train.errors import EngineError
from ane_train.native.engine import Context, Program
from ane_train.native.library import find_driver

USUAL_CHIP = "m4"


@dataclass(frozen=True, slots=True)
class Engine:
    """An open engine. `chip` is the profile that programs are verified against, or None."""

    name: str
    reason: str
    numerics: str
    chip: str | None
    context: Context

    @property
    def element_size(self) -> int:
        """Bytes of an element of a surface: 4 in fp32 numerics, else 2."""
        return 4 if self.numerics == "fp32" else 2

    def compile(self, program: mil.Program, name: str | None = None) -> Program:
        """Verifies, prints and compiles a program. EngineError names it and says why it is bad."""
        if self.chip is not None:
            mil.require(program, self.chip, name)
        text = mil.print_program(program)
        precision = "fp32" if self.numerics == "fp32" else "fp16"
        return self.context.compile(text, program.weight_files(precision))

    def close(self) -> None:
        """Frees the engine and its threads."""
        self.context.close()


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which engine to open ("auto", "ane" or "cpu") and how; the defaults are a run's.

    `driver` and `dispatch` are those of the ANE: another library than the package's own, and the
    way to evaluate. Limits of 0 are none.
    """

    kind: str = "auto"
    numerics: str = "fp16"
    chip: str | None = None
    threads: int = 0
    compile_limit: int = 0
    load_limit: int = 0
    driver: str | None = None
    dispatch: str = "queue"


def open_engine(options: EngineOptions) -> Engine:
    """Opens the engine that is asked for. EngineError if it is not there."""
    if options.kind == "ane":
        return _open_hardware(options)
    reason = "asked for" if options.kind == "cpu" else "the default of this version"
    chip, numerics = options.chip, options.numerics
    if numerics == "hazard":
        chip = chip or USUAL_CHIP
    context = Context(
        numerics=numerics,
        hazards=mil.hazards(chip) if numerics == "hazard" and chip is not None else 0,
        threads=options.threads,
        compile_limit=options.compile_limit,
        load_limit=options.load_limit,
    )
    return Engine("cpu", reason, numerics, chip, context)


def _open_hardware(options: EngineOptions) -> Engine:
    driver = options.driver or find_driver()
    if driver is None:
        raise EngineError(
            "the library that drives the ANE is built on a Mac only, and is not in this "
            "installation; use --engine cpu, which runs the same programs"
        )
    context = Context(
        threads=options.threads,
        compile_limit=options.compile_limit,
        load_limit=options.load_limit,
        engine="hardware",
        driver=driver,
        dispatch=options.dispatch,
    )
    return Engine("ane", "asked for", "fp16", options.chip, context)
