"""Work arrays that are made once: fresh ones would cost a page fault for every 4 KiB."""

from __future__ import annotations

import numpy as np

from ane_train.model.arena import Array


class Workspace:
    """Arrays by role and shape, for one thread; what an array held before does not count."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, tuple[int, ...]], Array] = {}

    def array(self, role: str, *shape: int) -> Array:
        """The fp32 array of that role and shape, the same one each time."""
        key = (role, shape)
        if key not in self._arrays:
            self._arrays[key] = np.empty(shape, np.float32)
        return self._arrays[key]
