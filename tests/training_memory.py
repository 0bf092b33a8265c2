"""Trains a model; prints the bytes of memory that it took above the process.

Arguments: model, tokens of a sequence, sequences side by side, and targets of adapters if any.
"""

from __future__ import annotations

import sys

import numpy as np
from import_memory import field

from ane_train.engine import EngineOptions, open_engine
from ane_train.model.adapters import lora_of
from ane_train.model.spec import load_model
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import AdamW, TrainingStep


def main() -> None:
    before = field("VmRSS")
    model, sequence, sequences, *targets = sys.argv[1:]
    spec, count = load_model(model), int(sequences)
    lora = lora_of(spec, 8, 16.0, targets) if targets else None
    engine = open_engine(EngineOptions("cpu", "fp16"))
    options = PipelineOptions(sequences=count)
    step = TrainingStep(spec, engine, int(sequence), pipeline=options, lora=lora)
    step.initialize(seed=1)
    tokens = np.tile(np.arange(step.sequence + 1, dtype=np.int32), (count, 1))
    for number in (1, 2):
        for _ in range(2):  # the engine keeps copies of what it reads twice
            step.micro_batch(tokens[:, :-1].copy(), tokens[:, 1:].copy())
        step.update(AdamW(), 1e-3, number)
    print(field("VmHWM") - before)
    step.close()


if __name__ == "__main__":
    main()
