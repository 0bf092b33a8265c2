"""Text to shards: what is written is the text, whole, and never over something else."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Reference

from ane_train.data.prepare import Prepared, prepare
from ane_train.data.source import open_data
from ane_train.data.tokenizer import BUILT_IN_TEXT, BUILT_IN_TOKENIZER
from ane_train.data.tokens import open_shard
from ane_train.errors import ConfigError, DataError, DiskError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "moby.txt"
    path.write_bytes(BUILT_IN_TEXT.read_bytes()[:200_000] + "…".encode())
    return path


def tokens_of(path: Path) -> list[int]:
    return open_shard(path).tokens.tolist()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_prepared_folder_trains_like_the_text_itself(text: Path, tmp_path: Path) -> None:
    prepared = prepare([text], None, tmp_path / "out")
    assert names_in(tmp_path / "out") == ["tokenizer.json", "train.tokens"]
    assert (tmp_path / "out/tokenizer.json").read_bytes() == BUILT_IN_TOKENIZER.read_bytes()
    sources = [
        open_data(path, tokenizer=None, vocabulary=2048, sequence=64, cache_dir=tmp_path / "cache")
        for path in (text, tmp_path / "out")
    ]
    assert sources[0].fingerprint == sources[1].fingerprint
    assert sources[0].bytes_per_token == sources[1].bytes_per_token
    reference = Reference.from_file(str(BUILT_IN_TOKENIZER))
    expected = [*reference.encode(text.read_text(encoding="utf-8")).ids, 0]
    assert tokens_of(tmp_path / "out/train.tokens") == expected
    assert prepared.train.count == len(expected)
    assert prepared.train.text_bytes == text.stat().st_size
    assert prepared.train.documents == 1
    assert prepared.valid is None


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_validation_text_is_the_end_and_nothing_is_lost(text, tmp_path, fraction) -> None:
    prepared = prepare([text], None, tmp_path / "out", valid_fraction=fraction)
    assert prepared.valid is not None
    assert prepared.train.text_bytes + prepared.valid.text_bytes == text.stat().st_size
    assert prepared.valid.text_bytes / text.stat().st_size == pytest.approx(fraction, rel=0.5)
    parts = [tokens_of(tmp_path / "out" / name) for name in ("train.tokens", "valid.tokens")]
    decoded = Reference.from_file(str(BUILT_IN_TOKENIZER)).decode(parts[0] + parts[1])
    assert decoded == text.read_text(encoding="utf-8")
    source = open_data(
        tmp_path / "out", tokenizer=None, vocabulary=2048, sequence=8, cache_dir=tmp_path / "cache"
    )
    assert source.valid.length == prepared.valid.count
    valid = prepared.valid
    assert source.bytes_per_token == pytest.approx(valid.text_bytes / valid.count)


def test_many_inputs_are_read_in_order_with_any_tokenizer(tmp_path: Path) -> None:
    reference = Reference.from_file(str(BUILT_IN_TOKENIZER))
    reference.add_special_tokens(["<extra>"])
    reference.save(str(tmp_path / "other.json"))
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("second")
    lines = [json.dumps({"text": text}) for text in ("first", "of two", "")]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "c.txt").write_text("third")
    prepared = prepare([folder, tmp_path / "c.txt"], tmp_path / "other.json", tmp_path / "out")
    ids = tokens_of(tmp_path / "out/train.tokens")
    end = "<|endoftext|>"
    assert reference.decode(ids, skip_special_tokens=False) == end.join(
        ["first", "of two", "second", "third", ""]
    )
    assert prepared.train.documents == 4
    assert prepared.train.vocabulary == 2049
    assert prepared.train.tokenizer_hash == prepared.tokenizer.sha256


def test_files_named_for_validation_go_to_the_validation_shard(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text(name * 9)
    prepare([folder], None, tmp_path / "out", valid_fraction=0.3)
    reference = Reference.from_file(str(BUILT_IN_TOKENIZER))
    assert reference.decode(tokens_of(tmp_path / "out/train.tokens")) == "train" * 9
    assert reference.decode(tokens_of(tmp_path / "out/valid.tokens")) == "valid" * 9


def test_progress_rises_to_the_number_of_bytes(text: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    prepare([text, text], None, tmp_path / "out", progress=lambda *r: reports.append(r))
    done = [report[0] for report in reports]
    assert len(done) > 2
    assert done == sorted(done)
    assert reports[-1] == (2 * text.stat().st_size,) * 2


def test_what_is_there_is_overwritten_only_by_force(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([text], None, out, valid_fraction=0.1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "new.txt").write_text("something else")
    with pytest.raises(DataError, match=r"holds tokenizer\.json already.*--force"):
        prepare([tmp_path / "new.txt"], None, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    prepare([tmp_path / "new.txt"], out / "tokenizer.json", out, force=True)
    assert names_in(out) == ["tokenizer.json", "train.tokens"]
    assert len(tokens_of(out / "train.tokens")) < 20


def test_a_folder_with_other_files_is_refused_even_by_force(text: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds other files \(moby\.txt\)"):
        prepare([text], None, tmp_path, force=True)
    assert names_in(tmp_path) == ["moby.txt"]


def fail(attempt: Callable[[], Prepared], out: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert not out.exists() or names_in(out) == []


def test_a_users_mistakes_are_data_errors_and_leave_nothing(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\xff")
    (tmp_path / "small.txt").write_text("so little")
    np.zeros(9, "<u2").tofile(tmp_path / "a.bin")
    fail(lambda: prepare([], None, out), out, "nothing to prepare")
    fail(lambda: prepare([tmp_path / "none"], None, out), out, "no such file")
    fail(lambda: prepare([text, bad], None, out), out, "offset 4")
    fail(lambda: prepare([tmp_path / "a.bin"], None, out), out, "tokens already")
    fail(lambda: prepare([text], text, out), out, r"no tokenizer\.json")
    small = [tmp_path / "small.txt"]
    fail(lambda: prepare(small, None, out, valid_fraction=0.2), out, "too little text")
    with pytest.raises(ConfigError):
        prepare([text], None, out, valid_fraction=1.0)


def test_an_output_that_is_a_file_is_a_disk_error(text: Path) -> None:
    with pytest.raises(DiskError, match="cannot be written"):
        prepare([text], None, text)


def test_a_full_disk_leaves_no_partial_shard(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text.write_bytes(text.read_bytes() * 4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"train\.tokens cannot be written"):
            prepare([text], None, out, valid_fraction=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names_in(out) == []
