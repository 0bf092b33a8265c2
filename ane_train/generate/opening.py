"""From what a user names to a model that can be used: weights in memory, and its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ane_train.data.tokenizer import load_tokenizer
from ane_train.errors import DataError, MemoryLimitError
from ane_train.generate.vocabulary import Vocabulary, vocabulary_of
from ane_train.interop.companions import GENERATION_CONFIG
from ane_train.interop.source import WeightSource, load_weights, open_source, tokenizer_of
from ane_train.model.arena import Arena
from ane_train.model.memory import available
from ane_train.model.parameters import count, parameters
from ane_train.model.spec import ModelSpec


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
