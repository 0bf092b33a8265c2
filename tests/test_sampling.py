"""Filters leave what transformers' leave, seeds reproduce, and text comes in whole characters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ane_train.data.tokenizer import Tokenizer, built_in_tokenizer, load_tokenizer
from ane_train.errors import ConfigError
from ane_train.generate.sampling import Sampler, Sampling, choices
from ane_train.generate.stream import StopStrings, TextStream

SETTINGS = [
    Sampling(0.7),
    Sampling(1.0, top_k=7),
    Sampling(1.3, top_p=0.8),
    Sampling(1.0, top_p=0.05),
    Sampling(0.5, min_p=0.1),
    Sampling(1.0, repetition_penalty=1.7),
    Sampling(0.9, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
]


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("vocabulary", [50, 5000])
def test_filters_leave_the_tokens_and_probabilities_of_transformers(
    sampling: Sampling, vocabulary: int
) -> None:
    draw = np.random.default_rng(vocabulary)
    for _ in range(10):
        logits = (3 * draw.standard_normal(vocabulary)).astype(np.float32)
        history = draw.integers(0, vocabulary, 12).tolist()
        left = choices(logits, history, sampling)
        theirs = _transformers(logits, history, sampling)
        assert np.array_equal(np.flatnonzero(theirs), left.tokens)
        assert np.allclose(theirs[left.tokens], left.probabilities, rtol=1e-9)


def _transformers(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    ids = torch.tensor([history])
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(ids, scores)
    return scores.softmax(dim=-1)[0].numpy()


def test_equal_seeds_choose_equally_and_others_do_not() -> None:
    logits = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    chosen = []
    for seed in (1, 1, 2):
        sampler = Sampler(Sampling(1.0), seed)
        chosen.append([sampler.choose(logits, []) for _ in range(40)])
    assert chosen[0] == chosen[1] != chosen[2]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(1.0), 7)
    drawn = np.bincount([sampler.choose(logits, []) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - [0.5, 0.3, 0.15, 0.05]).max() < 0.03


def test_temperature_zero_and_top_k_one_take_the_likeliest_token() -> None:
    logits = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    best = int(logits.argmax())
    assert Sampler(Sampling(0.0), 1).choose(logits, []) == best
    assert Sampler(Sampling(5.0, top_k=1), 1).choose(logits, []) == best
    lowered = Sampler(Sampling(0.0, repetition_penalty=1e6), 1).choose(logits, [best])
    assert lowered == int(np.argsort(logits)[-2])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "--temp is 0"),
        ({"top_k": -1}, "--top-k is 0"),
        ({"top_p": 0.0}, "--top-p is above 0"),
        ({"min_p": 1.5}, "--min-p is between"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty is above 0"),
        ({"temperature": float("nan")}, "--temp is 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**setting)


def sentencepiece_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer like Llama-2's: spaces as a mark, unknown characters as runs of byte tokens."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁a", "b", "c", "▁the", "é", "▁é", "!", "▁▁"]
    core = Core(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(core.to_str())))
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    return [built_in_tokenizer(), sentencepiece_tokenizer(tmp_path_factory.mktemp("words"))]


EMOJI = "naïve 🙂 “déjà vu” 日本語 👩‍👩‍👧 \u0301x"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_streamed_pieces_are_together_what_the_tokenizer_decodes(
    tokenizers: list[Tokenizer], data: st.DataObject
) -> None:
    tokenizer = data.draw(st.sampled_from(tokenizers))
    text = data.draw(st.text(max_size=12) | st.just(EMOJI))
    some = tokenizer.encode(text).tolist()
    noise = data.draw(st.lists(st.integers(0, tokenizer.vocabulary - 1), max_size=12))
    tokens = data.draw(st.permutations([*some, *noise])) if noise else some
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokens]
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(tokens)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_piece_of_valid_text_holds_half_a_character(
    tokenizers: list[Tokenizer], data: st.DataObject
) -> None:
    tokenizer = data.draw(st.sampled_from(tokenizers))
    text = (
        data.draw(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="�"), max_size=20)
        )
        + EMOJI
    )
    tokens = tokenizer.encode(text).tolist()
    cut = data.draw(st.integers(0, len(tokens)))
    if "�" in tokenizer.decode(tokens[:cut]):
        cut = 0
    stream = TextStream(tokenizer, tokens[:cut])
    pieces = [stream.push(token) for token in tokens[cut:]]
    assert not any("�" in piece for piece in pieces)
    whole = tokenizer.decode(tokens[:cut]) + "".join([*pieces, stream.finish()])
    assert whole == tokenizer.decode(tokens)


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_passes_up_to_the_first_stop_string_however_it_is_cut(
    text: str, stops: list[str]
) -> None:
    filter_ = StopStrings(stops)
    shown = ""
    for letter in text:
        shown += filter_.push(letter)
        if filter_.stopped:
            break
    shown += filter_.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text
        assert not filter_.stopped
        return
    first = text[: min(ends)]  # letter by letter, the stop string that is complete first counts
    longest = max(len(stop) for stop in stops if first.endswith(stop))
    assert filter_.stopped
    assert shown == first[: len(first) - longest]


def test_a_stop_string_may_lie_across_tokens_and_inside_one() -> None:
    filter_ = StopStrings(["\n\n", "END"])
    assert [filter_.push(part) for part in ("one\n", "two E", "N")] == ["one", "\ntwo ", ""]
    assert filter_.push("D and more") == ""
    assert filter_.stopped
