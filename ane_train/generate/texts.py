"""Files of text scored by a model: each document is predicted from its own beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ane_train.data.text import read_pieces
from ane_train.errors import DataError
from ane_train.generate.evaluate import Evaluator, Score
from ane_train.generate.vocabulary import Vocabulary


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a file, whole: a plain text is one, and so is each `text` of JSON lines."""
    parts: list[str] = []
    for piece in read_pieces(path):
        parts.append(piece.text)
        if piece.ends_document:
            yield "".join(parts)
            parts = []


def score_file(
    evaluator: Evaluator,
    vocabulary: Vocabulary,
    path: Path,
    advance: Callable[[int], object] = lambda tokens: None,
) -> Score:
    """The score over all documents of a file. DataError if none has two tokens.

    A token that the tokenizer puts before a text is not predicted and is no bytes; neither is the
    first token of a text without one.
    """
    nats, count, text_bytes = 0.0, 0, 0
    for text in read_documents(path):
        tokens = vocabulary.encode(text)
        if len(tokens) < 2:
            continue
        losses = evaluator.losses(tokens)
        nats += float(losses.sum(dtype=np.float64))
        count += len(losses)
        text_bytes += len(text.encode()) - _given_bytes(vocabulary, text, int(tokens[0]))
        advance(len(tokens))
    if not count:
        raise DataError(f"{path} has nothing to predict: no text in it has two tokens")
    return Score(nats, count, text_bytes)


def _given_bytes(vocabulary: Vocabulary, text: str, first: int) -> int:
    """Bytes of the text that its first token stands for."""
    shown = vocabulary.decode([first])
    return len(shown.encode()) if shown and text.startswith(shown) else 0
