"""What `doctor` is asked to do, and the jobs that it gives to processes of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ane_train.doctor.cases import Case, all_cases
from ane_train.engine import EngineOptions
from ane_train.model.layer import layer_shape
from ane_train.model.spec import ModelSpec, load_model
from ane_train.programs import LayerProgram, layer_programs

LOOK, CHOOSE, CASES, PATH = "look", "choose", "cases", "path"


@dataclass(frozen=True, slots=True)
class Settings:
    """engine: "auto", "ane" or "cpu"; sequence: 0 for the model's own; profiles: a folder.

    quick: whether the engine is chosen and nothing else is tried.
    """

    engine: str = "auto"
    model: str = "tiny"
    sequence: int = 0
    threads: int = 0
    driver: str | None = None
    profiles: str | None = None
    quick: bool = False

    @property
    def options(self) -> EngineOptions:
        """How the engine is opened that a run would take."""
        folder = Path(self.profiles) if self.profiles else None
        return EngineOptions(self.engine, threads=self.threads, driver=self.driver, profiles=folder)


@dataclass(frozen=True, slots=True)
class Job:
    """One process's work.

    work: "look" at the driver, "choose" an engine, try "cases" from number `first` on, or measure a
    "path" of dispatch. hardware: whether cases run on the ANE.
    """

    work: str
    settings: Settings
    hardware: bool = False
    first: int = 0
    dispatch: str = "queue"


class Subject:
    """What settings name: the model, its programs and the cases; ModelError for a bad model."""

    def __init__(self, settings: Settings) -> None:
        self.spec: ModelSpec = load_model(settings.model)
        self.sequence = settings.sequence or self.spec.sequence

    @cached_property
    def programs(self) -> tuple[LayerProgram, ...]:
        """The programs that a run of the model would compile."""
        return layer_programs(layer_shape(self.spec, self.sequence))

    @cached_property
    def cases(self) -> list[Case]:
        """Every case, in an order that is the same in each process."""
        return all_cases(self.programs, self.spec.vocabulary)
