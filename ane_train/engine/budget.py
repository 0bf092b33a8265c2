"""The budget of an engine: how many programs a process may still compile, and hold at a time.

Both are limits of the hardware's daemon for each process; only a new process image gets a new
budget. On the software engine the same limits hold where they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from ane_train.errors import EngineError
from ane_train.native.engine import Context


@dataclass(frozen=True, slots=True)
class Budget:
    """Counts what `context` compiled and holds against limits; None is no limit."""

    context: Context
    compile_limit: int | None = None
    load_limit: int | None = None

    @property
    def left(self) -> int | None:
        """Programs that may still be compiled; None for any number."""
        if self.compile_limit is None:
            return None
        return max(0, self.compile_limit - self.context.counts().compiled)

    def fits(self, compiles: int, loads: int) -> bool:
        """Whether that many more programs can be compiled, and that many more be held."""
        counts = self.context.counts()
        return _within(counts.compiled + compiles, self.compile_limit) and _within(
            counts.loaded + loads, self.load_limit
        )

    def require(self, compiles: int, loads: int, purpose: str) -> None:
        """EngineError if `purpose` would not fit even into the budget of a new process."""
        for verb, count, limit in (
            ("compiled", compiles, self.compile_limit),
            ("loaded at a time", loads, self.load_limit),
        ):
            if not _within(count, limit):
                raise EngineError(
                    f"{purpose} needs {count} programs {verb}, and the limit is {limit}; "
                    "raise --compile-limit, use a model with fewer layers, or --pipeline dynamic"
                )


def _within(count: int, limit: int | None) -> bool:
    return limit is None or count <= limit
