"""Memory laid out by the parameter table: one allocation per kind, named views into it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ane_train.model.parameters import Parameter

Array = npt.NDArray[np.float32]
_ALIGNMENT = 16  # elements: 64 bytes, a cache line


class Arena:
    """One zeroed fp32 array of all parameters; `arena[name]` is a view of the table's shape.

    Each begins on a cache line: vectors that straddle two make AdamW slower by a fifth.
    """

    def __init__(self, table: Sequence[Parameter]) -> None:
        offsets, total = [], 0
        for parameter in table:
            offsets.append(total)
            total += -(-parameter.size // _ALIGNMENT) * _ALIGNMENT
        self.flat: Array = _zeros(total)
        self._begins = {each.name: at for each, at in zip(table, offsets, strict=True)}
        self.views: Mapping[str, Array] = MappingProxyType(
            {
                parameter.name: self.flat[offset : offset + parameter.size].reshape(parameter.shape)
                for parameter, offset in zip(table, offsets, strict=True)
            }
        )

    def __getitem__(self, name: str) -> Array:
        return self.views[name]

    def __contains__(self, name: str) -> bool:
        return name in self.views

    def span(self, name: str) -> tuple[int, int]:
        """Where in `flat` a parameter begins and where it ends."""
        begin = self._begins[name]
        return begin, begin + self.views[name].size


def _zeros(size: int) -> Array:
    """Zeros that begin on a cache line. NumPy promises 16 bytes, and skips those of a header."""
    whole = np.zeros(size + _ALIGNMENT, np.float32)
    start = -(whole.ctypes.data // whole.itemsize) % _ALIGNMENT
    return whole[start : start + size]


def initialize(weights: Arena, table: Sequence[Parameter], seed: int) -> None:
    """Fills the weights; each parameter draws from its own stream of (seed, index).

    So they can be drawn at the same time: NumPy lets other threads run meanwhile.
    """

    def fill(index: int) -> None:
        parameter = table[index]
        view = weights[parameter.name]
        if parameter.std == 0.0:
            view.fill(1.0)
            return
        generator = np.random.Generator(np.random.Philox(key=[seed, index]))
        generator.standard_normal(out=view, dtype=np.float32)
        view *= np.float32(parameter.std)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(table))):
            pass
