"""Trains adapters of Stories110M; prints the bytes of memory that it took above the process."""

from __future__ import annotations

import sys

import numpy as np
from import_memory import field

from ane_train.engine import EngineOptions, open_engine
from ane_train.model.adapters import lora_of
from ane_train.model.spec import load_model
from ane_train.train.step import AdamW, TrainingStep


def main() -> None:
    before = field("VmRSS")
    spec, sequence = load_model("stories110m"), int(sys.argv[2])
    lora = lora_of(spec, 8, 16.0, sys.argv[1].split(","))
    step = TrainingStep(spec, open_engine(EngineOptions("cpu", "fp16")), sequence, lora=lora)
    step.initialize(seed=1)
    tokens = np.arange(sequence + 1, dtype=np.int32)[None]
    for number in (1, 2):
        for _ in range(2):  # the engine keeps copies of what it reads twice
            step.micro_batch(tokens[:, :-1].copy(), tokens[:, 1:].copy())
        step.update(AdamW(), 1e-3, number)
    print(field("VmHWM") - before)
    step.close()


if __name__ == "__main__":
    main()
