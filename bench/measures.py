"""The one table of measures, and running one of them.

`python -m bench.measures NAME ROUNDS` (0: as many as fit its time) prints what it gives as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import checkpoint, decoding, growth, memory, optimizer, start, step
from bench.samples import Result
from bench.step import Case
from bench.worker import ROOT, SideError

STORIES, QWEN = "stories110m", "qwen3_06b"
B1, B4, Q1 = "stories110m_b1", "stories110m_b4", "qwen3_06b_b1"


@dataclass(frozen=True, slots=True)
class Measure:
    """`run` takes a folder for its files and a number of rounds, or None.

    cases: those of `ratios` in bench.json to which its ratios belong. is_default: whether it runs
    where none is named.
    """

    title: str
    run: Callable[[Path, int | None], Result]
    cases: tuple[str, ...] = ()
    is_default: bool = True


def _micro_batch(title: str, case: Case, *cases: str, is_default: bool = True) -> Measure:
    return Measure(title, partial(step.micro_batch, case), cases, is_default)


def _bf16(title: str, case: Case, *cases: str, is_default: bool = True) -> Measure:
    run = partial(step.micro_batch_bf16, case)
    return Measure(f"{title}, --numerics bf16", run, cases, is_default)


def _peak_memory(title: str, case: Case, *cases: str) -> Measure:
    return Measure(f"peak memory, {title}", partial(memory.peak_memory, case), cases)


# What needs the most memory and time comes last.
MEASURES = {
    "help": Measure("`ane-train --help`", start.help_screen),
    "start": Measure("start to first step, Stories110M", partial(start.first_step, STORIES)),
    "adamw_stories110m": Measure(
        "AdamW, 110 M parameters", partial(optimizer.adamw, STORIES), (B1, B4)
    ),
    "decode_stories110m": Measure("decoding, Stories110M", partial(decoding.decoding, STORIES)),
    "checkpoint": Measure("checkpoint of Stories110M", partial(checkpoint.checkpoint, STORIES)),
    "memory_stories110m_b1": _peak_memory("Stories110M, batch 1", Case(STORIES, 1), B1),
    "memory_stories110m_b4": _peak_memory("Stories110M, batch 4", Case(STORIES, 4), B4),
    B1: _micro_batch("Stories110M, batch 1", Case(STORIES, 1), B1),
    B4: _micro_batch("Stories110M, batch 4", Case(STORIES, 4), B4),
    f"{B1}_bf16": _bf16("Stories110M, batch 1", Case(STORIES, 1), B1),
    f"{B4}_bf16": _bf16("Stories110M, batch 4", Case(STORIES, 4), B4),
    "growth_layers": Measure("2 to 12 layers of Stories110M", partial(growth.by_layers, STORIES)),
    "growth_sequence": Measure(
        "128 to 2048 tokens, 2 layers of Stories110M", partial(growth.by_sequence, STORIES)
    ),
    "growth_batch": Measure("batch 1 to 8, Stories110M", partial(growth.by_batch, STORIES)),
    "decode_qwen3_06b": Measure("decoding, Qwen3-0.6B", partial(decoding.decoding, QWEN)),
    "adamw_qwen3_06b": Measure("AdamW, 596 M parameters", partial(optimizer.adamw, QWEN), (Q1,)),
    "memory_qwen3_06b_b1": _peak_memory("Qwen3-0.6B, batch 1", Case(QWEN, 1), Q1),
    Q1: _micro_batch("Qwen3-0.6B, batch 1", Case(QWEN, 1), Q1),
    f"{Q1}_bf16": _bf16("Qwen3-0.6B, batch 1", Case(QWEN, 1), Q1),
    "tiny_b1": _micro_batch("tiny, for a trial", Case("tiny", 1, 64), is_default=False),
    "tiny_b1_bf16": _bf16("tiny, for a trial", Case("tiny", 1, 64), is_default=False),
}


def main(name: str, rounds: int) -> None:
    """Runs one measure with its files in a folder of its own, on the disk of the checkout."""
    (ROOT / "build").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as folder:
        try:
            result = MEASURES[name].run(Path(folder), rounds or None).to_dict()
        except SideError as error:
            result = {"error": str(error)}
        print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
