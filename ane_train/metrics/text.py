"""Events as plain words: rows of facts, one line a step, and the log file.

Everything here is ASCII without escape codes; the terminal, pipes and log.txt share it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from ane_train.errors import DiskError
from ane_train.metrics.events import (
    OVERLAPPED,
    PARTS,
    Event,
    Notice,
    RunContinued,
    RunEnded,
    RunStarted,
    Sampled,
    Saved,
    StepDone,
    Warned,
)
from ane_train.metrics.jsonl import close_quietly
from ane_train.metrics.units import count, duration, flops, loss, size

Row = tuple[str, str]
LOG_NAME = "log.txt"
SMOOTHING = 0.95
SAMPLE_WIDTH = 80
QUIET_SECONDS = 10.0  # slow steps print a line at least this often
_REASONS = {
    "finished": "finished",
    "stopped": "stopped as asked",
    "max_time": "stopped: the time is used up",
    "max_tokens": "stopped: the tokens are used up",
    "patience": "stopped: validation did not get better",
    "interrupted": "interrupted",
    "terminated": "terminated",
    "diverged": "diverged",
}


class Meter:
    """Running numbers of the steps: a smoothed loss, speed and the time that is left."""

    def __init__(self, started: RunStarted, state: Mapping[str, float] | None = None) -> None:
        self._accum = started.accum
        self._steps = started.steps
        self._loss = self._loss_weight = 0.0
        self._seconds = self._tokens = self._speed_weight = 0.0
        self._first = self._done = started.first_step
        self._pauses = 0.0
        for name, value in (state or {}).items():
            setattr(self, name, value)

    def state(self) -> dict[str, float]:
        """What another Meter takes to go on from here."""
        return dict(vars(self))

    def pause(self, seconds: float) -> None:
        """Take in a restart, which will come again after as many steps."""
        self._pauses += seconds

    def add(self, step: StepDone) -> None:
        """Take a step in; a loss that is not finite leaves the smoothed one as it was."""
        keep, new = SMOOTHING, 1 - SMOOTHING
        if math.isfinite(step.loss):
            self._loss = keep * self._loss + new * step.loss
            self._loss_weight = keep * self._loss_weight + new
        self._seconds = keep * self._seconds + new * step.seconds
        self._tokens = keep * self._tokens + new * step.tokens
        self._speed_weight = keep * self._speed_weight + new
        self._done = step.step

    @property
    def loss(self) -> float:
        """Exponential moving average of the loss, free of the bias of its start; NaN before."""
        return self._loss / self._loss_weight if self._loss_weight else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on per second, of late."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def micro_batch_ms(self) -> float:
        """Milliseconds per micro-batch, of late."""
        return 1000 * self._step_seconds / self._accum

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step; None without an end."""
        if not self._steps:
            return None
        pause = self._pauses / max(1, self._done - self._first)
        return (self._step_seconds + pause) * max(0, self._steps - self._done)

    @property
    def _step_seconds(self) -> float:
        return self._seconds / self._speed_weight if self._speed_weight else 0.0


def _trained(event: RunStarted) -> str:
    if event.trained in (None, event.parameters):
        return ""
    if event.adapters:
        return f"; trained: adapters of {count(event.trained or 0)}"
    return f", {count(event.trained or 0)} of them trained"


def start_rows(event: RunStarted) -> list[Row]:
    """What is said when a run starts, as (label, text)."""
    per_step = event.batch_size * event.accum * event.sequence
    rows = [
        ("model", f"{event.model}, {count(event.parameters)} parameters{_trained(event)}"),
        ("engine", f"{event.engine} ({event.engine_reason})"),
        ("numerics", f"{event.numerics}, BLAS {event.blas or 'none'}, threads {event.threads}"),
        (
            "data",
            f"{event.data_name}: {count(event.train_tokens)} tokens to train on, "
            f"{count(event.valid_tokens)} to validate",
        ),
        (
            "batch",
            f"{event.batch_size} x accum {event.accum} x sequence {event.sequence} "
            f"= {per_step:,} tokens a step",
        ),
        ("schedule", event.schedule),
        ("memory", _memory(event)),
        ("run", f"{_near(event.run_folder)}, seed {event.seed}"),
    ]
    if event.resumed:
        rows.append(("resumed", f"after step {event.first_step}"))
    return rows


def step_line(event: StepDone, meter: Meter, mean_loss: float, steps: int) -> str:
    """One line for a step: `step 20/300  loss 6.1234  lr 3.0e-04  ...`."""
    parts = [
        f"step {event.step:>{len(str(steps))}}/{steps}" if steps else f"step {event.step}",
        f"loss {loss(mean_loss)}",
        f"lr {event.lr:.1e}",
        f"grad {event.grad_norm:.2f}",
        f"{meter.tokens_per_second:,.0f} tok/s",
        f"{meter.micro_batch_ms:.1f} ms/micro-batch",
    ]
    if meter.seconds_left is not None:
        parts.append(f"eta {duration(meter.seconds_left)}")
    return "  ".join(parts)


def event_line(event: Notice) -> str:
    """One line for what happens between steps."""
    if isinstance(event, Saved):
        return f"saved step {event.step}: {'/'.join(event.path.parts[-2:])} ({event.reason})"
    if isinstance(event, Warned):
        return f"warning: {event.text}"
    if isinstance(event, Sampled):
        return f"sample step {event.step}: {_shortened(ascii(event.prompt + event.text))}"
    parts = [f"eval step {event.step}", f"loss {loss(event.loss)}", f"ppl {event.perplexity:.2f}"]
    if event.bits_per_byte is not None:
        parts.append(f"bits/byte {event.bits_per_byte:.3f}")
    return "  ".join([*parts, "best"] if event.best else parts)


def _shortened(text: str) -> str:
    return text if len(text) <= SAMPLE_WIDTH else f"{text[: SAMPLE_WIDTH - 3]}..."


def part_rows(event: RunEnded) -> list[tuple[str, float, float]]:
    """Where the time went: (part, seconds, share of the wall-clock time), with "other" the rest."""
    names = [*PARTS, *(name for name in event.timings if name not in PARTS)]
    parts = [(name, event.timings[name]) for name in names if name in event.timings]
    hidden = event.timings.get(OVERLAPPED, 0.0)
    rest = event.seconds - (sum(event.timings.values()) - hidden)
    shown = [(PARTS.get(name, name), seconds) for name, seconds in parts if name != OVERLAPPED]
    if rest > 0:
        shown.append(("other", rest))
    if hidden:
        shown.append(("BLAS at the same time", hidden))
    whole = event.seconds or math.inf
    return [(name, seconds, seconds / whole) for name, seconds in shown]


def end_rows(event: RunEnded, started: RunStarted) -> list[Row]:
    """What is said when a run ends, as (label, text)."""
    of = f"/{started.steps}" if started.steps else ""
    seconds = event.training_seconds or math.inf
    rows = [
        (
            "run",
            f"{_REASONS[event.reason]} at step {event.step}{of} after {duration(event.seconds)}",
        ),
        ("tokens", f"{event.tokens:,} seen, {event.tokens / seconds:,.0f} per second"),
        ("steps", f"{event.steps} in this process{_micro_batch(event, started)}"),
        ("compute", f"{flops(event.flops / seconds)}, {_peak(event)}"),
    ]
    if event.best_loss is not None:
        rows.append(
            (
                "best",
                f"validation loss {event.best_loss:.4f} "
                f"(ppl {_perplexity(event.best_loss)}) at step {event.best_step}",
            )
        )
    if event.checkpoint is not None:
        rows.append(("checkpoint", _near(event.checkpoint)))
    return rows


def resume_command(event: RunEnded, started: RunStarted) -> str | None:
    """What to type to go on with a run; None if it left no checkpoint."""
    if event.checkpoint is None:
        return None
    more = f" --steps {2 * max(started.steps, event.step)}" if event.reason == "finished" else ""
    return f"ane-train --resume {shlex.quote(_near(started.run_folder))}{more}"


class PlainText:
    """The listener that writes lines: every `log_every` steps one, and one for all other events."""

    def __init__(
        self, write: Callable[[str], None], log_every: int = 1, name: str = "text"
    ) -> None:
        self.name = name
        self._write = write
        self._log_every = log_every
        self._started: RunStarted | None = None
        self._meter: Meter | None = None
        self._losses: list[float] = []
        self._quiet = 0.0

    def handle(self, event: Event) -> None:
        """Write what the event says."""
        if isinstance(event, RunStarted):
            self._started, self._meter = event, Meter(event)
            self._rows(start_rows(event))
        elif isinstance(event, RunContinued):
            self._continue(event, event.memory.get(self.name, {}))
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, RunEnded):
            self._end(event)
        else:
            self._write(event_line(event))

    def hand_over(self) -> dict[str, Any]:
        """Running numbers, and what the next line is the mean of."""
        meter = self._meter.state() if self._meter else {}
        return {"meter": meter, "losses": self._losses, "quiet": self._quiet}

    def close(self) -> None:
        """Nothing is open."""

    def _continue(self, event: RunContinued, memory: Mapping[str, Any]) -> None:
        self._started, self._meter = event.started, Meter(event.started, memory.get("meter"))
        self._meter.pause(event.seconds)
        self._losses, self._quiet = memory.get("losses", []), memory.get("quiet", 0.0)

    def _step(self, event: StepDone) -> None:
        if self._started is None or self._meter is None:
            return
        self._meter.add(event)
        if math.isfinite(event.loss):
            self._losses.append(event.loss)
        self._quiet += event.seconds
        first_or_last = event.step in (self._started.first_step + 1, self._started.steps)
        due = event.step % self._log_every == 0 or self._quiet >= QUIET_SECONDS
        if due or first_or_last:
            mean = sum(self._losses) / len(self._losses) if self._losses else math.nan
            self._write(step_line(event, self._meter, mean, self._started.steps))
            self._losses.clear()
            self._quiet = 0.0

    def _end(self, event: RunEnded) -> None:
        if self._started is None:
            return
        rows = [
            (name, f"{duration(seconds)}, {share:.1%}") for name, seconds, share in part_rows(event)
        ]
        self._rows(rows)
        self._rows(end_rows(event, self._started))
        command = resume_command(event, self._started)
        if command:
            self._write(f"go on with: {command}")

    def _rows(self, rows: list[Row]) -> None:
        width = max((len(label) for label, _ in rows), default=0)
        for label, text in rows:
            self._write(f"{label:<{width}}  {text}")


class LogFile:
    """The listener that keeps the run's log.txt: the plain lines with their times (UTC)."""

    name = LOG_NAME

    def __init__(
        self, log_every: int = 1, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._text = PlainText(self._write, log_every, self.name)
        self._now = now
        self._file: TextIO | None = None

    def handle(self, event: Event) -> None:
        """Write the event; raises DiskError when the disk is full or gone."""
        try:
            if isinstance(event, RunStarted | RunContinued):
                started = event if isinstance(event, RunStarted) else event.started
                self._file = (started.run_folder / LOG_NAME).open("a", encoding="utf-8")
            self._text.handle(event)
        except OSError as error:
            raise DiskError(f"{LOG_NAME} cannot be written: {error.strerror}") from None

    def hand_over(self) -> dict[str, Any]:
        """That of its lines."""
        return self._text.hand_over()

    def close(self) -> None:
        """Close the file."""
        close_quietly(self._file)
        self._file = None

    def _write(self, line: str) -> None:
        if self._file is not None:
            self._file.write(f"{self._now():%Y-%m-%d %H:%M:%S}  {line}\n")
            self._file.flush()


def _memory(event: RunStarted) -> str:
    needed = f"needs {size(event.memory_needed)}"
    if event.memory_available is None:
        return needed
    return f"{needed} of {size(event.memory_available)} available"


def _micro_batch(event: RunEnded, started: RunStarted) -> str:
    micro_batches = event.steps * started.accum
    return (
        f", {1000 * event.training_seconds / micro_batches:.1f} ms per micro-batch"
        if micro_batches
        else ""
    )


def _peak(event: RunEnded) -> str:
    if not event.peak_flops or not event.training_seconds:
        return "peak unknown"
    share = event.flops / event.training_seconds / event.peak_flops
    return f"{share:.1%} of the peak of {flops(event.peak_flops)}"


def _perplexity(value: float) -> str:
    return f"{math.exp(value):.2f}" if value < 100 else "inf"


def _near(path: Path) -> str:
    """The path as it is from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
