"""Our sides: training step and decoder as the commands open them, on the software engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ane_train.config import Layer, resolve
from ane_train.engine import EngineOptions, open_engine
from ane_train.generate.decoder import DecoderOptions
from ane_train.generate.generator import Generator
from ane_train.model.arena import Arena, initialize
from ane_train.model.parameters import parameters
from ane_train.model.spec import load_model
from ane_train.train.opening import open_session
from bench.runs import run_settings


class Ours:
    """One micro-batch of a run, again and again; or its checkpoint."""

    def __init__(
        self, folder: str, model: str, batch: int, sequence: int, numerics: str = "fp16"
    ) -> None:
        settings = run_settings(Path(folder), model, batch, sequence) | {"numerics": numerics}
        self.session, _ = open_session(resolve([Layer("bench", settings)]))
        context = self.session.parts.engine.context
        self.facts = {
            "blas": context.blas_name,
            "threads": str(context.threads),
            "numerics": self.session.parts.engine.numerics,
        }
        self._batch = self.session.batch(0)

    def run(self, task: str = "micro_batch") -> dict[str, Any]:
        """Seconds of a task: "micro_batch" (forward, loss, backward) or "save"."""
        start = time.perf_counter()
        if task == "save":
            self.session.save("asked for")
        else:
            scale = self.session.progress.loss_scale.value
            self.session.step.micro_batch(*self._batch, scale)
        return {"seconds": time.perf_counter() - start}


class Decoding:
    """Tokens after a prompt, one at a time, with fp16 and with int8 weights."""

    def __init__(self, model: str, context: int) -> None:
        spec = load_model(model)
        self._engine = open_engine(EngineOptions(kind="cpu"))
        table = parameters(spec)
        weights = Arena(table)
        initialize(weights, table, 0)
        self.facts = {"threads": str(self._engine.context.threads)}
        self._generators = {
            int8: Generator(spec, weights, self._engine, DecoderOptions(context, int8=int8))
            for int8 in (False, True)
        }

    def run(self, prompt: int, tokens: int, int8: bool) -> dict[str, Any]:
        """Seconds of `tokens` greedy tokens after a prompt of so many, which does not count."""
        generator = self._generators[int8]
        logits = generator.prefill(list(range(1, prompt + 1)), tokens)
        start = time.perf_counter()
        for _ in range(tokens):
            logits = generator.step(int(logits.argmax()))
        return {"seconds": time.perf_counter() - start}
