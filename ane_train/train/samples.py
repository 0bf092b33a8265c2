"""Texts that the model writes while it is trained.

Decode programs are compiled for them where programs are not counted; else each token takes a pass
of the training programs over the whole sequence, which needs nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from ane_train.config import RunConfig
from ane_train.data.batches import Compaction
from ane_train.data.tokenizer import Tokenizer
from ane_train.errors import AneTrainError, ConfigError
from ane_train.generate.decoder import DecoderOptions, Tokens
from ane_train.generate.generator import Continues, Generator, Request, check_prompt, write
from ane_train.generate.sampling import Sampling
from ane_train.generate.vocabulary import Vocabulary, vocabulary_of
from ane_train.metrics.events import Sampled
from ane_train.model.arena import Array
from ane_train.train.session import Session
from ane_train.train.step import TrainingStep


class WholePasses:
    """A model in training that continues a text without a cache."""

    def __init__(self, step: TrainingStep) -> None:
        self.context = step.sequence
        self._step = step
        self._text: list[int] = []

    def prefill(self, prompt: Sequence[int] | Tokens, room: int = 0) -> Array:
        """Logits [V] of the token after the prompt, which replaces the text so far."""
        self._text = [int(token) for token in prompt]
        return self._logits()

    def step(self, token: int) -> Array:
        """Logits [V] of the token after this one."""
        self._text.append(token)
        return self._logits()

    def _logits(self) -> Array:
        tokens = np.zeros(self.context, np.int32)
        tokens[: len(self._text)] = self._text
        logits: Array = self._step.logits(tokens)[len(self._text) - 1]
        return logits


def check_prompts(
    config: RunConfig, tokenizer: Tokenizer | None, compaction: Compaction | None, sequence: int
) -> None:
    """ConfigError if the run's samples cannot be written, said before it begins."""
    if not config.sample_every:
        return
    if tokenizer is None:
        raise ConfigError("--sample-every needs a tokenizer, and this data has none")
    vocabulary = _vocabulary(tokenizer, compaction)
    for prompt in config.sample_prompts:
        try:
            check_prompt(vocabulary.encode(prompt), sequence)
        except AneTrainError as error:
            raise ConfigError(f"--sample-prompts {prompt!r}: {error}") from None


def samples(session: Session) -> Iterator[Sampled]:
    """A sample for each prompt of the configuration, by the weights as they are."""
    config, step = session.parts.config, session.step
    assert session.parts.data.tokenizer is not None, "checked when the session was opened"
    vocabulary = _vocabulary(session.parts.data.tokenizer, session.parts.compaction)
    model = _continues(session)
    request = Request(
        config.sample_tokens,
        Sampling(config.sample_temp),
        seed=config.seed,
        ends=vocabulary.ends,
    )
    for prompt in config.sample_prompts:
        start = time.perf_counter()
        written = write(model, vocabulary, vocabulary.encode(prompt), request)
        seconds = time.perf_counter() - start
        count = len(written.tokens)
        yield Sampled(session.progress.step, prompt, written.text, count, seconds)
    if isinstance(model, Generator):
        model.close()
    step.timings.take()


def _continues(session: Session) -> Continues:
    step, engine = session.step, session.parts.engine
    if engine.budget.compile_limit is not None:
        return WholePasses(step)
    options = DecoderOptions(step.sequence, residual_scale=step.residual_scale)
    return Generator(step.spec, step.weights, engine, options)


def _vocabulary(tokenizer: Tokenizer, compaction: Compaction | None) -> Vocabulary:
    kept = None if compaction is None else tuple(compaction.new_to_old.tolist())
    return vocabulary_of(tokenizer, kept)
