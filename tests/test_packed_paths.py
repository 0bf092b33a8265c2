"""Stored rows times a vector: every path of this processor and of a 64-bit Arm, to the bit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from compiled import ROOT
from processors import EmulatedArm, Native, Processor

HALF, INT8 = 1, 2  # ane_packing
LANES = 32
FP16 = ROOT / "csrc" / "base" / "fp16.c"
COLUMNS = [1, 31, 32, 257, 768, 2049]


class Packed(ctypes.Structure):
    _fields_ = (
        ("packing", ctypes.c_int),
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("rows", "columns", "stride")),
        ("scales", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    sources = [FP16, *(ROOT / "csrc" / "base" / f"{name}.c" for name in ("error", "pool"))]
    folder = tmp_path_factory.mktemp("packed")
    return Native(folder, "packed_probe", sources, ["-O3", "-ffp-contract=off"])


@pytest.fixture(scope="module")
def arm() -> EmulatedArm:
    return EmulatedArm("packed_probe", [FP16])


def product(
    processor: Processor, matrix: np.ndarray, x: np.ndarray, path: int | None = None
) -> np.ndarray:
    """The bits of matrix [rows, columns] times x, whole or by one path of four rows."""
    rows, columns = matrix.shape
    scales = np.linspace(0.01, 0.3, rows, dtype=np.float32)
    packing = HALF if matrix.dtype == np.float16 else INT8
    y = np.empty(rows, np.float32)
    place = processor.place
    packed = Packed(packing, place(matrix), rows, columns, columns, place(scales))
    name, *options = ("probe_rows",) if path is None else ("probe_halves", path)
    address = place(y)
    processor.call(name, *options, place(np.frombuffer(packed, np.uint8)), place(x), address)
    processor.fetch(address, y)
    processor.clear()
    return y.view(np.uint32)


def sums_in_lanes(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """32 partial sums of each row, and their sum by halves."""
    rows, columns = matrix.shape
    products = np.zeros((rows, -(-columns // LANES) * LANES), np.float32)
    products[:, :columns] = matrix.astype(np.float32) * x
    lanes = np.zeros((rows, LANES), np.float32)
    for start in range(0, products.shape[1], LANES):
        lanes += products[:, start : start + LANES]
    while lanes.shape[1] > 1:
        width = lanes.shape[1] // 2
        lanes = lanes[:, :width] + lanes[:, width:]
    return lanes[:, 0].view(np.uint32)


@pytest.mark.parametrize("columns", COLUMNS)
def test_every_path_by_fp16_adds_in_the_same_order(
    native: Native, arm: EmulatedArm, columns: int
) -> None:
    draw = np.random.default_rng(columns)
    matrix = draw.standard_normal((4, columns)).astype(np.float16)
    x = draw.standard_normal(columns).astype(np.float32)
    expected = sums_in_lanes(matrix, x)
    for processor in (native, arm):
        for path in range(processor.call("probe_paths")):
            np.testing.assert_array_equal(product(processor, matrix, x, path), expected)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_an_arm_gives_the_bits_of_this_processor(
    native: Native, arm: EmulatedArm, dtype: type, columns: int
) -> None:
    draw = np.random.default_rng(columns)
    matrix = (40 * draw.standard_normal((7, columns))).clip(-127, 127).astype(dtype)
    x = draw.standard_normal(columns).astype(np.float32)
    np.testing.assert_array_equal(product(arm, matrix, x), product(native, matrix, x))
