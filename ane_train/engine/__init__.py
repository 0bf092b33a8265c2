"""Where programs run: the one place that knows that there are two engines."""

from __future__ import annotations

from ane_train.engine.open import Engine, open_engine

__all__ = ["Engine", "open_engine"]
