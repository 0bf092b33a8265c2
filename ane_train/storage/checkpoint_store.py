"""The checkpoints of a run: step folders, and the links `last` and `best` to two of them.

At every moment, also of a crash, `last` or else the newest step folder is a whole checkpoint. Only
the process that holds the run's lock may open a store; anyone may call `newest` and
`checkpoint.load`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ane_train.errors import CheckpointError, DiskError
from ane_train.storage import durable
from ane_train.storage.checkpoint import (
    STATE_FILE,
    Content,
    Tensors,
    read_state,
    step_folder_name,
    step_of,
    write_checkpoint,
)

LAST = "last"
BEST = "best"
PASSING = "passing"  # the key of a checkpoint's values that says that the next one replaces it

_ASIDE = ".old-"
_ROOM_FOR_HEADERS = 1 << 20


def _nothing() -> None:
    """What is called where nobody asked to be."""


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Saves into `folder` and keeps the `keep` highest steps, `last` and `best`; 0 keeps all.

    A checkpoint whose values have PASSING is not among those: it goes when it is no longer `last`.
    """

    folder: Path
    keep: int = 0

    @classmethod
    def open(cls, folder: Path, keep: int = 0) -> CheckpointStore:
        """Creates the folder, or repairs what a crash left in it. DiskError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            durable.synchronize_folder(folder.parent)
            recover(folder)
        except OSError as error:
            raise DiskError(f"cannot open {folder}: {error.strerror or error}") from error
        return cls(folder, keep)

    def save(
        self, content: Content, *, best: bool = False, on_read: Callable[[], object] = _nothing
    ) -> Path:
        """Makes this the last checkpoint, and the best if it is, then deletes old ones.

        A checkpoint of the same step is replaced. Returns the new one's folder. `on_read` is called
        when the tensors may change, which is before all is on the disk. DiskError if it cannot be
        written; nothing half-written is left then, and the others are as they were.
        """
        final = self.folder / step_folder_name(content.step)
        temporary = durable.temporary_name(final)
        try:
            self.require_space(content.tensors, f"saving step {content.step}")
            durable.discard(temporary)
            write_checkpoint(temporary, content, on_read)
            _publish(temporary, final)
        except OSError as error:
            raise DiskError(
                f"cannot save step {content.step} in {self.folder}: {error.strerror or error}; "
                "free some space and resume; earlier checkpoints are intact"
            ) from error
        finally:
            durable.discard(temporary)
        self._point_and_prune(final, best)
        return final

    def require_space(self, tensors: Tensors, purpose: str) -> None:
        """DiskError if a checkpoint of these arrays does not fit on the disk."""
        sizes = (array.nbytes for arrays in tensors.values() for array in arrays.values())
        durable.require_space(self.folder, sum(sizes) + _ROOM_FOR_HEADERS, purpose)

    def steps(self) -> tuple[Path, ...]:
        """The folders of all checkpoints, the lowest step first."""
        return _steps(self.folder)

    def last(self) -> Path | None:
        """The checkpoint to go on from; None if there is none."""
        return newest(self.folder)

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation loss; None if none was saved as that."""
        return _target(self.folder / BEST)

    def _point_and_prune(self, final: Path, best: bool) -> None:
        """`best` moves before `last`: if a crash parts them, the older `last` leads here again."""
        try:
            if best:
                durable.replace_link(self.folder / BEST, final.name)
            durable.replace_link(self.folder / LAST, final.name)
            self._prune()
        except OSError as error:
            raise DiskError(
                f"{final} is saved, but {self.folder} cannot be tidied: {error.strerror or error}"
            ) from error

    def _prune(self) -> None:
        kept = {_target(self.folder / LAST), _target(self.folder / BEST)}
        passing = [folder for folder in self.steps() if _is_passing(folder)]
        lasting = [folder for folder in self.steps() if folder not in passing]
        for folder in passing + (lasting[: -self.keep] if self.keep else []):
            if folder not in kept:
                durable.remove_folder(folder)


def newest(folder: Path) -> Path | None:
    """The checkpoint that `last` points to, or else the one of the highest step; None if none."""
    return _target(folder / LAST) or next(reversed(_steps(folder)), None)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint in `folder`, if need be after `recover`."""
    return newest(folder) is not None or any(folder.glob(f"{_ASIDE}step-*/"))


def recover(folder: Path) -> None:
    """Repairs what a crash left: puts back what was set aside, deletes what was not finished."""
    for aside in folder.glob(f"{_ASIDE}step-*/"):
        final = folder / aside.name.removeprefix(_ASIDE)
        if final.exists():
            durable.remove_folder(aside)
        else:
            os.rename(aside, final)
    durable.sweep(folder)
    durable.synchronize_folder(folder)


def _publish(temporary: Path, final: Path) -> None:
    """Gives a written checkpoint its name; one that has the name already is set aside meanwhile."""
    aside = final.with_name(_ASIDE + final.name)
    if not final.exists():
        os.rename(temporary, final)
    else:
        if aside.exists():
            durable.remove_folder(aside)
        os.rename(final, aside)
        try:
            os.rename(temporary, final)
        except OSError:
            os.rename(aside, final)
            raise
        durable.synchronize_folder(final.parent)
        durable.remove_folder(aside)
    durable.synchronize_folder(final.parent)


def _steps(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    numbered = [(step_of(path.name), path) for path in folder.iterdir()]
    found = [(step, path) for step, path in numbered if step is not None and _is_checkpoint(path)]
    return tuple(path for _, path in sorted(found))


def _target(link: Path) -> Path | None:
    """The checkpoint that a link names, or that stands in its place in a copy of the run."""
    name = os.readlink(link) if link.is_symlink() else link.name
    for path in (link.with_name(name), link.with_name(_ASIDE + name)):
        if _is_checkpoint(path):
            return path
    return None


def _is_passing(path: Path) -> bool:
    try:
        return PASSING in read_state(path).values
    except CheckpointError:
        return False


def _is_checkpoint(path: Path) -> bool:
    return (path / STATE_FILE).is_file()
