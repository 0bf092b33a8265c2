"""Weights are read from runs and Hugging Face folders, to the bit, or refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hf_models import CONFIGURATIONS, save_model
from peers import relative_error
from runs import TINY, arrays, trained
from safetensors.numpy import load_file, save_file
from weights_in import loaded, our_logits, some_tokens, their_logits

from ane_train.errors import AneTrainError, CheckpointError, ModelError
from ane_train.interop.source import open_source, tokenizer_of
from ane_train.model.parameters import parameters


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_of_imported_weights_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_model(name, tmp_path)
    tokens = some_tokens()
    ours = our_logits(open_source(tmp_path), tokens)
    assert relative_error(ours, their_logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard_size", ["5GB", "60KB"])
def test_every_value_survives_types_and_shards(
    dtype: torch.dtype, shard_size: str, tmp_path: Path
) -> None:
    model = save_model("llama grouped untied", tmp_path, dtype, shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "60KB")
    source = open_source(tmp_path)
    weights = loaded(source)
    state = model.state_dict()
    for parameter in parameters(source.spec):
        theirs = state[parameter.hf_name].float().numpy()
        assert np.array_equal(weights[parameter.name], theirs), parameter.name


def test_the_base_of_the_rotation_is_found_in_both_places(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    inner = config.pop("rope_parameters")
    assert inner["rope_theta"] == 1e6
    path.write_text(json.dumps(config | {"rope_theta": 5e5}))
    assert open_source(tmp_path).spec.rope_theta == 5e5
    path.write_text(json.dumps(config | {"rope_parameters": {"rope_theta": 7e5}}))
    assert open_source(tmp_path).spec.rope_theta == 7e5
    both = {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 7e5}}
    path.write_text(json.dumps(config | both))
    with pytest.raises(ModelError, match=r"config\.json: rope_theta is 10000.0, that in rope_par"):
        open_source(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), *TINY, "--steps", "2", "--out", "run")


def test_a_run_is_read_as_a_plain_model(run: Path) -> None:
    saved = arrays(run)
    for place in (run, run / "checkpoints" / "last", run / "checkpoints", run.parent / "last"):
        source = open_source(place)
        weights = loaded(source)
        for parameter in parameters(source.spec):
            alpha = np.float32(0.5) if parameter.writes_residual else np.float32(1)  # 2 layers
            ours = saved[f"weights/{parameter.name}"] * alpha
            assert np.array_equal(weights[parameter.name], ours), parameter.name


def test_a_run_keeps_its_tokenizer(run: Path) -> None:
    tokenizer = tokenizer_of(open_source(run))
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("Call me Ishmael.")) == "Call me Ishmael."


def test_a_run_that_was_altered_is_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    weights = copy / "checkpoints" / "last" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors was altered"):
        open_source(copy)


Change = Callable[[Path], None]


def config_change(**values: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def tensor_change(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {name: array.copy() for name, array in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)

    return rewrite


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 5)


def boastful(folder: Path) -> None:
    """A header that claims a tensor of 4 TB."""
    path = folder / "model.safetensors"
    header = {"big": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))


def boastful_length(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + bytes(64))


def looping(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.unlink()
    path.symlink_to(path.name)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shards_outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


QUERY = "model.layers.1.self_attn.q_proj.weight"
SCALED = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4}

MISTAKES: dict[str, tuple[Change, str]] = {
    "truncated": (truncated, r"model\.safetensors: it is truncated"),
    "a header that claims more than there is": (boastful, r"model\.safetensors: it is truncated"),
    "a header of 2^60 bytes": (boastful_length, r"model\.safetensors: it is no safetensors file"),
    "a wrong shape": (
        tensor_change(lambda t: t.update({QUERY: t[QUERY][:-1].copy()})),
        rf"model\.safetensors: tensor {QUERY} has the shape \[63, 64\]",
    ),
    "a missing tensor": (
        tensor_change(lambda t: t.pop(QUERY)),
        rf"model\.safetensors has no tensor {QUERY}",
    ),
    "an extra tensor": (
        tensor_change(lambda t: t.update({"model.extra.weight": t[QUERY]})),
        r"model\.safetensors has a tensor model\.extra\.weight",
    ),
    "a bias": (
        tensor_change(
            lambda t: t.update({QUERY.replace("weight", "bias"): np.zeros(64, np.float32)})
        ),
        r"q_proj\.bias is a bias",
    ),
    "whole numbers": (
        tensor_change(lambda t: t.update({QUERY: t[QUERY].astype(np.int8)})),
        rf"tensor {QUERY} is of type I8",
    ),
    "NaN": (
        tensor_change(lambda t: t[QUERY].__setitem__((3, 5), np.nan)),
        rf"model\.safetensors: tensor {QUERY} has values that are NaN",
    ),
    "infinity": (
        tensor_change(lambda t: t[QUERY].__setitem__((3, 5), -np.inf)),
        rf"tensor {QUERY} has values that are NaN or infinite",
    ),
    "a config that counts other layers": (
        config_change(num_hidden_layers=3, layer_types=None),
        r"config\.json says 3 layers, the weights have 2",
    ),
    "a config of layers beyond reason": (
        config_change(num_hidden_layers=1 << 23, layer_types=None),
        r"config\.json: num_hidden_layers: must be a whole number from 1 to 4096",
    ),
    "a config of another width": (
        config_change(intermediate_size=1 << 23),
        r"has the shape .* the configuration asks for \[8388608, 64\]",
    ),
    "a config that is no object": (
        lambda folder: (folder / "config.json").write_text("[]") and None,
        r"config\.json must hold an object",
    ),
    "a symlink loop": (looping, r"model\.safetensors is a link to what is not there, or to itself"),
    "a pickle": (pickled, r"pytorch_model\.bin, a pickle, .* never opened"),
    "shards elsewhere": (shards_outside, r"'\.\./secret\.safetensors' is no name"),
    "another architecture": (
        config_change(model_type="gpt2"),
        r"config\.json: the architecture is gpt2 \(LlamaForCausalLM\)",
    ),
    "biases": (config_change(attention_bias=True), r"attention_bias: asks for biases"),
    "another activation": (config_change(hidden_act="gelu"), r"hidden_act: .* activation gelu"),
    "scaled rotation": (config_change(rope_parameters=SCALED), r"rotary scaling of type llama3"),
    "scaled rotation, old key": (
        config_change(rope_scaling={"type": "linear", "factor": 2.0}),
        r"rope_scaling: asks for rotary scaling of type linear",
    ),
    "partial rotation": (config_change(partial_rotary_factor=0.5), r"asks for a partial rotation"),
    "a sliding window": (
        config_change(use_sliding_window=True, sliding_window=8, max_window_layers=0),
        r"use_sliding_window: asks for a sliding window",
    ),
    "layers of another kind": (
        config_change(layer_types=["full_attention", "sliding_attention"]),
        r"layer_types: asks for sliding_attention",
    ),
    "experts": (config_change(num_local_experts=8), r"asks for a mixture of experts"),
    "quantised weights": (
        config_change(quantization_config={"bits": 4}),
        r"quantization_config: says that the weights are quantised",
    ),
    "heads that do not divide": (
        config_change(num_key_value_heads=3),
        r"config\.json: num_key_value_heads: must divide heads",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_weights_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    save_model("llama grouped untied", tmp_path)
    change, message = MISTAKES[name]
    change(tmp_path)
    with pytest.raises(AneTrainError, match=message) as caught:
        loaded(open_source(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_classifier_beside_tied_embeddings_must_be_the_embedding(tmp_path: Path) -> None:
    save_model("llama grouped", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding.copy()}, path)
    open_source(tmp_path)
    save_file(tensors | {"lm_head.weight": embedding + np.float32(1)}, path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        open_source(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, message in {
        tmp_path / "nothing": "cannot read .*nothing: No such file",
        loop: "cannot read .*loop: Too many levels of symbolic links",
        tmp_path: r"cannot read .*config\.json: No such file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            open_source(path)


def test_bfloat16_is_read_as_ml_dtypes_reads_it(tmp_path: Path) -> None:
    from ane_train.interop.tensors import open_tensor_file

    values = np.random.default_rng(0).standard_normal((7, 5)).astype(ml_dtypes.bfloat16)
    save_file({"x": values}, tmp_path / "x.safetensors")
    out = np.empty((3, 5), np.float32)
    open_tensor_file(tmp_path / "x.safetensors").read("x", out, first_row=2)
    assert np.array_equal(out, values[2:5].astype(np.float32))
