"""Training arithmetic against torch and NumPy in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled import compile_c
from native_arrays import OPTIONS, assert_close, normal, tensor
from numpy.random import Generator, default_rng
from torch.nn import functional

from ane_train.errors import EngineError
from ane_train.native import arithmetic
from ane_train.native.arithmetic import Stretch
from ane_train.native.engine import Context

SHAPES = [(1, 1), (1, 7), (5, 1), (16, 32), (64, 33), (257, 131)]


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with Context(threads=2) as opened:
        yield opened


@pytest.fixture
def rng() -> Generator:
    return default_rng(7)


@pytest.mark.parametrize(("dim", "sequence"), SHAPES)
def test_embedding_forward_is_rows_as_columns(
    context: Context, rng: Generator, dim: int, sequence: int
) -> None:
    table, x = normal(rng, 11, dim), np.empty((dim, sequence), np.float32)
    tokens = rng.integers(0, 11, sequence, dtype=np.int32)
    arithmetic.embedding_forward(context, table, tokens, x)
    np.testing.assert_array_equal(x, table[tokens].T)


@pytest.mark.parametrize(("dim", "sequence"), SHAPES)
def test_embedding_backward_adds_in_the_order_of_positions(
    context: Context, rng: Generator, dim: int, sequence: int
) -> None:
    dx, gradient = normal(rng, dim, sequence), normal(rng, 11, dim)
    tokens = rng.integers(0, 11, sequence, dtype=np.int32)
    expected = gradient.copy()
    np.add.at(expected, tokens, dx.T)
    arithmetic.embedding_backward(context, dx, tokens, gradient)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("token", [-1, 11, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_named_and_nothing_is_written(
    context: Context, token: int
) -> None:
    tokens = np.array([3, token, 4], np.int32)
    table, x = np.ones((11, 5), np.float32), np.zeros((5, 3), np.float32)
    with pytest.raises(EngineError, match=f"token {token} at position 1.*vocabulary of 11"):
        arithmetic.embedding_forward(context, table, tokens, x)
    with pytest.raises(EngineError, match=f"token {token} at position 1"):
        arithmetic.embedding_backward(context, x, tokens, table)
    assert not x.any()
    assert (table == 1).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e15])
@pytest.mark.parametrize(("dim", "sequence"), [*SHAPES, (4096, 3)])
def test_rmsnorm_and_its_gradients_are_torch_s_in_float64(
    context: Context, rng: Generator, dim: int, sequence: int, scale: float
) -> None:
    epsilon = 1e-5
    x = normal(rng, dim, sequence) * np.float32(scale)
    gamma, dy = normal(rng, dim), normal(rng, dim, sequence)
    y, inverse_rms = np.empty_like(x), np.empty(sequence, np.float32)
    arithmetic.rmsnorm_forward(context, x, gamma, epsilon, y, inverse_rms)
    dx, dgamma = normal(rng, dim, sequence) * np.float32(1 / scale), normal(rng, dim)
    dx_before, dgamma_before = dx.copy(), dgamma.copy()
    arithmetic.rmsnorm_backward(context, x, gamma, inverse_rms, dy, dx, dgamma)

    torch_x, torch_gamma = tensor(x), tensor(gamma)
    torch_y = functional.rms_norm(torch_x.T, (dim,), torch_gamma, epsilon).T
    torch_y.backward(tensor(dy))
    expected_inverse = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=0) + epsilon)
    np.testing.assert_allclose(inverse_rms, expected_inverse, rtol=1e-6)
    np.testing.assert_allclose(y, torch_y.detach().numpy(), rtol=1e-6)
    expected_dx = dx_before + torch_x.grad.numpy()
    terms = np.abs(expected_inverse * gamma[:, None] * dy).max()  # they cancel where D is 1
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6, atol=1e-6 * terms)
    assert_close(dgamma, dgamma_before + torch_gamma.grad.numpy(), 1e-6)


def run_cross_entropy(
    context: Context, logits: np.ndarray, targets: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and what the logits became."""
    changed, losses = logits.copy(), np.full(len(targets), np.nan, np.float32)
    arithmetic.cross_entropy(context, changed, targets, scale, losses)
    return losses, changed


@pytest.mark.parametrize("spread", [1.0, 30.0, 1e4])
@pytest.mark.parametrize(
    ("positions", "vocabulary"), [(1, 1), (3, 2), (7, 17), (40, 1000), (2, 151936)]
)
def test_cross_entropy_and_its_gradient_are_torch_s_in_float64(
    context: Context, rng: Generator, positions: int, vocabulary: int, spread: float
) -> None:
    logits = normal(rng, positions, vocabulary) * np.float32(spread)
    targets = rng.integers(0, vocabulary, positions, dtype=np.int32)
    targets[positions // 2 :: 3] = -1
    losses, gradient = run_cross_entropy(context, logits, targets, 0.125)
    leaf = tensor(logits)
    expected = functional.cross_entropy(
        leaf, torch.from_numpy(targets).long(), ignore_index=-1, reduction="none"
    )
    (expected.sum() * 0.125).backward()
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-6, atol=1e-30)
    difference = 104 * 2.0**-24  # relative error of e^d from the rounding of d, |d| up to 104
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=difference + 1e-6, atol=1e-37)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=0, atol=0.125 * 2e-7)


def test_masked_positions_have_no_loss_and_no_gradient(context: Context, rng: Generator) -> None:
    logits = normal(rng, 4, 9)
    logits[1] = np.nan
    targets = np.array([2, -1, 8, -1], np.int32)
    losses, gradient = run_cross_entropy(context, logits, targets, 1.0)
    assert (losses[[1, 3]] == 0).all()
    assert (losses[[0, 2]] > 0).all()
    assert not gradient[[1, 3]].any()


def test_a_scale_of_0_leaves_logits_and_gives_the_same_losses(
    context: Context, rng: Generator
) -> None:
    logits = normal(rng, 6, 777)
    targets = np.array([0, 776, -1, 3, 5, -1], np.int32)
    losses, untouched = run_cross_entropy(context, logits, targets, 0.0)
    np.testing.assert_array_equal(untouched, logits)
    np.testing.assert_array_equal(losses, run_cross_entropy(context, logits, targets, 2.0)[0])


def test_confident_losses_keep_their_relative_accuracy(context: Context) -> None:
    logits = np.array([[20.0, 0.0, 1.0], [80.0, 0.0, 0.0]], np.float32)
    losses, gradient = run_cross_entropy(context, logits, np.zeros(2, np.int32), 1.0)
    others = np.exp(logits[:, 1:].astype(np.float64) - logits[:, :1]).sum(axis=1)
    np.testing.assert_allclose(losses[0], np.log1p(others[0]), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], -others[0] / (1 + others[0]), rtol=1e-6)
    assert losses[1] == 0.0  # below the unit in the last place of 1 in double


def test_minus_infinite_logits_have_no_probability(context: Context) -> None:
    logits = np.array([[0.0, -np.inf, 1.0]], np.float32)
    losses, gradient = run_cross_entropy(context, logits, np.array([2], np.int32), 1.0)
    np.testing.assert_allclose(losses, [np.log(1 + np.exp(-1))], rtol=1e-6)
    assert gradient[0, 1] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 15, 300, 516])
def test_a_logit_that_is_not_a_number_makes_the_loss_so(
    context: Context, rng: Generator, bad: float, place: int
) -> None:
    logits = normal(rng, 2, 517)
    logits[1, place] = bad
    losses, gradient = run_cross_entropy(context, logits, np.array([4, 4], np.int32), 1.0)
    assert np.isfinite(losses[0])
    assert np.isfinite(gradient[0]).all()
    assert np.isnan(losses[1])
    assert not np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("target", [-2, 9])
def test_a_target_outside_the_vocabulary_is_named(context: Context, target: int) -> None:
    logits = np.ones((2, 9), np.float32)
    with pytest.raises(EngineError, match=f"target {target} at position 1.*vocabulary of 9"):
        run_cross_entropy(context, logits, np.array([3, target], np.int32), 1.0)


@pytest.mark.parametrize("name", ["probe_exp", "probe_exp_clones"])
def test_the_exponential_is_within_2_units_in_the_last_place(tmp_path: Path, name: str) -> None:
    flags = ["-O3", "-fno-trapping-math", "-shared", "-fPIC"]
    library = ctypes.CDLL(str(compile_c(tmp_path / "exp.so", "exp_probe.c", [], flags)))
    steps = -np.arange(0, 3 << 20, dtype=np.float64) * (105 / (3 << 20))
    tiny = -(np.float64(2.0) ** np.arange(-150, 0))
    x = np.concatenate([steps, tiny, [-0.0, -103.97, -104.0, -1e30, -np.inf]]).astype(np.float32)
    y = np.empty_like(x)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
    getattr(library, name)(ctypes.c_size_t(x.size), *pointers)
    exact = np.exp(x.astype(np.float64))
    unit = np.maximum(np.exp2(np.floor(np.log2(np.maximum(exact, 1e-300))) - 23), 2.0**-149)
    assert (np.abs(y - exact) / unit).max() <= 2.0
    assert y[-1] == 0.0


@pytest.mark.parametrize("size", [0, 1, 15, 1000, 100_003])
def test_axpy_adds_a_multiple(context: Context, rng: Generator, size: int) -> None:
    x, y = normal(rng, size), normal(rng, size)
    expected = y + 0.3 * x.astype(np.float64)
    arithmetic.axpy(context, 0.3, x, y)
    assert_close(y, expected, 1e-6)


@pytest.mark.parametrize("size", [0, 1, 15, 1000, 100_003])
def test_sum_squares_is_exact_to_double(context: Context, rng: Generator, size: int) -> None:
    x = normal(rng, size) * np.float32(1e30)
    expected = float((x.astype(np.float64) ** 2).sum())
    assert arithmetic.sum_squares(context, x) == pytest.approx(expected, rel=1e-13)


def test_sum_squares_of_more_chunks_than_partial_sums(context: Context) -> None:
    x = np.full(256 * 32768 + 12345, 2.0, np.float32)
    assert arithmetic.sum_squares(context, x) == 4.0 * x.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 31, 70_000, 70_002])
def test_sum_squares_shows_any_number_that_is_not_finite(
    context: Context, bad: float, place: int
) -> None:
    x = np.zeros(70_003, np.float32)
    x[place] = bad
    assert not np.isfinite(arithmetic.sum_squares(context, x))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta2": 0.999, "weight_decay": 0.0},
        {"beta1": 0.0, "epsilon": 1e-3},
        {"beta1": 0.3, "learning_rate": 0.1},
    ],
)
def test_adamw_is_torch_s_over_several_steps(
    context: Context, rng: Generator, changes: dict[str, float]
) -> None:
    options = OPTIONS | changes
    weight, first, second = (
        normal(rng, 1003),
        np.zeros(1003, np.float32),
        np.zeros(1003, np.float32),
    )
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=options["learning_rate"],
        betas=(options["beta1"], options["beta2"]),
        eps=options["epsilon"],
        weight_decay=options["weight_decay"],
        foreach=False,
    )
    for step in range(1, 8):
        gradient = normal(rng, 1003) * np.float32(10.0 ** rng.integers(-6, 3))
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        options |= {"step": step, "gradient_scale": 0.25}
        arithmetic.adamw(context, weight, gradient * np.float32(4.0), first, second, **options)
        state = optimizer.state[parameter]
        np.testing.assert_allclose(second, state["exp_avg_sq"].numpy(), rtol=1e-6)
        assert_close(first, state["exp_avg"], 1e-6)
        np.testing.assert_allclose(
            weight, parameter.detach().numpy(), rtol=1e-6, atol=1e-6 * options["learning_rate"]
        )


@pytest.mark.parametrize(
    "changes", [{"step": 0}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": float("nan")}]
)
def test_adamw_refuses_options_that_make_no_sense(
    context: Context, changes: dict[str, float]
) -> None:
    arrays = [np.ones(3, np.float32) for _ in range(4)]
    with pytest.raises(EngineError, match="adamw"):
        arithmetic.adamw(context, *arrays, **(OPTIONS | changes))
    assert all((array == 1).all() for array in arrays)


def test_adamw_changes_the_stretches_that_are_named_each_with_or_without_decay(
    context: Context, rng: Generator
) -> None:
    """Groups of torch.optim.AdamW; one stretch is longer than a task of the pool."""
    named = [
        Stretch(3, 70_003, True),
        Stretch(70_003, 70_010, False),
        Stretch(70_020, 90_000, True),
    ]
    arrays = [normal(rng, 100_003) for _ in range(4)]
    arrays[3] **= 2
    before = [array.copy() for array in arrays]
    tensors = [[torch.from_numpy(a[s.begin : s.end].copy()) for s in named] for a in arrays]
    weights = [torch.nn.Parameter(tensor) for tensor in tensors[0]]
    decay = OPTIONS["weight_decay"]
    assert decay > 0
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight], "weight_decay": decay if stretch.decays else 0.0}
            for weight, stretch in zip(weights, named, strict=True)
        ],
        lr=OPTIONS["learning_rate"],
        betas=(OPTIONS["beta1"], OPTIONS["beta2"]),
        eps=OPTIONS["epsilon"],
        foreach=False,
    )
    for weight, gradient, first, second in zip(weights, *tensors[1:], strict=True):
        weight.grad = gradient
        optimizer.state[weight] = {
            "step": torch.tensor(4.0),
            "exp_avg": first,
            "exp_avg_sq": second,
        }
    optimizer.step()
    arithmetic.adamw(context, *arrays, stretches=named, **(OPTIONS | {"step": 5}))
    for stretch, weight in zip(named, weights, strict=True):
        ours = arrays[0][stretch.begin : stretch.end]
        rounding = 2.0**-25  # of a number below 1, to which large steps may come back
        np.testing.assert_allclose(ours, weight.detach().numpy(), rtol=1e-6, atol=rounding)
    kept = np.ones(100_003, bool)
    for stretch in named:
        kept[stretch.begin : stretch.end] = False
    for array, original in zip(arrays, before, strict=True):
        assert np.array_equal(array[kept], original[kept])


@pytest.mark.parametrize("second", [(1, 3), (3, 2), (2, 9)])
def test_adamw_refuses_stretches_that_overlap_or_leave_the_arrays(
    context: Context, second: tuple[int, int]
) -> None:
    arrays = [np.ones(8, np.float32) for _ in range(4)]
    wrong = [Stretch(0, 2, True), Stretch(*second, True)]
    with pytest.raises((EngineError, ValueError), match=r"adamw: stretch 1|8 elements"):
        arithmetic.adamw(context, *arrays, stretches=wrong, **OPTIONS)
    assert all((array == 1).all() for array in arrays)


def test_adamw_wants_every_option_and_no_other(context: Context) -> None:
    arrays = [np.ones(3, np.float32) for _ in range(4)]
    with pytest.raises(TypeError, match="beta1"):
        arithmetic.adamw(context, *arrays, learning_rate=1e-3, step=1)
    with pytest.raises(TypeError, match="momentum"):
        arithmetic.adamw(context, *arrays, **OPTIONS, momentum=0.9)
