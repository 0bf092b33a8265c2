"""Rules of events, metrics.jsonl, log.txt and trackers."""

import errno
import json
import math
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sample_events import ended, started, step

from ane_train.config import TRACKER_NAMES
from ane_train.errors import ConfigError, DataError, DiskError
from ane_train.metrics.events import (
    Broadcast,
    Evaluated,
    RunContinued,
    Saved,
    Warned,
)
from ane_train.metrics.jsonl import JsonlFile, read_metrics, read_records
from ane_train.metrics.text import LogFile
from ane_train.metrics.trackers import TRACKERS, open_trackers


def strict(line):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def write(folder, *events):
    file = JsonlFile()
    for event in events:
        file.handle(event)
    file.close()
    return [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_event_is_one_line_with_its_type_and_step(tmp_path):
    lines = write(
        tmp_path,
        started(tmp_path),
        Evaluated(0, 7.6, 2000.0),
        step(1),
        Warned("hot"),
        Saved(1, tmp_path / "checkpoints" / "step-1", "periodic"),
        ended(tmp_path, step=1),
    )
    assert [(line["type"], line["step"]) for line in lines] == [
        ("start", 0),
        ("eval", 0),
        ("step", 1),
        ("warning", 1),
        ("save", 1),
        ("end", 1),
    ]


def test_a_save_that_comes_after_later_steps_is_of_its_own_step(tmp_path):
    saved = Saved(1, tmp_path / "checkpoints" / "step-1", "periodic", 2.5, 0.25)
    events = started(tmp_path), step(1), step(2), saved, Warned("hot")
    lines = write(tmp_path, *events)
    assert [(line["type"], line["step"]) for line in lines[-2:]] == [("save", 1), ("warning", 2)]
    assert (lines[-2]["ms"], lines[-2]["waited_ms"]) == (2500.0, 250.0)
    write(tmp_path, started(tmp_path, first_step=1, resumed=True))
    assert [line["type"] for line in read_records(tmp_path)] == ["start", "step", "save", "start"]


def test_times_are_milliseconds_and_moments_are_utc(tmp_path):
    now = datetime(2026, 11, 24, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    file = JsonlFile(lambda: now)
    for event in (started(tmp_path), step(1)):
        file.handle(event)
    line = strict((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    assert (line["ms"], line["t_engine"], line["t_io"]) == (500.0, 200.0, 50.0)
    assert line["time"] == "2026-11-23T23:30:00.000Z"
    assert datetime.fromisoformat(line["time"]) == now


def test_numbers_that_are_not_finite_are_null(tmp_path):
    lines = write(
        tmp_path,
        started(tmp_path, flops_per_token=math.inf),
        step(1, loss=math.nan, timings={"engine": math.inf}),
    )
    assert (lines[0]["flops_per_token"], lines[1]["loss"], lines[1]["t_engine"]) == (None,) * 3


def test_numpy_numbers_are_plain_numbers(tmp_path):
    lines = write(tmp_path, started(tmp_path), step(np.int64(1), loss=np.float32(2.5)))
    assert (lines[1]["step"], lines[1]["loss"]) == (1, 2.5)


def test_every_line_is_on_the_disk_when_its_event_is_handled(tmp_path):
    file = JsonlFile()
    file.handle(started(tmp_path))
    for number in range(1, 4):
        file.handle(step(number))
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == number + 1


def test_resuming_drops_what_a_killed_process_wrote_later(tmp_path):
    write(tmp_path, started(tmp_path), *map(step, (1, 2)), Evaluated(2, 5.0, 150.0), step(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"type": "step", "step": 2, "lo')
    write(tmp_path, started(tmp_path, first_step=2, resumed=True), step(3, loss=4.0), step(4))
    assert [(line["type"], line["step"]) for line in read_records(tmp_path)] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("eval", 2),
        ("start", 2),
        ("step", 3),
        ("step", 4),
    ]
    assert read_metrics(tmp_path)["loss"].tolist() == [5.0, 5.0, 4.0, 5.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_file_whose_last_line_is_still_being_written_reads_as_the_lines_before(tmp_path):
    lines = write(tmp_path, started(tmp_path), step(1), step(2))
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert list(read_records(file)) == lines[:2]


def test_resuming_where_a_run_ended_keeps_all_its_bytes(tmp_path):
    write(tmp_path, started(tmp_path), step(1), ended(tmp_path, step=1))
    before = (tmp_path / "metrics.jsonl").read_text()
    write(tmp_path, started(tmp_path, first_step=1), step(2))
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)


def test_resuming_where_a_step_was_left_unfinished_drops_what_followed_it(tmp_path):
    write(tmp_path, started(tmp_path), step(1), step(2), Evaluated(2, 5.0, 148.4), step(3))
    lines = write(tmp_path, started(tmp_path, first_step=2, resumed=True, repeats=True))
    assert [(line["type"], line["step"]) for line in lines] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("start", 2),
    ]


def test_metrics_and_log_go_on_in_another_process_as_in_one(tmp_path):
    events = [started(tmp_path), step(1), step(2), Warned("hot"), step(3), step(4), step(5)]
    texts = []
    for parts in ([events], [events[:4], events[4:6], events[6:]]):
        memory = {}
        for number, part in enumerate(parts):
            on_event = Broadcast([JsonlFile(now), LogFile(4, now)])
            if number:
                on_event(RunContinued(events[0], memory, 0.0))
            for event in part:
                on_event(event)
            memory = json.loads(json.dumps(on_event.hand_over()))
            on_event.close()
        files = [tmp_path / name for name in ("metrics.jsonl", "log.txt")]
        texts.append([file.read_text() for file in files])
        for file in files:
            file.unlink()
    assert texts[0] == texts[1]


def now():
    return datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)


def test_metrics_read_back_as_columns(tmp_path):
    write(
        tmp_path,
        started(tmp_path),
        step(1, loss=math.nan, skipped=True),
        step(2, timings={}),
        Evaluated(2, 5.0, 150.0),
    )
    steps = read_metrics(tmp_path / "metrics.jsonl")
    assert steps["step"].dtype == np.int64
    assert steps["skipped"].tolist() == [True, False]
    np.testing.assert_array_equal(steps["loss"], [math.nan, 5.0])
    np.testing.assert_array_equal(steps["t_engine"], [200.0, math.nan])
    assert steps["type"].tolist() == ["step", "step"]
    assert read_metrics(tmp_path, "eval")["perplexity"].tolist() == [150.0]
    assert read_metrics(tmp_path, "save") == {}


def test_reading_metrics_that_are_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_metrics(tmp_path)


class FullDisk:
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("listener", [JsonlFile, LogFile])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch, listener):
    monkeypatch.setattr(Path, "open", lambda *arguments, **options: FullDisk())
    with pytest.raises(DiskError, match=r"(metrics.jsonl|log.txt) cannot be written: No space"):
        listener().handle(started(tmp_path))


@pytest.mark.parametrize("listener", [JsonlFile, LogFile])
def test_closing_on_a_full_disk_does_not_raise(tmp_path, listener):
    file = listener()
    file.handle(started(tmp_path))
    file._file.close()
    file._file = FullDisk()
    file.close()


def test_the_log_has_a_moment_on_every_line_and_grows_when_resumed(tmp_path):
    for _ in range(2):
        log = LogFile(now=lambda: datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC))
        for event in (started(tmp_path), step(1), Warned("hot"), ended(tmp_path)):
            log.handle(event)
        log.close()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(line.startswith("2026-11-24 01:02:03  ") for line in lines)
    assert sum("warning: hot" in line for line in lines) == 2
    assert sum("step   1/300  loss 5.0000" in line for line in lines) == 2


class Recorder:
    name = "recorder"

    def __init__(self):
        self.events = []
        self.closed = 0

    def handle(self, event):
        self.events.append(event)

    def close(self):
        self.closed += 1


class Broken(Recorder):
    name = "broken"

    def handle(self, event):
        super().handle(event)
        raise ConnectionError("no network")


def test_a_tracker_that_fails_is_left_out_with_a_warning():
    listener, tracker, broken = Recorder(), Recorder(), Broken()
    on_event = Broadcast([listener], [broken, tracker])
    on_event(step(1))
    on_event(step(2))
    on_event.close()
    warning = Warned("broken failed and is left out: ConnectionError: no network")
    assert listener.events == [step(1), warning, step(2)]
    assert len(broken.events) == 1
    assert step(2) in tracker.events
    assert listener.closed == tracker.closed == 1


def test_what_a_listener_raises_goes_up():
    with pytest.raises(ConnectionError):
        Broadcast([Broken()])(step(1))


class FakePackage(ModuleType):
    """Stands for any tracker's package: it has every function, and writes down the calls."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            return self

        return call


EXPECTED = {
    "tensorboard": ["SummaryWriter", "add_text", "add_scalar", "close"],
    "wandb": ["init", "log", "finish"],
    "trackio": ["init", "log", "finish"],
    "mlflow": ["set_experiment", "start_run", "log_params", "log_metrics", "end_run"],
}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_is_started_told_and_finished(tmp_path, monkeypatch, name):
    package = FakePackage(name)
    monkeypatch.setitem(sys.modules, TRACKERS[name][1], package)
    (tracker,) = open_trackers([name], project="whale", run=None)
    on_event = Broadcast([], [tracker])
    for event in (started(tmp_path), step(1), Evaluated(1, 5.0, 148.4, 2.1), ended(tmp_path)):
        on_event(event)
    on_event.close()
    called = [call for call, _, _ in package.calls]
    assert list(dict.fromkeys(called)) == EXPECTED[name]
    assert called.count(EXPECTED[name][-1]) == 1
    logged = repr(package.calls)
    for told in ("train/loss", "valid/bits_per_byte", "time/engine", tmp_path.name):
        assert told in logged


@pytest.mark.parametrize(
    ("name", "call", "sign"),
    [("wandb", "finish", {"exit_code": 1}), ("mlflow", "end_run", ("FAILED",))],
)
def test_a_run_that_raised_is_finished_as_failed(tmp_path, monkeypatch, name, call, sign):
    package = FakePackage(name)
    monkeypatch.setitem(sys.modules, name, package)
    (tracker,) = open_trackers([name], project="whale", run="ahab")
    tracker.handle(started(tmp_path))
    tracker.close()
    assert package.calls[-1][0] == call
    assert sign in package.calls[-1]


def test_a_tracker_that_never_started_is_not_finished(monkeypatch):
    package = FakePackage("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    for tracker in open_trackers(["wandb"], project="whale", run=None):
        tracker.close()
    assert package.calls == []


RESUMED = {
    "tensorboard": ("SummaryWriter", {"logdir", "filename_suffix"}),
    "wandb": ("init", {"project", "id", "resume", "dir"}),
    "trackio": ("init", {"project", "name", "resume"}),
    "mlflow": ("start_run", {"run_id"}),
}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_goes_on_with_its_run_in_another_process(tmp_path, monkeypatch, name):
    package, memory = FakePackage(name), {}
    package.run = SimpleNamespace(id="moby")
    package.active_run = lambda: SimpleNamespace(info=SimpleNamespace(run_id="moby"))
    monkeypatch.setitem(sys.modules, TRACKERS[name][1], package)
    for first in (started(tmp_path), RunContinued(started(tmp_path), memory, 1.0)):
        package.calls.clear()
        on_event = Broadcast([], open_trackers([name], project="whale", run=None))
        on_event(first)
        on_event(step(1))
        memory |= json.loads(json.dumps(on_event.hand_over()))
        on_event.close()
        called = [call for call, _, _ in package.calls]
        assert called.count(EXPECTED[name][-1]) == 1
    call, arguments = RESUMED[name]
    (named,) = [named for called, _, named in package.calls if called == call]
    assert set(named) == arguments
    assert ({"id", "run_id"} & arguments != set()) == ("moby" in named.values())
    assert not {"add_text", "log_params"} & set(called)


def test_tensorboard_has_every_number_once_however_quickly_processes_follow(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    memory = {}
    for number in range(1, 4):
        on_event = Broadcast([], open_trackers(["tensorboard"], project="whale", run=None))
        first = started(tmp_path)
        on_event(first if number == 1 else RunContinued(first, memory, 1.0))
        on_event(step(number, loss=number))
        memory = on_event.hand_over()
    logged = sorted(
        (event.step, value.simple_value)
        for file in (tmp_path / "tensorboard").iterdir()
        for event in events_of(file.read_bytes())
        for value in event.summary.value
        if value.tag == "train/loss"
    )
    assert logged == [(1, 1.0), (2, 2.0), (3, 3.0)]


def events_of(data):
    """The events of a TensorBoard file: each has its length and a checksum before, one behind."""
    from tensorboardX.proto.event_pb2 import Event

    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_tracker_that_cannot_hand_over_is_left_out(tmp_path, monkeypatch):
    package = FakePackage("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    package.run = SimpleNamespace(id="moby")
    package.finish = Broken().handle
    memory = {}
    for first in (started(tmp_path), RunContinued(started(tmp_path), memory, 1.0)):
        package.calls.clear()
        on_event = Broadcast([], open_trackers(["wandb"], project="whale", run=None))
        on_event(first)
        on_event(step(1))
        memory |= on_event.hand_over()
    assert package.calls == []


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_without_its_package_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, TRACKERS[name][1], None)
    with pytest.raises(ConfigError, match=f"--report-to {name} .*pip install {TRACKERS[name][2]}"):
        open_trackers([name], project="whale", run=None)


def test_the_configuration_offers_exactly_the_trackers():
    assert tuple(TRACKERS) == TRACKER_NAMES
