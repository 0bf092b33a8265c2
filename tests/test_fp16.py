"""fp16 conversions give NumPy's bits, on every path of this processor and of a 64-bit Arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from processors import EmulatedArm, Native, Processor

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


class Probe:
    """The conversions of csrc/base/fp16.c, by path: dispatched, portable, each instruction set."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.paths = range(processor.call("probe_paths"))

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

    def round(self, path: int, floats: np.ndarray, size: int | None = None) -> None:
        """The first `size` of them, or all."""
        address = self.processor.place(floats)
        self.processor.call("probe_round", path, floats.size if size is None else size, address)
        self.processor.fetch(address, floats)
        self.processor.clear()

    def _call(self, name: str, source: np.ndarray, target: np.ndarray, *path: int) -> None:
        """As many elements as the source has; the target may have more."""
        addresses = [self.processor.place(array) for array in (source, target)]
        self.processor.call(name, *path, source.size, *addresses)
        self.processor.fetch(addresses[1], target)
        self.processor.clear()


@pytest.fixture(scope="module", params=["native", "arm"])
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    if request.param == "arm":
        return Probe(EmulatedArm("fp16_probe", []))
    return Probe(Native(tmp_path_factory.mktemp("fp16"), "fp16_probe", [], ["-O3"]))


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
        probe.round(path, rounded, size)
        np.testing.assert_array_equal(rounded[:size], widened[:size])
        assert halves[size] == 0xBEEF
        assert widened[size] == rounded[size] == np.float32(1.1)
