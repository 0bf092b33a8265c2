"""Generation with the cache is generation without it, and transformers'."""

from __future__ import annotations

import numpy as np
import pytest
from generators import CONTEXT, generator, model, peer, peer_logits, peer_tokens
from peers import relative_error

from ane_train.engine import EngineOptions, open_engine
from ane_train.errors import DataError, EngineError
from ane_train.generate.decoder import DecoderOptions
from ane_train.generate.generator import Generated, Generator, Request, generate
from ane_train.train.step import TrainingStep

MODELS = (
    "multi-head",
    "groups of 3 untied",
    "head size above dim / heads",
    "qk-norm",
    "qk-norm groups of 3 untied batch 3",
    "one query head a group of 4",
    "drawn by seed 3",
)
PROMPT = np.array([5, 17, 31, 2, 40, 9, 9, 77], np.int32)


def greedy(made: object, prompt: np.ndarray, count: int, **request: object) -> list[int]:
    result = Generated(len(prompt))
    return list(generate(made, prompt, Request(count, **request), result))


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_with_the_cache_are_those_of_transformers(name: str) -> None:
    spec, weights = model(name)
    ours = greedy(generator(spec, weights), PROMPT, 64)
    assert ours == peer_tokens(peer(spec, weights), PROMPT, 64)
    assert len(set(ours)) > 2


@pytest.mark.parametrize("numerics", ["fp32", "fp16", "hazard"])
@pytest.mark.parametrize("name", ["groups of 3 untied", "qk-norm"])
def test_greedy_tokens_with_the_cache_are_those_of_whole_passes(name: str, numerics: str) -> None:
    """Without a cache: the training programs over the whole text for each token."""
    spec, weights = model(name)
    step = TrainingStep(spec, open_engine(EngineOptions("cpu", numerics)), CONTEXT)
    step.weights.flat[:] = weights.flat
    step.refresh()
    text = np.zeros(CONTEXT, np.int32)
    text[: len(PROMPT)] = PROMPT
    made = generator(spec, weights, numerics)
    ours = [made.prefill(PROMPT)]
    for end in range(len(PROMPT), len(PROMPT) + 64):
        theirs = step.logits(text)[end - 1]
        first, second = np.sort(theirs)[[-1, -2]]
        assert relative_error(ours[-1], theirs) < (1e-5 if numerics == "fp32" else 2e-2)
        if first - second > (1e-4 if numerics == "fp32" else 2e-2) * np.abs(theirs).max():
            assert ours[-1].argmax() == theirs.argmax()
        text[end] = theirs.argmax()
        ours.append(made.step(int(text[end])))
    step.close()


@pytest.mark.parametrize("numerics", ["fp16", "hazard"])
@pytest.mark.parametrize("name", MODELS)
def test_in_fp16_the_next_token_is_that_of_transformers_where_no_two_tie(
    name: str, numerics: str
) -> None:
    spec, weights = model(name)
    other = peer(spec, weights)
    text = np.array([*PROMPT, *peer_tokens(other, PROMPT, 64)], np.int32)
    theirs = peer_logits(other, text)[len(PROMPT) - 1 : -1]
    made = generator(spec, weights, numerics)
    ours = np.stack([made.prefill(PROMPT), *map(made.step, text[len(PROMPT) : -1].tolist())])
    assert relative_error(ours, theirs) < 1e-2
    sure = np.partition(theirs, -2)
    margin = (sure[:, -1] - sure[:, -2]) / np.abs(theirs).max()
    decided = margin > 2e-2
    assert decided.sum() > 32
    assert np.array_equal(ours.argmax(axis=1)[decided], theirs.argmax(axis=1)[decided])


def test_prompts_and_caches_of_any_length_give_the_logits_of_one_pass() -> None:
    """Prompts over several evaluations, and a cache that grows while it is filled."""
    spec, weights = model("groups of 2")
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary, CONTEXT).astype(np.int32)
    theirs = peer_logits(peer(spec, weights), tokens)
    made = generator(spec, weights, program_bytes=1)
    head, decoder = made.head, made.decoder
    parts, start = [], 0
    for length in (1, 3, 64, 1, 1, 58):
        x = decoder.extend(head.embed(tokens[start : start + length]))
        parts.append(head.all_logits(x))
        start += length
    assert start == CONTEXT
    assert relative_error(np.concatenate(parts), theirs) < 1e-5


def test_a_truncated_text_goes_on_as_if_the_rest_had_never_been() -> None:
    spec, weights = model("qk-norm")
    made = generator(spec, weights, "fp16")
    expected = made.prefill(PROMPT)
    made.prefill(np.arange(90, dtype=np.int32))
    made.decoder.truncate(0)
    assert np.array_equal(made.prefill(PROMPT), expected)
    longer = made.step(11)
    made.step(12)
    made.decoder.truncate(len(PROMPT))
    assert np.array_equal(made.step(11), longer)


@pytest.mark.parametrize("numerics", ["fp32", "fp16"])
def test_int8_is_the_model_with_quantised_weights(numerics: str) -> None:
    """NumPy quantises and dequantises each matrix; transformers computes with the result."""
    spec, weights = model("groups of 3 untied")
    made = generator(spec, weights, numerics, int8=True)
    text = np.array([*PROMPT, 3, 1, 4, 1, 5], np.int32)
    ours = np.stack([made.prefill(PROMPT), *map(made.step, text[len(PROMPT) : -1].tolist())])
    for name, view in weights.views.items():
        if view.ndim == 2 and name != "embedding":
            largest = np.abs(view).max(axis=1, keepdims=True) / np.float32(127)
            scale = largest.astype(np.float16).astype(np.float32)
            up = np.nextafter(largest.astype(np.float16), np.float16(np.inf)).astype(np.float32)
            scale = np.where(scale < largest, up, scale)
            view[:] = np.rint(view / scale) * scale
    theirs = peer_logits(peer(spec, weights), text)[len(PROMPT) - 1 : -1]
    assert relative_error(ours, theirs) < (1e-4 if numerics == "fp32" else 1e-2)


def test_a_text_ends_at_its_last_token_at_the_limit_or_when_the_context_is_full() -> None:
    spec, weights = model("groups of 2")
    made = generator(spec, weights, context=20)
    result = Generated(len(PROMPT))
    free = list(generate(made, PROMPT, Request(99), result))
    assert (len(free), result.reason) == (20 - len(PROMPT), "context")
    assert greedy(made, PROMPT, 5) == free[:5]
    result = Generated(len(PROMPT))
    last = next(token for token in free[3:] if token not in free[:3])
    cut = list(generate(made, PROMPT, Request(99, ends=frozenset([last])), result))
    assert (cut, result.reason) == (free[: free.index(last)], "end_of_text")


def test_a_prompt_that_is_empty_or_fills_the_context_is_refused_by_name() -> None:
    spec, weights = model("groups of 2")
    made = generator(spec, weights, context=20)
    with pytest.raises(DataError, match="the prompt has no tokens"):
        made.prefill([])
    with pytest.raises(DataError, match="the prompt has 20 tokens, and the context holds 20"):
        made.prefill(np.zeros(20, np.int32))
    with pytest.raises(DataError, match="outside the model's vocabulary of 97"):
        made.prefill([97])
    with pytest.raises(EngineError, match="21 tokens do not fit the context of 20"):
        made.decoder.extend(np.zeros((spec.dim, 21), np.float32))


def test_activations_beyond_fp16_are_an_error_and_not_a_text() -> None:
    spec, weights = model("groups of 2")
    weights["layers.0.down"][:] *= 3e4
    with pytest.raises(EngineError, match="leave the range of fp16; use --numerics fp32"):
        generator(spec, weights, "fp16").prefill(PROMPT)


def test_residuals_that_grow_a_thousandfold_within_a_program_keep_their_precision() -> None:
    spec, weights = model("groups of 2")
    weights["layers.0.down"][:] *= 500
    theirs = peer_logits(peer(spec, weights), PROMPT)[-1]
    assert relative_error(generator(spec, weights, "fp16").prefill(PROMPT), theirs) < 1e-2


def compiled(made: Generator) -> int:
    return made.decoder.engine.context.counts().compiled


@pytest.mark.parametrize(("limit", "programs"), [(0, 4), (4, 4), (3, 2), (2, 2)])
def test_programs_hold_more_layers_where_few_may_be_compiled(limit: int, programs: int) -> None:
    """Two a group of layers: for a prompt, and for a token."""
    spec, weights = model("qk-norm")
    engine = open_engine(EngineOptions("cpu", "fp32", compile_limit=limit))
    made = Generator(spec, weights, engine, DecoderOptions(CONTEXT, program_bytes=1))
    assert greedy(made, PROMPT, 64) == peer_tokens(peer(spec, weights), PROMPT, 64)
    assert compiled(made) == programs


def test_a_budget_for_one_program_is_refused_before_anything_is_compiled() -> None:
    spec, weights = model("groups of 2")
    engine = open_engine(EngineOptions("cpu", compile_limit=1))
    with pytest.raises(EngineError, match=r"needs two programs.*: raise --compile-limit"):
        Generator(spec, weights, engine, DecoderOptions(CONTEXT))
    assert engine.context.counts().compiled == 0


def test_the_last_caches_of_a_budget_hold_the_whole_context() -> None:
    spec, weights = model("groups of 2")
    options = DecoderOptions(context=1024, program_bytes=1)
    limits = {0: 16, 8: 8, 15: 12}  # 4 programs for each size of the caches
    engines = [open_engine(EngineOptions("cpu", "fp32", compile_limit=limit)) for limit in limits]
    made = [Generator(spec, weights, engine, options) for engine in engines]
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary, 700).astype(np.int32)
    for length in (8, 100, 200, 600, 700):
        ours = []
        for generator_ in made:
            generator_.prefill(tokens[:length])
            ours.append(generator_.step(3))
        assert relative_error(ours[1], ours[0]) < 1e-5
        assert relative_error(ours[2], ours[0]) < 1e-5
    assert list(map(compiled, made)) == list(limits.values())
