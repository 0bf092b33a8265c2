"""The TinyStories archive: fetched in pieces, checked, read as a stream, and never unpacked."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import ane_train

from ane_train.data import tinystories
from ane_train.data.download import Remote, fetch
from ane_train.data.prepare import prepare_tinystories
from ane_train.data.tinystories import encode_stories
from ane_train.data.tokenizer import built_in_tokenizer
from ane_train.data.tokens import open_shard
from ane_train.errors import DataError, DiskError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
Stories = dict[str, object]


def write_archive(path: Path, members: Stories) -> Path:
    """A .tar.gz of JSON files, or of members given as (type, content)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def stories(*texts: str) -> list[dict[str, object]]:
    return [
        {"story": f"\n\n{text}  ", "instruction": {"words": ["a"]}, "source": "GPT-4"}
        for text in texts
    ]


def texts_of(shard: Path) -> list[str]:
    """The documents of a shard."""
    text = built_in_tokenizer().decode(open_shard(shard).tokens)
    assert text.endswith("<|endoftext|>")
    return text.split("<|endoftext|>")[:-1]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(
        tmp_path / "small.tar.gz",
        {
            "./data01.json": stories("One day, a girl é.", "The end 💡."),
            "./data00.json": stories("A cat sat."),
            "./._data02.json": b"\0\0",
            "./readme.txt": b"no story",
            "./data02.json": stories("Two dogs.", " ", "ran [on], {far}."),
        },
    )


def test_the_stories_become_shards_those_of_the_first_file_for_validation(
    tmp_path: Path, archive: Path
) -> None:
    result = ane_train(tmp_path, "prepare", "tinystories", "--from", archive.name)
    assert result.returncode == 0, result.stderr
    assert "train with: ane-train --data tinystories" in result.stdout
    assert result.stderr == ""
    out = tmp_path / "tinystories"
    assert sorted(path.name for path in out.iterdir()) == [
        "tokenizer.json", "train.tokens", "valid.tokens",
    ]  # fmt: skip
    assert texts_of(out / "train.tokens") == [
        "One day, a girl é.", "The end 💡.", "Two dogs.", "ran [on], {far}.",
    ]  # fmt: skip
    assert texts_of(out / "valid.tokens") == ["A cat sat."]
    header = open_shard(out / "train.tokens").header
    assert header is not None
    assert header.documents == 4
    again = ane_train(tmp_path, "prepare", "tinystories", "--from", archive.name)
    assert again.returncode == 4
    assert "--force" in again.stderr


def test_nothing_in_the_archive_can_reach_outside_of_the_target(tmp_path: Path) -> None:
    link = tarfile.TarInfo("data03.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("data04.json")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret.json"
    (tmp_path / "secret.json").write_text(json.dumps(stories("a secret")))
    members = {
        "../../escaped.json": stories("from above"),
        "/tmp/absolute/data00.json": stories("absolute"),
        "link": link,
        "hard": hard,
    }
    archive = write_archive(tmp_path / "evil.tar.gz", members)
    before = sorted(path for path in tmp_path.rglob("*"))
    prepare_tinystories(archive, None, tmp_path / "out", downloads=tmp_path)
    after = set(tmp_path.rglob("*")) - set(before)
    assert {path.relative_to(tmp_path).parts[0] for path in after} == {"out"}
    assert not Path("/tmp/absolute").exists()
    assert texts_of(tmp_path / "out/train.tokens") == ["from above"]


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    story = stories("Lily and Ben are friends. They like to play in the park. " * 20)[0]
    members = {"data00.json": [story], "data01.json": [story] * 25_000}
    archive = write_archive(tmp_path / "large.tar.gz", members)
    tokenizer = SimpleNamespace(
        end_of_text=0, encode_batch=lambda texts: [np.zeros(1, np.int32) for _ in texts]
    )
    tracemalloc.start()
    count = sum(1 for _ in encode_stories(archive, tokenizer))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 25_001
    assert peak < 12e6 < 25_000 * len(story["story"])


def damaged(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :]


GOOD = {"data00.json": stories("a"), "data01.json": stories("b")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data01.json": [{"text": "a"}]}, r'data01\.json, item 1 has no text as its "story"'),
        ({"data01.json": [*stories("a"), {"story": 5}]}, r"item 2 has no text"),
        ({"data01.json": [*stories("a"), "b"]}, r"item 2 has no text"),
        ({"data01.json": {"story": "a"}}, r"data01\.json is no JSON list"),
        ({"data01.json": b""}, r"data01\.json is no JSON list"),
        ({"data01.json": b'[{"story": "a"}'}, r"item 2 is no JSON: Expecting value"),
        ({"data01.json": b'[{"story": "a"} x]'}, r"item 2 is no JSON"),
        ({"data01.json": b'[{"story": "' + b"a" * (5 << 20)}, r"item 1 is no JSON"),
        ({"data01.json": b"[" * 100_000}, r"item 1 is no JSON"),
        ({"data01.json": b'[{"story": "\xff"}]'}, r"data01\.json is not UTF-8"),
        ({"data01.json": b'[{"story": "\\ud800"}]'}, r"item 1 has half a surrogate pair"),
        ({"data01.json": []}, r"no stories to train on"),
        ({"data00.json": []}, r"no stories for validation: those of data00\.json"),
    ],
)
def test_what_is_no_list_of_stories_is_named(tmp_path: Path, change: Stories, message: str) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", GOOD | change)
    assert_refused(tmp_path, archive, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"plain text", "is no TinyStories_all_data.tar.gz, or is damaged"),
        (lambda raw: raw[: len(raw) // 2], "is damaged: .*; fetch it again"),
        (lambda raw: damaged(raw, len(raw) - 6), "is damaged: CRC check failed"),
        (lambda raw: gzip.compress(b"no tar" * 999), "or is damaged"),
        (lambda raw: b"", "or is damaged"),
    ],
)
def test_a_damaged_archive_is_named(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", GOOD)
    archive.write_bytes(change(archive.read_bytes()))
    assert_refused(tmp_path, archive, message)


def assert_refused(folder: Path, archive: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        prepare_tinystories(archive, None, folder / "out", downloads=folder)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((folder / "out").glob("*"))


class Server(ThreadingHTTPServer):
    """Serves CONTENT, as far as `breaks_after` bytes an answer; notes the ranges asked for."""

    ranges = True
    breaks_after = len(CONTENT)
    content = CONTENT
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def remote(self) -> Remote:
        digest = hashlib.sha256(CONTENT).hexdigest()
        return Remote(f"http://127.0.0.1:{self.server_port}/file", len(CONTENT), digest)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        content, start = self.server.content, 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            whole = len(content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.breaks_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once_with_progress(tmp_path: Path, server: Server) -> None:
    reports: list[tuple[int, int]] = []
    target = tmp_path / "deep" / "file"
    fetch(server.remote, target, lambda *report: reports.append(report))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    fetch(server.remote, target)
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_fetch_goes_on_where_it_stopped(
    tmp_path: Path, server: Server, ranges: bool
) -> None:
    server.breaks_after, server.ranges = 1_234_567, ranges
    with pytest.raises(DataError, match=r"(broke off after|cannot be fetched).*run it again"):
        fetch(server.remote, tmp_path / "file")
    there = (tmp_path / "file.part").stat().st_size
    assert 0 < there <= 1_234_567
    assert not (tmp_path / "file").exists()
    server.breaks_after = len(CONTENT)
    fetch(server.remote, tmp_path / "file")
    assert server.asked == [None, f"bytes={there}-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_file_is_refused(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1] + b"x" if CONTENT[-1:] != b"x" else CONTENT[:-1] + b"y"
    with pytest.raises(DataError, match=r"arrived damaged \(SHA-256 .* was deleted"):
        fetch(server.remote, tmp_path / "file")
    assert not list(tmp_path.iterdir())
    server.content = b"<html>sign in</html>"
    with pytest.raises(DataError, match=r"is not the file of 3000000 bytes.* says 20\).*by hand"):
        fetch(server.remote, tmp_path / "file")
    (tmp_path / "file.part").write_bytes(CONTENT[:7])
    with pytest.raises(DataError, match=r"is not the file of 3000000 bytes.*says 20"):
        fetch(server.remote, tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:7]


def test_leftovers_that_cannot_be_the_start_do_no_harm(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file").write_bytes(b"short")
    fetch(server.remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="arrived damaged"):
        fetch(server.remote, tmp_path / "file")
    fetch(server.remote, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_refuses_or_is_away_is_one_line(tmp_path: Path, server: Server) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"cannot be fetched \(404 Not Found\): run it again"):
        fetch(server.remote, tmp_path / "file")
    away = replace(server.remote, url="http://127.0.0.1:1/file")
    with pytest.raises(DataError, match=r"cannot be fetched \(.*refused\).*--from FILE") as caught:
        fetch(away, tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_full_disk_while_fetching_is_a_disk_error(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DiskError, match=r"file\.part cannot be written, the disk is full"):
        fetch(server.remote, tmp_path / "file")


def test_without_an_archive_it_is_fetched_checked_and_kept(
    tmp_path: Path, archive: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive.read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    remote = replace(server.remote, size=len(server.content), sha256=digest)
    monkeypatch.setattr(tinystories, "ARCHIVE", remote)
    reports: dict[str, tuple[int, int]] = {}
    progress = {
        work: lambda *report, work=work: reports.update({work: report})
        for work in ("fetching", "encoding")
    }
    for name in ("one", "two"):
        prepared = prepare_tinystories(
            None, None, tmp_path / name, downloads=tmp_path / "kept", progress=progress
        )
        assert prepared.train.documents == 4
    assert server.asked == [None]
    assert reports == dict.fromkeys(reports, (len(server.content),) * 2)
    assert (tmp_path / "kept" / tinystories.ARCHIVE_NAME).read_bytes() == server.content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.txt",), "--out is missing"),
        (("a.txt", "--out", "x", "--from", "y"), "--from is the archive of tinystories"),
        (("tinystories", "--valid-fraction", "0.1"), "leave out --valid-fraction"),
        (("tinystories", "--from", "none.tar.gz"), "none.tar.gz: there is no such file"),
    ],
)
def test_wrong_usage_is_one_line(capsys, monkeypatch, tmp_path, arguments, message) -> None:
    from ane_train.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(["prepare", *arguments]))
    assert caught.value.code in (2, 4)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
