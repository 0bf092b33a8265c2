"""The names of a program: deterministic, and each given out once."""

from __future__ import annotations

from .types import is_valid_name


class Names:
    """Those that are taken."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def claim(self, name: str) -> str:
        """The name itself, or with the first free number behind it. ValueError if it is none."""
        if not is_valid_name(name):
            raise ValueError(f"{name!r} is no MIL name: letters, digits and _ only, no keyword")
        if name in self._taken:
            return self.number(name, first=1)
        self._taken.add(name)
        return name

    def number(self, hint: str, first: int = 0) -> str:
        """The hint with the first free number from `first` on behind it."""
        index = first
        while f"{hint}_{index}" in self._taken:
            index += 1
        return self.claim(f"{hint}_{index}")
