"""The matrix products of a micro-batch, forward and backward, derived from the model's sizes alone.

Each product counts once, as 2 M N K operations. Attention counts the full S x S, as PyTorch does;
products that are only done again (recomputed scores) do not count. What no product does (norms,
softmax, losses, the lookup of embeddings) is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ane_train.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Product:
    """C[m, n] = op(A) op(B) + beta C, `count` times in a micro-batch, `independent` at a time."""

    name: str
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    beta: float
    count: int
    independent: int = 1

    @property
    def flops(self) -> int:
        """Operations of all of them."""
        return 2 * self.m * self.n * self.k * self.count


def products(spec: ModelSpec, batch: int, sequence: int) -> list[Product]:
    """All of them, equal shapes apart by name; activations are [channels, B S]."""
    layers, tokens = spec.layers, batch * sequence
    query, key = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    matrices = [
        ("query", query, spec.dim, layers),
        ("key and value", key, spec.dim, 2 * layers),
        ("output", spec.dim, query, layers),
        ("gate and up", spec.ffn, spec.dim, 2 * layers),
        ("down", spec.dim, spec.ffn, layers),
        ("classifier", spec.vocabulary, spec.dim, 1),
    ]
    found = [
        product
        for name, rows, columns, count in matrices
        for product in _linear(name, rows, columns, tokens, count)
    ]
    return [*found, *_attention(spec, batch, sequence)]


def _linear(name: str, rows: int, columns: int, tokens: int, count: int) -> Iterator[Product]:
    """Y = W X, dX = W^T dY and dW += dY X^T for W [rows, columns]."""
    yield Product(f"{name}, forward", rows, tokens, columns, False, False, 0.0, count)
    yield Product(f"{name}, input gradient", columns, tokens, rows, True, False, 0.0, count)
    yield Product(f"{name}, weight gradient", rows, columns, tokens, False, True, 1.0, count)


def _attention(spec: ModelSpec, batch: int, sequence: int) -> Iterator[Product]:
    """Two products forward and four backward; query heads that share a key head are more rows."""
    together = batch * spec.kv_heads
    count = spec.layers * together
    rows, size = spec.heads // spec.kv_heads * sequence, spec.head_size
    for name in ("scores", "gradient of probabilities"):
        yield Product(name, rows, sequence, size, False, True, 0.0, count, together)
    for name in ("values", "query gradient"):
        yield Product(name, rows, size, sequence, False, False, 0.0, count, together)
    for name in ("value gradient", "key gradient"):
        yield Product(name, sequence, size, rows, True, False, 0.0, count, together)


def total_flops(found: list[Product]) -> int:
    """Operations of a micro-batch."""
    return sum(product.flops for product in found)
