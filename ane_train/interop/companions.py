"""The small files that travel with weights: the tokenizer, and how to sample.

They are carried as the bytes that they are, so that import and export do not change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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
