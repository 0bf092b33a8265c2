"""Opening an engine by name, and saying why this one; programs that the ANE refuses fall back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ane_train import mil
from ane_train.engine.budget import Budget
from ane_train.engine.options import EngineOptions
from ane_train.engine.profile import digest, measured_chip, read_profile
from ane_train.engine.quick import open_hardware
from ane_train.errors import EngineError
from ane_train.native.engine import Context, Program
from ane_train.native.library import NativeError

USUAL_CHIP = "m4"
ANE, CPU = "ane", "cpu"


@dataclass(frozen=True, slots=True)
class Fallback:
    """A program that runs on the software engine although the rest is on the ANE, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Engine:
    """An open engine. `chip` is the profile that programs are verified against, or None.

    refused: reasons, by `profile.digest` of the MIL text, why programs cannot run on this ANE, as
    measured before. fallbacks: those that were compiled for the software engine, by the same key.
    accepted: the keys of those that the ANE's compiler took.
    """

    name: str
    reason: str
    numerics: str
    chip: str | mil.Chip | None
    context: Context
    budget: Budget
    refused: Mapping[str, str] = field(default_factory=dict)
    fallbacks: dict[str, Fallback] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)

    @property
    def element_size(self) -> int:
        """Bytes of an element of a surface: 4 in fp32 numerics, else 2."""
        return 4 if self.numerics == "fp32" else 2

    @property
    def frees_processors(self) -> bool:
        """Whether they have nothing to do while a program runs."""
        return self.name != CPU

    def compile(self, program: mil.Program, name: str | None = None) -> Program:
        """Verifies, prints and compiles a program. EngineError names it and says why it is bad."""
        text = self.print(program, name)
        return self.compile_text(text, self.weight_files(program), name or program.function)

    def compile_text(
        self, text: str, files: Mapping[str, bytes], name: str, donor: Program | None = None
    ) -> Program:
        """Compiles what `print` and `weight_files` gave; from any thread.

        A `donor` of the same text spares the compile. A program that the ANE's compiler refuses is
        compiled for the software engine, and noted. EngineError if the compiler took it before:
        then it is the compiler that gave out.
        """
        if self.name != ANE:
            return self.context.compile(text, files, donor=donor)
        key = digest(text)
        if key in self.refused:
            self.fallbacks[key] = Fallback(name, self.refused[key])
        if key not in self.fallbacks:
            try:
                compiled = self.context.compile(text, files, donor=donor)
                self.accepted.add(key)
                return compiled
            except NativeError as error:
                self._require_refusal(error, key, name)
                self.fallbacks[key] = Fallback(name, str(error))
        return self.context.compile(text, files, engine="software")

    def _require_refusal(self, error: NativeError, key: str, name: str) -> None:
        """Raises unless the error says that the program is none for this ANE."""
        if error.status != "compile":
            raise error
        if key in self.accepted:
            raise EngineError(
                f"the ANE's compiler took {name} before and fails at compile "
                f"{self.context.counts().compiled}: give a smaller --compile-limit ({error})"
            ) from error

    def print(self, program: mil.Program, name: str | None = None) -> str:
        """The text of a program that the chip is not known to refuse; EngineError if it is."""
        if self.chip is not None:
            mil.require(program, self.chip, name)
        return mil.print_program(program, self._precision)

    def weight_files(self, program: mil.Program) -> dict[str, bytes]:
        """The program's constants as they are now, in the precision of the engine."""
        return program.weight_files(self._precision)

    @property
    def _precision(self) -> str:
        return "fp32" if self.numerics == "fp32" else "fp16"

    def close(self) -> None:
        """Frees the engine and its threads."""
        self.context.close()


def open_engine(options: EngineOptions) -> Engine:
    """Opens "cpu", "ane", or with "auto" the ANE where it is found to work, else "cpu".

    EngineError if "ane" is asked for and cannot be had.
    """
    if options.kind == CPU:
        return _software(options, "asked for")
    if options.numerics != "fp16" and options.kind != ANE:
        return _software(options, f"--numerics {options.numerics} is the software engine's")
    limited = _within_process(options)
    opened = open_hardware(limited, insist=options.kind == ANE)
    if opened.context is not None:
        measured = opened.profile.measured if opened.profile else None
        refused = measured.refused if measured else {}
        budget = _budget(opened.context, limited)
        return Engine(ANE, opened.reason, "fp16", options.chip, opened.context, budget, refused)
    if options.kind == ANE:
        raise EngineError(
            f"the ANE cannot be used: {opened.reason}; "
            "--engine cpu runs the same programs, `ane-train doctor` tells more"
        )
    return _software(options, opened.reason)


def likely_chip(profiles: Path | None) -> mil.Chip:
    """The chip at hand as it was measured, or else the usual one of the table."""
    profile = None if profiles is None else read_profile(profiles)[0]
    measured = None if profile is None else measured_chip(profile)
    return measured or mil.get_chip(USUAL_CHIP)


def _within_process(options: EngineOptions) -> EngineOptions:
    """The options with the limits of the chip where none are given: the hardware has both."""
    chip = mil.get_chip(options.chip) if options.chip else likely_chip(options.profiles)
    return replace(
        options,
        compile_limit=options.compile_limit or chip.compile_guard,
        load_limit=options.load_limit or chip.load_limit,
    )


def _budget(context: Context, options: EngineOptions) -> Budget:
    return Budget(context, options.compile_limit or None, options.load_limit or None)


def _software(options: EngineOptions, reason: str) -> Engine:
    numerics, chip = options.numerics, options.chip
    defects: str | mil.Chip | None = chip
    if numerics == "hazard" and chip is None:
        defects = likely_chip(options.profiles)
    context = Context(
        numerics=numerics,
        hazards=mil.hazards(defects) if numerics == "hazard" and defects is not None else 0,
        threads=options.threads,
        compile_limit=options.compile_limit,
        load_limit=options.load_limit,
    )
    return Engine(CPU, reason, numerics, defects, context, _budget(context, options))
