"""Text to what a model counts as tokens, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ane_train.data.tokenizer import Tokenizer
from ane_train.errors import DataError
from ane_train.generate.decoder import Tokens


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Text to rows of a model's embedding and back.

    Rows are tokens, unless the model was trained on `kept` ones alone. `ends`: rows that close a
    text.
    """

    tokenizer: Tokenizer
    kept: tuple[int, ...] | None = None
    ends: frozenset[int] = frozenset()
    _row_of: dict[int, int] = field(default_factory=dict)

    def encode(self, text: str) -> Tokens:
        """The rows with which a text begins, int32 [N]; an empty text begins after another's end.

        DataError if the model does not know a token.
        """
        tokens = self.tokenizer.encode_prompt(text)
        if not len(tokens) and self.tokenizer.end_of_text is not None:
            tokens = np.array([self.tokenizer.end_of_text], np.int32)
        return self._rows(tokens)

    def encode_part(self, text: str) -> Tokens:
        """The rows of text that goes on behind other text, int32 [N]. DataError as `encode`."""
        return self._rows(self.tokenizer.encode(text))

    def _rows(self, tokens: Tokens) -> Tokens:
        if self.kept is None:
            return tokens
        unknown = [int(token) for token in tokens if int(token) not in self._row_of]
        if unknown:
            raise DataError(
                f"the model was trained without the token {self.tokenizer.decode(unknown[:1])!r}, "
                "since --compact-vocab left it out; use other words"
            )
        return np.array([self._row_of[int(token)] for token in tokens], np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of rows, special tokens included."""
        return self.tokenizer.decode(self.tokens_of(tokens))

    def is_byte(self, token: int) -> bool:
        """Whether the row stands for one byte of a character."""
        return self.tokenizer.is_byte(*self.tokens_of([token]))

    def tokens_of(self, rows: Sequence[int]) -> list[int]:
        """The tokenizer's tokens that rows stand for."""
        return [int(row) if self.kept is None else self.kept[row] for row in rows]


def vocabulary_of(
    tokenizer: Tokenizer, kept: tuple[int, ...] | None = None, ends: Sequence[int] = ()
) -> Vocabulary:
    """The vocabulary of a model with this tokenizer; `ends` besides its own end-of-text token."""
    row_of = {} if kept is None else {token: row for row, token in enumerate(kept)}
    closing = {*ends, *([] if tokenizer.end_of_text is None else [tokenizer.end_of_text])}
    if kept is not None:
        closing = {row_of[token] for token in closing if token in row_of}
    return Vocabulary(tokenizer, kept, frozenset(closing), row_of)
