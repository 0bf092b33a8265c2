"""How an engine is asked for: what `open_engine` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ane_train.mil import Chip


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which engine to open ("auto", "ane" or "cpu") and how; the defaults are a run's.

    `driver` and `dispatch` are those of the ANE: another library than the package's own, and the
    way to evaluate (None: what was measured to be fastest, or else the queue). Limits of 0 are
    none. `profiles` is the folder of what was measured on this machine; None: nothing is known.
    """

    kind: str = "auto"
    numerics: str = "fp16"
    chip: str | Chip | None = None
    threads: int = 0
    compile_limit: int = 0
    load_limit: int = 0
    driver: str | None = None
    dispatch: str | None = None
    profiles: Path | None = None
