"""Where programs run: the one place that knows that there are two engines."""

from __future__ import annotations

from ane_train.engine.open import USUAL_CHIP, Engine, EngineOptions, open_engine

__all__ = ["USUAL_CHIP", "Engine", "EngineOptions", "open_engine"]
