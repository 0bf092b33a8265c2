"""Both ends of a network that generates: embeddings of tokens, and logits in fp32 on the CPU.

The classifier stays on the CPU: its weights are read once a token wherever it runs, and an engine's
logits would be rounded to fp16, which makes ties of what is none.
"""

from __future__ import annotations

import numpy as np

from ane_train.engine import Engine
from ane_train.errors import DataError, EngineError
from ane_train.generate.decoder import Tokens
from ane_train.model.arena import Arena, Array
from ane_train.model.spec import ModelSpec
from ane_train.native import arithmetic


class OutputHead:
    """Embedding, final norm and classifier."""

    def __init__(
        self, spec: ModelSpec, weights: Arena, engine: Engine, *, int8: bool = False
    ) -> None:
        self.spec, self.engine = spec, engine
        self._embedding, self._norm = weights["embedding"], weights["norm"]
        self._classifier = weights["embedding" if spec.tied_embeddings else "classifier"]

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
        """Logits [N, V] of the final residual stream x [D, N]. EngineError if not finite."""
        x = np.ascontiguousarray(x)
        normalized, inverse = np.empty_like(x), np.empty(x.shape[1], np.float32)
        arithmetic.rmsnorm_forward(
            self.engine.context, x, self._norm, self.spec.norm_epsilon, normalized, inverse
        )
        logits = np.empty((x.shape[1], self.spec.vocabulary), np.float32)
        arithmetic.gemm(
            self.engine.context,
            normalized,
            self._classifier,
            logits,
            transpose_a=True,
            transpose_b=True,
        )
        if not np.isfinite(logits.sum(dtype=np.float64)):
            raise EngineError(
                "the activations of this model leave the range of fp16; use --numerics fp32"
            )
        return logits
