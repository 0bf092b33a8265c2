"""Saves checkpoints until it is stopped, in a process of its own: what the crash tests kill.

Every array of a checkpoint is a function of its step, so that whoever loads one can tell whether it
is whole.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np

from ane_train.errors import DiskError
from ane_train.storage.checkpoint import Content, Tensors, load
from ane_train.storage.checkpoint_store import CheckpointStore, has_checkpoint, newest

MODEL = "a-model"
KINDS = ("weights", "first_moment", "second_moment")
_FINISHED, _FAILED, _DIED = 0, 1, 9
_FILE_EVENTS = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.scandir",
    "shutil.rmtree",
}


def tensors_of(step: int, size: int = 40) -> Tensors:
    """The arrays that the checkpoint of `step` must hold."""
    rng = np.random.default_rng(step)
    return {
        kind: {
            "a.weight": rng.standard_normal((size, 33), np.float32),
            "b": rng.standard_normal(7, np.float32),
        }
        for kind in KINDS
    }


def empty_like(tensors: Tensors) -> Tensors:
    return {kind: {n: np.full_like(a, 7) for n, a in of.items()} for kind, of in tensors.items()}


def same(a: Tensors, b: Tensors) -> bool:
    """Whether all arrays are equal to the bit."""
    return all(a[kind][n].tobytes() == b[kind][n].tobytes() for kind in KINDS for n in b[kind])


def save(store: CheckpointStore, step: int, *, size: int = 40, best: bool = False) -> Path:
    content = Content(step, MODEL, {"seen": step * 3}, tensors_of(step, size))
    return store.save(content, best=best)


def load_whole(folder: Path, size: int = 40) -> int:
    """Loads a checkpoint, proves that it is one of those saved, and returns its step."""
    found = empty_like(tensors_of(0, size))
    state = load(folder, found, model=MODEL)
    assert same(found, tensors_of(state.step, size))
    assert state.values == {"seen": state.step * 3}
    return state.step


def save_forever(folder: Path, size: int) -> None:
    """Goes on from the last checkpoint, as a resumed run does; each third save replaces one."""
    store = CheckpointStore.open(folder, keep=2)
    last = store.last()
    step = load_whole(last, size) if last else 0
    while True:
        step += 1
        save(store, step, size=size, best=step % 5 == 0)
        if step % 3 == 0:
            save(store, step, size=size)
        print(step, flush=True)


def crash_everywhere(folder: Path, step: int) -> None:
    """Dies before the first, the second, ... operation on files of a save; proves all is well.

    Prints how many places there were.
    """
    before = folder / "before"
    for earlier in (10, 20):
        save(CheckpointStore.open(before, keep=2), earlier, best=earlier == 10)
    place, finished = 0, False
    while not finished:
        place += 1
        run = folder / f"crash-{place}"
        shutil.copytree(before, run, symlinks=True)
        finished = _dies_or_finishes(run, step, place)
        _prove_usable(run, step, finished)
        shutil.rmtree(run)
    print(place - 1)


def _dies_or_finishes(run: Path, step: int, place: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            _save_until(CheckpointStore.open(run, keep=2), step, place)
        finally:
            os._exit(_FAILED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (_FINISHED, _DIED)
    return code == _FINISHED


def _save_until(store: CheckpointStore, step: int, place: int) -> None:
    left = place

    def die_in_time(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal left
        left -= event in _FILE_EVENTS
        if left == 0:
            os._exit(_DIED)

    sys.addaudithook(die_in_time)
    save(store, step, best=True)
    os._exit(_FINISHED)


def _prove_usable(run: Path, step: int, finished: bool) -> None:
    assert has_checkpoint(run)
    seen = newest(run)
    if seen is not None:
        assert load_whole(seen) in (20, step)
    store = CheckpointStore.open(run, keep=2)
    last, best = store.last(), store.best()
    assert last is not None
    assert best is not None
    assert load_whole(last) == step if finished else load_whole(last) in (20, step)
    assert load_whole(best) in (10, step)
    for saved in store.steps():
        load_whole(saved)
    assert not [name for name in os.listdir(run) if name.startswith(".")]
    save(store, 40)
    assert load_whole(run / "last") == 40
    assert len(store.steps()) <= 3


def save_beyond_a_limit(folder: Path, limit: int) -> None:
    """Saves once with no limit and once where no file may grow beyond `limit` bytes."""
    store = CheckpointStore.open(folder, keep=1)
    save(store, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save(store, 2)
    except DiskError as error:
        print(error)


if __name__ == "__main__":
    mode, where, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    {"forever": save_forever, "crash": crash_everywhere, "limit": save_beyond_a_limit}[mode](
        where, number
    )
