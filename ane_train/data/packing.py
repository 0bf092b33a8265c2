"""Packs examples into rows of S + 1 tokens, so that no example is cut where it does not have to be.

Invariant: a row holds whole examples from its start; what is left is filled with its last token;
only what counts is a target, so nothing is learnt across the border of two examples, nor from the
filling. (Attention does see the examples before it in its row.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ane_train.data.tokens import COUNTS, FIRST, TOKEN, TokenArray


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples as rows of `sequence` + 1 tokens.

    `words` are all examples; those that are used are [starts[i], stops[i]) of them, in the order
    of the rows, of which row r has those from bounds[r] to bounds[r + 1]. An example that is
    longer than a row was cut to it (`cut` counts these): its prompt is worth more than to train
    on the rest without it. One in which nothing counts, uncut or cut, is left out (`lost`).
    """

    words: TokenArray
    sequence: int
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    bounds: NDArray[np.int64]
    cut: int
    lost: int

    @classmethod
    def pack(cls, words: TokenArray, sequence: int) -> Self:
        """Pack all examples of `words`; reads them once."""
        starts = starts_of(words)
        stops = np.append(starts, words.length)[1:]
        kept = np.minimum(stops, starts + sequence + 1)
        counting = _counting(words, starts, kept)
        order, bounds = _best_fit((kept - starts)[counting], sequence + 1)
        return cls(
            words,
            sequence,
            starts[counting][order],
            kept[counting][order],
            bounds,
            cut=int((kept < stops)[counting].sum()),
            lost=int((~counting).sum()),
        )

    @property
    def length(self) -> int:
        """Number of tokens in all examples, as they were before any was cut."""
        return self.words.length

    @property
    def count(self) -> int:
        """Number of examples that are used."""
        return len(self.starts)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.bounds) - 1

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return inputs and targets, int32 [S] each, of row `index`; -1 where nothing counts."""
        size = self.sequence + 1
        row = np.empty(size, np.uint32)
        done = 0
        for example in range(self.bounds[index], self.bounds[index + 1]):
            part = self.words.slice(int(self.starts[example]), int(self.stops[example]))
            row[done : done + len(part)] = part.view(np.uint32)
            done += len(part)
        row[done:] = row[done - 1] & TOKEN
        tokens = (row & TOKEN).astype(np.int32)
        targets = np.where(row & COUNTS, tokens, np.int32(-1))
        return tokens[:-1], targets[1:]

    def chunks(self) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """Yield all tokens in order, without what is said of them."""
        for chunk in self.words.chunks():
            yield chunk & TOKEN


def starts_of(words: TokenArray) -> NDArray[np.int64]:
    """Return where the examples begin [N]; reads all words once."""
    found, done = [np.zeros(0, np.int64)], 0
    for chunk in words.chunks():
        found.append(np.flatnonzero(chunk & FIRST) + done)
        done += len(chunk)
    return np.concatenate(found)


def _counting(
    words: TokenArray, starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell of each example [start, stop) whether any token counts."""
    first, done = np.full(len(starts), words.length), 0
    for chunk in words.chunks():
        counted = np.flatnonzero(chunk & COUNTS) + done
        np.minimum.at(first, np.searchsorted(starts, counted, "right") - 1, counted)
        done += len(chunk)
    return first < stops


def _best_fit(
    sizes: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best-fit decreasing: from the largest on, each goes where it leaves the least room.

    Returns the order of the examples by rows [N] and where in it each row begins, with N at the
    end [R + 1].
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, row) of rows that are not full, sorted
    for example in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[example])
        place = bisect_left(room, (size, 0))
        left, row = room.pop(place) if place < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(example)
        if left > size:
            insort(room, (left - size, row))
    order = np.array([example for row in rows for example in row], np.int64)
    return order, np.cumsum([0, *map(len, rows)], dtype=np.int64)
