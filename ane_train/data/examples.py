"""Examples for fine-tuning: prompts with completions, or conversations, and what of them counts.

Invariant: an example's token is stored as a word of 32 bits that says itself whether it is the
first of its example and whether it counts as a target; so no mask can get lost or out of step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ane_train.data.chat import ChatTemplate, Passage
from ane_train.data.files import reading
from ane_train.data.json_lines import Record, parse_records
from ane_train.data.text import BATCH_BYTES, Encoded
from ane_train.data.tokenizer import Tokenizer
from ane_train.data.tokens import COUNTS, FIRST
from ane_train.errors import DataError

_Located: TypeAlias = tuple[Passage, int]


def encode_examples(
    paths: Iterable[Path], tokenizer: Tokenizer, template: ChatTemplate | None
) -> Iterator[Encoded]:
    """Encode the records of `.jsonl` files as one example each, or more where turns come apart.

    Text is encoded whole, as the model will read it; a token counts if any of its characters is
    to be said. Each example ends with the end-of-text token, if the tokenizer has one: after a
    completion it counts, after a conversation it only separates, as each turn has its own end.
    `template` is needed for messages. DataError names the file and the line at fault.
    """
    batch: list[_Located] = []
    waiting = 0
    for path in paths:
        found = False
        with reading(path) as file:
            for record in parse_records(path, file):
                found = True
                batch += _locate(_passages(record, template), record.line_bytes)
                waiting += record.line_bytes
                if waiting >= BATCH_BYTES:
                    yield from _encode(batch, tokenizer)
                    batch, waiting = [], 0
        if not found:
            raise DataError(f"{path} is empty: there is no example to train on")
    yield from _encode(batch, tokenizer)


def _passages(record: Record, template: ChatTemplate | None) -> list[Passage]:
    content = record.content
    if record.kind == "messages":
        assert template is not None, "messages come with a template"
        return template.passages(content["messages"], record.where)
    prompt, completion = content["prompt"], content["completion"]
    said = (len(prompt), len(prompt) + len(completion))
    return [Passage(prompt + completion, (said,), ends_said=True)]


def _locate(passages: list[Passage], line_bytes: int) -> Iterator[_Located]:
    """Pair passages with how far each moves through the file: the first by the whole line."""
    for number, passage in enumerate(passages):
        yield passage, 0 if number else line_bytes


def _encode(batch: list[_Located], tokenizer: Tokenizer) -> Iterator[Encoded]:
    located = tokenizer.encode_located([passage.text for passage, _ in batch])
    for (passage, line_bytes), (tokens, starts, stops) in zip(batch, located, strict=True):
        words = tokens.astype(np.uint32)
        for start, stop in passage.said:
            words[(stops > start) & (starts < stop)] |= COUNTS
        end = tokenizer.end_of_text
        if end is not None and (not len(tokens) or tokens[-1] != end):
            words = np.append(words, np.uint32(end | (COUNTS if passage.ends_said else 0)))
        yield Encoded(_with_first(words), len(passage.text.encode()), line_bytes, True)


def _with_first(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Mark the first word, which nothing in its example predicts: it does not count."""
    words[:1] = words[:1] & ~COUNTS | FIRST
    return words
