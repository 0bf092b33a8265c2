"""The model `ane-train` of lm-evaluation-harness (the extra `lm-eval`).

    import ane_train.lm_eval  # registers it
    lm_eval.simple_evaluate("ane-train", "model=runs/last", tasks=["lambada_openai"])

Scores are sums of log-probabilities in nats. A request that is longer than the context loses its
beginning, as in the harness's own models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import DataError
from ane_train.generate.decoder import DecoderOptions
from ane_train.generate.generator import Generator, Request, write
from ane_train.generate.opening import open_model
from ane_train.generate.sampling import Sampling

_PROMPT = 256
_MOST_TOKENS = 256  # where a task does not say


@register_model("ane-train")
class AneTrainLM(TemplateLM):  # type: ignore[misc]
    """A model of ours as the harness sees one; the arguments are those of `ane-train generate`."""

    def __init__(
        self,
        model: str,
        engine: str = "auto",
        numerics: str = "fp16",
        int8: bool | str = False,
        **others: Any,
    ) -> None:
        super().__init__()
        self._opened = open_model(model, _path(others.get("tokenizer")))
        self._engine = open_engine(EngineOptions(engine, numerics))
        context = int(others.get("context") or self._opened.spec.sequence)
        options = DecoderOptions(context, _PROMPT, int8=str(int8).lower() == "true")
        self._generator = Generator(self._opened.spec, self._opened.weights, self._engine, options)

    @property
    def max_length(self) -> int:
        """Tokens of the context."""
        return self._generator.context

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text. DataError if the tokenizer has none."""
        ends = sorted(self._opened.vocabulary.ends)
        if not ends:
            raise DataError("the harness needs a token that ends a text; this tokenizer has none")
        return ends[0]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The tokens of a text; with those that begin one, unless told not to."""
        vocabulary = self._opened.vocabulary
        tokens: list[int] = (
            vocabulary.encode(string) if add_special_tokens is not False
            else vocabulary.encode_part(string)
        ).tolist()  # fmt: skip
        return tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [self._score(context, wanted) for _, context, wanted in requests]

    def _score(self, context: list[int], wanted: list[int]) -> tuple[float, bool]:
        """log p(wanted | context), and whether each wanted token is the likeliest."""
        if not wanted:
            return 0.0, True
        text = np.array([*context, *wanted][-(self.max_length + 1) :], np.int32)
        count = min(len(wanted), len(text) - 1)
        head, decoder = self._generator.head, self._generator.decoder
        decoder.truncate(0)
        x = decoder.extend(head.embed(text[:-1]))
        logits = head.all_logits(x[:, -count:]).astype(np.float64)
        largest = logits.max(axis=1)
        totals = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        found = logits[np.arange(count), text[-count:]]
        greedy = bool((logits.argmax(axis=1) == text[-count:]).all())
        return float((found - totals).sum()), greedy

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """log p of whole texts, in windows that do not overlap but for one token."""
        return [
            math.fsum(self._score(*window)[0] for window in self._windows(request.args[0]))
            for request in requests
        ]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self.eot_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        yield from map(make_disjoint_window, windows)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of each request's stop strings."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        most = int(settings.get("max_gen_toks", _MOST_TOKENS))
        most = min(most, self.max_length - 1)
        vocabulary = self._opened.vocabulary
        warm = float(settings.get("temperature") or 0) if settings.get("do_sample") else 0.0
        sampling = Sampling(warm, top_p=float(settings.get("top_p") or 1.0))
        request = Request(most, sampling, ends=vocabulary.ends, stops=tuple(until))
        prompt = vocabulary.encode(context)[-(self.max_length - most) :]
        return write(self._generator, vocabulary, prompt, request).text


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
