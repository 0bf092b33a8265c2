"""tokenizer.bin of llama2.c: the greatest length, then score, length and bytes of each token.

run.c joins the pair with the best score first and takes bytes as token 3 + byte where a character
has no token of its own; it opens with token 1 and ends at tokens 1 and 2.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ane_train.errors import CheckpointError
from ane_train.interop.companions import NONE, Companions, read_small
from ane_train.interop.vocabulary import (
    TokenKind,
    Vocabulary,
    companions_from,
    vocabulary_of,
)

_ENTRY = struct.Struct("<fi")
_SPACE = "\u2581"
_BOS, _EOS = "<s>", "</s>"
_FRAMED = {f"\n{_BOS}\n": _BOS, f"\n{_EOS}\n": _EOS}


def tokenizer_bin(companions: Companions, size: int) -> bytes | None:
    """The file for a model of `size` tokens; None where there is no tokenizer.json. ModelError."""
    vocabulary = vocabulary_of(companions, size)
    if vocabulary is None:
        return None
    texts = [_bytes(vocabulary, number) for number in range(size)]
    entries = [
        _ENTRY.pack(score, len(text)) + text
        for score, text in zip(vocabulary.scores, texts, strict=True)
    ]
    return struct.pack("<i", max(map(len, texts))) + b"".join(entries)


def read_tokenizer_bin(path: Path, size: int) -> Companions:
    """The tokenizer of a model of `size` tokens, as a tokenizer.json; none if there is no file.

    CheckpointError if it is truncated or of another size.
    """
    if not path.is_file():
        return NONE
    raw, place = read_small(path), 4
    tokens, scores = [], []
    try:
        for _ in range(size):
            score, length = _ENTRY.unpack_from(raw, place)
            place += _ENTRY.size
            tokens.append(_text(raw[place : place + length]))
            scores.append(score)
            place += length
    except struct.error:
        raise CheckpointError(f"{path} is truncated, or has fewer than {size} tokens") from None
    if place != len(raw):
        raise CheckpointError(f"{path} has more than the model's {size} tokens, or is damaged")
    special = {
        key: tokens.index(text)
        for key, text in {"unk": "<unk>", "bos": _BOS, "eos": _EOS}.items()
        if text in tokens
    }
    kinds = [_kind(text, number, special) for number, text in enumerate(tokens)]
    vocabulary = Vocabulary("spm", tokens, scores, kinds, special=special, adds_bos=True)
    return companions_from(vocabulary)


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return _FRAMED.get(text, text).replace(" ", _SPACE)


def _kind(text: str, number: int, special: dict[str, int]) -> TokenKind:
    if number == special.get("unk"):
        return TokenKind.UNKNOWN
    if number in special.values():
        return TokenKind.CONTROL
    if len(text) == 6 and text.startswith("<0x"):
        return TokenKind.BYTE
    return TokenKind.NORMAL


def _bytes(vocabulary: Vocabulary, number: int) -> bytes:
    """What run.c prints for a token."""
    text = vocabulary.tokens[number]
    if vocabulary.kinds[number] == TokenKind.CONTROL:
        framed = {plain: frame for frame, plain in _FRAMED.items()}
        return framed.get(text, text).encode()
    if vocabulary.kind == "spm":
        return text.replace(_SPACE, " ").encode()
    letters = _letters()
    if all(letter in letters for letter in text):
        return bytes(letters[letter] for letter in text)
    return text.encode()


def _letters() -> dict[str, int]:
    """GPT-2's letter of each byte, inverted: printable bytes are themselves, others follow 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
