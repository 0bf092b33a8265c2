"""Files that are damaged in any way are refused in one line, and importing takes little memory."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hf_models import save_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import environment
from safetensors.numpy import save_file
from weights_in import loaded

from ane_train.data.tokenizer import BUILT_IN_TOKENIZER
from ane_train.errors import AneTrainError
from ane_train.interop.export import export
from ane_train.interop.source import open_source


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small model in each format, and a file of it to damage."""
    folder = tmp_path_factory.mktemp("model")
    save_model("llama grouped untied", folder / "hf")
    source = open_source(folder / "hf")
    for name, dtype in {"gguf": "q8_0", "llama2c": "f32"}.items():
        export(source, folder / name, format_name=name, dtype=dtype)
    return {
        "hf": folder / "hf" / "model.safetensors",
        "gguf": folder / "gguf" / "hf.gguf",
        "llama2c": folder / "llama2c" / "model.bin",
    }


def opened(path: Path) -> Path:
    return path.parent if path.suffix == ".safetensors" else path


@pytest.mark.parametrize("format_name", ["hf", "gguf", "llama2c"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_read(
    format_name: str, files: dict[str, Path], data: st.DataObject
) -> None:
    path = files[format_name]
    whole = path.read_bytes()
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    header = min(len(content), 3000)
    for place in data.draw(st.lists(st.integers(0, max(0, header - 1)), max_size=4)):
        if place < len(content):
            content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    problem = problem_of(path)
    path.write_bytes(whole)
    assert "\n" not in problem
    assert not problem or path.name in problem or "config.json" in problem


def problem_of(path: Path) -> str:
    """What is said of a file, nothing if it is read; any other exception is a bug."""
    try:
        source = open_source(opened(path))
        loaded(source)
    except AneTrainError as error:
        return str(error)
    return ""


ODD = (None, True, 5, -1, 0, 0.5, 2**70, math.inf, math.nan, "x", [], [1], ["x"], {}, {"x": 1})


def test_any_value_of_a_config_is_refused_in_one_line_or_read(files: dict[str, Path]) -> None:
    path = files["hf"].with_name("config.json")
    whole = path.read_text()
    config = json.loads(whole)
    keys = {*config, "rope_scaling", "rope_theta", "partial_rotary_factor", "layer_types"}
    keys |= {"use_sliding_window", "sliding_window", "max_window_layers", "quantization_config"}
    try:
        for key, value in itertools.product(keys, ODD):
            path.write_text(json.dumps(config | {key: value}))
            problem = problem_of(files["hf"])
            assert "\n" not in problem
            assert not problem or "hf/" in problem, (key, value, problem)
        inner = [{"rope_type": value, "rope_theta": value} for value in ODD]
        for value in inner:
            path.write_text(json.dumps(config | {"rope_parameters": value}))
            problem_of(files["hf"])
    finally:
        path.write_text(whole)


def test_any_value_of_a_gguf_is_refused_in_one_line_or_read(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ane_train.interop import gguf_file
    from ane_train.interop.gguf_header import read_gguf_header

    save_model("llama", tmp_path / "a", vocabulary=2048)
    (tmp_path / "a" / "tokenizer.json").write_bytes(BUILT_IN_TOKENIZER.read_bytes())
    export(open_source(tmp_path / "a"), tmp_path / "b", format_name="gguf")
    header = read_gguf_header(tmp_path / "b" / "a.gguf")
    keys = {*header.values, "llama.attention.sliding_window", "tokenizer.ggml.scores"}
    for key, value in itertools.product(keys, ODD):
        changed = replace(header, values={**header.values, key: value})
        monkeypatch.setattr(gguf_file, "read_gguf_header", lambda _, changed=changed: changed)
        problem = problem_of(header.path)
        assert "\n" not in problem
        assert not problem or "a.gguf" in problem, (key, value, problem)


@pytest.mark.parametrize("format_name", ["hf", "gguf", "llama2c"])
def test_every_truncation_is_noticed(format_name: str, files: dict[str, Path]) -> None:
    path = files[format_name]
    whole = path.read_bytes()
    try:
        # a GGUF ends in up to 31 bytes of padding
        for length in [*range(0, 200, 7), len(whole) // 2, len(whole) - 33]:
            path.write_bytes(whole[:length])
            with pytest.raises(AneTrainError, match=path.name):
                open_source(opened(path))
    finally:
        path.write_bytes(whole)


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "gemma2")
    writer.add_block_count(2)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(AneTrainError, match=r"x\.gguf: the architecture is gemma2"):
        open_source(tmp_path / "x.gguf")


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    import torch

    torch.save({"x": torch.zeros(3)}, tmp_path / "new.pt")
    torch.save({"x": torch.zeros(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.bin"):
        with pytest.raises(AneTrainError, match=rf"{name} is a pickle, .* never opened"):
            open_source(tmp_path / name)


def large_model(folder: Path, dtype: np.dtype) -> None:
    """A model of 21 million weights, half of them in the embedding."""
    d, f, v, layers = 512, 1536, 20480, 4
    config = {
        "model_type": "llama",
        "hidden_size": d,
        "intermediate_size": f,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": v,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (d, d) for n in "qkvo"}
        shapes |= {f"{at}.mlp.{n}_proj.weight": (f, d) for n in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (d, f)
        shapes |= {f"{at}.{n}_layernorm.weight": (d,) for n in ("input", "post_attention")}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)
    tensors = {n: draw.random(s, np.float32).astype(dtype) for n, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def test_an_import_takes_at_most_a_fifth_more_than_the_weights(tmp_path: Path) -> None:
    import ml_dtypes

    large_model(tmp_path / "hf", np.dtype(ml_dtypes.bfloat16))
    source = open_source(tmp_path / "hf")
    export(source, tmp_path / "gguf", format_name="gguf", dtype="q8_0")
    export(source, tmp_path / "c", format_name="llama2c")
    for path in (tmp_path / "hf", tmp_path / "gguf" / "hf.gguf", tmp_path / "c" / "model.bin"):
        command = [sys.executable, str(Path(__file__).with_name("import_memory.py")), str(path)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment(), timeout=120
        )
        peak, weights = map(int, result.stdout.split())
        assert weights > 80e6
        assert peak <= 1.2 * weights, path.name
