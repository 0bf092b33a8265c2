"""Staging directories: one living holder each, nothing left by the dead, others' left alone."""

from __future__ import annotations

import errno
import random
import subprocess
import time
from pathlib import Path

import pytest
from compiled import ROOT, compile_c, run_driver

SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
FLAGS = [*SANITIZED, "-Dflock=tested_flock"]
SOURCES = [ROOT / "csrc" / "apple" / "staging.c", ROOT / "csrc" / "base" / "error.c"]
CLAIMED, TAKEN = "claimed\n", "taken\n"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(
        tmp_path_factory.mktemp("staging") / "staging", "staging_driver.c", SOURCES, FLAGS
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


class Holder:
    """A process that has claimed an identifier, or was told that it is taken."""

    def __init__(self, driver: Path, *words: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([driver, *words], stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout
        self.answer = self.process.stdout.readline()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_identifier_has_one_holder_at_a_time_and_others_are_told(
    driver: Path, root: Path
) -> None:
    first = Holder(driver, "hold", str(root), "A1")
    assert first.answer == CLAIMED
    assert Holder(driver, "hold", str(root), "A1").answer == TAKEN
    other = Holder(driver, "hold", str(root), "A2")
    assert other.answer == CLAIMED
    assert everything(root / "A1") == ["weights", "weights/w.bin"]
    assert first.end() == other.end() == 0
    after = Holder(driver, "hold", str(root), "A1")
    assert after.answer == CLAIMED
    assert after.end() == 0


def test_a_holder_that_ends_leaves_no_file(driver: Path, root: Path) -> None:
    holders = [Holder(driver, "hold", str(root), name) for name in ("A", "B")]
    assert [holder.end() for holder in holders] == [0, 0]
    assert everything(root) == []


def test_a_sweep_removes_what_the_dead_left_and_nothing_of_the_living(
    driver: Path, root: Path
) -> None:
    living, dead = Holder(driver, "hold", str(root), "A"), Holder(driver, "hold", str(root), "B")
    dead.kill()
    before = everything(root / "A")
    assert (root / "B" / "weights" / "w.bin").exists()
    assert run_driver(driver, "sweep", str(root), "1") == "swept\n"
    assert everything(root / "A") == before != []
    assert not (root / "B").exists()
    assert living.end() == 0
    assert everything(root) == []


def test_the_identifier_of_a_dead_holder_can_be_claimed_without_a_sweep(
    driver: Path, root: Path
) -> None:
    dead = Holder(driver, "hold", str(root), "A")
    dead.kill()
    (root / "A" / "stale").write_text("left behind")
    heir = Holder(driver, "hold", str(root), "A")
    assert heir.answer == CLAIMED
    assert not (root / "A" / "stale").exists()
    assert heir.end() == 0


def test_a_lock_on_a_file_that_lost_its_name_is_taken_again(driver: Path, root: Path) -> None:
    lock = root / "ane-train" / "A.lock"
    holder = Holder(driver, "hold_replaced", str(root), "A", str(lock))
    assert holder.answer == CLAIMED
    run_driver(driver, "sweep", str(root), "1")
    assert (root / "A" / "weights" / "w.bin").exists()
    assert lock.read_text()
    holder.kill()
    run_driver(driver, "sweep", str(root), "1")
    assert everything(root) == []


def test_a_process_that_replaces_itself_gives_its_claims_up(driver: Path, root: Path) -> None:
    assert run_driver(driver, "reborn", str(root), "A", str(driver)) == "swept\n"
    assert everything(root) == []


@pytest.mark.parametrize("content", [None, "theirs"])
def test_a_directory_that_was_not_made_here_is_neither_used_nor_removed(
    driver: Path, root: Path, content: str | None
) -> None:
    (root / "A").mkdir()
    if content:
        (root / "A" / "file").write_text(content)
    before = everything(root)
    assert Holder(driver, "hold", str(root), "A").answer == TAKEN
    run_driver(driver, "sweep", str(root), "1")
    assert everything(root) == before


def test_a_symbolic_link_in_a_stale_directory_is_removed_and_not_followed(
    driver: Path, root: Path
) -> None:
    (root / "precious").mkdir()
    (root / "precious" / "file").write_text("keep")
    dead = Holder(driver, "hold", str(root), "A")
    dead.kill()
    (root / "A" / "link").symlink_to(root / "precious")
    run_driver(driver, "sweep", str(root), "1")
    assert everything(root) == ["precious", "precious/file"]


def test_a_process_killed_at_any_moment_leaves_nothing_after_the_next_sweep(
    driver: Path, root: Path
) -> None:
    draw = random.Random(0)
    for _ in range(40):
        process = subprocess.Popen([driver, "churn", str(root), "A", "100000"])
        time.sleep(draw.uniform(0.01, 0.05))
        process.kill()
        process.wait()
        run_driver(driver, "sweep", str(root), "1")
        assert everything(root) == []


def test_processes_that_claim_and_sweep_at_once_never_meet_in_a_directory(
    driver: Path, root: Path
) -> None:
    commands = [["churn", str(root), "A", "2000"]] * 3 + [["sweep", str(root), "2000"]]
    processes = [
        subprocess.Popen([driver, *words], stdout=subprocess.PIPE, text=True) for words in commands
    ]
    answers = [process.communicate()[0] for process in processes]
    assert answers == [CLAIMED] * 3 + ["swept\n"]
    assert [process.returncode for process in processes] == [0] * 4
    assert everything(root) == []


@pytest.mark.parametrize("name", ["weights/w.bin", "w.bin", "weights/a/b.bin", "weights/..b", "é"])
def test_a_weight_file_inside_the_model_has_its_name(driver: Path, name: str) -> None:
    assert run_driver(driver, "name", f"@model_path/{name}") == f"{name}\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("weights/w.bin", "does not start"),
        ("/etc/passwd", "does not start"),
        ("@model_path", "does not start"),
        ("", "does not start"),
        ("@model_path/", "is not inside"),
        ("@model_path//etc/passwd", "is not inside"),
        ("@model_path/..", "is not inside"),
        ("@model_path/../w.bin", "is not inside"),
        ("@model_path/weights/../../w.bin", "is not inside"),
        ("@model_path/weights/", "is not inside"),
        ("@model_path/./w.bin", "is not inside"),
        ("@model_path/model.mil", "file of the engine"),
        ("@model_path/net.plist", "file of the engine"),
        ("@model_path/data", "file of the engine"),
    ],
)
def test_a_weight_file_outside_the_model_is_refused(driver: Path, path: str, words: str) -> None:
    answer = run_driver(driver, "name", path)
    assert answer.startswith("6 0 weight file")
    assert words in answer


@pytest.mark.parametrize("identifier", ["", ".", "..", "a/b", "../a"])
def test_an_identifier_that_is_no_file_name_is_refused(
    driver: Path, root: Path, identifier: str
) -> None:
    assert "is not a file name" in run_driver(driver, "hold", str(root), identifier)
    assert everything(root) == []


def test_a_file_that_does_not_fit_is_an_error_and_leaves_nothing(driver: Path, root: Path) -> None:
    answer = run_driver(driver, "fill", str(root), "A", "100000", "4096")
    assert answer == f"9 {errno.EFBIG} cannot write 'weights/file': File too large\n"
    assert everything(root) == []


def test_a_file_that_fits_is_written(driver: Path, root: Path) -> None:
    assert run_driver(driver, "fill", str(root), "A", "100000", "100000") == "written\n"


@pytest.mark.parametrize(("kind", "code"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_a_temporary_directory_that_is_none_is_an_error(
    driver: Path, tmp_path: Path, kind: str, code: int
) -> None:
    place = tmp_path / kind
    if kind == "file":
        place.write_text("")
    answer = run_driver(driver, "hold", str(place), "A")
    assert answer.startswith(f"9 {code} cannot make the directory 'A'")
    run_driver(driver, "sweep", str(place), "1")


def test_an_identifier_that_is_too_long_is_an_error(driver: Path, root: Path) -> None:
    answer = run_driver(driver, "hold", str(root), "A" * 300)
    assert answer.startswith(f"9 {errno.ENAMETOOLONG} ")
    assert everything(root) == []


@pytest.mark.parametrize("size", [0, 1, 16384, 100001])
def test_a_copy_has_the_same_bytes_and_is_made_once(driver: Path, root: Path, size: int) -> None:
    holder = Holder(driver, "copy", str(root), str(size))
    assert holder.answer == f"9 {errno.ENOENT} cannot read 'net.plist': No such file or directory\n"
    assert holder.process.stdout
    assert holder.process.stdout.readline() == "copied\n"
    assert holder.process.stdout.readline().startswith(f"9 {errno.EEXIST} cannot copy")
    copied = (root / "TO" / "net.plist").read_bytes()
    assert copied == (root / "FROM" / "net.plist").read_bytes()
    assert len(copied) == size
    assert holder.end() == 0
    assert everything(root) == []
