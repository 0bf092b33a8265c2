"""The sizes of one transformer layer, from which all of its programs follow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerShape:
    """S sequence, D model, H query heads, K key-value heads, E head size, F feed-forward.

    B sequences lie side by side: sequence b is columns [b S, (b + 1) S) of [C, B S] activations.
    """

    sequence: int
    dim: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    rope_theta: float
    norm_epsilon: float
    qk_norm: bool
    batch: int = 1

    @property
    def columns(self) -> int:
        """Columns of the activations of all sequences, B * S."""
        return self.batch * self.sequence

    @property
    def query(self) -> int:
        """Rows of the queries of all heads, H * E."""
        return self.heads * self.head_size

    @property
    def key(self) -> int:
        """Rows of the keys (or values) of all heads, K * E."""
        return self.kv_heads * self.head_size

    @property
    def ratio(self) -> int:
        """Query heads that share a key-value head, H / K."""
        return self.heads // self.kv_heads
