"""What the benchmarks are asked to do, and the jobs that they give to processes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ane_train.engine import EngineOptions


@dataclass(frozen=True, slots=True)
class Sweep:
    """Sizes of `peak`, of which every combination is tried; empty ones are the usual.

    spatial: "HxW" each.
    """

    precisions: tuple[str, ...] = ()
    depths: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    spatial: tuple[str, ...] = ()

    @property
    def is_usual(self) -> bool:
        """Whether no sizes are given, whatever the precisions."""
        return not (self.depths or self.channels or self.spatial)


@dataclass(frozen=True, slots=True)
class Settings:
    """engine: "auto", "ane" or "cpu"; profiles: a folder; model: of `train`, empty for the usual.

    quick: small sizes and few samples. timeout: seconds that one case may be silent. chip: whose
    plan stands beside `train`, empty for none.
    """

    engine: str = "auto"
    threads: int = 0
    driver: str | None = None
    profiles: str | None = None
    quick: bool = False
    timeout: float = 300.0
    model: str = ""
    chip: str = ""
    sweep: Sweep = Sweep()

    @property
    def options(self) -> EngineOptions:
        """How the engine is opened."""
        folder = Path(self.profiles) if self.profiles else None
        return EngineOptions(self.engine, threads=self.threads, driver=self.driver, profiles=folder)


@dataclass(frozen=True, slots=True)
class Job:
    """One process's work: cases of a benchmark by their labels, on the ANE or not."""

    benchmark: str
    labels: tuple[str, ...]
    settings: Settings
    hardware: bool = False
