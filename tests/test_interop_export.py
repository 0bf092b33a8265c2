"""What is exported is read by the programs that it is for, and is the same model there."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hf_models import CONFIGURATIONS, save_model
from peers import relative_error
from runs import TINY, ane_train, trained
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from weights_in import loaded, our_logits, same_weights, some_tokens, their_logits

from ane_train.data.tokenizer import BUILT_IN_TOKENIZER, load_tokenizer
from ane_train.errors import AneTrainError, CheckpointError, ConfigError, ModelError
from ane_train.interop.export import export
from ane_train.interop.source import open_source, tokenizer_of
from ane_train.model.parameters import parameters

BUILT_IN = load_tokenizer(BUILT_IN_TOKENIZER)


def exported(source: Path, out: Path, format_name: str, dtype: str = "f32") -> Path:
    export(open_source(source), out, format_name=format_name, dtype=dtype)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), *TINY, "--steps", "2", "--out", "run")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_import_and_export_keep_every_bit(name: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "a")
    exported(tmp_path / "a", tmp_path / "b", "hf")
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in "ba")
    assert ours.keys() == theirs.keys()
    for tensor, array in ours.items():
        assert array.dtype == theirs[tensor].dtype
        assert array.tobytes() == theirs[tensor].tobytes(), tensor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_transformers_and_mlx_compute_the_same_from_what_is_exported(
    name: str, tmp_path: Path
) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    save_model(name, tmp_path / "a")
    folder = exported(tmp_path / "a", tmp_path / "b", "hf")
    tokens = some_tokens()
    ours = our_logits(open_source(folder), tokens)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert relative_error(ours, their_logits(theirs, tokens)) < 1e-4
    model, _ = load_model(folder)
    with mx.stream(mx.cpu):
        logits = np.array(model(mx.array(tokens[None]))[0])
    assert relative_error(ours, logits.astype(np.float64)) < 1e-3
    assert np.array_equal(ours.argmax(1), logits.argmax(1))


def test_a_run_goes_to_other_programs_with_its_residual_scale_and_tokenizer(
    run: Path, tmp_path: Path
) -> None:
    from mlx_lm import load

    folder = exported(run, tmp_path / "hf", "hf")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Call me Ishmael. Some years ago"
    tokens = np.array(tokenizer(text)["input_ids"], np.int32)
    ours = tokenizer_of(open_source(run))
    assert ours is not None
    assert np.array_equal(ours.encode(text), tokens)
    assert relative_error(our_logits(open_source(run), tokens), their_logits(model, tokens)) < 1e-4
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    _, of_mlx = load(str(folder))
    assert of_mlx.encode(text) == tokens.tolist()
    assert of_mlx.eos_token_id == 0


def test_config_has_the_base_of_the_rotation_twice(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "a")
    config = json.loads(
        (exported(tmp_path / "a", tmp_path / "b", "hf") / "config.json").read_text()
    )
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e6


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("format_name", ["hf", "gguf"])
def test_half_precision_is_rounded_to_nearest(format_name: str, dtype: str, tmp_path: Path) -> None:
    model = save_model("llama grouped untied", tmp_path / "a")
    folder = exported(tmp_path / "a", tmp_path / "b", format_name, dtype)
    source = open_source(folder if format_name == "hf" else folder / "a.gguf")
    weights, state = loaded(source), model.state_dict()
    kind = torch.float16 if dtype == "f16" else torch.bfloat16
    for parameter in parameters(source.spec):
        rounded = format_name == "hf" or parameter.decays
        theirs = state[parameter.hf_name]
        theirs = theirs.to(kind).float() if rounded else theirs
        assert np.array_equal(weights[parameter.name], theirs.numpy()), parameter.name


def rebuilt(reader: gguf.GGUFReader, heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """Tensors of a GGUF by Hugging Face's names, as llama.cpp's own conversion would undo them."""
    arrays = {}
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        count = {"attn_q.weight": heads, "attn_k.weight": kv_heads}.get(
            tensor.name.split(".", 2)[-1], 0
        )
        if count and reader.fields["general.architecture"].contents() == "llama":
            half = array.shape[0] // count // 2
            array = array.reshape(count, half, 2, -1).swapaxes(1, 2).reshape(array.shape)
        arrays[tensor.name] = array
    return arrays


@pytest.mark.parametrize("name", ["llama", "llama grouped untied", "qwen3", "qwen3 untied"])
def test_gguf_holds_the_model_under_llama_cpps_names(name: str, tmp_path: Path) -> None:
    model = save_model(name, tmp_path / "a")
    file = exported(tmp_path / "a", tmp_path / "b", "gguf") / "a.gguf"
    reader = gguf.GGUFReader(file)
    config = model.config
    arrays = rebuilt(reader, config.num_attention_heads, config.num_key_value_heads)
    architecture = gguf.MODEL_ARCH.QWEN3 if "qwen3" in name else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert len(arrays) == len(state)
    for hf_name, tensor in state.items():
        ours = arrays[names.get_name(hf_name, (".weight",))]
        assert np.array_equal(ours, tensor.numpy()), hf_name
    assert same_weights(tmp_path / "a", file)
    assert open_source(file).spec.fingerprint == open_source(tmp_path / "a").spec.fingerprint


def test_gguf_as_transformers_reads_it_gives_the_same_logits(tmp_path: Path) -> None:
    save_model("llama grouped untied", tmp_path / "a")
    folder = exported(tmp_path / "a", tmp_path / "b", "gguf")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="a.gguf", dtype=torch.float32)
    tokens = some_tokens()
    ours = our_logits(open_source(folder / "a.gguf"), tokens)
    assert relative_error(ours, their_logits(model, tokens)) < 1e-4


def test_q8_0_is_that_of_gguf(tmp_path: Path) -> None:
    model = save_model("qwen3", tmp_path / "a")
    file = exported(tmp_path / "a", tmp_path / "b", "gguf", "q8_0") / "a.gguf"
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    theirs = model.state_dict()["model.layers.1.mlp.down_proj.weight"].numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    tensor = tensors["blk.1.ffn_down.weight"]
    assert tensor.tensor_type == kind
    assert np.array_equal(tensor.data, gguf.quantize(theirs, kind))
    source = open_source(file)
    weights = loaded(source)
    assert np.array_equal(
        weights["layers.1.down"], gguf.dequantize(gguf.quantize(theirs, kind), kind)
    )


def test_gguf_carries_the_tokenizer(run: Path, tmp_path: Path) -> None:
    file = exported(run, tmp_path / "out", "gguf") / "tiny.gguf"
    fields = gguf.GGUFReader(file).fields
    original = json.loads(BUILT_IN_TOKENIZER.read_text())["model"]
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert {text: number for number, text in enumerate(tokens)} == original["vocab"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(m) for m in original["merges"]]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    back = tokenizer_of(open_source(file))
    text = "Call me Ishmael: 1851, naïve — <|endoftext|>The whale…\n\n  \tYes!"
    ours = tokenizer_of(open_source(run))
    assert back is not None
    assert ours is not None
    assert np.array_equal(back.encode(text), ours.encode(text))
    assert back.decode(ours.encode(text)) == text


# An independent reader and model of llama2.c, as its run.c has them.


def read_run_c(path: Path) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    content = path.read_bytes()
    d, f, layers, heads, kv, vocabulary, context = numbers = struct.unpack_from("<7i", content)
    size = d // heads
    v = abs(vocabulary)
    shapes = {
        "embedding": (v, d),
        "norm1": (layers, d),
        "wq": (layers, heads * size, d),
        "wk": (layers, kv * size, d),
        "wv": (layers, kv * size, d),
        "wo": (layers, d, heads * size),
        "norm2": (layers, d),
        "w1": (layers, f, d),
        "w2": (layers, d, f),
        "w3": (layers, f, d),
        "norm": (d,),
        "skipped": (context * size,),
    } | ({"classifier": (v, d)} if vocabulary < 0 else {})
    arrays, place = {}, 28
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(content, "<f4", count, place).reshape(shape)
        place += 4 * count
    assert place == len(content)
    return numbers, arrays


def run_c_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    (d, _, layers, heads, kv, *_), w = read_run_c(path)
    size, count = d // heads, len(tokens)

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return gain * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def rotate(x: np.ndarray) -> np.ndarray:
        """Neighbours (2i, 2i + 1) as a complex number; x is [S, n, E]."""
        pairs = x[..., 0::2] + 1j * x[..., 1::2]
        angle = np.outer(np.arange(count), 1e4 ** -(np.arange(0, size, 2) / size))
        turned = pairs * np.exp(1j * angle)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = w["embedding"][tokens].astype(np.float64)
    mask = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(layers):
        h = norm(x, w["norm1"][layer])
        q = rotate((h @ w["wq"][layer].T).reshape(count, heads, size))
        k = rotate((h @ w["wk"][layer].T).reshape(count, kv, size)).repeat(heads // kv, 1)
        v = (h @ w["wv"][layer].T).reshape(count, kv, size).repeat(heads // kv, 1)
        scores = np.einsum("she,the->hst", q, k) / np.sqrt(size) + mask
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + np.einsum("hst,the->she", p, v).reshape(count, -1) @ w["wo"][layer].T
        h = norm(x, w["norm2"][layer])
        g = h @ w["w1"][layer].T
        x = x + (g / (1 + np.exp(-g)) * (h @ w["w3"][layer].T)) @ w["w2"][layer].T
    return norm(x, w["norm"]) @ w.get("classifier", w["embedding"]).T


@pytest.mark.parametrize("name", ["llama", "llama untied", "llama grouped untied"])
def test_llama2c_files_give_the_same_logits_by_run_cs_arithmetic(name: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "a")
    file = exported(tmp_path / "a", tmp_path / "b", "llama2c") / "model.bin"
    tokens = some_tokens()
    ours = our_logits(open_source(tmp_path / "a"), tokens)
    theirs = run_c_logits(file, tokens)
    assert relative_error(ours, theirs) < 1e-4
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    assert same_weights(tmp_path / "a", file)


def version_1(numbers: tuple[int, ...], w: dict[str, np.ndarray]) -> bytes:
    """The second version of the format, as llama2.c's export.py writes it."""
    d, f, layers, heads, kv, vocabulary, context = numbers
    header = struct.pack("<Ii7i", 0x616B3432, 1, d, f, layers, heads, kv, abs(vocabulary), context)
    header += struct.pack("<B", vocabulary > 0)
    order = ["norm1", "norm2", "norm", "embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    order += ["classifier"] if vocabulary < 0 else []
    return header.ljust(256, b"\0") + b"".join(w[name].tobytes() for name in order)


@pytest.mark.parametrize("name", ["llama", "llama grouped untied"])
def test_both_versions_of_llama2c_are_one_model(name: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "a")
    file = exported(tmp_path / "a", tmp_path / "b", "llama2c") / "model.bin"
    second = tmp_path / "second.bin"
    second.write_bytes(version_1(*read_run_c(file)))
    assert same_weights(file, second)
    second.write_bytes(second.read_bytes().replace(b"\x01\0\0\0", b"\x02\0\0\0", 1))
    with pytest.raises(AneTrainError, match=r"second\.bin is of version 2 .* quantised"):
        open_source(second)


def test_llama2c_gets_a_tokenizer_whose_tokens_are_text(run: Path, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "a")  # an architecture that the format can say
    source = open_source(run)
    size = source.spec.vocabulary
    from ane_train.interop.tokenizer_bin import read_tokenizer_bin, tokenizer_bin

    content = tokenizer_bin(source.companions, size)
    assert content is not None
    place, texts = 4, []
    for _ in range(size):
        _, length = struct.unpack_from("<fi", content, place)
        texts.append(content[place + 8 : place + 8 + length])
        place += 8 + length
    assert place == len(content)
    assert struct.unpack_from("<i", content)[0] == max(map(len, texts))
    tokenizer = tokenizer_of(source)
    assert tokenizer is not None
    text = "Call me Ishmael — naïve…"
    assert b"".join(texts[token] for token in tokenizer.encode(text)).decode() == text
    (tmp_path / "tokenizer.bin").write_bytes(content[:-3])
    with pytest.raises(AneTrainError, match=r"tokenizer\.bin has more than|truncated"):
        read_tokenizer_bin(tmp_path / "tokenizer.bin", size)


@pytest.mark.parametrize("format_name", ["gguf", "llama2c"])
def test_a_folder_that_was_exported_is_the_file_in_it(format_name: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "a")
    folder = exported(tmp_path / "a", tmp_path / "b", format_name)
    (file,) = folder.iterdir()
    assert same_weights(tmp_path / "a", folder)
    assert open_source(folder).spec == open_source(file).spec
    assert open_source(folder).spec.name == {"gguf": "a", "llama2c": "b"}[format_name]
    assert tokenizer_of(open_source(folder)) is None
    shutil.copy(BUILT_IN_TOKENIZER, folder / "tokenizer.json")
    tokenizer = tokenizer_of(open_source(folder))
    assert tokenizer is not None
    assert tokenizer.encode("the whale").tolist() == BUILT_IN.encode("the whale").tolist()


def test_the_tokenizer_in_a_file_counts_before_one_beside_it(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "b", "gguf")
    companions = open_source(folder).companions
    (folder / "tokenizer.json").write_text("{}")
    assert open_source(folder).companions == companions


def test_a_folder_with_several_files_of_weights_names_them(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "a")
    folder = exported(tmp_path / "a", tmp_path / "b", "llama2c")
    (folder / "b.gguf").touch()
    (folder / "a.gguf").touch()
    with pytest.raises(CheckpointError) as refused:
        open_source(folder)
    message = f"{folder} has several files of weights, a.gguf, b.gguf, model.bin: give one of them"
    assert str(refused.value) == message
    save_model("llama", folder)
    assert same_weights(tmp_path / "a", folder)  # its safetensors are not in doubt


MISTAKES = {
    "a type of another format": ("llama2c", "f16", ConfigError, "has no --dtype f16: choose f32"),
    "an architecture that llama2.c lacks": ("llama2c", "f32", ModelError, "llama2.c has no norms"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_exported_leaves_nothing(name: str, tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "a")
    format_name, dtype, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        exported(tmp_path / "a", tmp_path / "b", format_name, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_weights_too_large_for_a_type_leave_nothing(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_model("llama", tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    tensors["model.norm.weight"][3] = 1e5
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"model\.norm\.weight has values that are too large"):
        exported(tmp_path / "a", tmp_path / "b", "hf", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_command_writes_says_what_and_replaces_only_when_told(
    run: Path, tmp_path: Path
) -> None:
    first = ane_train(tmp_path, "export", run, "--format", "gguf", "--dtype", "q8_0", "--out", "o")
    assert (first.returncode, first.stdout) == (0, "o/tiny.gguf\n"), first.stderr
    again = ane_train(tmp_path, "export", run, "--out", "o")
    assert again.returncode == 2
    assert again.stderr == (
        "error: o is not empty: choose another --out, or replace files by --force\n"
    )
    forced = ane_train(tmp_path, "export", run, "--out", "o", "--force")
    assert forced.returncode == 0, forced.stderr
    assert same_weights(run, tmp_path / "o")
    assert (tmp_path / "o" / "tiny.gguf").exists()
