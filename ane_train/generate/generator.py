"""Generation: a prompt taken in, then one token after another until something ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

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


class Generator:
    """A model on an engine, ready to continue texts, one at a time."""

    def __init__(
        self, spec: ModelSpec, weights: Arena, engine: Engine, options: DecoderOptions
    ) -> None:
        self.spec = spec
        self.head = OutputHead(spec, weights, engine, int8=options.int8)
        self.decoder = Decoder(spec, weights, engine, options)

    def prefill(self, prompt: Sequence[int] | Tokens) -> Array:
        """Logits [V] of the token after the prompt, which replaces the text so far.

        DataError if it is empty, or leaves no room in the context.
        """
        context, tokens = self.decoder.options.context, np.asarray(prompt, np.int32)
        if not len(tokens):
            raise DataError("the prompt has no tokens; give some text")
        if len(tokens) >= context:
            raise DataError(
                f"the prompt has {len(tokens)} tokens, and the context holds {context} with what "
                "is generated; shorten the prompt or give a larger --context"
            )
        self.decoder.truncate(0)
        x = self.decoder.extend(self.head.embed(tokens))
        return self.head.logits(x)

    def step(self, token: int) -> Array:
        """Logits [V] of the token after this one."""
        x = self.decoder.extend(self.head.embed(np.array([token], np.int32)))
        return self.head.logits(x)

    def generate(
        self, prompt: Sequence[int] | Tokens, request: Request, result: Generated
    ) -> Iterator[int]:
        """The tokens after the prompt as they are chosen; `result` grows with them."""
        start = time.perf_counter()
        context = self.decoder.options.context
        history = [int(token) for token in prompt]
        self.decoder.reserve(min(context, len(history) + request.max_tokens))
        sampler = Sampler(request.sampling, request.seed)
        logits = self.prefill(history)
        result.prompt_seconds = time.perf_counter() - start
        start = time.perf_counter()
        while len(result.tokens) < request.max_tokens:
            if len(history) >= context:
                result.reason = "context"
                return
            if result.tokens:
                logits = self.step(history[-1])
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
        self,
        tokenizer: Decodes,
        prompt: Sequence[int] | Tokens,
        request: Request,
        show: Callable[[str], object] = lambda text: None,
    ) -> Generated:
        """Generates text; each piece goes to `show` as soon as its characters are certain."""
        result = Generated(len(prompt))
        stream = TextStream(tokenizer, [int(token) for token in prompt])
        stops = StopStrings(request.stops)

        def take(text: str) -> None:
            result.text += text
            if text:
                show(text)

        for token in self.generate(prompt, request, result):
            take(stops.push(stream.push(token)))
            if stops.stopped:
                result.reason = "stop"
                return result
        take(stops.push(stream.finish()))
        if stops.stopped:
            result.reason = "stop"
        take(stops.finish())
        return result

    def close(self) -> None:
        """Lets the programs go. The engine stays open."""
        self.decoder.close()
