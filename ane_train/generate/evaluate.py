"""How well a model predicts a text: each token once, with as much before it as the stride leaves.

Windows of the context's length begin every `stride` tokens. All tokens of the first are scored, of
the others those that no window before has scored; so each but the text's first few has at least
context - stride tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ane_train.errors import ConfigError, DataError
from ane_train.generate.decoder import Decoder, Tokens
from ane_train.generate.head import OutputHead
from ane_train.model.arena import Array
from ane_train.native import arithmetic

Progress = Callable[[int, int], object]
_TILE_LOGITS = 1 << 24  # logits in memory at a time


@dataclass(frozen=True, slots=True)
class Score:
    """Sum of losses in nats over `tokens` predicted ones, which are `text_bytes` of UTF-8."""

    nats: float
    tokens: int
    text_bytes: int

    @property
    def loss(self) -> float:
        """Nats of a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """The loss without the tokenizer's share in it."""
        return self.nats / math.log(2) / self.text_bytes


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end): tokens [first, end) are predicted from those before, from begin on."""
    first = 1
    for begin in range(0, length, stride):
        end = min(begin + context + 1, length)
        if end > first:
            yield begin, first, end
        first = end
        if end == length:
            return


class Evaluator:
    """Scores texts with a decoder, which it keeps for itself."""

    def __init__(self, decoder: Decoder, head: OutputHead, stride: int | None = None) -> None:
        context = decoder.options.context
        self.decoder, self.head = decoder, head
        self.stride = max(1, context // 2) if stride is None else stride
        if not 0 < self.stride <= context:
            raise ConfigError(f"--stride is between 1 and the context of {context} tokens")

    def losses(self, tokens: Tokens, progress: Progress = lambda done, whole: None) -> Array:
        """The loss in nats of each token but the first, [N - 1]. DataError for too short a text."""
        if len(tokens) < 2:
            raise DataError("there is nothing to predict: the text has fewer than two tokens")
        losses = np.zeros(len(tokens), np.float32)
        for begin, first, end in windows(len(tokens), self.decoder.options.context, self.stride):
            self.decoder.truncate(0)
            x = self.decoder.extend(self.head.embed(tokens[begin : end - 1]))
            losses[first:end] = self._losses(x[:, first - begin - 1 :], tokens[first:end])
            progress(end, len(tokens))
        return losses[1:]

    def _losses(self, x: Array, targets: Tokens) -> Array:
        """Losses [N] of targets [N] that follow the tokens of x [D, N]."""
        tile = max(1, _TILE_LOGITS // self.head.spec.vocabulary)
        losses = np.empty(len(targets), np.float32)
        for start in range(0, len(targets), tile):
            part = slice(start, start + tile)
            logits = self.head.all_logits(x[:, part])
            wanted = np.ascontiguousarray(targets[part], np.int32)
            arithmetic.cross_entropy(self.head.engine.context, logits, wanted, 0.0, losses[part])
        return losses
