"""Tokens a second of decoding, fp16 and int8, against transformers in fp32 with its cache."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.samples import Ratio, Result, Series, interleaved, rounds_within
from bench.worker import Worker, cores

_PROMPT, _TOKENS = 16, 32
_BUDGET = 60.0


def decoding(model: str, _folder: Path, rounds: int | None = None) -> Result:
    """The same number of tokens after a prompt of the same length, in turn."""
    length = {"prompt": _PROMPT, "tokens": _TOKENS}
    with ExitStack() as stack:
        ours = stack.enter_context(Worker("ours_decoding", model=model, context=256))
        torch = stack.enter_context(Worker("torch_decoding", model=model))
        tried = {}
        for threads in sorted({1, cores()}):
            ask = partial(torch.seconds, **length, threads=threads)
            ask()
            tried[min(ask() for _ in range(2))] = threads
        threads = tried[min(tried)]
        sides = {
            "ours fp16": partial(ours.seconds, **length, int8=False),
            "ours int8": partial(ours.seconds, **length, int8=True),
            "torch fp32": partial(torch.seconds, **length, threads=threads),
        }
        round_seconds = sum(side() for side in sides.values())
        samples = interleaved(sides, rounds or rounds_within(_BUDGET, round_seconds))
    notes = {"torch fp32": f"best of 1 and {cores()} threads: {threads}"}
    series = [
        Series(name, "tokens/s", tuple(_TOKENS / s for s in samples[name]), notes.get(name, ""))
        for name in sides
    ]
    fp16, int8, theirs = (each.median for each in series)
    return Result(
        series,
        [Ratio("decoding", fp16 / theirs, ">= 1.0"), Ratio("int8_decoding", int8 / fp16, ">= 1.3")],
    )
