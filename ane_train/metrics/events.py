"""The events of a run: the one stream that the terminal, files, trackers and dashboards listen to.

Steps count optimizer steps from 1, over all processes of a run. Times are in seconds; `timings` has
them by the names of PARTS, and OVERLAPPED is work of another thread, hidden behind the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

OVERLAPPED = "overlapped"
PARTS: Mapping[str, str] = {
    "engine": "engine",
    "compile": "compiling",
    "io": "I/O (staging, reading)",
    "blas": "BLAS",
    "elementwise": "elementwise",
    "optimizer": "optimizer",
    "data": "data",
    "evaluation": "evaluation",
    "saving": "waiting for saves",
    "sampling": "sampling",
    "restart": "restarting",
}
PAUSES = ("evaluation", "saving", "sampling", "restart")
EndReason: TypeAlias = Literal[
    "finished",  # all steps done
    "stopped",  # --stop-after, or the file `stop` in the run's folder
    "max_time",
    "max_tokens",
    "patience",
    "interrupted",  # SIGINT
    "terminated",  # SIGTERM
    "diverged",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event: what is going to be trained, on what, with what."""

    run_folder: Path
    model: str
    parameters: int
    engine: str
    engine_reason: str
    numerics: str
    blas: str | None
    threads: int
    data_name: str
    train_tokens: int
    valid_tokens: int
    batch_size: int
    accum: int
    sequence: int
    steps: int  # the horizon; 0: no end
    first_step: int  # steps that were done before this process: 0 unless resumed
    schedule: str
    memory_needed: int  # bytes
    memory_available: int | None  # bytes
    seed: int
    resumed: bool
    flops_per_token: float  # forward and backward
    trained: int | None = None  # of the parameters, or in adapters beside them; None: all
    adapters: bool = False
    repeats: bool = False  # evaluates and saves after first_step, as the killed process may have


@dataclass(frozen=True, slots=True)
class RunContinued:
    """Stands for RunStarted in a process image that took another's place: nothing is said anew.

    `memory` is what each listener handed over, by its name.
    """

    started: RunStarted  # as the first image said it
    memory: Mapping[str, Mapping[str, Any]]
    seconds: float  # since the former image let go


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step, or one that was skipped because its gradient was not finite."""

    step: int
    loss: float  # mean over the tokens of the step, before the update
    lr: float
    grad_norm: float  # before clipping
    loss_scale: float
    tokens: int  # trained on in this step
    seconds: float
    timings: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Validation after `step` steps."""

    step: int
    loss: float
    perplexity: float
    bits_per_byte: float | None = None  # unknown where tokens cannot be turned into bytes
    seconds: float = 0.0
    best: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is complete on the disk; steps may have been done since it was begun.

    `seconds` is how long writing it took, and `waited` how much of that training stood still for.
    """

    step: int
    path: Path
    reason: str
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the model writes after `step` steps, behind a prompt."""

    step: int
    prompt: str
    text: str
    tokens: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Warned:
    """Something to know that does not stop the run."""

    text: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event; sums are over this process."""

    reason: EndReason
    step: int
    steps: int  # done by this process
    seconds: float
    tokens: int
    timings: Mapping[str, float]
    flops: float
    peak_flops: float | None = None  # FLOP/s
    best_step: int | None = None
    best_loss: float | None = None
    checkpoint: Path | None = None

    @property
    def training_seconds(self) -> float:
        """Seconds without the pauses: evaluating, waiting for saves, sampling and restarting."""
        return self.seconds - sum(self.timings.get(part, 0.0) for part in PAUSES)


Notice: TypeAlias = Evaluated | Saved | Sampled | Warned  # what happens between steps
Event: TypeAlias = RunStarted | RunContinued | StepDone | Notice | RunEnded


class Listener(Protocol):
    """Whoever wants to know.

    RunStarted or RunContinued comes first: the time to open what is in its folder.
    """

    @property
    def name(self) -> str:
        """What a warning about it calls it."""
        ...

    def handle(self, event: Event) -> None:
        """Take one event; called in the loop's thread, so be quick."""
        ...

    def hand_over(self) -> dict[str, Any]:
        """What its successor in the next process image has to know, as JSON can hold it."""
        ...

    def close(self) -> None:
        """Called once when the run is over, also when no RunEnded came; must not raise."""
        ...


class Broadcast:
    """Hands each event to all listeners and trackers; it is what the loop gets as `on_event`.

    What a listener raises goes up. A tracker that fails is left out from then on, with a warning
    to the others: a service that is down must not end a run.
    """

    def __init__(self, listeners: Iterable[Listener], trackers: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._trackers = list(trackers)

    def __call__(self, event: Event) -> None:
        """Hand out one event."""
        for listener in self._listeners:
            listener.handle(event)
        for tracker in list(self._trackers):
            try:
                tracker.handle(event)
            except Exception as error:
                self._trackers.remove(tracker)
                detail = f"{type(error).__name__}: {error}"
                self(Warned(f"{tracker.name} failed and is left out: {detail}"))

    def hand_over(self) -> dict[str, dict[str, Any]]:
        """What all hand over, by their names; what a tracker cannot say is left out."""
        memory = {listener.name: listener.hand_over() for listener in self._listeners}
        for tracker in self._trackers:
            with suppress(Exception):
                memory[tracker.name] = tracker.hand_over()
        return memory

    def close(self) -> None:
        """Close all."""
        for listener in (*self._trackers, *self._listeners):
            listener.close()
