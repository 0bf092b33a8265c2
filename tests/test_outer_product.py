"""Sums of outer products of blocks of surfaces, against reading the blocks and multiplying them."""

from __future__ import annotations

import numpy as np
import pytest
from native_arrays import assert_close
from numpy.random import default_rng

from ane_train.errors import EngineError
from ane_train.native import arithmetic
from ane_train.native.engine import Context, Surface
from ane_train.programs import Block

SIZES = [(1, 1, 1), (70, 33, 40), (300, 130, 256)]


def filled(context: Context, block: Block, element_size: int, seed: int) -> Surface:
    """A surface with random numbers in the block, and some beside it."""
    surface = context.surface(block.row + block.rows + 2, block.column + block.columns + 9, 2)
    if element_size == 4:
        surface = context.surface(surface.channels, surface.width, 4)
    surface.write(default_rng(seed).standard_normal((surface.channels, surface.width), np.float32))
    return surface


@pytest.mark.parametrize("blas", ["auto", None])
@pytest.mark.parametrize("sizes", [(2, 2), (4, 4), (2, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_an_outer_product_is_that_of_the_blocks_as_they_are_read(
    size: tuple[int, int, int], sizes: tuple[int, int], blas: str | None
) -> None:
    m, n, k = size
    blocks = Block(3, 64, m, k), Block(0, 7, n, k)
    with Context(threads=2, blas=blas) as context:
        surfaces = [
            filled(context, b, s, i) for i, (b, s) in enumerate(zip(blocks, sizes, strict=True))
        ]
        out = default_rng(5).standard_normal((m, n), np.float32)
        left, right = (
            s.read(b.row, b.column, b.rows, b.columns).astype(np.float64)
            for s, b in zip(surfaces, blocks, strict=True)
        )
        expected = out + left @ right.T
        arithmetic.outer_product((surfaces[0], blocks[0]), (surfaces[1], blocks[1]), out)
    assert_close(out, expected, 2e-6)


def test_an_outer_product_has_the_bits_of_the_product_of_what_is_read() -> None:
    block = Block(2, 5, 300, 256)
    with Context(threads=2) as context:
        surface = filled(context, block, 2, 0)
        outs = np.zeros((2, 300, 300), np.float32)
        arithmetic.outer_product((surface, block), (surface, block), outs[0])
        read = surface.read(2, 5, 300, 256)
        arithmetic.gemm(context, read, read, outs[1], transpose_b=True, beta=1.0)
    np.testing.assert_array_equal(outs[0], outs[1])


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        (Block(0, 0, 4, 7), "columns"),
        (Block(61, 0, 4, 8), "leaves its surface"),
        (Block(0, 60, 4, 8), "leaves its surface"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(right: Block, reason: str) -> None:
    with Context(threads=1) as context:
        surface = context.surface(64, 64, 2)
        out = np.zeros((5, 4), np.float32)
        with pytest.raises(EngineError, match=reason):
            arithmetic.outer_product((surface, Block(0, 0, 5, 8)), (surface, right), out)
    assert not out.any()


@pytest.mark.parametrize("closed", ["left", "right"])
def test_a_closed_surface_is_an_error(closed: str) -> None:
    with Context(threads=1) as context:
        surfaces = {"left": context.surface(64, 64, 2), "right": context.surface(64, 64, 2)}
        surfaces[closed].close()
        left, right = ((surface, Block(0, 0, 4, 8)) for surface in surfaces.values())
        with pytest.raises(EngineError, match="is closed"):
            arithmetic.outer_product(left, right, np.zeros((4, 4), np.float32))
