"""Tokenizers: text to tokens and back, from any `tokenizer.json`, and the built-in one.

Invariant: encoding never drops text nor adds tokens of its own (no truncation, padding, BOS).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ane_train.data.files import reading
from ane_train.errors import DataError

CORPUS = Path(__file__).parent / "corpus"
BUILT_IN_TOKENIZER = CORPUS / "tokenizer.json"
BUILT_IN_TEXT = CORPUS / "moby_dick.txt"

LocatedTokens: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # as SentencePiece calls them
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer.json, ready for use.

    `sha256` is that of the file's bytes; `vocabulary` is the largest token plus one;
    `ordinary_vocabulary` is the same without special tokens, which plain text rarely contains;
    `end_of_text` closes a document, None if the tokenizer has no such token.
    """

    path: Path
    sha256: bytes
    vocabulary: int
    ordinary_vocabulary: int
    end_of_text: int | None
    _core: Any
    _bytes: frozenset[int] = frozenset()

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the tokens of `text`, int32 [N]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of each text, int32 [N]; the texts are shared out among threads.

        DataError if the tokenizer cannot encode them, as one without an unknown token may not.
        """
        try:
            encoded = self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{self.path} cannot encode the text: {_reason(error)}") from None
        return [np.array(one.ids, np.int32) for one in encoded]

    def encode_located(self, texts: Sequence[str]) -> list[LocatedTokens]:
        """Return the tokens of each text, and where in it each starts and stops: int32 [N] each.

        Places are counted in characters; the tokens that share the bytes of one share its place.
        DataError as encode_batch.
        """
        try:
            encoded = self._core.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{self.path} cannot encode the text: {_reason(error)}") from None
        located = []
        for one in encoded:
            places = np.array(one.offsets, np.int32).reshape(-1, 2)
            located.append((np.array(one.ids, np.int32), places[:, 0], places[:, 1]))
        return located

    def encode_prompt(self, text: str) -> NDArray[np.int32]:
        """Return the tokens with which a text begins, int32 [N]: with BOS where the file says so.

        DataError as encode_batch.
        """
        try:
            ids = self._core.encode(text, add_special_tokens=True).ids
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{self.path} cannot encode the text: {_reason(error)}") from None
        if ids and ids[-1] == self.end_of_text:
            ids = ids[:-1]
        return np.array(ids, np.int32)

    def is_byte(self, token: int) -> bool:
        """Whether the token stands for one byte of a character that has no token of its own."""
        return token in self._bytes

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of `tokens`, special tokens included; unknown numbers are left out."""
        text: str = self._core.decode([int(t) for t in tokens], skip_special_tokens=False)
        return text


def built_in_tokenizer() -> Tokenizer:
    """Return the byte-level BPE tokenizer of 2048 tokens that comes with the program."""
    return load_tokenizer(BUILT_IN_TOKENIZER)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, or that of a folder; DataError if it is missing or is no such."""
    if os.path.isdir(path):
        path = path / "tokenizer.json"
    with reading(path) as file:
        raw = file.read()
    return parse_tokenizer(path, raw)


def parse_tokenizer(path: Path, raw: bytes) -> Tokenizer:
    """Make a tokenizer of the bytes of a tokenizer.json; `path` is what errors call it."""
    from tokenizers import Tokenizer as Core

    _require_json(path, raw)
    try:
        core = Core.from_buffer(raw)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path} is no usable tokenizer.json: {_reason(error)}") from None
    core.no_truncation()
    core.no_padding()
    core.post_processor = None  # it adds tokens, or takes spaces out of places
    return _describe(path, raw, core)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or ["unknown reason"])[0]


def _require_json(path: Path, raw: bytes) -> None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "model" not in content:
        raise DataError(
            f"{path} is no tokenizer.json: give the file of that name that comes with the model "
            "(tokenizer.model and tokenizer.bin are other formats)"
        )


def _describe(path: Path, raw: bytes, core: Any) -> Tokenizer:
    vocabulary: dict[str, int] = core.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise DataError(f"{path} is a tokenizer without any tokens: give another")
    special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
    end = next((vocabulary[name] for name in _END_OF_TEXT if name in vocabulary), None)
    single = frozenset(vocabulary[name] for name in _BYTES if name in vocabulary)
    return Tokenizer(
        path=path,
        sha256=hashlib.sha256(raw).digest(),
        vocabulary=max(vocabulary.values()) + 1,
        ordinary_vocabulary=max(set(vocabulary.values()) - special, default=-1) + 1,
        end_of_text=end,
        _core=core,
        _bytes=single,
    )
