"""Numbers as short words with their units, in ASCII."""

from __future__ import annotations

import math


def count(number: float) -> str:
    """A count in at most five characters: 950, 12.3K, 109.5M, 1.2B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= 0.99995 * size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes: 512 B, 1.5 MiB, 19.8 GiB."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if number >= 0.99995 * 1024**power:
            return f"{number / 1024**power:.1f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """A time: 0.4s, 9.5s, 42s, 2m10s, 3h05m, 2d04h."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def flops(rate: float) -> str:
    """FLOP/s with a unit: 850 MFLOP/s, 1.23 TFLOP/s."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if rate >= scale:
            return f"{rate / scale:.3g} {unit}FLOP/s"
    return f"{rate:.3g} FLOP/s"


def loss(value: float) -> str:
    """A loss, or that it is none."""
    return f"{value:.4f}" if math.isfinite(value) else "not finite"
