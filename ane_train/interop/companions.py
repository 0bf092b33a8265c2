"""The small files that travel with weights: the tokenizer, and how to sample.

They are carried as the bytes that they are, so that import and export do not change them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ane_train.data.tokenizer import parse_tokenizer
from ane_train.errors import CheckpointError
from ane_train.interop.tensors import reading_weights

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
NAMES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "chat_template.jinja",
    GENERATION_CONFIG,
)

Companions = Mapping[str, bytes]
"""Contents by file name, one of NAMES each."""

NONE: Companions = MappingProxyType({})
_LARGEST = 1 << 28  # bytes


def read_companions(folder: Path) -> Companions:
    """Those of NAMES that are in `folder`. CheckpointError if one cannot be read."""
    return {name: read_small(folder / name) for name in NAMES if (folder / name).is_file()}


def companions_of(tokenizer: Path) -> Companions:
    """A tokenizer.json of any name, and what lies beside it. CheckpointError."""
    return {**read_companions(tokenizer.parent), TOKENIZER: read_small(tokenizer)}


def read_small(path: Path) -> bytes:
    """The content of a file that is no larger than a tokenizer may be. CheckpointError."""
    with reading_weights(path), open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise CheckpointError(f"{path} is larger than {_LARGEST >> 20} MiB, too large for its name")
    return content


def completed(companions: Companions) -> Companions:
    """With a minimal tokenizer_config.json and generation_config.json where they are missing.

    Other programs need them beside a tokenizer.json to load it and to know where a text ends.
    """
    if TOKENIZER not in companions:
        return companions
    tokenizer = parse_tokenizer(Path(TOKENIZER), companions[TOKENIZER])
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    generation: dict[str, object] = {"do_sample": True}
    if tokenizer.end_of_text is not None:
        names = json.loads(companions[TOKENIZER]).get("added_tokens", [])
        text = next((t["content"] for t in names if t["id"] == tokenizer.end_of_text), None)
        config["eos_token"] = text
        generation["eos_token_id"] = tokenizer.end_of_text
    made = {TOKENIZER_CONFIG: config, GENERATION_CONFIG: generation}
    return {name: encode_json(content) for name, content in made.items()} | dict(companions)


def ends_of_text(companions: Companions) -> dict[str, object]:
    """`bos_token_id` and the like, as generation_config.json has them."""
    try:
        content = json.loads(companions.get(GENERATION_CONFIG, b"{}"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{GENERATION_CONFIG} is no valid JSON") from None
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: content[name] for name in names if name in content}


def encode_json(content: Mapping[str, object]) -> bytes:
    """An object as the bytes of a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
