"""Examples for fine-tuning: what counts in them, how they fill rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import processors

from ane_train.data.batches import Compaction, batch, validation_batches, windows_per_epoch
from ane_train.data.examples import encode_examples
from ane_train.data.packing import Examples
from ane_train.data.prepare import prepare
from ane_train.data.source import DataSource, open_data
from ane_train.data.tokenizer import BUILT_IN_TOKENIZER, Tokenizer, built_in_tokenizer
from ane_train.data.tokens import COUNTS, FIRST, TOKEN, ShardWriter, TokenArray, open_shard
from ane_train.errors import DataError

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_lines(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def counting(count: int) -> list[dict[str, str]]:
    """Examples of many lengths."""
    numbers = [1 + 7 * i % 19 for i in range(count)]
    return [
        {"prompt": f"Count to {n}:", "completion": "".join(f" {k}" for k in range(1, n + 1))}
        for n in numbers
    ]


def open_(path: Path, cache: Path, **options: object) -> DataSource:
    arguments = {"tokenizer": None, "vocabulary": 2048, "sequence": 48, **options}
    return open_data(path, cache_dir=cache, **arguments)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return built_in_tokenizer()


@pytest.fixture
def chat_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(BUILT_IN_TOKENIZER.read_bytes())
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def test_a_completion_counts_with_its_end_and_its_prompt_does_not(tmp_path, tokenizer) -> None:
    records = [
        {"prompt": "What is white?\n\n", "completion": "The whale é 💡.", "id": 3},
        {"prompt": "", "completion": "Call me Ishmael."},
    ]
    examples = list(encode_examples([write_lines(tmp_path / "a.jsonl", records)], tokenizer, None))
    for record, example in zip(records, examples, strict=True):
        words = example.tokens
        whole = record["prompt"] + record["completion"]
        assert (words & TOKEN).tolist() == [*tokenizer.encode(whole), 0]
        said = tokenizer.decode((words & TOKEN)[(words & COUNTS) > 0])
        first = 0 if record["prompt"] else 1
        expected = tokenizer.decode(tokenizer.encode(record["completion"])[first:])
        assert said == expected + "<|endoftext|>"
        assert ((words & FIRST) > 0).tolist() == [True] + [False] * (len(words) - 1)
    assert sum(one.source_bytes for one in examples) == (tmp_path / "a.jsonl").stat().st_size


def test_places_of_tokens_keep_their_spaces_whatever_the_post_processor(tmp_path: Path) -> None:
    core = Core.from_file(str(BUILT_IN_TOKENIZER))
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    core.save(str(tmp_path / "tokenizer.json"))
    from ane_train.data.tokenizer import load_tokenizer

    text = "a  whale\n\n and 💡"
    [(tokens, starts, stops)] = load_tokenizer(tmp_path / "tokenizer.json").encode_located([text])
    assert tokens.tolist() == built_in_tokenizer().encode(text).tolist()
    assert text == "".join(
        text[start:stop] for start, stop in dict.fromkeys(zip(starts, stops, strict=True))
    )


EXAMPLES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), min_size=1, max_size=40)


def words_of(shapes: list[tuple[int, int]]) -> TokenArray:
    """Examples of `size` tokens, numbered through, of which those from `prompt` on count."""
    number, words = 0, []
    for size, prompt in shapes:
        example = np.arange(number, number + size, dtype=np.uint32)
        example[max(1, prompt) :] |= COUNTS
        example[0] |= FIRST
        number += size
        words.append(example)
    return TokenArray.of([np.concatenate(words[::2]), *words[1::2]])


@given(shapes=EXAMPLES, sequence=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_rows_hold_each_example_once_from_its_start(shapes, sequence) -> None:
    words = words_of(shapes)
    packed = Examples.pack(words, sequence)
    flat = words.slice(0, words.length).view(np.uint32)
    begins = np.flatnonzero(flat & FIRST).tolist()
    examples = [flat[a:b] for a, b in zip(begins, [*begins[1:], len(flat)], strict=True)]
    expected = [e[: sequence + 1] for e in examples if (e[: sequence + 1] & COUNTS).any()]
    cut = sum(len(e) > sequence + 1 and (e[: sequence + 1] & COUNTS).any() for e in examples)
    assert (packed.count, packed.cut, packed.lost) == (
        len(expected), cut, len(examples) - len(expected),
    )  # fmt: skip
    assert packed.length == len(flat)
    found = []
    for index in range(packed.rows):
        inputs, targets = packed.row(index)
        assert inputs.shape == targets.shape == (sequence,)
        span = slice(packed.bounds[index], packed.bounds[index + 1])
        sizes = (packed.stops - packed.starts)[span]
        assert 0 < sizes.sum() <= sequence + 1
        row = [flat[a:b] for a, b in zip(packed.starts[span], packed.stops[span], strict=True)]
        joined = np.concatenate(row)
        filled = np.full(sequence + 1, joined[-1] & TOKEN)
        filled[: len(joined)] = joined
        np.testing.assert_array_equal(inputs, (filled & TOKEN)[:-1])
        wanted = np.where(filled & COUNTS, (filled & TOKEN).astype(np.int64), -1)[1:]
        np.testing.assert_array_equal(targets, wanted)
        borders = np.cumsum(sizes)[:-1] - 1
        assert (targets[borders] == -1).all(), "the first of an example is no target"
        assert (targets >= 0).any()
        found += [e.tobytes() for e in row]
    assert sorted(found) == sorted(e.tobytes() for e in expected)


def test_rows_are_nearly_full() -> None:
    generator = np.random.default_rng(5)
    shapes = [(int(size), 1) for size in generator.integers(2, 100, 3000)]
    packed = Examples.pack(words_of(shapes), 127)
    used = (packed.stops - packed.starts).sum()
    assert used / (packed.rows * 128) > 0.97


def test_an_epoch_draws_each_row_once_and_depends_on_seed_and_step_alone() -> None:
    packed = Examples.pack(words_of([(2 + i % 9, 1) for i in range(200)]), 15)
    rows = windows_per_epoch(packed, 15)
    inputs, targets = batch(packed, seed=3, step=0, count=rows, sequence=15)
    assert len(np.unique(inputs, axis=0)) == rows
    assert (targets >= 0).sum() == sum(1 + i % 9 for i in range(200))
    again = batch(packed, seed=3, step=2, count=4, sequence=15)
    np.testing.assert_array_equal(again[0], inputs[8:12])
    np.testing.assert_array_equal(again[1], targets[8:12])
    other = batch(packed, seed=4, step=0, count=rows, sequence=15)
    assert (other[0] != inputs).any()
    first = next(validation_batches(packed, 15, 2))
    np.testing.assert_array_equal(first[1], [packed.row(0)[1], packed.row(1)[1]])


def test_compaction_leaves_targets_that_do_not_count() -> None:
    packed = Examples.pack(words_of([(9, 4), (7, 2)]), 15)
    compaction = Compaction.from_tokens([packed], 100)
    assert compaction.size == 16
    _, targets = packed.row(0)
    np.testing.assert_array_equal(compaction.apply(targets), targets)
    with pytest.raises(DataError, match="token 50"):
        compaction.apply(np.array([-1, 50], np.int32))


def test_opening_holds_out_whole_examples_and_warns_of_those_cut(tmp_path: Path) -> None:
    records = [*counting(60), {"prompt": "go " * 60, "completion": "on"}]
    path = write_lines(tmp_path / "a.jsonl", [records[-1], *records[:-1]])
    source = open_(path, tmp_path / "cache", valid_fraction=0.2, sequence=32)
    assert isinstance(source.train, Examples)
    assert isinstance(source.valid, Examples)
    assert source.bytes_per_token is None
    assert source.train.count + source.train.lost + source.valid.count == 61
    whole = source.train.length + source.valid.length
    assert source.valid.length / whole == pytest.approx(0.2, abs=0.05)
    assert source.warnings == (
        f"a.jsonl: examples cut to the length of a sequence: "
        f"{source.train.cut + source.valid.cut} of 61; "
        "a larger --seq takes them whole",
        "a.jsonl: examples left out, as there is nothing to learn in what fits into a sequence: "
        "1 of 61",
    )
    assert source.train.cut > 0
    assert open_(path, tmp_path / "cache", sequence=400).warnings == ()


def test_the_cache_and_prepared_shards_hold_what_counts(tmp_path: Path, chat_folder: Path) -> None:
    chat = [
        {"messages": [{"role": "user", "content": c["prompt"]},
                      {"role": "assistant", "content": c["completion"]}]}
        for c in counting(40)
    ]  # fmt: skip
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "a.jsonl", chat)
    write_lines(folder / "b.jsonl", counting(20))
    first = open_(folder, tmp_path / "cache", tokenizer=chat_folder)
    [cached] = (tmp_path / "cache").iterdir()
    assert open_shard(cached).header.examples
    stamp = cached.stat().st_mtime_ns
    again = open_(folder, tmp_path / "cache", tokenizer=chat_folder)
    assert cached.stat().st_mtime_ns == stamp
    prepared = prepare([folder], chat_folder / "tokenizer.json", tmp_path / "out")
    assert prepared.train.documents == 60
    shards = open_(tmp_path / "out", tmp_path / "cache")
    for other in (again, shards):
        assert other.fingerprint == first.fingerprint
        one, two = (batch(s.train, seed=1, step=2, count=3, sequence=48) for s in (first, other))
        np.testing.assert_array_equal(one, two)
    (chat_folder / "chat_template.jinja").write_text(CHATML.replace("<|", "<!"))
    changed = open_(folder, tmp_path / "cache", tokenizer=chat_folder)
    assert changed.fingerprint != first.fingerprint


def test_prepare_holds_out_whole_examples(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", counting(200))
    prepared = prepare([path], None, tmp_path / "out", valid_fraction=0.1)
    assert prepared.valid is not None
    assert prepared.train.documents + prepared.valid.documents == 200
    source = open_(tmp_path / "out", tmp_path / "cache", sequence=100)
    assert (source.train.count, source.valid.count) == (
        prepared.train.documents, prepared.valid.documents,
    )  # fmt: skip


GOOD = {
    "messages": {"messages": [{"role": "user", "content": "a"},
                              {"role": "assistant", "content": "b"}]},
    "completion": {"prompt": "a", "completion": "b"},
    "text": {"text": "a b c"},
}  # fmt: skip
ROLE = r"message 1 has the unknown role 'robot': choose from system, user, assistant"


def said(content: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "assistant", "content": content}], **more}


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("completion", {"prompt": "a"}, r"line 3 has no completion: each line must be like"),
        (
            "completion",
            {"prompt": 1, "completion": "b"},
            r"line 3 has no text as its prompt, but 1",
        ),
        ("completion", {"prompt": "a", "completion": ""}, r"line 3: its completion is empty"),
        (
            "completion",
            GOOD["text"],
            r"line 3 is a record of text, .* first one of prompt and comp",
        ),
        ("text", GOOD["messages"], r"line 3 is a record of messages, the file's first one of text"),
        ("messages", GOOD["completion"], r"line 3 is a record of prompt and completion"),
        ("messages", {"message": []}, r"line 3 has no messages"),
        ("messages", {"messages": {}}, r"line 3: its messages are no list"),
        ("messages", {"messages": []}, r"line 3: no message is the assistant's"),
        ("messages", {"messages": ["a"]}, r"line 3, message 1 has no role"),
        ("messages", {"messages": [{"role": "user"}]}, r"line 3, message 1 has no content"),
        ("messages", {"messages": [{"role": "robot", "content": ""}]}, rf"line 3, {ROLE}"),
        ("messages", {"messages": [{"role": ["user"], "content": ""}]}, r"unknown role \['user'\]"),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a"}]},
            r"line 3: no message is the",
        ),
        ("messages", {"messages": [{"role": "tool", "content": "a"}]}, r"line 3.* calls of tools"),
        ("messages", said(None, tools=[{}]), r"line 3 lists tools"),
        ("messages", said(None), r"line 3, message 1 has no text as its content, but null"),
        ("messages", said("\ud800"), r"line 3.*half a surrogate pair"),
        ("messages", said("\ufdd0"), r"line 3 has a code point that is no character"),
        ("messages", b"[1]", r"line 3 has no messages"),
        ("messages", b"{", r"line 3 is no valid JSON"),
        ("completion", b'{"prompt": "\xff"}', r"line 3: byte 12 of the line is not UTF-8"),
    ],
)
def test_a_bad_record_is_one_line_with_file_and_number(
    tmp_path: Path, chat_folder: Path, kind: str, line: object, message: str
) -> None:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD[kind]).encode() + b"\n\n" + raw + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        open_(path, tmp_path / "cache", tokenizer=chat_folder, sequence=2)
    assert str(caught.value).startswith(f"{path}, line 3")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_text_and_examples_are_not_mixed(tmp_path: Path, chat_folder: Path) -> None:
    write_lines(tmp_path / "a.jsonl", counting(9))
    (tmp_path / "b.txt").write_text("The whale. " * 99)
    with pytest.raises(DataError, match=r"b\.txt is text and .*a\.jsonl has examples"):
        open_(tmp_path, tmp_path / "cache")
    for name in ("a.jsonl", "b.txt"):
        prepare([tmp_path / name], None, tmp_path / f"out-{name}")
    both = tmp_path / "both"
    both.mkdir()
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / f"out-{name}/train.tokens").rename(both / f"{name}.tokens")
    with pytest.raises(DataError, match=r"b\.txt\.tokens is text and .* has examples"):
        open_(both, tmp_path / "cache")


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD["messages"]])
    with pytest.raises(DataError, match=r"no chat template for messages.*--tokenizer"):
        open_(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "a.jsonl is empty"),
        (counting(1), "one example and at least two are needed"),
        ([{"prompt": "go " * 90, "completion": "on"}] * 3, "no example for training has something"),
    ],
)
def test_too_few_examples_are_refused(tmp_path: Path, records: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_(write_lines(tmp_path / "a.jsonl", records), tmp_path / "cache")


def test_an_older_program_refuses_a_shard_of_examples_by_its_version(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tokens", 99, examples=True) as shard:
        shard.append(np.array([5 | FIRST, 98 | COUNTS], np.uint32))
    raw = bytearray((tmp_path / "a.tokens").read_bytes())
    assert raw[8] == 2
    assert open_shard(tmp_path / "a.tokens").tokens.tolist() == [5 + 2**30, 98 + 2**31]
    with pytest.raises(DataError, match="token 98 at position 1 is outside"):
        open_(tmp_path / "a.tokens", tmp_path, vocabulary=98)
    raw[12] = 2
    (tmp_path / "a.tokens").write_bytes(raw)
    with pytest.raises(DataError, match="damaged: 2 bytes per token"):
        open_shard(tmp_path / "a.tokens")
