"""A checkpoint is whole to the bit or refused, whatever happens to the process or to the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_child as child
import numpy as np
import pytest
import safetensors.torch
import torch

from ane_train.errors import CheckpointError, DiskError
from ane_train.storage import durable
from ane_train.storage.checkpoint import Content, load, read_state
from ane_train.storage.checkpoint_store import PASSING, CheckpointStore, has_checkpoint, newest

CHILD = Path(child.__file__)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHILD.parent.parent)}


def start_child(mode: str, folder: Path, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), mode, str(folder), str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def run_child(mode: str, folder: Path, number: int) -> str:
    with start_child(mode, folder, number) as process:
        printed = process.communicate()[0]
    assert process.returncode == 0
    return printed


def entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_torch_reads_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    folder = child.save(CheckpointStore.open(tmp_path), 5)
    found = safetensors.torch.load_file(folder / "weights.safetensors")
    for name, array in child.tensors_of(5)["weights"].items():
        assert torch.equal(found[name], torch.from_numpy(array))


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    store = CheckpointStore.open(tmp_path / "checkpoints")
    tensors = child.tensors_of(20)
    special = tensors["weights"]["b"]
    special[:5] = np.array([np.nan, -0.0, np.inf, 1e-45, -np.inf], np.float32)
    values = {"best": 0.1 + 0.2, "scale": {"value": 1024.0}, "loss": np.float32(0.1), "n": None}
    folder = store.save(Content(20, "m", values, tensors))
    assert entries(tmp_path / "checkpoints") == ["last", "step-000020"]
    assert entries(folder) == sorted([*(f"{k}.safetensors" for k in child.KINDS), "state.json"])
    found = child.empty_like(tensors)
    state = load(folder, found, model="m")
    assert child.same(found, tensors)
    assert (state.step, state.model) == (20, "m")
    assert state.values == values | {"loss": float(np.float32(0.1))}
    assert read_state(folder) == state


def test_the_weights_can_be_loaded_alone(tmp_path: Path) -> None:
    folder = child.save(CheckpointStore.open(tmp_path), 5)
    for kind in ("first_moment", "second_moment"):
        (folder / f"{kind}.safetensors").unlink()
    weights = {"weights": child.empty_like(child.tensors_of(0))["weights"]}
    load(folder, weights, model=child.MODEL)
    expected = child.tensors_of(5)["weights"]
    assert all(weights["weights"][n].tobytes() == a.tobytes() for n, a in expected.items())


def test_neither_saving_nor_loading_copies_the_arrays(tmp_path: Path) -> None:
    store, size = CheckpointStore.open(tmp_path), 6 << 20
    tensors = {kind: {"w": np.ones(size, np.float32)} for kind in child.KINDS}
    tracemalloc.start()
    folder = store.save(Content(1, "m", {}, tensors))
    load(folder, tensors, model="m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * 4 / 10


def test_the_last_and_the_best_survive_pruning(tmp_path: Path) -> None:
    store = CheckpointStore.open(tmp_path, keep=2)
    for step in range(1, 7):
        child.save(store, step, best=step == 2)
    assert [child.load_whole(folder) for folder in store.steps()] == [2, 5, 6]
    assert os.readlink(tmp_path / "last") == "step-000006"
    assert os.readlink(tmp_path / "best") == "step-000002"
    child.save(store, 3)
    assert os.readlink(tmp_path / "last") == "step-000003"
    assert [child.load_whole(folder) for folder in store.steps()] == [2, 3, 5, 6]


@pytest.mark.parametrize("keep", [0, 2])
def test_a_passing_checkpoint_goes_when_it_is_no_longer_the_last(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore.open(tmp_path, keep=keep)
    for step in (1, 2):
        child.save(store, step)
    for step in (3, 4):
        store.save(Content(step, child.MODEL, {PASSING: True}, child.tensors_of(step)))
        assert newest(tmp_path) == tmp_path / f"step-{step:06d}"
        assert len(store.steps()) == 3
    child.save(store, 5, best=True)
    expected = [1, 2, 5] if keep == 0 else [2, 5]
    assert [path.name for path in store.steps()] == [f"step-{step:06d}" for step in expected]


def test_keeping_none_in_particular_keeps_all(tmp_path: Path) -> None:
    store = CheckpointStore.open(tmp_path)
    for step in (999_999, 1_000_000, 1, 2):
        child.save(store, step)
    assert [child.load_whole(folder) for folder in store.steps()] == [1, 2, 999_999, 1_000_000]


def test_a_second_save_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    store, tensors = CheckpointStore.open(tmp_path, keep=1), child.tensors_of(1)
    store.save(Content(8, "m", {"n": 1}, child.tensors_of(2)))
    folder = store.save(Content(8, "m", {"n": 2}, tensors))
    found = child.empty_like(tensors)
    assert load(folder, found, model="m").values == {"n": 2}
    assert child.same(found, tensors)
    assert entries(tmp_path) == ["last", "step-000008"]


def test_a_run_copied_without_its_links_goes_on(tmp_path: Path) -> None:
    store = CheckpointStore.open(tmp_path / "original", keep=1)
    child.save(store, 1, best=True)
    copy = shutil.copytree(tmp_path / "original", tmp_path / "copy")
    copied = CheckpointStore.open(copy, keep=1)
    last = copied.last()
    assert last is not None
    assert child.load_whole(last) == 1
    child.save(copied, 2, best=True)
    assert os.readlink(copy / "last") == os.readlink(copy / "best") == "step-000002"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint with an earlier one beside it."""
    store = CheckpointStore.open(tmp_path / "run" / "checkpoints")
    child.save(store, 10, size=1)
    return child.save(store, 20, size=1)


def reload(folder: Path) -> int:
    return child.load_whole(folder, size=1)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "second_moment.safetensors"])
def test_a_change_of_any_byte_is_found(saved: Path, name: str, mask: int) -> None:
    content = (saved / name).read_bytes()
    with open(saved / name, "r+b", buffering=0) as file:
        for place, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ mask]), place)
            with pytest.raises(CheckpointError, match=name):
                reload(saved)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert reload(saved) == 20


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors"])
def test_a_truncation_at_any_length_is_found(saved: Path, name: str) -> None:
    for length in reversed(range((saved / name).stat().st_size - 1)):
        os.truncate(saved / name, length)
        with pytest.raises(CheckpointError, match=r"truncated.*--resume .*step-000010"):
            reload(saved)


def test_a_longer_file_is_found(saved: Path) -> None:
    with open(saved / "weights.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        reload(saved)


def rename_file(folder: Path) -> None:
    (folder / "weights.safetensors").rename(folder / "elsewhere")


def forget_moments(folder: Path) -> None:
    store = CheckpointStore(folder.parent)
    weights = child.tensors_of(20, 1)["weights"]
    store.save(Content(20, child.MODEL, {}, {"weights": weights}))


def set_format(folder: Path) -> None:
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text.replace('"format": 1', '"format": 99'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (rename_file, r"weights.safetensors: cannot read it: No such file.*--resume .*step-000010"),
        (forget_moments, "has no first_moment.safetensors"),
        (set_format, "is of format 99, this version reads format 1"),
        (lambda folder: (folder / "state.json").unlink(), "there is no checkpoint in"),
        (lambda folder: (folder / "state.json").write_text("[]"), "state.json.*damaged"),
        (shutil.rmtree, "there is no checkpoint in"),
    ],
)
def test_a_harmed_checkpoint_is_refused(
    saved: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        reload(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": np.zeros(1, np.float32)}, "has no tensor 'c', which the model has"),
        ({"b": None}, "has a tensor 'b', which the model has not"),
        ({"b": np.zeros(8, np.float32)}, r"'b' has the shape \[7\], the model's has \[8\]"),
        ({"b": np.zeros((7, 1), np.float32)}, r"'b' has the shape \[7\], the model's has \[7, 1\]"),
        ({"b": np.zeros(7, np.int32)}, "'b' is of type F32 and not I32"),
    ],
)
def test_other_tensors_are_refused_before_any_is_read(
    saved: Path, change: dict[str, Any], message: str
) -> None:
    wanted = child.empty_like(child.tensors_of(0, 1))
    changed = {n: a for n, a in (wanted["second_moment"] | change).items() if a is not None}
    with pytest.raises(CheckpointError, match=message):
        load(saved, wanted | {"second_moment": changed}, model=child.MODEL)
    assert child.same(wanted, child.empty_like(child.tensors_of(0, 1)))


def test_a_checkpoint_of_another_model_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of another model \(a-model, not b-model\)"):
        load(saved, child.empty_like(child.tensors_of(0, 1)), model="b-model")


def test_a_state_that_json_cannot_hold_fails_before_anything_is_written(tmp_path: Path) -> None:
    content = Content(1, "m", {"a": object()}, child.tensors_of(1))
    with pytest.raises(TypeError, match="object"):
        CheckpointStore.open(tmp_path).save(content)
    assert entries(tmp_path) == []


def test_a_full_disk_leaves_earlier_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    message = run_child("limit", tmp_path, 2000)
    assert "cannot save step 2" in message
    assert os.strerror(errno.EFBIG) in message
    assert "earlier checkpoints are intact" in message
    assert entries(tmp_path) == ["last", "step-000001"]
    assert child.load_whole(tmp_path / "last") == 1


def test_a_checkpoint_that_cannot_fit_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore.open(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    monkeypatch.setattr(os, "mkdir", None)
    with pytest.raises(DiskError, match=r"saving step 1 needs 0.00 GB.*intact"):
        child.save(store, 1)
    assert entries(tmp_path) == []


def fail_at(monkeypatch: pytest.MonkeyPatch, place: int) -> Callable[[], bool]:
    """Lets the `place`th of the calls that change the disk fail; tells whether it came to that."""
    calls = 0

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == place:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **options)

        return call

    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    for name in ("fsync", "rename", "replace", "symlink", "mkdir"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    return lambda: calls >= place


@pytest.mark.parametrize("step", [20, 30])
def test_wherever_the_disk_fails_the_last_checkpoint_loads(tmp_path: Path, step: int) -> None:
    failed, place = True, 0
    while failed:
        place += 1
        folder = tmp_path / str(place)
        store = CheckpointStore.open(folder, keep=1)
        child.save(store, 10)
        child.save(store, 20)
        with pytest.MonkeyPatch.context() as monkeypatch:
            has_failed = fail_at(monkeypatch, place)
            with contextlib.suppress(DiskError):
                child.save(store, step, best=True)
            failed = has_failed()
        last = store.last()
        assert last is not None
        assert child.load_whole(last) in (20, step)
        assert step in [child.load_whole(saved) for saved in store.steps()] or step == 30
        assert not [name for name in entries(folder) if name.startswith(".tmp-step")]
        child.save(store, 40, best=True)
        assert child.load_whole(folder / "last") == child.load_whole(folder / "best") == 40
    assert place > 10


@pytest.mark.parametrize("step", [20, 30])
def test_a_crash_at_any_operation_leaves_a_whole_last_checkpoint(tmp_path: Path, step: int) -> None:
    places = int(run_child("crash", tmp_path, step))
    assert places > 20


def test_a_kill_at_a_random_moment_leaves_a_whole_last_checkpoint(tmp_path: Path) -> None:
    moments, size = random.Random(7), 2000
    for _ in range(20):
        with start_child("forever", tmp_path, size) as process:
            assert process.stdout is not None
            saved = int(process.stdout.readline())
            time.sleep(moments.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
            saved = max([saved, *map(int, process.stdout.read().split())])
        seen = newest(tmp_path)
        if seen is None:
            assert has_checkpoint(tmp_path)
        else:
            assert child.load_whole(seen, size) >= saved
        last = CheckpointStore.open(tmp_path, keep=2).last()
        assert last is not None
        assert child.load_whole(last, size) >= saved
        assert not [name for name in entries(tmp_path) if name.startswith(".")]


def test_everything_is_on_the_disk_before_it_is_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronized: set[int] = set()
    rename, replace = os.rename, os.replace

    def see_fsync(descriptor: int) -> None:
        synchronized.add(os.fstat(descriptor).st_ino)

    def see_rename(source: Path, target: Path) -> None:
        assert all(path.stat().st_ino in synchronized for path in [source, *source.iterdir()])
        synchronized.discard(target.parent.stat().st_ino)
        rename(source, target)

    def see_replace(source: Path, target: Path) -> None:
        assert target.parent.stat().st_ino in synchronized
        replace(source, target)

    store = CheckpointStore.open(tmp_path)
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    monkeypatch.setattr(os, "fsync", see_fsync)
    monkeypatch.setattr(os, "rename", see_rename)
    monkeypatch.setattr(os, "replace", see_replace)
    child.save(store, 1, best=True)
    assert child.load_whole(tmp_path / "last") == 1


def test_arrays_may_change_before_the_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, happened = child.tensors_of(5), []

    def change() -> None:
        happened.append("read")
        for arrays in tensors.values():
            for array in arrays.values():
                array.fill(0)

    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: happened.append("fsync"))
    content = Content(5, child.MODEL, {"seen": 15}, tensors)
    folder = CheckpointStore(tmp_path).save(content, on_read=change)
    assert happened[:4] == ["read", "fsync", "fsync", "fsync"]
    assert happened.count("read") == 1
    assert child.load_whole(folder) == 5


def test_what_a_living_process_writes_is_not_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid(), os.getppid()):
        (tmp_path / f".tmp-step-000001-{pid}").mkdir()
    (tmp_path / f".tmp-last-{dead.pid}").symlink_to("nowhere")
    CheckpointStore.open(tmp_path)
    assert entries(tmp_path) == [f".tmp-step-000001-{os.getppid()}"]


def test_a_replaced_file_is_never_seen_half_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    durable.replace_file(path, b"old")
    with pytest.raises(TypeError):
        durable.replace_file(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    durable.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert entries(tmp_path) == ["x"]


def test_the_state_can_be_read_by_other_programs(tmp_path: Path) -> None:
    folder = child.save(CheckpointStore.open(tmp_path), 5)
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"], state["model"], state["values"]) == (5, child.MODEL, {"seen": 15})
    assert state["files"].keys() == set(child.KINDS)
