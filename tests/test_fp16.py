"""fp16 conversions equal NumPy's, bit for bit, on every path that this processor has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_c

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


class Probe:
    """The conversions of csrc/base/fp16.c, by path: dispatched, portable, each instruction set."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.paths = range(self.library.probe_paths())

    def scalar_narrow(self, floats: np.ndarray) -> np.ndarray:
        halves = np.empty(floats.shape, np.uint16)
        self._call("probe_scalar_narrow", floats, halves)
        return halves

    def scalar_widen(self, halves: np.ndarray) -> np.ndarray:
        floats = np.empty(halves.shape, np.float32)
        self._call("probe_scalar_widen", halves, floats)
        return floats

    def narrow(self, path: int, floats: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        halves = np.empty(floats.shape, np.uint16) if out is None else out
        self._call("probe_narrow", floats, halves, path)
        return halves

    def widen(self, path: int, halves: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        floats = np.empty(halves.shape, np.float32) if out is None else out
        self._call("probe_widen", halves, floats, path)
        return floats

    def round(self, path: int, floats: np.ndarray) -> None:
        size, address = ctypes.c_size_t(floats.size), ctypes.c_void_p(floats.ctypes.data)
        self.library.probe_round(path, size, address)

    def _call(self, name: str, source: np.ndarray, target: np.ndarray, *path: int) -> None:
        arrays = (ctypes.c_void_p(array.ctypes.data) for array in (source, target))
        getattr(self.library, name)(*path, ctypes.c_size_t(source.size), *arrays)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    library = tmp_path_factory.mktemp("fp16") / "fp16_probe.so"
    return Probe(compile_c(library, "fp16_probe.c", [], ["-O3", "-shared", "-fPIC"]))


def bits_as_floats(bits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(bits.astype(np.uint32)).view(np.float32)


def boundary_floats() -> np.ndarray:
    """Floats within 3 steps of every half and of every midpoint of two halves, of both signs."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves[-1] = 65536.0
    midpoints = (halves[1:] + halves[:-1]) / 2
    centres = np.concatenate([halves, midpoints]).astype(np.float32).view(np.uint32)
    near = (centres[:, None].astype(np.int64) + np.arange(-3, 4)).clip(0).ravel()
    return bits_as_floats(np.concatenate([near, near | 0x80000000]))


def special_floats() -> np.ndarray:
    """Infinities, NaNs of many payloads, subnormals, the largest numbers."""
    edges = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF])
    payloads = 0x7F800000 + (1 << np.arange(23))
    bits = np.concatenate([edges, payloads, payloads | 0x400000])
    return bits_as_floats(np.concatenate([bits, bits | 0x80000000]))


def random_floats() -> np.ndarray:
    bits = np.random.default_rng(16).integers(0, 1 << 32, 4_000_000, dtype=np.uint32)
    scaled = (bits & 0x8FFFFFFF) | 0x30000000  # exponents around those of fp16
    return bits_as_floats(np.concatenate([bits, scaled]))


FLOATS: dict[str, Callable[[], np.ndarray]] = {
    "boundaries": boundary_floats,
    "specials": special_floats,
    "random": random_floats,
}


def assert_same_halves(halves: np.ndarray, floats: np.ndarray) -> None:
    """NumPy's bits; for a NaN its sign and upper payload, quiet."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = floats.astype(np.float16).view(np.uint16)
    bits = floats.view(np.uint32)
    quiet = (bits >> 16 & 0x8000) | 0x7E00 | (bits >> 13 & 0x3FF)
    expected = np.where(np.isnan(floats), quiet.astype(np.uint16), expected)
    np.testing.assert_array_equal(halves, expected)


def assert_same_floats(floats: np.ndarray, halves: np.ndarray) -> None:
    """NumPy's bits; for a NaN its sign and payload, quiet."""
    expected = halves.view(np.float16).astype(np.float32).view(np.uint32)
    wide = halves.astype(np.uint32)
    quiet = (wide & 0x8000) << 16 | 0x7FC00000 | (wide & 0x3FF) << 13
    expected = np.where(np.isnan(halves.view(np.float16)), quiet, expected)
    np.testing.assert_array_equal(floats.view(np.uint32), expected)


@pytest.mark.parametrize("kind", FLOATS)
def test_every_path_narrows_to_numpy_s_bits(probe: Probe, kind: str) -> None:
    floats = FLOATS[kind]()
    assert_same_halves(probe.scalar_narrow(floats), floats)
    for path in probe.paths:
        assert_same_halves(probe.narrow(path, floats), floats)


def test_every_path_widens_all_halves_to_numpy_s_bits(probe: Probe) -> None:
    assert_same_floats(probe.scalar_widen(ALL_HALVES), ALL_HALVES)
    for path in probe.paths:
        assert_same_floats(probe.widen(path, ALL_HALVES), ALL_HALVES)


@pytest.mark.parametrize("kind", FLOATS)
def test_rounding_is_narrowing_then_widening(probe: Probe, kind: str) -> None:
    floats = FLOATS[kind]()
    expected = probe.scalar_widen(probe.scalar_narrow(floats)).view(np.uint32)
    for path in probe.paths:
        rounded = floats.copy()
        probe.round(path, rounded)
        np.testing.assert_array_equal(rounded.view(np.uint32), expected)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 17, 31, 33])
def test_tails_of_any_length_are_converted_and_nothing_beyond(probe: Probe, size: int) -> None:
    floats = np.append(boundary_floats()[1000 : 1000 + size], np.float32(1.1))
    for path in probe.paths:
        halves = np.full(size + 1, 0xBEEF, np.uint16)
        probe.narrow(path, floats[:size], out=halves)
        assert_same_halves(halves[:size], floats[:size])
        widened = np.full(size + 1, 1.1, np.float32)
        probe.widen(path, halves[:size], out=widened)
        assert_same_floats(widened[:size], halves[:size])
        rounded = floats.copy()
        probe.round(path, rounded[:size])
        np.testing.assert_array_equal(rounded[:size], widened[:size])
        assert halves[size] == 0xBEEF
        assert widened[size] == rounded[size] == np.float32(1.1)
