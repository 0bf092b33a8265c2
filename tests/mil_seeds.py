"""The programs of tests/mil and their weight file: both dialects, every op, canonical layout."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WEIGHTS = "@model_path/weights/w.bin"
CODES = {"float16": 1, "float32": 2, "uint8": 3, "int8": 4, "int16": 6, "uint16": 7, "int32": 14}
SEEDS = {path.stem: path.read_text() for path in sorted(Path(__file__).with_name("mil").glob("*"))}
ACCEPTED = {name: text for name, text in SEEDS.items() if name != "flexible"}


def storage(*arrays: np.ndarray) -> bytes:
    """A weight file by the table of the format."""
    parts = [struct.pack("<II", len(arrays), 2).ljust(64, b"\0")]
    place = 64
    for array in arrays:
        data = array.tobytes()
        code = CODES[array.dtype.name]
        record = struct.pack("<IIQQ", 0xDEADBEEF, code, len(data), place + 64)
        padded = len(data) + -len(data) % 64
        parts += [record.ljust(64, b"\0"), data.ljust(padded, b"\0")]
        place += 64 + padded
    return b"".join(parts)


def seed_files() -> dict[str, bytes]:
    """The weight file that the seeds refer to: records at 64, 192 and 320."""
    rng = np.random.default_rng(0)
    return {
        WEIGHTS: storage(
            rng.standard_normal((8, 4, 1, 1)).astype(np.float16),
            rng.integers(-128, 128, (8, 4, 1, 1)).astype(np.int8),
            rng.standard_normal(8).astype(np.float32),
        )
    }
