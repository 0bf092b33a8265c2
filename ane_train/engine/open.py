"""Opening an engine by name, and saying why this one."""

from __future__ import annotations

from dataclasses import dataclass

from ane_train import mil
from ane_train.errors import EngineError
from ane_train.native.engine import Context, Program

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


def open_engine(
    kind: str = "auto", *, numerics: str = "fp16", chip: str | None = None, threads: int = 0
) -> Engine:
    """Opens "cpu", "ane", or with "auto" the best engine here. EngineError if there is none."""
    if kind == "ane":
        raise EngineError(
            "the ANE engine is not part of this version yet; "
            "use --engine cpu, which runs the same programs"
        )
    reason = "asked for" if kind == "cpu" else "this version has no ANE engine yet"
    if numerics == "hazard":
        chip = chip or USUAL_CHIP
    hazards = mil.hazards(chip) if numerics == "hazard" and chip is not None else 0
    context = Context(numerics=numerics, hazards=hazards, threads=threads)
    return Engine("cpu", reason, numerics, chip, context)
