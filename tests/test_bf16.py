"""Numerics bf16: factors of products are rounded as PyTorch rounds, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from engine_cases import Op, literal, program_text, run
from native_arrays import needs_bf16, normal
from numpy.random import Generator, default_rng
from peers import peer_of, reference_of, relative_error
from test_gradients import spec_of

from ane_train.engine import Budget, Engine
from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.train.step import TrainingStep

LARGEST = np.finfo(np.float32).max
SPEC, _ = spec_of("qk-norm groups of 3 untied batch 3")


@pytest.fixture
def rng() -> Generator:
    return default_rng(5)


def rounded(x: np.ndarray) -> np.ndarray:
    """To bf16 and back; what is subnormal in fp32 counts as zero."""
    x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)
    return torch.from_numpy(x).bfloat16().float().numpy()


@pytest.fixture(params=[pytest.param("auto", marks=needs_bf16), None])
def context(request: pytest.FixtureRequest) -> Iterator[Context]:
    """With the kernels of this processor, if it has such; and the definition."""
    with Context("bf16", threads=2, blas=request.param) as opened:
        yield opened


def test_every_number_is_rounded_as_torch_rounds_it(context: Context, rng: Generator) -> None:
    bits = rng.integers(0, 1 << 32, 40_000, dtype=np.uint32)
    edges = np.array([0, -0.0, 1e-45, -1e-39, LARGEST, np.inf, -np.inf, np.nan], np.float32)
    halves = np.array([1, -1], np.float32) * np.float32(1 + 2.0**-8)  # ties, to even
    x = np.concatenate([bits.view(np.float32), edges, halves, halves * (1 + np.float32(2.0**-7))])
    out = np.empty((x.size, 1), np.float32)
    arithmetic.gemm(context, x[:, None], np.ones((1, 1), np.float32), out)
    np.testing.assert_array_equal(out[:, 0], rounded(x))
    arithmetic.gemm(context, np.ones((1, 1), np.float32), x[None], out := np.empty_like(out.T))
    np.testing.assert_array_equal(out[0], rounded(x))


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (40, 33, 513), (300, 200, 1030)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_that_of_rounded_factors(
    context: Context, rng: Generator, size: tuple[int, int, int], transposed: bool
) -> None:
    m, n, k = size
    a, b = normal(rng, m, k), normal(rng, n, k) if transposed else normal(rng, k, n)
    out = np.empty((m, n), np.float32)
    arithmetic.gemm(context, a, b, out, transpose_b=transposed)
    left, right = rounded(a).astype(np.float64), rounded(b.T if transposed else b)
    bound = k * 2.0**-23 * (np.abs(left) @ np.abs(right)) + 1e-37
    assert np.all(np.abs(out - left @ right) <= bound)
    unrounded = a.astype(np.float64) @ (b.T if transposed else b)
    assert np.linalg.norm(out - unrounded) > 50 * np.linalg.norm(out - left @ right)


@pytest.mark.parametrize("columns", [1, 20, 256])
def test_programs_round_factors_and_results(context: Context, rng: Generator, columns: int) -> None:
    inputs = {
        "w": normal(rng, 1, 1, 40, 300).astype(np.float16),
        "x": normal(rng, 1, 1, 300, columns).astype(np.float16),
    }
    product = Op("matmul", {"x": "w", "y": "x"}, [("y", "fp16", (1, 1, 40, columns))])
    sum_ = Op("add", {"x": "y", "y": "y"}, [("out", "fp16", (1, 1, 40, columns))])
    made = run(context, program_text(inputs, [product, sum_], ["y", "out"]), inputs)
    factors = [rounded(inputs[name].astype(np.float32)).astype(np.float64) for name in "wx"]
    exact = factors[0] @ factors[1]
    np.testing.assert_allclose(made[0], exact.astype(np.float16), rtol=2.0**-10, atol=1e-4)
    np.testing.assert_array_equal(made[1], made[0] + made[0])


def test_convolutions_round_factors(context: Context, rng: Generator) -> None:
    weight, x = normal(rng, 24, 70, 1, 1).astype(np.float16), normal(rng, 1, 70, 1, 33)
    inputs = {"x": x.astype(np.float16)}
    arguments = {
        "x": "x", "weight": literal(weight), "strides": literal([1, 1]),
        "pad_type": literal("valid"), "pad": literal([0, 0, 0, 0]),
        "dilations": literal([1, 1]), "groups": literal(1),
    }  # fmt: skip
    op = Op("conv", arguments, [("out", "fp16", (1, 24, 1, 33))])
    made = run(context, program_text(inputs, [op], ["out"]), inputs)[0]
    left = rounded(weight[:, :, 0, 0].astype(np.float32)).astype(np.float64)
    exact = left @ rounded(inputs["x"][0, :, 0].astype(np.float32))
    np.testing.assert_allclose(made[0, :, 0], exact, rtol=2.0**-10, atol=1e-4)


def step_of(context: Context) -> TrainingStep:
    """A random model of groups of heads, with norms of queries and keys."""
    engine = Engine("cpu", "asked for", "bf16", None, context, Budget(context, None, None))
    step = TrainingStep(SPEC, engine, SPEC.sequence)
    step.initialize(seed=11)
    return step


def test_gradients_are_no_further_from_the_exact_ones_than_those_of_torch_in_bf16(
    context: Context, rng: Generator
) -> None:
    step = step_of(context)
    tokens = rng.integers(0, SPEC.vocabulary, (3, SPEC.sequence + 1), dtype=np.int32)
    inputs, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    exact = reference_of(peer_of(SPEC, step.table, step.weights), step.table, inputs, targets)
    peer = peer_of(SPEC, step.table, step.weights, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = reference_of(peer, step.table, inputs, targets)
    step.micro_batch(inputs, targets, loss_scale=64.0)
    ratios = [
        relative_error(step.gradients[name] / 64.0, exact.gradients[name])
        / relative_error(theirs.gradients[name], exact.gradients[name])
        for name in exact.gradients
    ]
    assert max(ratios) < 1.5
    assert np.median(ratios) < 1.1
    step.close()


def test_gradients_of_the_kernels_are_those_of_the_slow_twin(
    context: Context, rng: Generator
) -> None:
    tokens = rng.integers(0, SPEC.vocabulary, (3, SPEC.sequence + 1), dtype=np.int32)
    found = []
    with Context("bf16", blas=None, reference=True) as reference:
        for each in (context, reference):
            step = step_of(each)
            step.micro_batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), loss_scale=64.0)
            found.append(step.gradients)
            step.close()
    errors = {p: relative_error(found[0][p], found[1][p]) for p in found[0].views}
    assert max(errors.values()) < 1e-4
