"""SentencePiece's vocabularies keep their meaning in GGUF and in tokenizer.bin, and back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hf_models import save_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ane_train.data.tokenizer import BUILT_IN_TEXT, parse_tokenizer
from ane_train.errors import ModelError
from ane_train.interop.companions import TOKENIZER, TOKENIZER_CONFIG
from ane_train.interop.export import export
from ane_train.interop.source import open_source, tokenizer_of
from ane_train.interop.tokenizer_bin import read_tokenizer_bin, tokenizer_bin
from ane_train.interop.vocabulary import PRE_TOKENIZERS, vocabulary_of

SIZE = 600
TEXT = "Call me Ishmael. Some years ago, never mind how long — naïve, 42 times ☃!"


@pytest.fixture(scope="module")
def llama_tokenizer() -> bytes:
    """A small tokenizer.json of Llama 2's make: <unk>, <s>, </s>, 256 bytes, then pieces."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>", "<s>", "</s>"]
    taken = special + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=taken, show_progress=False)
    core.train_from_iterator(BUILT_IN_TEXT.read_text()[:40000].splitlines(), trainer)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    content = json.loads(core.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    return json.dumps(content).encode()


def run_c_encode(content: bytes, text: str) -> list[int]:
    """Tokens by run.c's rule: letters or bytes, then ever again the pair of the best score."""
    place, pieces, scores = 4, [], []
    while place < len(content):
        score, length = struct.unpack_from("<fi", content, place)
        pieces.append(content[place + 8 : place + 8 + length])
        scores.append(score)
        place += 8 + length
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokens: list[int] = [ids[b" "]]
    for letter in text:
        raw = letter.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        found = [
            (-scores[ids[merged]], at, ids[merged])
            for at in range(len(tokens) - 1)
            if (merged := pieces[tokens[at]] + pieces[tokens[at + 1]]) in ids
        ]
        if not found:
            return tokens
        _, at, token = min(found)
        tokens[at : at + 2] = [token]


def test_tokenizer_bin_has_the_tokens_of_run_c_and_comes_back(
    llama_tokenizer: bytes, tmp_path: Path
) -> None:
    original = parse_tokenizer(Path(TOKENIZER), llama_tokenizer)
    content = tokenizer_bin({TOKENIZER: llama_tokenizer}, SIZE)
    assert content is not None
    assert run_c_encode(content, TEXT) == original.encode(TEXT).tolist()
    (tmp_path / "tokenizer.bin").write_bytes(content)
    files = read_tokenizer_bin(tmp_path / "tokenizer.bin", SIZE)
    back = parse_tokenizer(Path(TOKENIZER), files[TOKENIZER])
    assert np.array_equal(back.encode(TEXT), original.encode(TEXT))
    assert back.decode(original.encode(TEXT)) == TEXT
    config = json.loads(files[TOKENIZER_CONFIG])
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")


def test_a_tokenizer_of_llama_goes_through_gguf(llama_tokenizer: bytes, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "a", vocabulary=SIZE)
    (tmp_path / "a" / TOKENIZER).write_bytes(llama_tokenizer)
    export(open_source(tmp_path / "a"), tmp_path / "b", format_name="gguf")
    fields = gguf.GGUFReader(tmp_path / "b" / "a.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:4] == [2, 3, 3, 6]
    assert set(kinds[259:]) == {1}
    original = parse_tokenizer(Path(TOKENIZER), llama_tokenizer)
    back = tokenizer_of(open_source(tmp_path / "b" / "a.gguf"))
    assert back is not None
    assert np.array_equal(back.encode(TEXT), original.encode(TEXT))
    assert back.decode(original.encode(TEXT)) == TEXT


def byte_level(parts: object) -> bytes:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False)
    core.train_from_iterator(BUILT_IN_TEXT.read_text()[:40000].splitlines(), trainer)
    return json.dumps(json.loads(core.to_str()) | {"pre_tokenizer": parts}).encode()


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_ways_of_cutting_text_go_through_gguf(name: str, tmp_path: Path) -> None:
    parts = []
    for row in PRE_TOKENIZERS[name]:
        if row["type"] == "Split":
            row = {**row, "behavior": "Isolated", "invert": False}
        if row["type"] == "ByteLevel":
            row = {**row, "add_prefix_space": False, "trim_offsets": True}
        parts.append(dict(row))
    raw = byte_level({"type": "Sequence", "pretokenizers": parts})
    save_model("llama", tmp_path / "a", vocabulary=SIZE + 8)
    (tmp_path / "a" / TOKENIZER).write_bytes(raw)
    export(open_source(tmp_path / "a"), tmp_path / "b", format_name="gguf")
    file = tmp_path / "b" / "a.gguf"
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == name
    assert fields["tokenizer.ggml.token_type"].contents()[SIZE:] == [5] * 8
    back = tokenizer_of(open_source(file))
    assert back is not None
    original = parse_tokenizer(Path(TOKENIZER), raw)
    text = "They're 1851 whales,\n\n  and it'S naïve!!  x"
    assert np.array_equal(back.encode(text), original.encode(text))


def test_what_llama_cpp_has_no_word_for_is_refused() -> None:
    raw = byte_level({"type": "Whitespace"})
    with pytest.raises(ModelError, match=r"llama\.cpp has no name .* cuts text \(Whitespace\)"):
        vocabulary_of({TOKENIZER: raw}, SIZE)
    with pytest.raises(ModelError, match=r"has a token 599, the model 500 tokens"):
        vocabulary_of({TOKENIZER: raw}, 500)
