"""What tests of arithmetic share: arrays, options, and how close is close."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ane_train.native import arithmetic
from ane_train.native.engine import Context
from ane_train.native.library import NativeError

OPTIONS = arithmetic.AdamWOptions(
    learning_rate=3e-3,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    gradient_scale=1.0,
    step=1,
)


def normal(rng: Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def tensor(array: np.ndarray) -> torch.Tensor:
    """A float64 leaf for autograd."""
    return torch.from_numpy(array.astype(np.float64)).requires_grad_()


def assert_close(actual: np.ndarray, expected: np.ndarray | torch.Tensor, relative: float) -> None:
    """Within `relative` of the largest expected magnitude."""
    wanted = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    scale = float(np.abs(wanted).max()) if wanted.size else 0.0
    np.testing.assert_allclose(actual, wanted, rtol=relative, atol=relative * scale)


def has_bf16() -> bool:
    """Whether this processor has the instructions of numerics bf16."""
    try:
        Context("bf16").close()
    except NativeError as error:
        if "need AVX512-BF16" not in str(error):
            raise
        return False
    return True


needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no AVX512-BF16")
