"""The driver under test in this process: opens engines on it and says what they leave behind."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ane_train.native.engine import Context, Program
from ane_train.native.library import NativeError, find_blas

CHANNELS, WIDTH = 4, 8
SHAPE = f"[1, {CHANNELS}, 1, {WIDTH}]"
PATH = "@model_path/weights/w.bin"
# Ports in an order that is not alphabetical, rows narrower than 64 bytes, weights in a file.
TEXT = f"""program(1.3)
[buildInfo = dict<string, string>({{{{"coremlc-component-MIL", "3510.2.1"}}}})]
{{
    func main<ios18>(tensor<fp16, {SHAPE}> b, tensor<fp16, {SHAPE}> a) {{
        tensor<fp16, [1, {CHANNELS}, 1, 1]> w = const()[name = string("w"),
            val = tensor<fp16, [1, {CHANNELS}, 1, 1]>(BLOBFILE(path = string("{PATH}"),
                                                              offset = uint64(64)))];
        tensor<fp16, {SHAPE}> d = sub(x = b, y = a)[name = string("d")];
        tensor<fp16, {SHAPE}> z = mul(x = d, y = w)[name = string("z")];
        tensor<fp16, {SHAPE}> y = add(x = d, y = w)[name = string("y")];
    }} -> (z, y);
}}
"""


def weight_file(*values: float) -> dict[str, bytes]:
    """A weight file with one fp16 record, under the path that TEXT names."""
    data = np.array(values, np.float16).tobytes()
    header = struct.pack("<II56x", 1, 2)
    record = struct.pack("<IIQQQ32x", 0xDEADBEEF, 1, len(data), 128, 0)
    return {PATH: header + record + data}


WEIGHTS = weight_file(1, 2, 0.5, -3)


class StandIn:
    """The stand-in framework that the driver opens in this process."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.standin_report.restype = ctypes.c_void_p

    def report(self) -> dict[str, Any]:
        """What happened so far: see standin/counts.m."""
        text = self._library.standin_report()
        report: dict[str, Any] = json.loads(ctypes.string_at(text))
        ctypes.CDLL(None).free(ctypes.c_void_p(text))
        return report

    def reset(self) -> None:
        """Counts calls, compiles and evaluations from zero."""
        self._library.standin_reset()

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """AssertionError if the block leaves objects, programs, locks or files."""
        before = self._state()
        yield
        after = self._state()
        left = [f"{name} {before[name]}, {after[name]}" for name in after
                if before[name] != after[name]]  # fmt: skip
        assert not left, f"before and after: {left}"

    def _state(self) -> dict[str, Any]:
        report = self.report()
        names = ("live", "loaded", "unpooled", "surface_violations")
        state = {name: report[name] for name in names}
        return state | {"files": sorted(str(path) for path in temporary_folder().rglob("*"))}


def temporary_folder() -> Path:
    return Path(os.environ["TMPDIR"])


def open_driver(driver: Path, **options: Any) -> Context:
    """An engine on the driver. Threads and matrix kernels as the stand-in's own."""
    return Context(engine="hardware", driver=str(driver), threads=1, blas=find_blas(), **options)


def error_of(call: Callable[[], object]) -> NativeError:
    """The error that the call ends with, without the objects that its traceback keeps alive."""
    try:
        call()
    except NativeError as error:
        traceback.clear_frames(error.__traceback__)
        return error.with_traceback(None)
    raise AssertionError("no error")


def inputs() -> list[np.ndarray]:
    """Values for b and a."""
    rng = np.random.default_rng(5)
    return [rng.standard_normal((CHANNELS, WIDTH)).astype(np.float16) for _ in range(2)]


def evaluate(context: Context, program: Program) -> list[np.ndarray]:
    """Writes the inputs, evaluates, and reads z and y; closes surfaces and request."""
    with ExitStack() as stack:
        surfaces = []
        for _ in range(4):
            surfaces.append(stack.enter_context(closing(context.surface(CHANNELS, WIDTH, 2))))
        for surface, values in zip(surfaces, inputs(), strict=False):
            surface.write(values)
        request = stack.enter_context(closing(program.request(surfaces[:2], surfaces[2:])))
        request.evaluate()
        return [surface.array for surface in surfaces[2:]]


def round_trip(
    driver: Path, weights: Mapping[str, bytes] = WEIGHTS, **options: Any
) -> list[np.ndarray]:
    """Opens an engine, compiles TEXT, evaluates it once, closes everything."""
    with (
        open_driver(driver, **options) as context,
        closing(context.compile(TEXT, weights)) as program,
    ):
        return evaluate(context, program)


def survive(driver: Path, standin: Path, failures: Sequence[tuple[str, str]]) -> None:
    """One round trip per failure and dispatch path; AssertionError if one ends without an error."""
    for failure, dispatch in failures:
        os.environ["ANE_STANDIN_FAIL"] = failure
        StandIn(standin).reset()
        error_of(lambda way=dispatch: round_trip(driver, dispatch=way))


def expected(weights: Mapping[str, bytes] = WEIGHTS) -> list[np.ndarray]:
    """What the software engine makes of the same program and inputs."""
    with Context(threads=1) as context, closing(context.compile(TEXT, weights)) as program:
        return evaluate(context, program)
