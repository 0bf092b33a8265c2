"""Model files are read strictly, and the parameter table is transformers' own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from peers import peer_of

from ane_train.errors import ModelError
from ane_train.model.arena import Arena, initialize
from ane_train.model.layer import layer_shape
from ane_train.model.memory import available, estimate, tile_positions
from ane_train.model.parameters import count, parameters
from ane_train.model.spec import list_models, load_model, parse_model

TINY = """
layers = 2
dim = 64
heads = 4
kv_heads = 2
head_size = 32
ffn = 192
vocabulary = 2048
sequence = 64
"""


def test_the_shipped_models_have_their_published_sizes() -> None:
    sizes = {spec.name: count(spec) for spec in list_models()}
    assert round(sizes["stories110m"] / 1e6, 1) == 109.5
    assert round(sizes["qwen3_06b"] / 1e6) == 596
    assert round(sizes["stories15m"] / 1e6, 1) == 15.2
    assert sizes["tiny"] < 1e6


def test_a_parameter_lies_where_its_span_says() -> None:
    table = parameters(parse_model("t", TINY, "t"))
    arena = Arena(table)
    for number, parameter in enumerate(table, 1):
        begin, end = arena.span(parameter.name)
        arena.flat[begin:end] += number
    for number, parameter in enumerate(table, 1):
        assert np.all(arena[parameter.name] == number)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_table_names_every_parameter_of_the_peer_and_no_other(
    tied: bool, qk_norm: bool
) -> None:
    spec = replace(parse_model("t", TINY, "t"), tied_embeddings=tied, qk_norm=qk_norm)
    table = parameters(spec)
    weights = Arena(table)
    initialize(weights, table, seed=1)
    named = dict(peer_of(spec, table, weights).named_parameters())
    assert {p.hf_name for p in table} == set(named)
    assert sum(p.numel() for p in named.values()) == count(spec)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dims = 3", r"m\.toml:10: dims: unknown key; did you mean dim\?"),
        ("qk_norm = 1", r"m\.toml:10: qk_norm: must be true or false, not 1"),
        ("rope_theta = -1.0", r"m\.toml:10: rope_theta: must be a number above 0"),
        ("rope_theta = nan", r"m\.toml:10: rope_theta: must be a number above 0"),
        ("description = 4", r"m\.toml:10: description: must be text"),
        ("layers = 3", r"m\.toml: Cannot overwrite a value \(at line 10"),
        ("= 3", r"m\.toml: Invalid statement \(at line 10"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(line: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_model("m", TINY + line + "\n", "m.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dim = 64", "dim = 0", "m.toml:3: dim: must be a whole number"),
        ("dim = 64", 'dim = "64"', "m.toml:3: dim: must be a whole number"),
        ("dim = 64", "dim = 99999999999", "m.toml:3: dim: must be a whole number"),
        ("dim = 64", "", "m.toml: dim: missing key"),
        ("kv_heads = 2", "kv_heads = 3", r"m.toml:5: kv_heads: must divide heads \(4\)"),
        ("head_size = 32", "head_size = 31", "m.toml:6: head_size: must be even"),
    ],
)
def test_a_bad_value_is_named_with_key_and_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_model("m", TINY.replace(old, new, 1), "m.toml")


def test_an_unknown_model_gets_a_suggestion(tmp_path) -> None:
    with pytest.raises(ModelError, match="did you mean stories110m"):
        load_model("stories110")
    with pytest.raises(ModelError, match="cannot read model file"):
        load_model(str(tmp_path / "none.toml"))


def test_a_model_file_of_the_users_own_is_a_model(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(TINY)
    assert load_model(str(tmp_path / "mine.toml")).name == "mine"


def test_initial_weights_depend_on_the_seed_alone_and_have_the_variance_of_the_table() -> None:
    spec = load_model("tiny")
    table = parameters(spec, output_scale=0.5)
    first, second, other = Arena(table), Arena(table), Arena(table)
    initialize(first, table, seed=3)
    initialize(second, table, seed=3)
    initialize(other, table, seed=4)
    assert np.array_equal(first.flat, second.flat)
    assert not np.array_equal(first.flat, other.flat)
    for p in table:
        expected = p.std if p.std else 0.0
        assert first[p.name].std() == pytest.approx(expected, rel=0.05, abs=1e-9), p.name
    assert first["layers.0.down"].std() == pytest.approx(0.5 / math.sqrt(spec.ffn), rel=0.05)


@pytest.mark.parametrize("name", ["tiny", "stories15m"])
def test_every_parameter_begins_on_a_cache_line(name: str) -> None:
    table = parameters(load_model(name))
    for _ in range(3):
        arena = Arena(table)
        assert all(arena[parameter.name].ctypes.data % 64 == 0 for parameter in table)
        assert not arena.flat.any()


def test_initial_weights_are_the_same_on_any_number_of_cores(monkeypatch) -> None:
    table = parameters(load_model("tiny"))
    drawn = []
    for cores in (1, 7):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        weights = Arena(table)
        initialize(weights, table, seed=3)
        drawn.append(weights.flat.tobytes())
    assert drawn[0] == drawn[1]


def test_the_fingerprint_changes_with_the_weights_meaning_only() -> None:
    spec = load_model("tiny")
    assert replace(spec, sequence=128, description="x").fingerprint == spec.fingerprint
    assert replace(spec, rope_theta=5e5).fingerprint != spec.fingerprint


def test_memory_grows_with_the_model_and_fits_the_machine_for_tiny() -> None:
    tiny, big = load_model("tiny"), load_model("qwen3_06b")
    assert estimate(tiny, layer_shape(tiny, 64)).total < available()
    assert estimate(big, layer_shape(big, 256)).total > 16 * count(big)


@pytest.mark.parametrize("vocabulary", [256, 32_000, 151_936, 10_000_000])
@pytest.mark.parametrize("columns", [1, 17, 256, 1000])
def test_tiles_of_positions_are_few_equal_and_small(vocabulary: int, columns: int) -> None:
    tile = tile_positions(vocabulary, columns)
    tiles = -(-columns // tile)
    assert tile <= 16 or 4 * vocabulary * tile <= 80 << 20
    assert tiles * tile - columns < tiles
    assert tiles == 1 or 4 * vocabulary * -(-columns // (tiles - 1)) > 80 << 20
