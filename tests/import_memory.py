"""Loads weights; prints the bytes of memory that it took at its peak, and those of the weights."""

from __future__ import annotations

import sys
from pathlib import Path

from ane_train.interop.source import load_weights, open_source
from ane_train.model.arena import Arena
from ane_train.model.parameters import count, parameters


def field(name: str) -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows[name].split()[0]) * 1024


def main() -> None:
    source = open_source(sys.argv[1])
    load_weights(source, (), Arena(()))
    before = field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    table = parameters(source.spec)
    weights = Arena(table)
    load_weights(source, table, weights)
    print(field("VmHWM") - before, 4 * count(source.spec))


if __name__ == "__main__":
    main()
