"""Checkpoints are written beside training, and are the same as if training had stood still.

Writers are not slowed down by time but held up by gates that training opens, so that both overlap
for sure. A gate that nobody opens fails the test.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import arrays, losses, metrics, same_bits, trained
from test_restart import child

from ane_train.config import Layer, resolve
from ane_train.errors import AneTrainError, DiskError, DivergedError, ExitCode
from ane_train.metrics.events import Broadcast, Event, RunEnded, Saved, StepDone
from ane_train.metrics.jsonl import JsonlFile
from ane_train.storage import checkpoint
from ane_train.storage.tensor_file import put_tensors
from ane_train.train import loop
from ane_train.train.saving import Saver
from ane_train.train.step import TrainingStep

LIMIT = 60.0  # seconds after which a closed gate is a failure
SETTINGS = {"model": "tiny", "seq": 32, "accum": 4, "steps": 4, "save_every": 2, "keep": 9}
FLAGS = [
    part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", value)
]
RUN = (*FLAGS, "--eval-every", 0, "--out", "run")


class Gate:
    """Opened by one thread and waited for by another; it stays open for one at a time."""

    def __init__(self) -> None:
        self._openings = threading.Semaphore(0)

    def open(self) -> None:
        self._openings.release()

    def wait(self) -> None:
        assert self._openings.acquire(timeout=LIMIT), "the other thread did not go on"


class Events(list[Event]):
    """A listener that keeps all events, and hands each one on."""

    name = "test"

    def __init__(self, on_event: Callable[[Event], object] = lambda _event: None) -> None:
        self._on_event = on_event

    def handle(self, event: Event) -> None:
        self.append(event)
        self._on_event(event)

    def hand_over(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return

    def order(self) -> list[str]:
        """Steps, saves and the end as they came."""
        names = {StepDone: "step", Saved: "saved", RunEnded: "end"}
        return [f"{names[type(e)]} {e.step}" for e in self if type(e) in names]


def train(folder: Path, events: Events, **changes: object) -> None:
    """A run in `folder`/run, in this process; proves that no thread or open file is left of it."""
    settings = SETTINGS | {"scratch": True, "eval_every": 0, "out": str(folder / "run")} | changes
    threads = threading.active_count()
    on_event = Broadcast([JsonlFile(), events])
    try:
        loop.train(resolve([Layer("test", settings)]), on_event)
    finally:
        on_event.close()
        assert threading.active_count() == threads
        assert not [name for name in open_files() if Path(name).is_relative_to(folder / "run")]
        assert not list((folder / "run" / "checkpoints").glob(".*"))


def open_files() -> list[str]:
    """The names of what this process has open."""
    return [os.path.realpath(f"/dev/fd/{descriptor}") for descriptor in os.listdir("/dev/fd")]


def wrap(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    before: Callable[..., object] = lambda *_, **__: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Calls `before`, with the same arguments, and `after` around each call of owner.name."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        before(*arguments, **options)
        result = original(*arguments, **options)
        after()
        return result

    monkeypatch.setattr(owner, name, wrapped)


def hold_up_disk(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], object]) -> None:
    """Calls `before` with the step that is saved, when its arrays are read but not on the disk."""
    put = checkpoint._write_tensors

    def hold_up(folder: Path, content: Any, on_read: Callable[[], object]) -> Any:
        def read_and_hold_up() -> None:
            on_read()
            before(content.step)

        return put(folder, content, read_and_hold_up)

    monkeypatch.setattr(checkpoint, "_write_tensors", hold_up)


def until_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint gets onto the disk before somebody waits for it."""
    gate = Gate()

    def open_if_waiting(saver: Saver, *, wait: bool) -> None:
        if wait and saver._pending is not None:
            gate.open()

    hold_up_disk(monkeypatch, lambda _step: gate.wait())
    wrap(monkeypatch, Saver, "take", before=open_if_waiting)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of SETTINGS whose training stands still until each checkpoint is complete."""
    save = loop._Loop.save

    def save_and_wait(self: Any, reason: str, *, best: bool = False) -> None:
        save(self, reason, best=best)
        self.tell_of_save(wait=True)

    folder, events = tmp_path_factory.mktemp("still"), Events()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop._Loop, "save", save_and_wait)
        train(folder, events)
    assert events.order() == [
        *("step 1", "step 2", "saved 2", "step 3", "step 4", "saved 4", "end 4")
    ]
    return folder / "run"


def assert_same_checkpoints(run: Path, still: Path) -> None:
    assert losses(run) == losses(still)
    for name in ("last", "step-000002", "step-000004"):
        assert same_bits(arrays(run, name), arrays(still, name))
        assert state(run, name) == state(still, name)


def state(run: Path, name: str) -> dict[str, Any]:
    """state.json without what derives from the clock."""
    found = json.loads((run / "checkpoints" / name / "state.json").read_text())
    del found["checksum"], found["values"]["progress"]["seconds"]
    return dict(found)


def last_of(folder: Path) -> str:
    return os.readlink(folder / "run" / "checkpoints" / "last")


def test_micro_batches_go_on_while_arrays_are_read_and_the_update_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: Path
) -> None:
    go, done, happened = Gate(), Gate(), list[str]()

    def write_late(file: Any, tensors: Any, metadata: Any) -> Any:
        if metadata["step"] == "2":
            go.wait()
        record = put_tensors(file, tensors, metadata)
        happened.append(metadata["kind"])
        done.open()
        return record

    def after_micro_batch() -> None:
        happened.append("micro-batch")
        if happened.count("micro-batch") in (9, 10):
            go.open()
            done.wait()

    monkeypatch.setattr(checkpoint, "put_tensors", write_late)
    wrap(monkeypatch, TrainingStep, "micro_batch", after=after_micro_batch)
    wrap(monkeypatch, TrainingStep, "_apply", before=lambda *_: happened.append("update"))
    wrap(monkeypatch, Saver, "wait_until_read", before=lambda _: go.open())
    events = Events()
    train(tmp_path, events)
    step = [*["micro-batch"] * 4, "update"]
    third = [
        *("micro-batch", "weights", "micro-batch", "first_moment"),
        *("micro-batch", "micro-batch", "second_moment", "update"),
    ]
    assert happened == [*step, *step, *third, *step, "weights", "first_moment", "second_moment"]
    assert_same_checkpoints(tmp_path / "run", still)
    saved = [event for event in events if isinstance(event, Saved)]
    assert [each.waited > 0 for each in saved] == [True, True]
    assert [row["waited_ms"] for row in metrics(tmp_path / "run", "save")] == [
        1000 * each.waited for each in saved
    ]
    assert ["t_saving" in row for row in metrics(tmp_path / "run", "step")] == [
        *(False, False, True, False)
    ]


def test_steps_go_on_while_the_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: Path
) -> None:
    gate = Gate()
    hold_up_disk(monkeypatch, lambda _step: gate.wait())

    def open_after(event: Event) -> None:
        if isinstance(event, StepDone) and event.step in (3, 4):
            gate.open()

    events = Events(open_after)
    train(tmp_path, events)
    order = events.order()
    assert order.index("step 3") < order.index("saved 2") < order.index("saved 4")
    assert_same_checkpoints(tmp_path / "run", still)
    assert [row["step"] for row in metrics(tmp_path / "run", "end")] == [4]


def test_a_save_begins_when_the_one_before_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_waited_for(monkeypatch)
    events = Events()
    train(tmp_path, events, save_every=1, accum=1)
    assert events.order() == [
        *("step 1", "step 2", "saved 1", "step 3", "saved 2"),
        *("step 4", "saved 3", "saved 4", "end 4"),
    ]


ENDS: dict[str, tuple[dict[str, object], Callable[[Path], object] | None]] = {
    "finished": ({"steps": 4}, None),
    "stop-after": ({"stop_after": 4}, None),
    "max_tokens": ({"max_tokens": 4 * 32}, None),
    "max_time": ({"max_time": "1h"}, None),
    "patience": ({"eval_every": 1, "eval_batches": 1, "min_delta": 9, "patience": 3}, None),
    "stopped": ({}, lambda run: (run / "stop").touch()),
    "interrupted": ({}, lambda _run: os.kill(os.getpid(), signal.SIGINT)),
    "terminated": ({}, lambda _run: os.kill(os.getpid(), signal.SIGTERM)),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_ends_when_everything_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The save of step 3 is in flight when the end comes, after step 4, which is saved as well."""
    changes, act = ENDS[end]
    until_waited_for(monkeypatch)
    monkeypatch.setattr(loop._Loop, "seconds", lambda self: 3600.0 * (self.steps == 4))

    def at_step_4(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 4 and act is not None:
            act(tmp_path / "run")

    events = Events(at_step_4)
    train(tmp_path, events, **{"steps": 9, "save_every": 3, "accum": 1} | changes)
    assert events.order()[-4:] == ["step 4", "saved 3", "saved 4", "end 4"]
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.reason == {"stop-after": "stopped"}.get(end, end)
    assert ended.checkpoint == tmp_path / "run" / "checkpoints" / last_of(tmp_path)
    assert last_of(tmp_path) == "step-000004"


def test_a_run_that_diverged_names_the_checkpoint_that_was_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_waited_for(monkeypatch)
    events = Events()
    changes = {"steps": 99, "save_every": 9, "accum": 1, "loss_scale": "1e30"}
    with pytest.raises(DivergedError, match=r"last good checkpoint is .*step-000009"):
        train(tmp_path, events, **changes)
    assert events.order()[-3:] == ["step 10", "saved 9", "end 10"]


@pytest.mark.parametrize("error", [AneTrainError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("writable", [True, False])
def test_an_error_in_training_is_raised_when_the_save_in_flight_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    writable: bool,
) -> None:
    gate, micro_batches = Gate(), list[object]()

    def wait_and_fail(step: int) -> None:
        gate.wait()
        if step == 4 and not writable:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_in_the_fifth(*_arguments: object) -> None:
        micro_batches.append(None)
        if len(micro_batches) in (3, 5):
            gate.open()
        if len(micro_batches) == 5:
            raise error("in the fifth")

    hold_up_disk(monkeypatch, wait_and_fail)
    wrap(monkeypatch, TrainingStep, "micro_batch", before=fail_in_the_fifth)
    events = Events()
    with pytest.raises(error, match="in the fifth"):
        train(tmp_path, events, accum=1, steps=9)
    saved = [name for name in events.order() if name.startswith("saved")]
    assert saved == (["saved 2", "saved 4"] if writable else ["saved 2"])
    assert last_of(tmp_path) == ("step-000004" if writable else "step-000002")


@pytest.mark.parametrize("place", ["reading", "disk"])
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "disk":
        hold_up_disk(monkeypatch, fail)
    else:
        wrap(monkeypatch, checkpoint, "put_tensors", before=lambda _f, _t, m: fail(int(m["step"])))
    events = Events()
    with pytest.raises(DiskError, match=f"cannot save step 4 .*{os.strerror(errno.ENOSPC)}") as e:
        train(tmp_path, events, accum=1, steps=9)
    assert "\n" not in str(e.value)
    assert [each for each in events.order() if each.startswith("saved")] == ["saved 2"]
    assert len(losses(tmp_path / "run")) <= 6
    assert last_of(tmp_path) == "step-000002"
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def test_a_best_checkpoint_is_linked_whatever_is_done_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_waited_for(monkeypatch)
    changes = {"eval_every": 2, "eval_batches": 1, "min_delta": 9, "save_every": 1, "keep": 1}
    train(tmp_path, Events(), accum=1, **changes)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert os.readlink(checkpoints / "best") == "step-000002"
    assert sorted(os.listdir(checkpoints)) == ["best", "last", "step-000002", "step-000004"]


HANG_AND_END = """
import threading, time
from ane_train.storage import checkpoint
from ane_train.train.step import TrainingStep
put, micro_batch, hanging = checkpoint.put_tensors, TrainingStep.micro_batch, threading.Event()
done = 0
def put_or_hang(file, tensors, metadata):
    record = put(file, tensors, metadata)
    if metadata["step"] == "3" and metadata["kind"] == "{kind}":
        hanging.set()
        threading.Event().wait()
    return record
def end_beside_it(*arguments):
    global done
    done += 1
    if done > 3 * 4:  # beside the third save, which may be slower than all of the fourth step
        hanging.wait()
        {end}
    return micro_batch(*arguments)
checkpoint.put_tensors, TrainingStep.micro_batch = put_or_hang, end_beside_it
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
INTERRUPT_TWICE = """for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)"""


@pytest.mark.parametrize("kind", ["weights", "second_moment"])
@pytest.mark.parametrize(
    ("end", "code"),
    [(KILL, -signal.SIGKILL), (INTERRUPT_TWICE, ExitCode.INTERRUPTED)],
    ids=["SIGKILL", "two SIGINT"],
)
def test_after_an_end_at_once_beside_a_save_the_rest_follows_from_the_one_before(
    tmp_path: Path, still: Path, kind: str, end: str, code: int
) -> None:
    patch = HANG_AND_END.replace("{kind}", kind).replace("{end}", end)
    child(tmp_path, patch, *RUN, "--save-every", 1, code=code)
    assert last_of(tmp_path) == "step-000002"
    run = trained(tmp_path, "--resume", "run")
    assert not list((run / "checkpoints").glob(".*"))
    assert_same_checkpoints(run, still)
