"""A benchmark times nothing that is not right: every fault makes it refuse."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from ane_train.chip import FP16, INT8
from ane_train.chip.case import Bench, Case, Measured, try_case
from ane_train.chip.peak import cases
from ane_train.chip.proof import Experiment, Trial
from ane_train.chip.results import OK, REFUSED, WRONG
from ane_train.chip.settings import Settings, Sweep
from ane_train.chip.timing import Effort, sustain, time_calls
from ane_train.engine.machine import Machine, built_in_chip
from ane_train.mil import get_chip
from ane_train.native.engine import Context

RECORD = 64
SETTINGS = Settings(quick=True, threads=2)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Context(threads=2) as context:
        yield Bench(context, None, SETTINGS)


def conv(precision: str, depth: int = 4, channels: int = 64) -> Case:
    sweep = Sweep((precision,), (depth,), (channels,), ("8x8",))
    (case,) = cases(replace(SETTINGS, sweep=sweep))
    return case


def matmul(precision: str) -> Case:
    return next(c for c in cases(SETTINGS) if c.name == "matmul 256" and c.variant == precision)


class NeverError(Exception):
    """Something was timed."""


def never(bench: Bench, trial: Trial) -> Measured:
    raise NeverError


def altered(case: Case, change: Callable[[Experiment], Experiment]) -> Case:
    return replace(case, build=lambda bench: change(case.build(bench)), measure=never)


def in_file(change: Callable[[bytearray], object]) -> Callable[[Experiment], Experiment]:
    """The same change in each weight file."""

    def apply(made: Experiment) -> Experiment:
        files = {path: bytearray(data) for path, data in made.files.items()}
        for data in files.values():
            change(data)
        return replace(made, files={path: bytes(data) for path, data in files.items()})

    return apply


def in_text(pattern: str, by: str) -> Callable[[Experiment], Experiment]:
    """The first place that the pattern fits."""

    def apply(made: Experiment) -> Experiment:
        text, count = re.subn(pattern, by, made.text, count=1)
        assert count == 1, made.text[:2000]
        return replace(made, text=text)

    return apply


def put(offset: int, form: str, value: int) -> Callable[[Experiment], Experiment]:
    return in_file(lambda data: struct.pack_into(form, data, offset, value))


def records(data: bytes | bytearray, code: int) -> list[int]:
    """Places of the records of this dtype."""
    starts = range(64, len(data), 64)
    return [at for at in starts if data[at : at + 8] == struct.pack("<II", 0xDEADBEEF, code)]


def double_scales(data: bytearray) -> None:
    """The scales of the first matrix: the first fp16 record of a file that also holds int8."""
    record = records(data, 1)[0]
    size, start = struct.unpack_from("<QQ", data, record + 8)
    scales = np.frombuffer(data, np.float16, size // 2, start)
    data[start : start + size] = (2 * scales).tobytes()


def swap_offsets(made: Experiment) -> Experiment:
    """The first two weights change places: each record is sound, and the wrong one."""
    first, second = re.findall(r"offset = uint64\((\d+)\)", made.text)[:2]
    places = {f"uint64({first})": f"uint64({second})", f"uint64({second})": f"uint64({first})"}
    swapped = re.sub(r"uint64\(\d+\)", lambda m: places.get(m[0], m[0]), made.text)
    return replace(made, text=swapped)


FAULTS: Mapping[str, tuple[str, Callable[[Experiment], Experiment], str]] = {
    "no sentinel": (FP16, put(RECORD, "<I", 0), REFUSED),
    "size of another matrix": (FP16, put(RECORD + 8, "<Q", 0x80000), REFUSED),
    "data offset 0, as in the seed's benchmarks": (FP16, put(RECORD + 16, "<Q", 0), REFUSED),
    "int8 called fp16, as in the seed's benchmarks": (INT8, put(RECORD + 4, "<I", 1), REFUSED),
    "sentinel at byte 0, as in others' int8 benchmarks": (
        INT8,
        in_file(lambda data: data.__delitem__(slice(RECORD))),
        REFUSED,
    ),
    "a record without size and offset, as in others' int8 benchmarks": (
        INT8,
        in_file(lambda data: struct.pack_into("<QQ", data, RECORD + 8, 0, 0)),
        REFUSED,
    ),
    "truncated": (FP16, in_file(lambda data: data.__delitem__(slice(-64, None))), REFUSED),
    "another version": (FP16, put(4, "<I", 1), REFUSED),
    "offset of the data": (FP16, in_text(r"uint64\(64\)", "uint64(128)"), REFUSED),
    "offset 0": (FP16, in_text(r"uint64\(64\)", "uint64(0)"), REFUSED),
    "offset of another matrix": (FP16, swap_offsets, WRONG),
    "scales of weights doubled": (INT8, in_file(double_scales), WRONG),
    "scale of activations": (
        INT8,
        in_text(r"(scale\w*\s*=\s*const\(\)[^;]*fp16\()0x1\.[^)]*", r"\g<1>0x1p-3"),
        WRONG,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_makes_the_benchmark_refuse_to_time(name: str, bench: Bench) -> None:
    precision, change, status = FAULTS[name]
    result = try_case("peak", altered(conv(precision), change), bench)
    assert (result.status, result.series, result.values) == (status, (), {})
    assert result.text


@pytest.mark.parametrize("precision", [FP16, INT8])
@pytest.mark.parametrize("make", [conv, matmul])
def test_what_was_not_altered_is_proved_and_timed(
    make: Callable[[str], Case], precision: str, bench: Bench
) -> None:
    result = try_case("peak", make(precision), bench)
    assert result.status == OK, result.text
    assert result.proof is not None
    assert result.proof.error <= result.proof.tolerance
    assert result.timing("evaluate") is not None
    with pytest.raises(NeverError):
        try_case("peak", altered(make(precision), lambda made: made), bench)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("Apple M2 Ultra", FP16, get_chip("m2").peak_tflops),
        ("Apple M2 Ultra", INT8, get_chip("m2").peak_tflops),
        ("Apple M4 Max", FP16, get_chip("m4").peak_tflops),
        ("Apple M4 Max", INT8, 2 * get_chip("m4").peak_tflops),
        ("Apple M99", FP16, None),
        ("AMD EPYC", INT8, None),
    ],
)
def test_a_rate_is_a_share_of_the_peak_of_a_chip_that_is_known(
    name: str, precision: str, peak: float | None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ane_train.chip.peak.this_machine", lambda: Machine(name, "", ""))
    hardware = replace(bench, chip=built_in_chip(name))
    values = try_case("peak", conv(precision), hardware).values
    assert values.get("peak_tflops") == peak
    if peak is not None:
        assert values["share_of_peak"] == pytest.approx(values["tflops"] / peak)
    assert "share_of_peak" not in try_case("peak", conv(precision), bench).values


def test_an_input_that_is_off_is_seen_in_any_column(bench: Bench) -> None:
    def change(made: Experiment) -> Experiment:
        shifted = [np.roll(values, 1, axis=1) for values in made.inputs]
        return replace(made, inputs=shifted)

    result = try_case("peak", altered(conv(FP16), change), bench)
    assert result.status == WRONG


def test_precision_that_costs_more_than_its_bound_is_not_timed(bench: Bench) -> None:
    def change(made: Experiment) -> Experiment:
        assert made.accuracy is not None
        return replace(made, accuracy=replace(made.accuracy, bound=made.accuracy.bound / 100))

    result = try_case("peak", altered(conv(INT8), change), bench)
    assert (result.status, result.series) == (WRONG, ())
    assert "off fp16" in result.text


def test_calls_are_timed_until_there_are_enough_and_time_is_over() -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.25

    def clock() -> float:
        return now[0]

    assert time_calls(call, Effort(5, 0.0, 9, 0.0), clock) == [250.0] * 5
    assert len(time_calls(call, Effort(2, 2.0, 99, 0.0), clock)) == 8
    assert len(time_calls(call, Effort(2, 100.0, 9, 0.0), clock)) == 9
    start, ends = sustain(call, 2.0, clock)
    assert (ends[-1] - start, len(ends)) == (2.0, 8)
