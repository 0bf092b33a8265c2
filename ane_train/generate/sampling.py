"""From logits to the next token: greedy, or drawn from what the filters leave.

Filters come in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_train.errors import ConfigError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
_CANDIDATES = 1024  # tokens that are sorted for top-p before all of them are


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; ConfigError for what makes no sense.

    temperature 0 is greedy. top_k 0, top_p 1, min_p 0 and repetition_penalty 1 change nothing.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for holds, rule in (
            (0 <= self.temperature < np.inf, "--temp is 0 (greedy) or above"),
            (self.top_k >= 0, "--top-k is 0 (all tokens) or above"),
            (0 < self.top_p <= 1, "--top-p is above 0 and at most 1"),
            (0 <= self.min_p <= 1, "--min-p is between 0 and 1"),
            (0 < self.repetition_penalty < np.inf, "--repetition-penalty is above 0"),
        ):
            if not holds:
                raise ConfigError(rule)


@dataclass(frozen=True, slots=True)
class Choices:
    """Tokens that may come next, and the probability of each."""

    tokens: Indices
    probabilities: Floats


class Sampler:
    """Chooses tokens; equal seeds choose equally."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self._generator = np.random.Generator(np.random.Philox(seed))

    def choose(self, logits: npt.NDArray[Any], history: Sequence[int]) -> int:
        """The next token after `history`, from its logits [V]."""
        sampling = self.sampling
        if sampling.temperature == 0:
            return int(np.argmax(penalized(logits, history, sampling.repetition_penalty)))
        left = choices(logits, history, sampling)
        bounds = np.cumsum(left.probabilities)
        drawn = np.searchsorted(bounds, self._generator.random() * bounds[-1], side="right")
        return int(left.tokens[min(int(drawn), len(bounds) - 1)])


def choices(logits: npt.NDArray[Any], history: Sequence[int], sampling: Sampling) -> Choices:
    """What the filters leave of logits [V], with probabilities that sum to 1."""
    wide = logits.astype(np.float64)
    scores = penalized(wide, history, sampling.repetition_penalty) / sampling.temperature
    tokens: Indices = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        least = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        tokens = np.flatnonzero(scores >= least)
    probabilities = _softmax(scores[tokens])
    if sampling.top_p < 1:
        kept = _nucleus(probabilities, sampling.top_p)
        tokens, probabilities = tokens[kept], probabilities[kept]
    if sampling.min_p > 0:
        likely = probabilities >= sampling.min_p * probabilities.max()
        tokens, probabilities = tokens[likely], probabilities[likely]
    return Choices(tokens, probabilities / probabilities.sum())


def penalized(logits: npt.NDArray[Any], history: Sequence[int], penalty: float) -> npt.NDArray[Any]:
    """Logits [V], those of tokens in `history` lowered by the factor `penalty`.

    Negative ones are multiplied, others divided (Keskar et al. 2019, arXiv 1909.05858).
    """
    if penalty == 1 or not len(history):
        return logits
    seen = np.unique(np.asarray(history))
    seen = seen[seen < len(logits)]
    scores = logits.copy()
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return scores


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _nucleus(probabilities: Floats, top_p: float) -> Indices:
    """The most likely ones, as few as reach top_p (Holtzman et al. 2019, arXiv 1904.09751)."""
    candidates: Indices = np.arange(len(probabilities))
    if len(candidates) > _CANDIDATES:
        likely = np.argpartition(probabilities, -_CANDIDATES)[-_CANDIDATES:]
        if probabilities[likely].sum() >= top_p:
            candidates = likely
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    above = np.cumsum(probabilities[order]) - probabilities[order]
    kept = order[above < top_p]
    kept.sort()
    return kept
