"""Where programs run: the one place that knows that there are two engines."""

from __future__ import annotations

from ane_train.engine.budget import Budget
from ane_train.engine.delta import check_delta
from ane_train.engine.open import USUAL_CHIP, Engine, Fallback, likely_chip, open_engine
from ane_train.engine.options import EngineOptions

__all__ = [
    "USUAL_CHIP",
    "Budget",
    "Engine",
    "EngineOptions",
    "Fallback",
    "check_delta",
    "likely_chip",
    "open_engine",
]
