"""Generation: a prompt taken in, then one token after another until something ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ane_train.engine import Engine
from ane_train.errors import DataError
from ane_train.generate.decoder import Decoder, DecoderOptions, Tokens
from ane_train.generate.head import OutputHead
from ane_train.generate.sampling import Sampler, Sampling
from ane_train.generate.stream import Decodes, StopStrings, TextStream
from ane_train.model.arena import Arena, Array
from ane_train.model.spec import ModelSpec

EndReason = Literal["end_of_text", "stop", "max_tokens", "context"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted. `ends`: tokens that close a text; they are not part of it."""

    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    ends: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()


@dataclass(slots=True)
class Generated:
    """What came of it. Seconds of the prompt and of the tokens after the first."""

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    reason: EndReason = "max_tokens"
    text: str = ""
    prompt_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding; None where there was none."""
        return (len(self.tokens) - 1) / self.seconds if len(self.tokens) > 1 else None


class Continues(Protocol):
    """A model as generation sees it."""

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        ...

    def prefill(self, prompt: Sequence[int] | Tokens, room: int = 0) -> Array:
        """Logits [V] of the token after the prompt, which replaces the text so far.

        About `room` tokens will follow. DataError if it is empty, or fills the context.
        """
        ...

    def step(self, token: int) -> Array:
        """Logits [V] of the token after this one."""
        ...


class Generator:
    """A model on an engine, with a cache, ready to continue texts, one at a time."""

    def __init__(
        self, spec: ModelSpec, weights: Arena, engine: Engine, options: DecoderOptions
    ) -> None:
        self.spec, self.context = spec, options.context
        self.head = OutputHead(spec, weights, engine, int8=options.int8)
        self.decoder = Decoder(spec, weights, engine, options)

    def prefill(self, prompt: Sequence[int] | Tokens, room: int = 0) -> Array:
        """As `Continues` says."""
        tokens = np.asarray(prompt, np.int32)
        check_prompt(tokens, self.context)
        self.decoder.truncate(0)
        self.decoder.reserve(len(tokens) + room)
        return self.head.logits(self.decoder.extend(self.head.embed(tokens)))

    def step(self, token: int) -> Array:
        """As `Continues` says."""
        return self.head.logits(self.decoder.extend(self.head.embed(np.array([token], np.int32))))

    def close(self) -> None:
        """Lets the programs go. The engine stays open."""
        self.decoder.close()


def check_prompt(tokens: Tokens, context: int) -> None:
    """DataError if a prompt is empty, or leaves no room in the context."""
    if not len(tokens):
        raise DataError("the prompt has no tokens; give some text")
    if len(tokens) >= context:
        raise DataError(
            f"the prompt has {len(tokens)} tokens, and the context holds {context} with what "
            "is generated; shorten the prompt or give a larger --context"
        )


def generate(
    model: Continues, prompt: Sequence[int] | Tokens, request: Request, result: Generated
) -> Iterator[int]:
    """The tokens after the prompt as they are chosen; `result` grows with them."""
    start = time.perf_counter()
    history = [int(token) for token in prompt]
    sampler = Sampler(request.sampling, request.seed)
    logits = model.prefill(history, request.max_tokens)
    result.prompt_seconds = time.perf_counter() - start
    start = time.perf_counter()
    while len(result.tokens) < request.max_tokens:
        if len(history) >= model.context:
            result.reason = "context"
            return
        if result.tokens:
            logits = model.step(history[-1])
        token = sampler.choose(logits, history)
        result.seconds = time.perf_counter() - start
        if not result.tokens:
            start = time.perf_counter()
        if token in request.ends:
            result.reason = "end_of_text"
            return
        history.append(token)
        result.tokens.append(token)
        yield token


def write(
    model: Continues,
    vocabulary: Decodes,
    prompt: Sequence[int] | Tokens,
    request: Request,
    show: Callable[[str], object] = lambda text: None,
) -> Generated:
    """Generates text; each piece goes to `show` as soon as its characters are certain."""
    result = Generated(len(prompt))
    stream = TextStream(vocabulary, [int(token) for token in prompt])
    stops = StopStrings(request.stops)

    def take(text: str) -> None:
        result.text += text
        if text:
            show(text)

    for token in generate(model, prompt, request, result):
        take(stops.push(stream.push(token)))
        if stops.stopped:
            result.reason = "stop"
            return result
    take(stops.push(stream.finish()))
    if stops.stopped:
        result.reason = "stop"
    take(stops.finish())
    return result
