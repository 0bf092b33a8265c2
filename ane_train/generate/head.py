"""Both ends of a network that generates: embeddings of tokens, and logits in fp32 on the CPU.

The classifier stays on the CPU: its weights are read once a token wherever it runs, and an engine's
logits would be rounded to fp16, which makes ties of what is none. For one token its weights are
read as fp16 or int8 like those of the programs; for more, and in fp32 numerics, as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ane_train.engine import Engine
from ane_train.errors import DataError, EngineError
from ane_train.generate.decoder import Tokens
from ane_train.model.arena import Arena, Array
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic
from ane_train.programs.quantize import quantize


class OutputHead:
    """Embedding, final norm and classifier."""

    def __init__(
        self, spec: ModelSpec, weights: Arena, engine: Engine, *, int8: bool = False
    ) -> None:
        self.spec, self.engine, self._int8 = spec, engine, int8
        self._embedding, self._norm = weights["embedding"], weights["norm"]
        self._classifier = weights["embedding" if spec.tied_embeddings else "classifier"]
        self._stored: np.ndarray[Any, Any] | None = None
        self._scales: Array | None = None

    def embed(self, tokens: Tokens) -> Array:
        """The embeddings [D, N] of tokens [N]. DataError for one outside the vocabulary."""
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.spec.vocabulary:
            raise DataError(
                f"a token is outside the model's vocabulary of {self.spec.vocabulary}; "
                "give the tokenizer that belongs to the model"
            )
        x = np.empty((self.spec.dim, len(tokens)), np.float32)
        arithmetic.embedding_forward(self.engine.context, self._embedding, tokens, x)
        return x

    def logits(self, x: Array) -> Array:
        """Logits [V] of the last token of a final residual stream x [D, N].

        EngineError if they are not finite.
        """
        normalized = self.normalize(x[:, -1:])
        logits = np.empty(self.spec.vocabulary, np.float32)
        if self.engine.numerics == "fp32" and not self._int8:
            self._multiply(normalized, logits[None])
        else:
            self._store()
            assert self._stored is not None
            arithmetic.matvec(
                self.engine.context, self._stored, normalized[:, 0].copy(), logits, self._scales
            )
        return _finite(logits)

    def all_logits(self, x: Array) -> Array:
        """Logits [N, V] of all tokens, whole in memory. EngineError if they are not finite."""
        logits = np.empty((x.shape[1], self.spec.vocabulary), np.float32)
        self._multiply(self.normalize(x), logits)
        return _finite(logits)

    def normalize(self, x: Array) -> Array:
        """The final norm of x [D, N]."""
        x = np.ascontiguousarray(x)
        normalized, inverse = np.empty_like(x), np.empty(x.shape[1], np.float32)
        arithmetic.rmsnorm_forward(
            self.engine.context, x, self._norm, self.spec.norm_epsilon, normalized, inverse
        )
        return normalized

    def _multiply(self, normalized: Array, logits: Array) -> None:
        context, classifier = self.engine.context, self._classifier
        arithmetic.gemm(context, normalized, classifier, logits, transpose_a=True, transpose_b=True)

    def _store(self) -> None:
        """The classifier as fp16 or int8, made when it is first needed."""
        if self._stored is not None:
            return
        if self._int8:
            quantized = quantize(self._classifier)
            self._stored, self._scales = quantized.values, quantized.scales
        else:
            self._stored = self._classifier.astype(np.float16)


def _finite(logits: Array) -> Array:
    if not np.isfinite(logits.sum(dtype=np.float64)):
        raise EngineError(
            "the activations of this model leave the range of fp16; use --numerics fp32"
        )
    return logits
