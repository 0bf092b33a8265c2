"""Runs that train adapters: what they keep, how they go on, and what PEFT makes of their files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import save_model
from peers import relative_error
from peft import PeftModel
from runs import ane_train, losses, trained
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from weights_in import loaded, our_logits, same_weights, some_tokens, their_logits

from ane_train.config import Layer, resolve
from ane_train.data.tokenizer import BUILT_IN_TOKENIZER
from ane_train.errors import CheckpointError, ConfigError
from ane_train.interop.export import FORMATS, export
from ane_train.interop.source import open_source
from ane_train.model.adapters import lora_of

SHORT = ("--seq", "32", "--eval-batches", "1", "--eval-every", "0", "--lr", "1e-2", "--warmup", "0")
LORA = ("--lora-rank", "4", "--lora-alpha", "10")
FILES = ("adapter_model", "first_moment", "second_moment")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    save_model("qwen3", folder, vocabulary=2048)
    shutil.copy(BUILT_IN_TOKENIZER, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return trained(folder, "--init", model, *LORA, *SHORT, "--steps", "8", "--out", "run")


def bytes_of(run: Path, names: tuple[str, ...] = FILES) -> list[bytes]:
    folder = run / "checkpoints" / "last"
    return [(folder / f"{name}.safetensors").read_bytes() for name in names]


def peft_logits(base: Path, adapter: Path) -> np.ndarray:
    peer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return their_logits(PeftModel.from_pretrained(peer, adapter), some_tokens())


def test_a_checkpoint_holds_adapters_and_moments_and_the_run_its_base(
    run: Path, model: Path
) -> None:
    checkpoint = run / "checkpoints" / "last"
    names = {path.name for path in checkpoint.iterdir()}
    files = {f"{name}.safetensors" for name in FILES}
    assert names == {*files, "adapter_config.json", "state.json"}
    keys = load_file(checkpoint / "adapter_model.safetensors").keys()
    assert len(keys) == 2 * 7 * 2
    assert all(re.search(r"_proj\.lora_[AB]\.weight$", key) for key in keys)
    for kind in FILES[1:]:
        assert len(load_file(checkpoint / f"{kind}.safetensors")) == len(keys)
    base, weights = load_file(run / "base.safetensors"), loaded(open_source(model))
    assert base.keys() == weights.views.keys()
    for name, array in base.items():
        assert array.tobytes() == weights[name].tobytes(), name


def test_peft_loads_a_checkpoint_and_an_export_with_the_same_logits(
    run: Path, model: Path, tmp_path: Path
) -> None:
    ours = our_logits(open_source(run), some_tokens())
    export(open_source(run), tmp_path / "peft", format_name="peft")
    for adapter in (run / "checkpoints" / "last", tmp_path / "peft"):
        assert relative_error(ours, peft_logits(model, adapter)) < 1e-4
    assert relative_error(ours, our_logits(open_source(model), some_tokens())) > 1e-2
    whole, half = (load_file(path / "adapter_model.safetensors") for path in (
        run / "checkpoints" / "last", tmp_path / "peft"
    ))  # fmt: skip
    assert {k: v.tobytes() for k, v in whole.items()} == {k: v.tobytes() for k, v in half.items()}
    assert (tmp_path / "peft" / "tokenizer.json").is_file()


def test_merging_on_export_is_pefts_merge_and_unload(
    run: Path, model: Path, tmp_path: Path
) -> None:
    result = ane_train(tmp_path, "export", run, "--merge", "--out", "merged")
    assert result.returncode == 0, result.stderr
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    peer = PeftModel.from_pretrained(base, run / "checkpoints" / "last").merge_and_unload()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, parameter in peer.named_parameters():
        assert relative_error(ours[name], parameter.detach().numpy()) < 1e-6, name
    assert same_weights(run, tmp_path / "merged")


@pytest.mark.parametrize(
    ("format_name", "merge", "message"),
    [
        ("hf", False, "has adapters: write them into the weights by --merge, or alone by --form"),
        ("gguf", False, "has adapters"),
        ("peft", True, "--format peft writes the adapters alone: leave out --merge"),
    ],
)
def test_what_becomes_of_adapters_is_never_guessed(
    run: Path, tmp_path: Path, format_name: str, merge: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(open_source(run), tmp_path / "out", format_name=format_name, merge=merge)
    assert not (tmp_path / "out").exists()


def test_weights_without_adapters_have_nothing_to_merge(model: Path, tmp_path: Path) -> None:
    for format_name, merge in (("hf", True), ("peft", False)):
        with pytest.raises(ConfigError, match="has no adapters"):
            export(open_source(model), tmp_path / "out", format_name=format_name, merge=merge)


@pytest.mark.parametrize("dtype", FORMATS["peft"].dtypes)
def test_adapters_are_exported_in_each_type(run: Path, tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import load_file as load_torch

    export(open_source(run), tmp_path / "out", format_name="peft", dtype=dtype)
    ours = load_torch(tmp_path / "out" / "adapter_model.safetensors")
    theirs = load_torch(run / "checkpoints" / "last" / "adapter_model.safetensors")
    for name, tensor in theirs.items():
        kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
        assert torch.equal(ours[name], tensor.to(kind)), name


FLAGS = {
    "dynamic": ("--accum", "2", "--sample-every", "1", "--sample-tokens", "4"),
    "static": ("--pipeline", "static", "--engine-extras"),
    "delta": ("--pipeline", "static", "--delta"),
    "restarts": ("--pipeline", "static", "--compile-limit", "30"),
}


@pytest.mark.parametrize("flags", FLAGS)
def test_resuming_without_the_source_is_not_stopping_to_the_bit(
    model: Path, tmp_path: Path, flags: str
) -> None:
    source = shutil.copytree(model, tmp_path / "source")
    common = ("--init", source, *LORA, *SHORT, "--steps", "4", *FLAGS[flags])
    whole = trained(tmp_path, *common, "--out", "run").rename(tmp_path / "whole")
    run = trained(tmp_path, *common, "--stop-after", "2", "--out", "run")
    half = bytes_of(run)
    shutil.rmtree(source)
    trained(tmp_path, "--resume", "run")
    assert losses(run) == losses(whole)
    assert bytes_of(run) == bytes_of(whole)
    assert all(ours != theirs for ours, theirs in zip(bytes_of(run), half, strict=True))
    assert (run / "base.safetensors").read_bytes() == (whole / "base.safetensors").read_bytes()


def test_all_ways_to_arrange_a_step_train_the_same_adapters(model: Path, tmp_path: Path) -> None:
    found = {}
    for name, flags in FLAGS.items():
        if name != "dynamic":
            common = ("--init", model, *LORA, *SHORT, "--steps", "3", "--numerics", "fp32")
            run = trained(tmp_path, *common, *flags, "--out", "run").rename(tmp_path / name)
            found[name] = bytes_of(run)[0]
    assert found["delta"] == found["restarts"]
    ours, theirs = (
        load_file(tmp_path / name / "checkpoints/last/adapter_model.safetensors")
        for name in ("static", "delta")
    )
    assert all(relative_error(ours[key], array) < 1e-3 for key, array in theirs.items())


def test_a_run_starts_from_a_run_with_adapters_as_from_its_merged_weights(
    run: Path, tmp_path: Path
) -> None:
    again = trained(
        tmp_path, "--init", run, *SHORT, "--lora-rank", "2", "--steps", "1", "--out", "run"
    )
    base, merged = load_file(again / "base.safetensors"), loaded(open_source(run))
    assert all(array.tobytes() == merged[name].tobytes() for name, array in base.items())


@pytest.mark.parametrize(
    ("targets", "rank", "message"),
    [
        (["q_porj"], 4, "--lora-targets: no layer has a matrix q_porj; there is q_proj"),
        (["v_proj", "quary"], 4, "no layer has a matrix quary; there is query"),
        (["embed_tokens"], 4, "no layer has a matrix embed_tokens; there is all-linear"),
        ([], 4, "--lora-targets names nothing"),
        (["all-linear"], 65, "--lora-rank 65 is more than the smaller side of query [128, 64]"),
        (["gate", "k_proj"], 200, "the smaller side of key [64, 64]: give at most 64"),
    ],
)
def test_targets_and_rank_that_make_no_sense_are_named(
    model: Path, targets: list[str], rank: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        lora_of(open_source(model).spec, rank, 1.0, targets)


def test_targets_mean_our_names_and_hugging_faces(model: Path) -> None:
    spec = open_source(model).spec
    assert lora_of(spec, 4, 1.0, ["up_proj", "query", "q_proj"]).matrices == ("query", "up")
    everything = ("query", "key", "value", "output", "gate", "up", "down")
    assert lora_of(spec, 4, 1.0, ["all-linear"]).matrices == everything


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lora_rank": -1}, "must be 0 or more"),
        ({"lora_alpha": 0.0}, "must be more than 0"),
        ({"freeze": "embedding"}, "leave out --freeze"),
        ({"compact_vocab": True}, "would not know the tokens"),
        ({"residual_scale": "deepnet"}, "leave out --residual-scale"),
        ({"lora_rank": 0}, "--lora-alpha is of adapters: add --lora-rank"),
        ({"lora_rank": 0, "lora_alpha": None, "lora_targets": "q_proj"}, "--lora-targets is of"),
        ({"init": None}, "add --init"),
    ],
)
def test_settings_that_do_not_go_with_adapters_are_refused(
    flags: dict[str, object], message: str
) -> None:
    given = {"init": "a folder", "lora_rank": 4, "lora_alpha": 2.0}
    assert resolve([Layer("flags", given)]).lora_rank == 4
    with pytest.raises(ConfigError, match=message):
        resolve([Layer("flags", given | flags)])


@pytest.mark.parametrize("flags", [("--lora-targets", "q_porj"), ("--compact-vocab",)])
def test_adapters_that_make_no_sense_are_one_line_before_any_run(
    model: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    result = ane_train(tmp_path, "--init", model, *LORA, *SHORT, *flags)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lora-alpha", "5"), "adapters of alpha 10.0, not 5.0"),
        (("--lora-rank", "3"), "adapters of rank 4, not 3"),
        (("--lora-targets", "q_proj"), "adapters of targets query,key,value"),
    ],
)
def test_a_run_keeps_the_adapters_that_it_began_with(
    run: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    result = ane_train(run.parent, "--resume", "run", "--steps", "9", *flags)
    assert (result.returncode, result.stderr.count("\n")) == (5, 1)
    assert message in result.stderr


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_another_base_than_the_adapters_is_refused(run: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    base = copy / "base.safetensors"
    content = bytearray(base.read_bytes())
    content[-5] ^= 1
    base.unlink()
    if damage != "missing":
        base.write_bytes(content[: None if damage == "altered" else -4])
    result = ane_train(tmp_path, "--resume", "run", "--steps", "9")
    assert (result.returncode, result.stderr.count("\n")) == (5, 1), result.stderr
    assert "base.safetensors" in result.stderr
    with pytest.raises(CheckpointError, match=r"base\.safetensors"):
        open_source(copy)


def test_the_adapters_config_names_the_model(run: Path, model: Path) -> None:
    config = json.loads((run / "checkpoints" / "last" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert config["base_model_name_or_path"] == str(model)
    assert (config["r"], config["lora_alpha"]) == (4, 10)
