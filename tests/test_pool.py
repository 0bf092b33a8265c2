"""The thread pool and the context: every index once, no race, no leak, no thread left behind."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_c, core, run_driver

from ane_train import _native
from ane_train.errors import EngineError
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import ffi, lib

SANITIZERS = ["-fsanitize=address,undefined", "-fsanitize=thread"]


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_every_index_runs_once_and_no_worker_outlives_its_pool(
    tmp_path: Path, sanitizer: str
) -> None:
    flags = [sanitizer, "-fno-sanitize-recover=all", "-O1"]
    program = compile_c(tmp_path / "pool", "pool_driver.c", core("base"), flags)
    assert run_driver(program) == "ok\n"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_arithmetic_stays_inside_its_arrays_and_has_no_races(
    tmp_path: Path, sanitizer: str
) -> None:
    flags = [sanitizer, "-fno-sanitize-recover=all", "-O1"]
    sources = core("base", "cpu", "engine", "train")
    program = compile_c(tmp_path / "arithmetic", "arithmetic_driver.c", sources, flags)
    assert run_driver(program) == "ok\n"


def open_raw(**fields: object) -> tuple[int, str]:
    """Status and text of opening a context with options that Python would refuse."""
    options = ffi.new("ane_options *", fields)
    context, error = ffi.new("ane_context **"), ffi.new("ane_error_info *")
    status = lib.ane_context_open(options, context, error)
    assert (status == lib.ANE_OK) == (context[0] != ffi.NULL)
    lib.ane_context_free(context[0])
    return status, ffi.string(error.text).decode()


def test_options_that_make_no_sense_are_refused_with_a_text() -> None:
    assert open_raw(threads=1) == (lib.ANE_OK, "")
    for options, word in (
        ({"hazards": 8}, "hazard"),
        ({"threads": 1 << 40}, "threads"),
    ):
        status, text = open_raw(**options)
        assert status == lib.ANE_ERROR_ARGUMENT
        assert word in text


def test_unknown_numerics_are_refused() -> None:
    numerics = ffi.cast("ane_numerics", 4)
    assert open_raw(numerics=numerics)[0] == lib.ANE_ERROR_ARGUMENT


def test_opening_without_options_or_place_is_an_error_and_frees_take_null() -> None:
    error = ffi.new("ane_error_info *")
    context = ffi.new("ane_context **")
    options = ffi.new("ane_options *")
    assert lib.ane_context_open(ffi.NULL, context, error) == lib.ANE_ERROR_ARGUMENT
    assert lib.ane_context_open(options, ffi.NULL, error) == lib.ANE_ERROR_ARGUMENT
    assert lib.ane_context_open(ffi.NULL, context, ffi.NULL) == lib.ANE_ERROR_ARGUMENT
    lib.ane_context_free(ffi.NULL)
    lib.ane_context_error(ffi.NULL, error)
    lib.ane_context_counts(ffi.NULL, ffi.NULL)
    assert lib.ane_context_threads(ffi.NULL) == 0
    assert lib.ane_context_blas(ffi.NULL) == ffi.NULL


def test_a_context_has_the_threads_asked_for_or_one_per_core() -> None:
    with Context(threads=3) as context:
        assert context.threads == 3
    available = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    with Context(threads=0) as context:
        assert context.threads == len(available)


def test_a_library_that_cannot_be_opened_or_lacks_the_product_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="absent"):
        Context(blas=str(tmp_path / "absent.so"))
    with pytest.raises(EngineError, match="cblas_sgemm"):
        Context(blas=_native.__file__)


def test_matrix_kernels_are_named() -> None:
    with Context(blas="auto") as context:
        assert context.blas_name.split()[0] in ("OpenBLAS", "Accelerate")
    with Context(blas=None) as context:
        assert context.blas_name == "reference"


def test_several_python_threads_share_a_context() -> None:
    rng = np.random.default_rng(5)
    a = rng.standard_normal((8, 150, 70)).astype(np.float32)
    b = rng.standard_normal((70, 300)).astype(np.float32)
    with Context(threads=2) as context, ThreadPoolExecutor(4) as callers:

        def product(left: np.ndarray) -> np.ndarray:
            out = np.empty((150, 300), np.float32)
            for _ in range(20):
                arithmetic.gemm(context, left, b, out)
            return out

        for left, out in zip(a, callers.map(product, a), strict=True):
            np.testing.assert_allclose(out, left @ b, rtol=1e-4, atol=1e-4)
