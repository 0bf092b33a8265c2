"""Which tokens make which batch: a pure function of (seed, step), with nothing to save or restore.

Invariant: in each epoch, windows of S tokens tile the data, each is drawn once in shuffled order,
and each of its tokens has as target the token that follows it. Of examples, the rows are drawn
instead, and the target is -1 where nothing counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ane_train.data.packing import Examples
from ane_train.data.tokens import TokenArray
from ane_train.errors import DataError

Batch = tuple[NDArray[np.int32], NDArray[np.int32]]
Data: TypeAlias = TokenArray | Examples

_ROUNDS = 8


def batch(data: Data, *, seed: int, step: int, count: int, sequence: int) -> Batch:
    """Return inputs and targets, int32 [count, S] each, of batch number `step`.

    The batch holds the windows `step * count` to `step * count + count - 1` of the endless order
    of windows, so one of 2 is two of 1; it may straddle epochs. The tokens are a ring, and each
    epoch starts to tile it at another place: what is left over, S tokens at most, differs too.
    Rows of examples are the same in each epoch.
    """
    windows = windows_per_epoch(data, sequence)
    rows = []
    for index in range(step * count, step * count + count):
        epoch, position = divmod(index, windows)
        key = _epoch_key(seed, epoch)
        window = permute(position, windows, key)
        if isinstance(data, Examples):
            rows.append(data.row(window))
        else:
            start = int.from_bytes(key[:8], "little") % data.length + sequence * window
            rows.append(_split(_slice_of_ring(data, start, sequence + 1)))
    return _stack(rows)


def windows_per_epoch(data: Data, sequence: int) -> int:
    """Return how many windows of S tokens, each with a token to follow, the data holds (>= 1)."""
    if isinstance(data, Examples):
        assert data.sequence == sequence, "examples are packed for one length of sequence"
        windows = data.rows
    else:
        windows = (data.length - 1) // sequence
    assert windows > 0, "a data source has at least one window"
    return windows


def validation_batches(data: Data, sequence: int, count: int) -> Iterator[Batch]:
    """Yield the same batches [count, S] at every call: the windows in order, without a rest.

    If there are fewer windows than `count`, the only batch repeats them.
    """
    windows = windows_per_epoch(data, sequence)
    for first in range(0, max(windows - count, 0) + 1, count):
        yield _stack(
            [_window(data, index % windows, sequence) for index in range(first, first + count)]
        )


def _window(data: Data, index: int, sequence: int) -> Batch:
    if isinstance(data, Examples):
        return data.row(index)
    return _split(data.slice(sequence * index, sequence * index + sequence + 1))


def permute(index: int, size: int, key: bytes) -> int:
    """Map [0, size) onto itself, in an order that looks random and differs for each key.

    A Feistel network permutes the next power of four; whoever lands outside walks on until inside
    (cycle walking, Black and Rogaway 2002). It takes no memory, and unlike a library's random
    permutation it will be the same in the next version.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        index = _feistel(index, half, key)
        if index < size:
            return index


def _feistel(index: int, half: int, key: bytes) -> int:
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for turn in range(_ROUNDS):
        message = right.to_bytes(8, "little") + bytes([turn])
        mixed = hashlib.blake2b(message, digest_size=8, key=key).digest()
        left, right = right, left ^ (int.from_bytes(mixed, "little") & mask)
    return left << half | right


def _epoch_key(seed: int, epoch: int) -> bytes:
    return hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=32).digest()


def _slice_of_ring(tokens: TokenArray, start: int, size: int) -> NDArray[np.int32]:
    """Return `size` tokens from `start` on; after the last token comes the first one again."""
    start %= tokens.length
    stop = start + size
    if stop <= tokens.length:
        return tokens.slice(start, stop)
    head = tokens.slice(start, tokens.length)
    return np.concatenate([head, tokens.slice(0, stop - tokens.length)])


def _split(window: NDArray[np.int32]) -> Batch:
    return window[:-1], window[1:]


def _stack(rows: Sequence[Batch]) -> Batch:
    inputs, targets = zip(*rows, strict=True)
    return np.stack(inputs), np.stack(targets)


@dataclass(frozen=True, slots=True, eq=False)
class Compaction:
    """A smaller vocabulary of only the tokens that occur, in their old order.

    `old_to_new` is int32 [V] with -1 for tokens that do not occur, `new_to_old` int32 [N].
    """

    old_to_new: NDArray[np.int32]
    new_to_old: NDArray[np.int32]

    @classmethod
    def from_tokens(cls, tokens: Data | Sequence[Data], vocabulary: int) -> Self:
        """Find what occurs in one or more arrays of tokens below `vocabulary`; reads all once."""
        arrays = tokens if isinstance(tokens, Sequence) else [tokens]
        occurs = np.zeros(vocabulary, np.bool_)
        for array in arrays:
            for chunk in array.chunks():
                occurs[chunk] = True
        return cls.from_kept(np.flatnonzero(occurs).astype(np.int32), vocabulary)

    @classmethod
    def from_kept(cls, new_to_old: NDArray[np.int32], vocabulary: int) -> Self:
        """Rebuild it from the tokens that it keeps, as a checkpoint stores them."""
        old_to_new = np.full(vocabulary, -1, np.int32)
        old_to_new[new_to_old] = np.arange(len(new_to_old), dtype=np.int32)
        return cls(old_to_new, new_to_old)

    @property
    def size(self) -> int:
        """Number of tokens kept, N."""
        return len(self.new_to_old)

    def apply(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return new tokens for old ones, same shape; DataError names one that was not kept.

        A target of -1, which does not count, stays.
        """
        new = np.where(tokens < 0, np.int32(-1), self.old_to_new[tokens])
        dropped = (new < 0) & (tokens >= 0)
        if dropped.any():
            lost = int(tokens[dropped][0])
            raise DataError(
                f"token {lost} does not occur in the data that the vocabulary was compacted for: "
                "train without --compact-vocab, or on the same data"
            )
        return new

    def restore(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return old tokens for new ones, same shape."""
        old: NDArray[np.int32] = self.new_to_old[tokens]
        return old
