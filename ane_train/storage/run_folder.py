"""A run's folder: everything about the run, and a lock so that only one process writes it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

from ane_train import __version__
from ane_train.errors import CheckpointError, ConfigError, DiskError
from ane_train.storage import durable
from ane_train.storage.checkpoint import STATE_FILE
from ane_train.storage.checkpoint_store import LAST, CheckpointStore, has_checkpoint, newest

DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The names of what a run consists of."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; where this file is, there is a run."""
        return self.path / "config.toml"

    @property
    def model(self) -> Path:
        """The model's file, as the run began; absent in runs of older versions."""
        return self.path / "model.toml"

    @property
    def tokenizer(self) -> Path:
        """A folder with the tokenizer's files; absent where the data does not tell."""
        return self.path / "tokenizer"

    @property
    def base(self) -> Path:
        """The weights beside the adapters; absent where there are none. See base_file."""
        return self.path / "base.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: steps, evaluations and what else happened."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What was said on the screen."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's CheckpointStore."""
        return self.path / "checkpoints"

    def write_config(self, text: str) -> None:
        """Writes or replaces the resolved configuration. DiskError."""
        self._replace(self.config, text)

    def write_model(self, text: str) -> None:
        """Writes the model's file. DiskError."""
        self._replace(self.model, text)

    def write_tokenizer(self, files: Mapping[str, bytes]) -> None:
        """Writes the tokenizer's files, by name, into a folder of their own. DiskError."""
        try:
            self.tokenizer.mkdir(exist_ok=True)
            for name, content in files.items():
                durable.replace_file(self.tokenizer / name, content)
        except OSError as error:
            raise DiskError(f"cannot write {self.tokenizer}: {error.strerror}") from error

    def write_environment(self) -> None:
        """Writes env.json: what the run runs on, and nothing about whose it is. DiskError."""
        self._replace(self.path / "env.json", json.dumps(describe_environment(), indent=1) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes this process the only one that may write the run; ends with the process at latest.

        ConfigError, naming the other process, if one writes it already. The lock is not inherited
        by programs that this process starts, nor by the one that it replaces itself with.
        """
        path = self.path / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror}") from error
        try:
            self._take_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _take_lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"{self.path} is being written by process {owner}; "
                "wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            raise DiskError(
                f"the file system of {self.path} has no locks ({error.strerror}); "
                "choose an --out on another disk"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def _replace(self, path: Path, text: str) -> None:
        try:
            durable.replace_file(path, text.encode())
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror}; free some space") from error


def create(
    model: str,
    *,
    out: Path | None = None,
    root: Path = DEFAULT_ROOT,
    now: datetime | None = None,
) -> RunFolder:
    """A folder for a new run: `out`, or else a new ROOT/<date>-<time>-<model>.

    ConfigError if `out` holds a run already or is no folder, DiskError if it cannot be made.
    """
    try:
        path = _prepare_out(out) if out else _make_dated(root, model, now or datetime.now())
        durable.synchronize_folder(path.parent)
    except OSError as error:
        place = error.filename or out or root
        raise DiskError(f"cannot create {place}: {error.strerror}") from error
    run = RunFolder(path)
    run.write_environment()
    return run


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run to go on with. `checkpoint` is the one that was asked for, or None for the last one.

    Which one that is, CheckpointStore.last says, once the run is locked and the store open.
    """

    run: RunFolder
    checkpoint: Path | None


def is_youngest(path: Path) -> bool:
    """Whether `path` is RUNS/last, which stands for the run there with the youngest checkpoint."""
    runs = path.parent
    return (
        path.name == LAST
        and runs.name != "checkpoints"
        and runs.is_dir()
        and not os.path.lexists(path)
    )


def find(resume: str, *, root: Path = DEFAULT_ROOT) -> Resumed:
    """The run that --resume means: "last", a run, its checkpoints folder or one of its checkpoints.

    "last" is the run under `root` whose last checkpoint is the youngest, RUNS/last that of another
    folder. CheckpointError if there is no such run or it has no checkpoint.
    """
    if resume == LAST:
        return Resumed(_youngest(root), None)
    if is_youngest(Path(resume)):
        return Resumed(_youngest(Path(resume).parent), None)
    given = Path(os.path.abspath(resume))
    inside = given.parent if given.parent.name == "checkpoints" else given
    run = RunFolder(_shortened(inside.parent if inside.name == "checkpoints" else inside))
    if inside == given or given.name == LAST:
        if not has_checkpoint(run.checkpoints):
            raise CheckpointError(f"{_shortened(given)} has no checkpoint; {_runs_of(root)}")
        return Resumed(run, None)
    target = os.readlink(given) if given.is_symlink() else given.name
    checkpoint = run.checkpoints / target
    if not (checkpoint / STATE_FILE).is_file():
        raise CheckpointError(f"{_shortened(given)} is no checkpoint; {_checkpoints_of(run)}")
    return Resumed(run, checkpoint)


def describe_environment() -> dict[str, str | int]:
    """Versions and kind of machine; no names of hosts, users or folders."""
    return {
        "ane_train": __version__,
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "system": platform.system(),
        "system_version": platform.mac_ver()[0] or platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 1,
    }


def _prepare_out(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; choose a folder")
    run = RunFolder(out)
    if has_checkpoint(run.checkpoints):
        raise ConfigError(
            f"{out} holds a run already; go on with it by --resume {out}, or choose another --out"
        )
    if run.config.exists() or run.metrics.exists():
        raise ConfigError(
            f"{out} holds a run that has no checkpoint; delete it or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


def _make_dated(root: Path, model: str, now: datetime) -> Path:
    """The first free one of <date>-<model>, <date>-<model>-2, ...; made by no other process."""
    root.mkdir(parents=True, exist_ok=True)
    name, number = f"{now:%Y%m%d-%H%M%S}-{model}", 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _youngest(root: Path) -> RunFolder:
    runs = [RunFolder(path.parent) for path in root.glob("*/checkpoints") if has_checkpoint(path)]
    if not runs:
        raise CheckpointError(
            f"there is no run with a checkpoint in {root}; start one with --scratch, "
            "or name its folder: --resume DIR"
        )
    return max(runs, key=lambda run: (_saved_at(run), run.path.name))


def _saved_at(run: RunFolder) -> int:
    last = newest(run.checkpoints)
    return (last / STATE_FILE).stat().st_mtime_ns if last else 0


def _runs_of(root: Path) -> str:
    """Advice: the runs that could be meant."""
    runs = sorted(p.parent.name for p in root.glob("*/checkpoints") if has_checkpoint(p))
    return f"the runs in {root} are: {', '.join(runs)}" if runs else f"{root} has no runs"


def _checkpoints_of(run: RunFolder) -> str:
    """Advice: the checkpoints that could be meant."""
    steps = ", ".join(path.name for path in CheckpointStore(run.checkpoints).steps())
    return f"there are: {steps}" if steps else f"{run.path} has none"


def _shortened(path: Path) -> Path:
    """An absolute path as a user would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
