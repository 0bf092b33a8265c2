"""What --data may be, what becomes of it, and what is said when it is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Reference
from tokenizers import models, pre_tokenizers, processors

from ane_train.data.source import DataSource, open_data
from ane_train.data.text import encode_files, read_pieces
from ane_train.data.tokenizer import (
    BUILT_IN_TEXT,
    BUILT_IN_TOKENIZER,
    built_in_tokenizer,
    load_tokenizer,
)
from ane_train.data.tokens import TokenArray, write_shard
from ane_train.data.train_tokenizer import train_tokenizer
from ane_train.errors import ConfigError, DataError, DiskError

WORDS = [f"word{i}" for i in range(60)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def open_(path: Path | None, cache: Path, **options: object) -> DataSource:
    arguments = {"tokenizer": None, "vocabulary": 2048, "sequence": 8, **options}
    return open_data(path, cache_dir=cache, **arguments)


def all_tokens(source: DataSource) -> list[int]:
    parts = [part.slice(0, part.length) for part in (source.train, source.valid)]
    return np.concatenate(parts).tolist()


def word_tokenizer(path: Path, end: str | None = "</s>") -> Path:
    """Write a tokenizer of whole words that truncates, pads and adds a token at the start."""
    vocabulary = {word: i for i, word in enumerate(["<s>", *WORDS])}
    tokenizer = Reference(models.WordLevel(vocabulary, unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", *([end] if end else [])])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(path))
    return path


def write_words(path: Path, count: int = 100) -> list[int]:
    """Write words and return the tokens that `word_tokenizer` gives them."""
    numbers = [(7 * i) % 60 for i in range(count)]
    path.write_text(" ".join(WORDS[i] for i in numbers))
    return [i + 1 for i in numbers]


def test_the_built_in_tokenizer_is_made_again_byte_for_byte() -> None:
    text = BUILT_IN_TEXT.read_bytes().decode()
    assert train_tokenizer(text).encode() == BUILT_IN_TOKENIZER.read_bytes()
    assert built_in_tokenizer().vocabulary == 2048
    assert built_in_tokenizer().end_of_text == 0


def test_the_built_in_corpus_is_the_one_that_its_readme_names() -> None:
    digest = hashlib.sha256(BUILT_IN_TEXT.read_bytes()).hexdigest()
    assert digest == "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"


@pytest.mark.parametrize("vocabulary", [2048, 32000, 151936])
def test_without_data_any_model_trains_on_the_built_in_corpus(cache, vocabulary) -> None:
    source = open_(None, cache, vocabulary=vocabulary)
    reference = Reference.from_file(str(BUILT_IN_TOKENIZER))
    text = BUILT_IN_TEXT.read_bytes().decode()
    expected = [*reference.encode(text).ids, 0]
    assert all_tokens(source) == expected
    assert source.valid.length == round(len(expected) * 0.05)
    assert source.bytes_per_token == pytest.approx(len(text.encode()) / len(expected), rel=1e-12)
    assert source.tokenizer is not None
    assert source.tokenizer.decode(source.train.slice(0, 6)) == "CHAPTER 1. Loom"


def test_a_vocabulary_too_small_for_the_built_in_tokenizer_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match=r"built-in tokenizer has 2048 .* 2047.*--tokenizer"):
        open_(None, cache, vocabulary=2047)


@pytest.mark.parametrize("piece_bytes", [1000, 5000, 1 << 17])
def test_text_cut_into_pieces_has_the_tokens_of_the_whole(tmp_path, piece_bytes) -> None:
    text = BUILT_IN_TEXT.read_bytes()[:60_000].decode()
    (tmp_path / "a.txt").write_bytes(text.encode())
    pieces = encode_files([tmp_path / "a.txt"], built_in_tokenizer(), piece_bytes)
    tokens = np.concatenate([piece.tokens for piece in pieces])
    reference = Reference.from_file(str(BUILT_IN_TOKENIZER))
    assert tokens.tolist() == [*reference.encode(text).ids, 0]


@pytest.mark.parametrize(
    "text", ["é" * 1000, "word " * 300, "\n" * 999, "a\n\n" * 300, "a\r\n" * 300, "💡\n" * 99, " "]
)
@pytest.mark.parametrize("piece_bytes", [16, 17, 1000])
def test_pieces_are_short_and_join_to_the_text(tmp_path, text, piece_bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path, piece_bytes))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.text_bytes <= 2 * piece_bytes for piece in pieces)
    assert sum(piece.source_bytes for piece in pieces) == len(text.encode())


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert [piece.text for piece in read_pieces(tmp_path / "a.txt")] == ["hello"]


def test_a_tokenizer_never_truncates_pads_or_adds_tokens(folder: Path, cache: Path) -> None:
    tokenizer = word_tokenizer(folder.parent / "tokenizer.json")
    expected = write_words(folder / "a.txt")
    source = open_(folder / "a.txt", cache, tokenizer=tokenizer, vocabulary=64)
    assert all_tokens(source) == [*expected, 61]


def test_without_an_end_of_text_token_documents_follow_directly(folder: Path, cache: Path) -> None:
    tokenizer = word_tokenizer(folder.parent / "tokenizer.json", end=None)
    expected = write_words(folder / "a.txt") + write_words(folder / "b.txt", 50)
    source = open_(folder, cache, tokenizer=tokenizer, vocabulary=64)
    assert all_tokens(source) == expected


def test_json_lines_are_documents_closed_by_end_of_text(folder: Path, cache: Path) -> None:
    texts = ["one é", "two\nlines", "", "💡 three " * 20]
    lines = [json.dumps({"id": 1, "text": text}, ensure_ascii=len(text) > 9) for text in texts]
    (folder / "a.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    source = open_(folder / "a.jsonl", cache)
    assert source.tokenizer is not None
    joined = source.tokenizer.decode(all_tokens(source))
    assert joined == "".join(text + "<|endoftext|>" for text in texts if text)
    bytes_in_all = sum(len(text.encode()) for text in texts)
    assert source.bytes_per_token == pytest.approx(bytes_in_all / len(all_tokens(source)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is no valid JSON"),
        (b'{"txt": "a"}', "line 2 has no text"),
        (b'{"text": 5}', "line 2 has no text"),
        (b'["text"]', "line 2 has no text"),
        (b'{"text": "\xff"}', "line 2: byte 10 of the line is not UTF-8"),
        (b'{"text": "\\ud800"}', "line 2: .* surrogate"),
        (b"[" * 100_000, "line 2 is no valid JSON"),
    ],
)
def test_a_bad_json_line_is_named(folder: Path, cache: Path, line: bytes, message: str) -> None:
    path = folder / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(DataError, match=message):
        open_(path, cache)
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\n" * 5000 + b"bad \xff", r"byte 0xff at offset 25004"),
        (b"good\n" * 60_000 + b"bad \xe9t\xe9", r"byte 0xe9 at offset 300004"),
        (b"\xef\xbb\xbfgood \0", r"byte 0x00 at offset 8"),
        (b"\x80" * 400_000, r"byte 0x80 at offset 0"),
        (b"cut \xc3", r"byte 0xc3 at offset 4"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(folder, cache, content, message) -> None:
    (folder / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_(folder / "a.txt", cache)
    assert "a.txt" in str(caught.value)


def test_text_is_encoded_once_and_again_only_when_it_or_the_tokenizer_changes(folder, cache):
    reports: list[tuple[int, int]] = []

    def count(**options: object) -> int:
        reports.clear()
        open_(folder, cache, progress=lambda *report: reports.append(report), **options)
        return len(reports)

    (folder / "a.txt").write_text("some words " * 50)
    assert count() > 0
    assert reports[-1] == (550, 550)
    assert count() == 0
    assert count(vocabulary=5000, sequence=4, valid_fraction=0.5) == 0
    (folder / "a.txt").write_text("other word " * 50)
    assert count() > 0
    assert count(tokenizer=word_tokenizer(folder.parent / "tokenizer.json")) > 0
    (folder / "a.txt").write_text("some words " * 50)
    assert count() == 0


def test_a_damaged_cache_is_made_again(folder: Path, cache: Path) -> None:
    (folder / "a.txt").write_text("some words " * 50)
    expected = all_tokens(open_(folder, cache))
    (cached,) = cache.iterdir()
    cached.write_bytes(cached.read_bytes()[:-1])
    assert all_tokens(open_(folder, cache)) == expected


def test_a_cache_that_cannot_be_written_is_a_disk_error(folder: Path) -> None:
    (folder / "a.txt").write_text("some words " * 50)
    with pytest.raises(DiskError, match="cannot be written"):
        open_(folder, folder / "a.txt" / "cache")


def test_a_folder_is_its_files_in_order_and_hidden_files_are_none(folder, cache) -> None:
    np.arange(0, 40, dtype="<u2").tofile(folder / "data00.bin")
    write_shard(folder / "data01.tokens", np.arange(40, 70), 2048)
    np.arange(70, 100, dtype="<u2").tofile(folder / "data02.bin")
    (folder / ".DS_Store").write_bytes(b"\0\xff")
    (folder / "README.md").write_text("about")
    (folder / "deeper.bin").mkdir()
    source = open_(folder, cache)
    assert all_tokens(source) == list(range(100))
    assert (source.train.length, source.valid.length) == (91, 9)
    assert source.tokenizer is None
    assert source.bytes_per_token is None
    assert source.name == "data"


def test_files_named_for_validation_are_the_validation_data(folder, cache) -> None:
    for name, first in [("train_0", 0), ("more", 100), ("valid", 200), ("val-1", 300)]:
        np.arange(first, first + 50, dtype="<u2").tofile(folder / f"{name}.bin")
    np.zeros(50, "<u2").tofile(folder / "test.bin")
    source = open_(folder, cache)
    assert source.train.slice(0, 100).tolist() == [*range(100, 150), *range(50)]
    assert source.valid.slice(0, 100).tolist() == [*range(300, 350), *range(200, 250)]


def test_without_a_training_file_names_have_no_meaning(folder: Path, cache: Path) -> None:
    for name in ("test", "valid", "valley"):
        np.zeros(50, "<u2").tofile(folder / f"{name}.bin")
    assert len(all_tokens(open_(folder, cache))) == 150


def test_a_shard_finds_the_tokenizer_that_it_was_made_with(folder: Path, cache: Path) -> None:
    built_in = built_in_tokenizer()
    write_shard(folder / "a.tokens", np.arange(100), 2048, built_in.sha256)
    assert open_(folder, cache).tokenizer.sha256 == built_in.sha256
    other = load_tokenizer(word_tokenizer(folder / "tokenizer.json"))
    write_shard(folder / "a.tokens", np.arange(60), 61, other.sha256)
    assert open_(folder / "a.tokens", cache).tokenizer.sha256 == other.sha256


def test_a_shard_of_another_tokenizer_is_refused(folder: Path, cache: Path) -> None:
    tokenizer = word_tokenizer(folder.parent / "tokenizer.json")
    write_shard(folder / "a.tokens", np.arange(100), 2048, bytes([7] * 32))
    assert open_(folder, cache).tokenizer is None
    with pytest.raises(DataError, match=r"a\.tokens was made with another tokenizer.*0707"):
        open_(folder, cache, tokenizer=tokenizer)
    write_shard(folder / "b.tokens", np.arange(100), 2048, bytes([8] * 32))
    with pytest.raises(DataError, match=r"b\.tokens was made with another tokenizer.*0808"):
        open_(folder, cache)


@pytest.mark.parametrize("dtype", [None, "u16"])
def test_a_token_beyond_the_models_vocabulary_is_refused(folder, cache, dtype) -> None:
    np.array([1] * 50 + [2048] + [1] * 50, "<u2").tofile(folder / "a.bin")
    with pytest.raises(DataError, match=r"a\.bin: token 2048 at position 50 .*--token-dtype"):
        open_(folder, cache, token_dtype=dtype)
    write_shard(folder / "a.bin", np.array([1] * 50 + [2048]), 5000)
    with pytest.raises(DataError, match=r"a\.bin: token 2048 at position 50 "):
        open_(folder, cache)


def test_only_tokens_that_occur_must_be_in_the_models_vocabulary(folder, cache) -> None:
    tokenizer = word_tokenizer(folder.parent / "tokenizer.json")
    write_words(folder / "a.txt")
    with pytest.raises(DataError, match="has 61 tokens, the model has a vocabulary of 60"):
        open_(folder, cache, tokenizer=tokenizer, vocabulary=60)
    with pytest.raises(DataError, match=r"a\.txt: token 61 at position 100 "):
        open_(folder, cache, tokenizer=tokenizer, vocabulary=61)
    open_(folder, cache, tokenizer=tokenizer, vocabulary=62)


def test_the_split_leaves_one_window_on_both_sides_at_least(folder: Path, cache: Path) -> None:
    np.arange(18, dtype="<u2").tofile(folder / "a.bin")
    for fraction in (0.0, 0.05, 0.5):
        source = open_(folder, cache, valid_fraction=fraction)
        assert (source.train.length, source.valid.length) == (9, 9)
        assert all_tokens(source) == list(range(18))
    with pytest.raises(DataError, match=r"has 5 tokens for training, .* at least 9"):
        open_(folder, cache, valid_fraction=0.7)
    np.arange(17, dtype="<u2").tofile(folder / "a.bin")
    with pytest.raises(DataError, match=r"has 17 tokens, .* at least 18 .*--seq"):
        open_(folder, cache)
    with pytest.raises(ConfigError):
        open_(folder, cache, valid_fraction=1.0)


def test_a_validation_file_that_is_too_short_is_refused(folder: Path, cache: Path) -> None:
    np.zeros(50, "<u2").tofile(folder / "train.bin")
    np.zeros(8, "<u2").tofile(folder / "valid.bin")
    with pytest.raises(DataError, match=r"has 8 tokens for validation, .* at least 9"):
        open_(folder, cache)


def test_the_fingerprint_tells_data_apart_but_not_packaging(folder: Path, cache: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 2000, 3_000_000)
    np.split(tokens.astype("<u2"), [1000])[0].tofile(folder / "a.bin")
    tokens[1000:].astype("<u2").tofile(folder / "b.bin")
    first = open_(folder, cache).fingerprint
    write_shard(folder.parent / "whole.tokens", tokens, 100_000)
    assert open_(folder.parent / "whole.tokens", cache).fingerprint == first
    assert open_(folder, cache, sequence=16).fingerprint == first
    assert open_(folder, cache, valid_fraction=0.06).fingerprint != first
    assert open_(folder, cache, tokenizer=BUILT_IN_TOKENIZER).fingerprint != first
    for place in (0, 2_999_999):
        changed = tokens.copy()
        changed[place] += 1
        write_shard(folder.parent / "changed.tokens", changed, 2048)
        assert open_(folder.parent / "changed.tokens", cache).fingerprint != first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.mkdir(), "holds no data"),
        (lambda path: os.mkfifo(path), "no regular file"),
    ],
)
def test_a_path_that_cannot_be_read_is_a_data_error(folder, cache, make, message) -> None:
    make(folder / "it")
    with pytest.raises(DataError, match=message) as caught:
        open_(folder / "it", cache)
    assert str(folder / "it") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_system_refuses_is_a_data_error(folder, cache, monkeypatch) -> None:
    def refuse(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    (folder / "a.txt").write_text("text")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied"):
        open_(folder / "a.txt", cache)


def test_a_folder_with_text_and_tokens_is_refused_as_ambiguous(folder: Path, cache: Path) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "a.bin").write_bytes(bytes(200))
    with pytest.raises(DataError, match=r"a\.bin.*a\.txt.*one kind"):
        open_(folder, cache)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x0e\x0a\x05<unk>", r"is no tokenizer\.json"),
        (b'{"config": 1}', r"is no tokenizer\.json"),
        (b'["model"]', r"is no tokenizer\.json"),
        (b"[" * 100_000, r"is no tokenizer\.json"),
        (b'{"model": {"type": "BPE"}}', r"no usable tokenizer\.json"),
        (b'{"added_tokens": [], "model": {"type": "XYZ", "vocab": {}}}', "no usable"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(DataError, match=message) as caught:
            load_tokenizer(given)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_missing_empty_or_cannot_encode_is_a_data_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json: there is no such file"):
        load_tokenizer(tmp_path)
    Reference(models.BPE()).save(str(tmp_path / "empty.json"))
    with pytest.raises(DataError, match="without any tokens"):
        load_tokenizer(tmp_path / "empty.json")
    Reference(models.WordLevel({"a": 0}, unk_token="?")).save(str(tmp_path / "a.json"))
    with pytest.raises(DataError, match="cannot encode the text"):
        load_tokenizer(tmp_path / "a.json").encode("b")


def test_a_token_array_of_nothing_has_no_length() -> None:
    assert TokenArray.of([]).length == 0


def test_importing_the_package_does_not_import_the_tokenizers_library() -> None:
    modules = "source, prepare, batches, train_tokenizer"
    code = f"import sys; from ane_train.data import {modules}; print('tokenizers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
