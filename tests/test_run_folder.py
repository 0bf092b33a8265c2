"""A run has one folder, one writer, and can be found again."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import tomllib
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from ane_train.errors import CheckpointError, ConfigError, DiskError
from ane_train.storage import run_folder
from ane_train.storage.checkpoint import Content
from ane_train.storage.checkpoint_store import CheckpointStore
from ane_train.storage.run_folder import RunFolder, create, find

NOON = datetime(2025, 3, 1, 12, 0, 5)
ROOT = Path(__file__).parent.parent


def save(run: RunFolder, step: int, *, at: int = 0, best: bool = False) -> Path:
    """Saves a checkpoint, dated `at` seconds."""
    store = CheckpointStore.open(run.checkpoints)
    tensors = {"weights": {"w": np.zeros(1, np.float32)}}
    folder = store.save(Content(step, "m", {}, tensors), best=best)
    os.utime(folder / "state.json", (at, at))
    return folder


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that has said a line when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_run_is_named_by_date_and_model_and_never_shared(tmp_path: Path) -> None:
    runs = [create("tiny", root=tmp_path / "runs", now=NOON) for _ in range(3)]
    names = [run.path.name for run in runs]
    assert names == [
        "20250301-120005-tiny",
        "20250301-120005-tiny-2",
        "20250301-120005-tiny-3",
    ]


def test_processes_that_start_together_get_different_folders(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(create("m", root=tmp_path, now=NOON).path))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8


def test_out_names_the_folder(tmp_path: Path) -> None:
    assert create("tiny", out=tmp_path / "a" / "b").path == tmp_path / "a" / "b"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    assert create("tiny", out=tmp_path / "notes").path == tmp_path / "notes"


def test_out_with_a_run_inside_is_refused(tmp_path: Path) -> None:
    run = create("tiny", out=tmp_path / "run")
    run.write_config("")
    with pytest.raises(ConfigError, match="has no checkpoint; delete it or choose another --out"):
        create("tiny", out=run.path)
    save(run, 1)
    with pytest.raises(ConfigError, match=r"--resume .*run, or choose another --out"):
        create("tiny", out=run.path)


def test_out_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        create("tiny", out=tmp_path / "file")
    with pytest.raises(DiskError, match=r"cannot create .*file"):
        create("tiny", out=tmp_path / "file" / "run")
    with pytest.raises(DiskError, match=r"cannot create .*file"):
        create("tiny", root=tmp_path / "file")


def test_the_environment_names_versions_and_nobody(tmp_path: Path) -> None:
    environment = json.loads((create("tiny", out=tmp_path / "x").path / "env.json").read_text())
    assert environment["numpy"] == np.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["machine"] == os.uname().machine
    assert environment["cpus"] == os.cpu_count()
    assert environment.keys() == {
        "ane_train", "python", "numpy", "system", "system_version", "machine", "cpus",
    }  # fmt: skip
    assert platform.node() not in environment.values()


def test_the_version_is_that_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run_folder.describe_environment()["ane_train"] == declared
    assert metadata.version("numpy") == np.__version__


def test_the_configuration_is_replaced_whole(tmp_path: Path) -> None:
    run = create("tiny", out=tmp_path / "x")
    run.write_config("steps = 10000\n")
    run.write_config("steps = 5\n")
    assert run.config.read_text() == "steps = 5\n"
    assert sorted(os.listdir(run.path)) == ["config.toml", "env.json"]


def test_last_is_the_run_with_the_youngest_checkpoint(tmp_path: Path) -> None:
    old, young, without = (create(name, root=tmp_path, now=NOON) for name in ("a", "b", "c"))
    save(old, 30, at=100)
    save(young, 10, at=200)
    without.write_config("")
    assert find("last", root=tmp_path) == run_folder.Resumed(young, None)
    save(old, 40, at=300)
    assert find("last", root=tmp_path).run == old
    assert find(str(tmp_path / "last")).run == old
    create("last", out=tmp_path / "last")
    with pytest.raises(CheckpointError, match="last has no checkpoint"):
        find(str(tmp_path / "last"))


def test_a_run_is_found_by_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = create("tiny", out=Path("run"))
    ten, twenty = save(run, 10, best=True), save(run, 20)
    for name in ("run", "run/", "run/checkpoints", "run/checkpoints/last", str(tmp_path / "run")):
        assert find(name) == run_folder.Resumed(run, None)
    assert find("run/checkpoints/step-000010") == run_folder.Resumed(run, ten)
    assert find("run/checkpoints/step-000020/") == run_folder.Resumed(run, twenty)
    assert find("run/checkpoints/best") == run_folder.Resumed(run, ten)
    monkeypatch.chdir(run.checkpoints)
    assert find("step-000010").checkpoint == tmp_path / ten
    assert find(".").run.path == tmp_path / "run"


def test_a_run_whose_only_checkpoint_was_being_replaced_is_found(tmp_path: Path) -> None:
    run = create("tiny", root=tmp_path, now=NOON)
    folder = save(run, 10)
    folder.rename(folder.with_name(".old-step-000010"))
    assert find("last", root=tmp_path).run == find(str(run.path)).run == run
    assert CheckpointStore.open(run.checkpoints).last() == folder


def test_what_cannot_be_resumed_says_what_can(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with pytest.raises(CheckpointError, match=r"no run with a checkpoint in .*--scratch"):
        find("last", root=root)
    with pytest.raises(CheckpointError, match="runs has no runs"):
        find(str(tmp_path / "nowhere"), root=root)
    run = create("tiny", root=root, now=NOON)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        find(str(run.path), root=root)
    save(run, 10)
    with pytest.raises(CheckpointError, match=r"the runs in .* are: 20250301-120005-tiny"):
        find(str(tmp_path / "nowhere"), root=root)
    with pytest.raises(CheckpointError, match=r"step-000011 is no .*there are: step-000010"):
        find(str(run.checkpoints / "step-000011"), root=root)
    with pytest.raises(CheckpointError, match=r"best is no .*there are: step-000010"):
        find(str(run.checkpoints / "best"), root=root)


HOLD = """
import sys
from pathlib import Path
from ane_train.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""

REPLACE = """
import os, sys
from pathlib import Path
from ane_train.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    if len(sys.argv) == 2:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "again"])
    print("locked again", flush=True)
"""


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    run = create("tiny", out=tmp_path / "run")
    with start(HOLD, str(run.path)) as other:
        with pytest.raises(ConfigError, match=f"written by process {other.pid};"), run.locked():
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with run.locked():
            assert (run.path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    run = create("tiny", out=tmp_path / "run")
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked(), pytest.raises(ConfigError, match=str(os.getpid())), run.locked():
        pass


def test_a_process_that_replaces_itself_can_lock_the_run_again(tmp_path: Path) -> None:
    run = create("tiny", out=tmp_path / "run")
    command = [sys.executable, "-c", REPLACE, str(run.path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, text=True, env=environment) == "locked again\n"


def test_the_lock_of_a_run_that_is_gone_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot write"), RunFolder(tmp_path / "gone").locked():
        pass
