"""Experiment trackers as listeners: TensorBoard, Weights & Biases, trackio, MLflow.

Their packages are optional and imported when asked for; all are driven through three functions:
start with the run's facts, log numbers at a step, finish.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from ane_train.errors import ConfigError
from ane_train.metrics.events import (
    Evaluated,
    Event,
    RunContinued,
    RunEnded,
    RunStarted,
    StepDone,
)


class Backend(Protocol):
    """One tracker's own way to start, log and finish; made from its imported module."""

    def __init__(self, module: Any) -> None: ...

    def start(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        """Open a run; `folder` is where local files belong."""
        ...

    def identity(self) -> str | None:
        """What the tracker knows the open run by."""
        ...

    def resume(self, project: str, run: str, folder: Path, identity: str | None) -> None:
        """Open a run again that was started and finished with this identity."""
        ...

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Record numbers at a step."""
        ...

    def finish(self, succeeded: bool) -> None:
        """Close the run."""
        ...


class Tensorboard:
    """Event files in the run's folder, written by tensorboardX."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._writer: Any = None

    def start(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        """Open the event file."""
        self.resume(project, run, folder, None)
        self._writer.add_text("run", "\n\n".join(f"{key}: {facts[key]}" for key in facts), 0)

    def identity(self) -> str | None:
        """The folder is enough."""
        return None

    def resume(self, project: str, run: str, folder: Path, identity: str | None) -> None:
        """Open another event file in the folder: TensorBoard shows them as one run.

        Their names have the second in which they were made, which may be that of the last one.
        """
        events = folder / "tensorboard"
        suffix = f".{len(list(events.glob('*')))}"
        self._writer = self._module.SummaryWriter(logdir=str(events), filename_suffix=suffix)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add a scalar for each number."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def finish(self, succeeded: bool) -> None:
        """Flush and close the event file."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def start(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        """Open the run."""
        self._module.init(project=project, name=run, dir=str(folder), config=dict(facts))

    def identity(self) -> str | None:
        """The run's id."""
        return str(self._module.run.id)

    def resume(self, project: str, run: str, folder: Path, identity: str | None) -> None:
        """Open the run of that id."""
        self._module.init(project=project, id=identity, resume="must", dir=str(folder))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self._module.log(dict(numbers), step=step)

    def finish(self, succeeded: bool) -> None:
        """Close the run; a failed one is marked."""
        self._module.finish(exit_code=0 if succeeded else 1)


class Trackio:
    """A run of trackio, which keeps it on this machine."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def start(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        """Open the run."""
        self._module.init(project=project, name=run, config=dict(facts))

    def identity(self) -> str | None:
        """Its name is its identity."""
        return None

    def resume(self, project: str, run: str, folder: Path, identity: str | None) -> None:
        """Open the run of that name."""
        self._module.init(project=project, name=run, resume="must")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self._module.log(dict(numbers), step=step)

    def finish(self, succeeded: bool) -> None:
        """Close the run."""
        self._module.finish()


class Mlflow:
    """A run of MLflow."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def start(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        """Open the run in the experiment named as the project."""
        self._module.set_experiment(project)
        self._module.start_run(run_name=run)
        self._module.log_params(dict(facts))

    def identity(self) -> str | None:
        """The run's id."""
        return str(self._module.active_run().info.run_id)

    def resume(self, project: str, run: str, folder: Path, identity: str | None) -> None:
        """Open the run of that id."""
        self._module.set_experiment(project)
        self._module.start_run(run_id=identity)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self._module.log_metrics(dict(numbers), step=step)

    def finish(self, succeeded: bool) -> None:
        """Close the run; a failed one is marked."""
        self._module.end_run("FINISHED" if succeeded else "FAILED")


# name -> (how it is driven, module to import, package to install)
TRACKERS: Mapping[str, tuple[Callable[[Any], Backend], str, str]] = {
    "tensorboard": (Tensorboard, "tensorboardX", "tensorboardX"),
    "wandb": (Wandb, "wandb", "wandb"),
    "trackio": (Trackio, "trackio", "trackio"),
    "mlflow": (Mlflow, "mlflow", "mlflow"),
}


class Tracker:
    """The listener that tells one tracker."""

    def __init__(self, name: str, backend: Backend, project: str, run: str | None) -> None:
        self.name = name
        self._backend = backend
        self._project = project
        self._run = run
        self._open = False

    def handle(self, event: Event) -> None:
        """Start, log or finish."""
        if isinstance(event, RunStarted):
            name = self._run or event.run_folder.name
            self._backend.start(self._project, name, event.run_folder, _facts(event))
            self._open = True
        elif isinstance(event, RunContinued):
            if self.name in event.memory:
                self._resume(event.started.run_folder, event.memory[self.name]["identity"])
        elif isinstance(event, StepDone) and self._open:
            self._backend.log(_step_numbers(event), event.step)
        elif isinstance(event, Evaluated) and self._open:
            self._backend.log(_evaluation_numbers(event), event.step)
        elif isinstance(event, RunEnded):
            self._finish(event.reason != "diverged")

    def hand_over(self) -> dict[str, Any]:
        """The tracker's name for the run, which is finished until it is resumed."""
        identity = self._backend.identity()
        self._finish(True)
        return {"identity": identity}

    def close(self) -> None:
        """Finish a run that ended without saying so, as failed."""
        with suppress(Exception):
            self._finish(False)

    def _resume(self, folder: Path, identity: str | None) -> None:
        self._backend.resume(self._project, self._run or folder.name, folder, identity)
        self._open = True

    def _finish(self, succeeded: bool) -> None:
        if self._open:
            self._open = False
            self._backend.finish(succeeded)


def open_trackers(names: Iterable[str], *, project: str, run: str | None) -> list[Tracker]:
    """The trackers of these names; ConfigError says what to install where a package is missing."""
    return [Tracker(name, _backend(name), project, run) for name in names]


def _backend(name: str) -> Backend:
    backend, module, package = TRACKERS[name]
    try:
        return backend(importlib.import_module(module))
    except ImportError as error:
        if error.name is not None and error.name != module:
            raise ConfigError(f"--report-to {name}: {error}: pip install {error.name}") from None
        raise ConfigError(f"--report-to {name} needs its package: pip install {package}") from None


def _facts(event: RunStarted) -> dict[str, Any]:
    facts = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: str(fact) if isinstance(fact, Path) else fact for name, fact in facts.items()}


def _step_numbers(event: StepDone) -> dict[str, float]:
    numbers = {
        "train/loss": event.loss,
        "train/lr": event.lr,
        "train/grad_norm": event.grad_norm,
        "train/loss_scale": event.loss_scale,
        "time/ms": 1000 * event.seconds,
    }
    if event.seconds:
        numbers["time/tokens_per_second"] = event.tokens / event.seconds
    return numbers | {f"time/{name}": 1000 * s for name, s in event.timings.items()}


def _evaluation_numbers(event: Evaluated) -> dict[str, float]:
    numbers = {"valid/loss": event.loss, "valid/perplexity": event.perplexity}
    if event.bits_per_byte is not None:
        numbers["valid/bits_per_byte"] = event.bits_per_byte
    return numbers
