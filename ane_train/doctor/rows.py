"""What the rows of the op and hazard tables share: sizes and ways to draw inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator], list[Array]]

CHANNELS, WIDTH = 64, 64


def normal(channels: int, width: int = WIDTH) -> Draw:
    """Standard normal values."""
    return lambda random: [random.standard_normal((channels, width))]


def positive(channels: int, width: int = WIDTH) -> Draw:
    """Values between 1/4 and 4."""
    return lambda random: [random.uniform(0.25, 4.0, (channels, width))]


def constant(*arrays: Array) -> Draw:
    """These values, whatever the seed."""
    return lambda _: list(arrays)
