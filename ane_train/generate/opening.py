"""From what a user names to a model that can be used: weights in memory, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ane_train.data.tokenizer import Tokenizer, load_tokenizer
from ane_train.errors import DataError, MemoryLimitError
from ane_train.generate.decoder import Tokens
from ane_train.interop.companions import GENERATION_CONFIG
from ane_train.interop.source import WeightSource, load_weights, open_source, tokenizer_of
from ane_train.model.arena import Arena
from ane_train.model.memory import available
from ane_train.model.parameters import count, parameters
from ane_train.model.spec import ModelSpec


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


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model in memory. `path` is what was opened."""

    path: Path
    spec: ModelSpec
    weights: Arena
    vocabulary: Vocabulary


def open_model(name: str, tokenizer: Path | None = None) -> OpenModel:
    """Opens whatever `interop.source` does, with its own tokenizer or the given one.

    Raises the error of what is wrong with it; MemoryLimitError before anything big is allocated.
    """
    source = open_source(name)
    try:
        _check_memory(source.spec)
        own = load_tokenizer(tokenizer) if tokenizer else tokenizer_of(source)
        if own is None:
            raise DataError(f"{name} comes without a tokenizer; give one with --tokenizer FILE")
        vocabulary = vocabulary_of(own, source.kept, _ends(source))
        table = parameters(source.spec)
        weights = Arena(table)
        load_weights(source, table, weights)
        return OpenModel(source.path, source.spec, weights, vocabulary)
    finally:
        source.close()


def _check_memory(spec: ModelSpec) -> None:
    """Weights in fp32, and in fp16 in the programs of a prompt and of a token."""
    needed, there = 8 * count(spec), available()
    if needed > there:
        raise MemoryLimitError(
            f"{spec.name} needs {needed / 2**30:.1f} GiB of memory, and {there / 2**30:.1f} GiB "
            "is free; close something, or use a smaller model"
        )


def _ends(source: WeightSource) -> tuple[int, ...]:
    """What generation_config.json says ends a text; nothing if there is none or it is no such."""
    raw = source.companions.get(GENERATION_CONFIG)
    try:
        config: Any = json.loads(raw) if raw else {}
        found = config.get("eos_token_id") if isinstance(config, dict) else None
    except (ValueError, RecursionError):
        return ()
    listed = found if isinstance(found, list) else [found]
    return tuple(token for token in listed if type(token) is int)
