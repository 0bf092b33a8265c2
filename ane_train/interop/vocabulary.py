"""Vocabularies as GGUF and llama2.c keep them, made from a tokenizer.json and turned into one.

Two kinds: "bpe", whose tokens are written in GPT-2's letters for bytes and joined in the order of
merges, and "spm", SentencePiece's, whose tokens have scores, the best being joined first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ane_train.data.tokenizer import parse_tokenizer
from ane_train.errors import ModelError
from ane_train.interop.companions import (
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Companions,
    encode_json,
)

_TEXTS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"

PRE_TOKENIZERS: Mapping[str, tuple[Mapping[str, Any], ...]] = MappingProxyType(
    {
        "gpt-2": ({"type": "ByteLevel", "use_regex": True},),
        "smollm": (
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True},
        ),
        "qwen2": (
            {"type": "Split", "pattern": {"Regex": rf"{_SHORT}|{_TEXTS}|\p{{N}}|{_REST}"}},
            {"type": "ByteLevel", "use_regex": False},
        ),
        "llama-bpe": (
            {"type": "Split", "pattern": {"Regex": rf"{_SHORT}|{_TEXTS}|\p{{N}}{{1,3}}|{_REST}"}},
            {"type": "ByteLevel", "use_regex": False},
        ),
    }
)
"""How text is cut before merging, by llama.cpp's names."""

_SPACE = "\u2581"  # SentencePiece's letter for a space


class TokenKind(IntEnum):
    """Kinds of tokens, by their numbers in GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One entry per token in `tokens`, `scores`, `kinds`; `pre` names a row of PRE_TOKENIZERS."""

    kind: str
    tokens: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    merges: Sequence[tuple[str, str]] = ()
    pre: str = "default"
    special: Mapping[str, int] = field(default_factory=dict)
    chat_template: str | None = None
    adds_bos: bool = False
    adds_space: bool = True


def vocabulary_of(companions: Companions, size: int) -> Vocabulary | None:
    """The vocabulary of a model of `size` tokens; None where there is no tokenizer.json.

    ModelError if it is of a kind that GGUF and llama2.c have no word for, or too large.
    """
    if TOKENIZER not in companions:
        return None
    parse_tokenizer(Path(TOKENIZER), companions[TOKENIZER])  # DataError if it is none
    content = json.loads(companions[TOKENIZER])
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"{TOKENIZER} is of type {model.get('type')}: only BPE can be converted")
    ids: dict[str, int] = dict(model["vocab"])
    added = {token["content"]: token for token in content.get("added_tokens", [])}
    ids |= {text: token["id"] for text, token in added.items()}
    if max(ids.values()) >= size:
        raise ModelError(f"{TOKENIZER} has a token {max(ids.values())}, the model {size} tokens")
    kind = "spm" if model.get("byte_fallback") and "<0x00>" in ids else "bpe"
    texts = {number: text for text, number in ids.items()}
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(size)]
    merges = [_pair(merge) for merge in model["merges"]]
    ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(merges)))}
    config = json.loads(companions.get(TOKENIZER_CONFIG, b"{}"))
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        scores=[-float(ranks.get(token, len(merges))) for token in tokens],
        kinds=[
            _kind(number in texts, token, added.get(token), model)
            for number, token in enumerate(tokens)
        ],
        merges=merges,
        pre=_pre(content) if kind == "bpe" else "default",
        special=_special(config, companions, ids, model),
        chat_template=_template(config, companions),
        adds_bos=bool(config.get("add_bos_token", kind == "spm")),
        adds_space=kind == "spm" and "Prepend" in json.dumps(content.get("normalizer")),
    )


def companions_from(vocabulary: Vocabulary) -> Companions:
    """tokenizer.json and its companions; none if the way of cutting text is not known."""
    if vocabulary.kind == "bpe" and vocabulary.pre not in PRE_TOKENIZERS:
        return {}
    names = {key: vocabulary.tokens[number] for key, number in vocabulary.special.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.adds_bos,
        **{f"{key}_token": text for key, text in names.items()},
    }
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    generation = {f"{key}_token_id": number for key, number in vocabulary.special.items()}
    made = {
        TOKENIZER: _tokenizer_json(vocabulary),
        TOKENIZER_CONFIG: config,
        GENERATION_CONFIG: generation,
    }
    return {name: encode_json(content) for name, content in made.items()}


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _kind(
    exists: bool, token: str, added: Mapping[str, Any] | None, model: Mapping[str, Any]
) -> TokenKind:
    if not exists:
        return TokenKind.UNUSED
    if token == model.get("unk_token"):
        return TokenKind.UNKNOWN
    if added is not None:
        return TokenKind.CONTROL if added.get("special") else TokenKind.USER_DEFINED
    if model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
        return TokenKind.BYTE
    return TokenKind.NORMAL


def _pre(content: Mapping[str, Any]) -> str:
    """The name of a tokenizer's way to cut text. ModelError if llama.cpp has no name for it."""
    whole = content.get("pre_tokenizer") or {}
    parts = whole.get("pretokenizers", [whole]) if whole else []
    for name, rows in PRE_TOKENIZERS.items():
        if len(rows) == len(parts) and all(map(_agrees, rows, parts)):
            return name
    raise ModelError(
        f"llama.cpp has no name for the way in which {TOKENIZER} cuts text "
        f"({', '.join(str(part.get('type')) for part in parts) or 'not at all'})"
    )


def _agrees(row: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    defaults = {"use_regex": True}
    return all(part.get(key, defaults.get(key)) == value for key, value in row.items())


def _special(
    config: Mapping[str, Any], companions: Companions, ids: Mapping[str, int], model: Any
) -> dict[str, int]:
    """Numbers of the tokens bos, eos, unk and pad, as far as they are known."""
    generation = json.loads(companions.get(GENERATION_CONFIG, b"{}"))
    found: dict[str, int] = {}
    for key in ("bos", "eos", "unk", "pad"):
        named = config.get(f"{key}_token")
        text = named.get("content") if isinstance(named, dict) else named
        number = generation.get(f"{key}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(text, str) and text in ids:
            found[key] = ids[text]
        elif isinstance(number, int):
            found[key] = number
    if "unk" not in found and model.get("unk_token") in ids:
        found["unk"] = ids[model["unk_token"]]
    return found


def _template(config: Mapping[str, Any], companions: Companions) -> str | None:
    if "chat_template.jinja" in companions:
        return companions["chat_template.jinja"].decode()
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    added = [
        _added(number, text, kind)
        for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
    ]
    make = _spm_parts if vocabulary.kind == "spm" else _bpe_parts
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": _post_processor(vocabulary),
        **make(vocabulary),
    }


def _added(number: int, text: str, kind: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": kind != TokenKind.USER_DEFINED,
    }


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    bos = vocabulary.special.get("bos")
    if bos is None or not vocabulary.adds_bos:
        return None
    text = vocabulary.tokens[bos]
    first: list[Any] = [{"SpecialToken": {"id": text, "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": [*first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            *first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }


def _bpe_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    parts = []
    for row in PRE_TOKENIZERS[vocabulary.pre]:
        extra: dict[str, Any] = {}
        if row["type"] == "Split":
            extra = {"behavior": "Isolated", "invert": False}
        if row["type"] == "ByteLevel":
            extra = {"add_prefix_space": False, "trim_offsets": False}
        parts.append({**row, **extra})
    return {
        "normalizer": {"type": "NFC"} if vocabulary.pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": _model(vocabulary, vocabulary.merges),
    }


def _spm_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    normalizers: list[Any] = [{"type": "Prepend", "prepend": _SPACE}]
    strip: list[Any] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*(normalizers if vocabulary.adds_space else []), spaces],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                back,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(strip if vocabulary.adds_space else []),
            ],
        },
        "model": _model(vocabulary, list(_merges_by_score(vocabulary))),
    }


def _model(vocabulary: Vocabulary, merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    is_spm = vocabulary.kind == "spm"
    unknown = vocabulary.special.get("unk")
    kept = (TokenKind.NORMAL, TokenKind.UNKNOWN, TokenKind.BYTE, TokenKind.CONTROL)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": vocabulary.tokens[unknown] if is_spm and unknown is not None else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": is_spm,
        "byte_fallback": is_spm,
        "ignore_merges": vocabulary.pre == "llama-bpe",
        "vocab": {
            text: number
            for number, (text, kind) in enumerate(
                zip(vocabulary.tokens, vocabulary.kinds, strict=True)
            )
            if kind in kept
        },
        "merges": [list(pair) for pair in merges],
    }


def _merges_by_score(vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """The merges that scores imply: every way to make a token of two, the best score first."""
    ids = {
        text: number
        for number, text in enumerate(vocabulary.tokens)
        if vocabulary.kinds[number] == TokenKind.NORMAL
    }
    found = []
    for text, number in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                found.append((-vocabulary.scores[number], number, left, right, text, cut))
    for *_, text, cut in sorted(found):
        yield text[:cut], text[cut:]
