"""A run in progress: everything it is made of, and what can be done with it.

`Progress` is all that a checkpoint holds besides the arrays; with the configuration it determines
every later step to the bit. When things are done is the loop's business.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ane_train.config import RunConfig
from ane_train.data.batches import Batch, Compaction, batch, validation_batches
from ane_train.data.source import DataSource
from ane_train.engine import Engine
from ane_train.errors import CheckpointError
from ane_train.interop import peft
from ane_train.metrics.events import Evaluated, Saved, StepDone
from ane_train.model.parameters import count
from ane_train.model.spec import ModelSpec
from ane_train.storage.base_file import ADAPTERS, from_values, read_base, to_values, write_base
from ane_train.storage.checkpoint import Content, load, read_state
from ane_train.storage.checkpoint_store import PASSING, CheckpointStore
from ane_train.storage.run_folder import RunFolder
from ane_train.storage.tensor_file import FileRecord
from ane_train.train.loss_scale import LossScale
from ane_train.train.saving import Saver
from ane_train.train.schedule import Schedule
from ane_train.train.step import AdamW, TrainingStep, Update


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. Steps count from 0 and include skipped ones; updates do not.

    `unfinished`: evaluating and saving, where due after this step, are still to come.
    """

    step: int = 0
    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_scale: LossScale = field(default_factory=LossScale)
    best_step: int | None = None
    best_loss: float | None = None
    stale_evaluations: int = 0
    unfinished: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Progress:
        """The inverse of to_dict. CheckpointError if `state` is not a progress."""
        try:
            scale = LossScale.from_dict(state["loss_scale"])
            return cls(**{**state, "loss_scale": scale})
        except (KeyError, TypeError):
            raise CheckpointError(
                "the checkpoint's state is not one of this version; resume from another one"
            ) from None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is opened with. `compaction` is None where the whole vocabulary is trained."""

    config: RunConfig
    spec: ModelSpec
    data: DataSource
    compaction: Compaction | None
    engine: Engine
    folder: RunFolder
    store: CheckpointStore


class Session:
    """Owns the training step and the progress of one run."""

    def __init__(self, parts: Parts, step: TrainingStep, schedule: Schedule) -> None:
        config = parts.config
        self.parts, self.step, self.schedule = parts, step, schedule
        self.sequence = step.sequence
        self.optimizer = AdamW(
            config.beta1, config.beta2, config.epsilon, config.weight_decay, config.clip
        )
        scale = "1" if config.numerics == "fp32" else config.loss_scale
        self.progress = Progress(loss_scale=LossScale.from_setting(scale))
        self.saver = Saver(parts.store)
        self.saved_step: int | None = None
        self.base: FileRecord | None = None
        self.memory_available: int | None = None
        self.resources = ExitStack()

    def batch(self, index: int) -> Batch:
        """Training micro-batch number `index` of the run."""
        config, data = self.parts.config, self.parts.data
        found = batch(
            data.train,
            seed=config.seed,
            step=index,
            count=config.batch_size,
            sequence=self.sequence,
        )
        return self._compacted(found)

    def _compacted(self, found: Batch) -> Batch:
        compaction = self.parts.compaction
        if compaction is None:
            return found
        return compaction.apply(found[0]), compaction.apply(found[1])

    def train_step(self) -> tuple[StepDone, Update]:
        """One optimizer step: `accum` micro-batches and the update."""
        start = time.perf_counter()
        config, progress = self.parts.config, self.progress
        with self.step.timings.measure("data"):
            first = progress.step * config.accum
            batches = [self.batch(index) for index in range(first, first + config.accum)]
        scale, counted = progress.loss_scale.value, _mean_counted(batches)
        losses = [self.step.micro_batch(*found, scale, counted) for found in batches]
        rate = self.schedule.rate(progress.step + 1)
        update = self.step.update(
            self.optimizer,
            rate,
            progress.updates + 1,
            1 / (scale * config.accum),
            before_change=self._wait_for_saver,
        )
        tokens = config.accum * config.batch_size * self.sequence
        seconds = time.perf_counter() - start
        finite = update.bad is None
        self.progress = replace(
            progress,
            step=progress.step + 1,
            updates=progress.updates + finite,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + seconds,
            loss_scale=progress.loss_scale.after(finite),
            unfinished=True,
        )
        done = StepDone(
            step=self.progress.step,
            loss=sum(losses) / len(losses),
            lr=rate,
            grad_norm=update.gradient_norm,
            loss_scale=progress.loss_scale.value,
            tokens=tokens,
            seconds=seconds,
            timings=self.step.timings.take(),
            skipped=not finite,
        )
        return done, update

    def _wait_for_saver(self) -> None:
        if self.saver.is_reading:
            with self.step.timings.measure("saving"):
                self.saver.wait_until_read()

    def evaluate(self) -> Evaluated:
        """Loss on the first `eval_batches` validation batches; better than ever or not is noted."""
        start = time.perf_counter()
        config, data, progress = self.parts.config, self.parts.data, self.progress
        batches = validation_batches(data.valid, self.sequence, config.batch_size)
        chosen = [
            self._compacted(found) for found in itertools.islice(batches, config.eval_batches)
        ]
        counted = _mean_counted(chosen)
        losses = [self.step.evaluate(*found, counted) for found in chosen]
        self.step.timings.take()
        loss = sum(losses) / len(losses)
        bits = None if not data.bytes_per_token else loss / math.log(2) / data.bytes_per_token
        best = progress.step > 0 and (
            progress.best_loss is None or loss < progress.best_loss - config.min_delta
        )
        if best:
            self.progress = replace(
                progress, best_step=progress.step, best_loss=loss, stale_evaluations=0
            )
        elif progress.step > 0:
            stale = progress.stale_evaluations + 1
            self.progress = replace(progress, stale_evaluations=stale)
        perplexity = math.exp(loss) if loss < 700 else math.inf
        seconds = time.perf_counter() - start
        return Evaluated(progress.step, loss, perplexity, bits, seconds, best)

    def tensors(self) -> dict[str, Mapping[str, np.ndarray]]:
        """All arrays of a checkpoint by kind and name; views, not copies.

        With adapters they take the place of the weights, under PEFT's names.
        """
        adapters = self.step.adapters
        if adapters:
            factors = {p.hf_name: adapters.values[p.name] for p in adapters.table}
        trained = {peft.MODEL: factors} if adapters else {"weights": self.step.weights.views}
        return {
            **trained,
            "first_moment": self.step.first_moment.views,
            "second_moment": self.step.second_moment.views,
        }

    def begin_adapters(self) -> None:
        """Fresh adapters beside the weights as they are, which the run keeps. DiskError."""
        adapters, weights = self.step.adapters, self.step.weights
        assert adapters is not None, "the run was opened with --lora-rank"
        adapters.begin(weights, self.parts.config.seed)
        self.base = write_base(self.parts.folder.base, adapters.base(weights))

    def begin_save(self, reason: str, *, best: bool = False, passing: bool = False) -> None:
        """Starts writing a checkpoint of now; training may go on. The one before must be taken.

        A `passing` one is for going on in another process, and is gone after the next save.
        """
        self.saver.begin(self._content(passing), reason, best=best)

    def take_saved(self, *, wait: bool) -> Saved | None:
        """What begin_save started, once it is complete; None if it is not, or nothing was started.

        DiskError if it cannot be written; the earlier checkpoints are as they were then.
        """
        saved = self.saver.take(wait=wait)
        if saved is not None:
            self.saved_step = saved.step
        return saved

    def save(self, reason: str, *, best: bool = False, passing: bool = False) -> Saved:
        """Writes a checkpoint and waits for it. DiskError."""
        self.begin_save(reason, best=best, passing=passing)
        saved = self.take_saved(wait=True)
        assert saved is not None, "it was waited for"
        return saved

    def _content(self, passing: bool) -> Content:
        """A checkpoint of now. All but the arrays is a copy."""
        values: dict[str, Any] = {
            "model_name": self.parts.spec.name,
            "data": self.parts.data.fingerprint,
            "progress": self.progress.to_dict(),
        }
        if self.parts.compaction is not None:
            values["vocabulary"] = self.parts.compaction.new_to_old.tolist()
        if self.step.adapters and self.base:
            values[ADAPTERS] = to_values(self.step.adapters.lora, self.base)
        if passing:
            values[PASSING] = True
        return Content(
            self.progress.step,
            self.parts.spec.fingerprint,
            values,
            self.tensors(),
            self._companions(),
        )

    def _companions(self) -> dict[str, bytes]:
        adapters, parts = self.step.adapters, self.parts
        if adapters is None:
            return {}
        return {
            peft.CONFIG: peft.adapter_config(parts.spec, adapters.lora, parts.config.init or "")
        }

    def load(self, checkpoint: Path) -> str | None:
        """Takes weights, moments and progress from a checkpoint; a warning if the data differs."""
        if self.step.adapters:
            values = read_state(checkpoint).values
            self.base = from_values(values, self.step.adapters.lora, checkpoint)
            base = self.step.adapters.base(self.step.weights)
            read_base(self.parts.folder.base, base, self.base)
        state = load(checkpoint, self.tensors(), model=self.parts.spec.fingerprint)
        self.progress = Progress.from_dict(state.values["progress"])
        self.saved_step = None if PASSING in state.values else self.progress.step
        self.step.refresh()
        if state.values["data"] != self.parts.data.fingerprint:
            return "the data is not what this run was trained on so far: batches will differ"
        return None

    @property
    def flops_per_token(self) -> float:
        """Forward and backward: six per weight of a matrix product, and attention's 12 L Q S.

        With adapters four per weight, of which no gradient is taken, and four per adapter's.
        """
        spec = self.parts.spec
        lookups = 0 if spec.tied_embeddings else spec.vocabulary * spec.dim
        attention = 12 * spec.layers * spec.heads * spec.head_size * self.sequence
        products = count(spec) - lookups
        if self.step.adapters:
            adapters = sum(factor.size for factor in self.step.adapters.table)
            return float(4 * (products + adapters) + attention)
        return float(6 * products + attention)

    def close(self) -> None:
        """Ends threads, frees the engine, unlocks the run's folder."""
        self.resources.close()


def _mean_counted(batches: Sequence[Batch]) -> float:
    """Number of targets that count in a batch, on average."""
    return sum(int((targets >= 0).sum()) for _, targets in batches) / len(batches)
