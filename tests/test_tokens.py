"""Token shards: what is written is what NumPy reads, and nothing damaged is ever opened."""

from __future__ import annotations

import errno
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ane_train.data.tokens import (
    HEADER_BYTES,
    ShardHeader,
    ShardWriter,
    TokenArray,
    check_vocabulary,
    open_shard,
    open_tokens,
    write_shard,
)
from ane_train.errors import DataError, DiskError

HASH = bytes(range(32))
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("token_bytes", "<u4"),
        ("count", "<u8"),
        ("vocabulary", "<u4"),
        ("zero", "<u4"),
        ("tokenizer", "V32"),
        ("text_bytes", "<u8"),
        ("documents", "<u8"),
        ("reserved", "V48"),
    ]
)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "some.tokens"
    write_shard(path, np.arange(100), 500, HASH)
    return path


def damage(path: Path, offset: int, content: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(2048, "<u2"), (65536, "<u2"), (65537, "<u4"), (151936, "<u4")]
)
def test_a_shard_is_what_numpy_reads_by_the_documented_layout(
    tmp_path: Path, vocabulary: int, dtype: str
) -> None:
    tokens = np.random.default_rng(0).integers(0, vocabulary, 1000)
    path = tmp_path / "deep" / "a.tokens"
    with ShardWriter(path, vocabulary, HASH) as writer:
        writer.append(tokens[:300], text_bytes=700, documents=1)
        writer.append(tokens[300:], text_bytes=800, documents=2)

    header = np.fromfile(path, HEADER, count=1)[0]
    assert HEADER.itemsize == HEADER_BYTES
    assert header["magic"] == b"ANETOKEN"
    assert header["version"] == 1
    assert header["token_bytes"] == np.dtype(dtype).itemsize
    assert (header["count"], header["vocabulary"]) == (1000, vocabulary)
    assert header["tokenizer"].tobytes() == HASH
    assert (header["text_bytes"], header["documents"]) == (1500, 3)
    np.testing.assert_array_equal(np.fromfile(path, dtype, offset=HEADER_BYTES), tokens)

    opened = open_shard(path)
    assert opened.header == ShardHeader(
        np.dtype(dtype).itemsize, 1000, vocabulary, HASH, text_bytes=1500, documents=3
    )
    assert opened.tokens.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(opened.tokens, tokens)


def test_an_empty_shard_can_be_opened(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tokens", np.array([], np.int32), 5)
    assert TokenArray.of([open_shard(tmp_path / "a.tokens").tokens]).length == 0


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"X", "no token shard"),
        (8, b"\x03", "version 3"),
        (12, b"\x03", "3 bytes per token"),
        (16, b"\x63", "bytes after its last token"),
        (16, b"\x65", "truncated"),
        (23, b"\x80", "truncated"),
        (24, bytes(4), "vocabulary of 0"),
        (24, b"\xff\xff\xff", "vocabulary of 16777215"),
    ],
)
def test_a_damaged_header_is_refused_by_name(
    shard: Path, offset: int, content: bytes, message: str
) -> None:
    damage(shard, offset, content)
    with pytest.raises(DataError, match=message) as caught:
        open_shard(shard)
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 8, 127, 128, 129, 327])
def test_a_shard_cut_at_any_place_is_refused(shard: Path, size: int) -> None:
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(DataError, match=str(shard)):
        open_shard(shard)


def test_bytes_after_the_last_token_are_refused(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes() + b"\0\0")
    with pytest.raises(DataError, match="after its last token"):
        open_shard(shard)


@pytest.mark.parametrize(("option", "dtype"), [(None, "<u2"), ("u16", "<u2"), ("u32", "<u4")])
def test_a_headerless_file_is_tokens_from_the_first_byte_on(tmp_path, option, dtype) -> None:
    tokens = np.random.default_rng(1).integers(0, 32000, 50)
    path = tmp_path / "tinystories.bin"
    tokens.astype(dtype).tofile(path)
    opened = open_tokens(path, option)
    assert opened.header is None
    np.testing.assert_array_equal(opened.tokens, tokens)


def test_a_shard_named_bin_is_known_by_its_magic(shard: Path) -> None:
    renamed = shard.rename(shard.with_suffix(".bin"))
    assert open_tokens(renamed).header == open_shard(renamed).header


def test_a_headerless_file_with_half_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(7))
    with pytest.raises(DataError, match=r"7 bytes.*tokens of 2 bytes"):
        open_tokens(path)
    path.write_bytes(bytes(6))
    with pytest.raises(DataError, match="tokens of 4 bytes"):
        open_tokens(path, "u32")


def test_the_header_of_llm_c_is_not_taken_for_tokens(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 10
    path.write_bytes(header.tobytes() + bytes(20))
    with pytest.raises(DataError, match=r"llm\.c.*tail -c \+1025"):
        open_tokens(path)


def test_the_first_token_beyond_the_vocabulary_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    tokens = np.zeros(5_000_000, "<u2")
    tokens[[4_500_000, 4_900_000]] = 32000, 50000
    tokens.tofile(path)
    check_vocabulary(open_tokens(path), 50001)
    with pytest.raises(DataError, match=r"token 32000 at position 4500000 .*vocabulary of 32000"):
        check_vocabulary(open_tokens(path), 32000)


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    bounds=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    inner=st.tuples(st.integers(0, 120), st.integers(0, 120)),
)
def test_a_slice_across_parts_is_that_of_the_joined_array(sizes, bounds, inner) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    array = TokenArray.of(np.split(whole, np.cumsum(sizes)[:-1]))
    assert array.length == len(whole)
    start, stop = sorted(min(bound, len(whole)) for bound in bounds)
    assert array.slice(start, stop).dtype == np.int32
    np.testing.assert_array_equal(array.slice(start, stop), whole[start:stop])
    view = array.between(start, stop)
    first, last = sorted(min(bound, stop - start) for bound in inner)
    np.testing.assert_array_equal(view.slice(first, last), whole[start:stop][first:last])
    chunks = [np.array([], np.uint16), *array.chunks(7)]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


@pytest.mark.parametrize("bounds", [(-1, 2), (0, 11), (5, 4)])
def test_a_slice_beyond_the_tokens_is_an_error(bounds) -> None:
    array = TokenArray.of([np.arange(10, dtype=np.uint16)])
    with pytest.raises(IndexError):
        array.slice(*bounds)


def test_a_slice_of_a_file_larger_than_memory_reads_only_the_slice(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 6)
        file.write(np.array([7, 8, 9], "<u2").tobytes())
    array = TokenArray.of([open_tokens(path).tokens])
    assert array.length == 1 << 39
    np.testing.assert_array_equal(array.slice(array.length - 4, array.length), [0, 7, 8, 9])


def test_a_failed_write_leaves_the_older_shard_and_nothing_else(shard: Path) -> None:
    before = shard.read_bytes()

    def write_and_stop() -> None:
        with ShardWriter(shard, 500) as writer:
            writer.append(np.arange(50))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert shard.read_bytes() == before
    assert list(shard.parent.iterdir()) == [shard]


def test_a_full_disk_is_a_disk_error_and_leaves_nothing(shard: Path) -> None:
    before = shard.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"some\.tokens cannot be written"):
            write_shard(shard, np.zeros(1 << 20, np.int32), 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert shard.read_bytes() == before
    assert list(shard.parent.iterdir()) == [shard]


def test_a_disk_that_fills_up_at_the_last_flush_is_a_disk_error(shard, monkeypatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskError, match="the disk is full"):
        write_shard(shard, np.arange(5), 500)
    assert list(shard.parent.iterdir()) == [shard]


def test_a_folder_that_cannot_be_made_is_a_disk_error(shard: Path) -> None:
    with pytest.raises(DiskError, match="cannot be written"):
        write_shard(shard / "within" / "a.tokens", np.arange(5), 500)
