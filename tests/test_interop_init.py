"""Runs that start from weights: whose they are, where they go on, and what they need later."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hf_models import save_model
from runs import ane_train, arrays, metrics, trained
from safetensors.numpy import load_file
from weights_in import loaded, our_logits, some_tokens

from ane_train.data.tokenizer import BUILT_IN_TOKENIZER
from ane_train.errors import AneTrainError, CheckpointError, ModelError
from ane_train.interop.source import open_source, tokenizer_of
from ane_train.model.parameters import parameters

MODELS = Path(__file__).resolve().parent.parent / "models"
SHORT = ("--seq", "16", "--eval-batches", "1", "--eval-every", "0", "--warmup", "0")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "Small-Model"
    save_model("qwen3", folder, vocabulary=2048)
    shutil.copy(BUILT_IN_TOKENIZER, folder / "tokenizer.json")
    return folder


def test_a_run_starts_from_the_weights_it_is_given(model: Path, tmp_path: Path) -> None:
    run = trained(
        tmp_path, "--init", model.name, *SHORT, "--steps", "1", "--lr", "1e-12", "--out", "run"
    )
    weights = loaded(open_source(model))
    for name, array in arrays(run).items():
        if name.startswith("weights/"):
            assert np.allclose(array, weights[name.removeprefix("weights/")], rtol=0, atol=1e-10)
    config = (run / "config.toml").read_text()
    assert 'residual_scale = "none"' in config


def test_such_a_run_goes_on_without_what_it_started_from(model: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, "--init", model.name, *SHORT, "--steps", "2", "--out", "run")
    whole = arrays(run)
    half = ane_train(
        tmp_path, "--init", model.name, *SHORT, "--steps", "2", "--stop-after", "1", "--out", "half"
    )
    assert half.returncode == 0, half.stderr
    shutil.rmtree(model)
    resumed = ane_train(tmp_path, "--resume", "half")
    assert resumed.returncode == 0, resumed.stderr
    for said in (half, resumed):
        assert f"model     {model.name}, " in said.stdout
    for name, array in arrays(tmp_path / "half").items():
        assert array.tobytes() == whole[name].tobytes(), name
    exported = ane_train(tmp_path, "export", "half", "--out", "out")
    assert exported.returncode == 0, exported.stderr
    tokenizer = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert tokenizer == BUILT_IN_TOKENIZER.read_bytes()


NAMED = {
    "a shipped model": (("--model", "tiny"), "tiny"),
    "a model file": (("--model", "mine.toml"), "mine"),
    "a folder of weights": (("--init", "Small-Model"), "Small-Model"),
    "a run of a model file": (("--init", "first"), "mine"),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_run_is_called_after_its_model_before_and_after_it_is_resumed(
    case: str, model: Path, tmp_path: Path
) -> None:
    start, name = NAMED[case]
    shutil.copy(MODELS / "tiny.toml", tmp_path / "mine.toml")
    if "first" in start:
        trained(tmp_path, "--model", "mine.toml", *SHORT, "--steps", "1", "--out", "first")
    begun = ane_train(tmp_path, *start, *SHORT, "--steps", "1", "--out", "run")
    again = ane_train(tmp_path, "-c", "run/config.toml", "--out", "again")
    resumed = ane_train(tmp_path, "--resume", "run", "--steps", "2")
    for said in (begun, again, resumed):
        assert said.returncode == 0, said.stderr
        assert f"model     {name}, " in said.stdout
    assert open_source(tmp_path / "run").spec.name == name
    if start[0] == "--init":
        assert f'\nmodel = "{name}"\n' in (tmp_path / "run" / "config.toml").read_text()
        refused = ane_train(tmp_path, "--resume", "run", "--model", "tiny")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "a run from --init keeps its architecture: leave out --model" in refused.stderr


def test_a_compacted_vocabulary_takes_the_rows_of_its_tokens(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "few.txt"
    text.write_text("the whale and the sea " * 100)
    run = trained(
        tmp_path,
        *("--init", model.name, "--data", text.name, "--compact-vocab", *SHORT),
        *("--steps", "1", "--lr", "1e-12", "--out", "run"),
    )
    source = open_source(run)
    assert source.kept is not None
    assert len(source.kept) == source.spec.vocabulary < 20
    whole = loaded(open_source(model))["embedding"]
    assert np.allclose(loaded(source)["embedding"], whole[list(source.kept)], rtol=0, atol=1e-10)
    refused = ane_train(tmp_path, "export", "run", "--out", "out")
    assert refused.returncode == 3
    assert "was trained with --compact-vocab" in refused.stderr


MISTAKES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a model besides": (("--model", "stories15m"), 2, "the architecture is that of --init"),
    "random weights besides": (("--scratch",), 2, "--scratch starts from random weights"),
    "a run besides": (("--resume", "run"), 2, "--init starts a run and --resume goes on"),
    "a factor on the residual": (("--residual-scale", "deepnet"), 2, "without a factor"),
    "too little memory": (("--max-memory", "1MiB"), 6, "GiB is allowed"),
    "too long a sequence of data": (("--seq", "100000000"), 4, "a sequence of 100000000 needs"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_go_with_given_weights_is_refused(
    name: str, model: Path, tmp_path: Path
) -> None:
    arguments, code, message = MISTAKES[name]
    result = ane_train(tmp_path, "--init", model.name, *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {model.name}


def test_text_needs_the_tokenizer_of_the_weights(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink()
    result = ane_train(tmp_path, "--init", model.name, "--out", "new")
    assert result.returncode == 4
    assert "Small-Model comes without a tokenizer" in result.stderr
    given = ane_train(
        tmp_path, "--init", model, *SHORT, "--steps", "1", "--tokenizer", BUILT_IN_TOKENIZER
    )
    assert given.returncode == 0, given.stderr


# maderix/ANE, version 4

HEADER = struct.Struct("<10i2f3d6i")
D, F, L, H, V, S = 32, 48, 2, 4, 2048, 16


def maderix_file(path: Path, **changes: int) -> dict[str, np.ndarray]:
    """A random checkpoint after 30 of 200 micro-batches, 10 to an update; returns its arrays."""
    draw = np.random.default_rng(4)
    fields = {
        "magic": 0x424C5A54,
        "version": 4,
        "step": 30,
        "total": 200,
        "layers": L,
        "vocabulary": V,
        "dim": D,
        "ffn": F,
        "heads": H,
        "seq": S,
        "lr": 3e-4 * 30 / 100,  # its warm-up: 100 micro-batches
        "loss": 5.5,
        "compile": 0.0,
        "train": 1.0,
        "wall": 2.0,
        "steps_done": 30,
        "batches": 0,
        "updates": 3,
        "kv_heads": H,
        "head_dim": D // H,
        "q_dim": D,
    } | changes
    kinds = {
        "query": (D, D),
        "key": (D, D),
        "value": (D, D),
        "output": (D, D),
        "gate": (F, D),
        "down": (D, F),
        "up": (F, D),
        "attention_norm": (D,),
        "ffn_norm": (D,),
    }
    groups = [{f"layers.{n}.{k}": shape for k, shape in kinds.items()} for n in range(L)]
    groups += [{"norm": (D,)}, {"embedding": (V, D)}]
    saved: dict[str, np.ndarray] = {}
    with open(path, "wb") as file:
        file.write(HEADER.pack(*fields.values()))
        for group in groups:
            names = [("weights", name) for name in group]
            names += [(kind, n) for n in group for kind in ("first_moment", "second_moment")]
            for kind, name in names:
                array = (0.1 * draw.standard_normal(group[name])).astype(np.float32)
                array = np.abs(array) if kind == "second_moment" else array
                saved[f"{kind}/{name}"] = array
                array.tofile(file)
    return saved


def halves(array: np.ndarray) -> np.ndarray:
    """Rows 2i and 2i + 1 of each head as rows i and E/2 + i."""
    order = [h * (D // H) + i for h in range(H) for s in (0, 1) for i in range(s, D // H, 2)]
    return array[order]


def test_a_checkpoint_of_maderix_goes_on_with_moments_step_and_schedule(tmp_path: Path) -> None:
    saved = maderix_file(tmp_path / "ckpt.bin")
    run = trained(
        tmp_path,
        *("--init", "ckpt.bin", "--tokenizer", BUILT_IN_TOKENIZER, "--eval-every", "0"),
        *("--max-tokens", "1", "--out", "run"),
    )
    assert metrics(run, "step") == []
    (state,) = [json.loads(p.read_text()) for p in run.glob("checkpoints/step-*/state.json")]
    progress = state["values"]["progress"]
    assert (progress["step"], progress["updates"], progress["tokens"]) == (3, 3, 3 * 10 * S)
    for name, array in arrays(run).items():
        theirs = saved[name]
        theirs = halves(theirs) if name.endswith(("query", "key")) else theirs
        assert array.tobytes() == theirs.tobytes(), name
    config = (run / "config.toml").read_text()
    for line in ("accum = 10", "steps = 20", "warmup = 10", "lr = 0.0003", "seq = 16"):
        assert f"\n{line}\n" in config, line
    resumed = ane_train(tmp_path, "--resume", "run", "--max-tokens", "9999", "--stop-after", "2")
    assert resumed.returncode == 0, resumed.stderr
    steps = metrics(run, "step")
    assert [row["step"] for row in steps] == [4, 5]
    assert steps[0]["lr"] == pytest.approx(3e-4 * 4 / 10)


def test_adapters_stand_beside_the_weights_of_maderix_as_a_plain_model(tmp_path: Path) -> None:
    maderix_file(tmp_path / "ckpt.bin")
    run = trained(
        tmp_path,
        *("--init", "ckpt.bin", "--tokenizer", BUILT_IN_TOKENIZER, *SHORT),
        *("--lora-rank", "2", "--steps", "1", "--out", "run"),
    )
    assert [row["step"] for row in metrics(run, "step")] == [1]
    base, weights = load_file(run / "base.safetensors"), loaded(open_source(tmp_path / "ckpt.bin"))
    for name, array in base.items():
        assert array.tobytes() == weights[name].tobytes(), name


def test_weights_of_maderix_are_a_plain_model_to_others(tmp_path: Path) -> None:
    saved = maderix_file(tmp_path / "ckpt.bin")
    weights = loaded(open_source(tmp_path / "ckpt.bin"))
    alpha = np.float32(1 / math.sqrt(2 * L))
    assert np.array_equal(weights["layers.1.down"], saved["weights/layers.1.down"] * alpha)
    assert np.array_equal(weights["layers.1.up"], saved["weights/layers.1.up"])


BAD_CHECKPOINTS: dict[str, tuple[dict[str, int], str]] = {
    "another version": ({"version": 3}, "of version 3; this program reads version 4"),
    "grouped queries": ({"kv_heads": 2}, "its weights are of no model"),
    "more layers than there are": ({"layers": 3}, "its header asks for"),
    "layers beyond reason": ({"layers": 1 << 23}, "must be a whole number from 1 to 4096"),
    "no heads": ({"kv_heads": 0}, "its header makes no sense"),
    "more updates than steps": ({"updates": 31}, "makes no sense"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_of_maderix_is_refused(name: str, tmp_path: Path) -> None:
    changes, message = BAD_CHECKPOINTS[name]
    maderix_file(tmp_path / "ckpt.bin", **changes)
    with pytest.raises((CheckpointError, ModelError), match=message):
        open_source(tmp_path / "ckpt.bin")


# the hub, by a stand-in of its client


@pytest.fixture
def hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, list[str]]]:
    """A package huggingface_hub that knows one model; returns what it is asked for."""
    asked: list[tuple[str, list[str]]] = []
    stand_in = tmp_path / "site" / "huggingface_hub"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(
        "asked = []\n"
        "def snapshot_download(name, allow_patterns, ignore_patterns):\n"
        "    asked.append((name, allow_patterns))\n"
        "    if name != 'owner/Small-Model':\n"
        "        raise RuntimeError('404 Client Error.\\n\\nRepository Not Found')\n"
        f"    return {str(model)!r}\n"
    )
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    importlib.invalidate_caches()
    package = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(package, "asked", asked)
    return asked


def test_models_of_the_hub_are_fetched_by_name(hub: list[tuple[str, list[str]]]) -> None:
    source = open_source("hf:owner/Small-Model")
    assert source.spec.name == "Small-Model"
    (asked,) = hub
    assert asked[0] == "owner/Small-Model"
    assert "*.safetensors" in asked[1]
    assert not any(pattern.endswith((".bin", ".pt", ".gguf")) for pattern in asked[1])
    with pytest.raises(
        CheckpointError, match=r"cannot fetch hf:owner/Other: 404 Client Error\. Re"
    ):
        open_source("hf:owner/Other")
    with pytest.raises(AneTrainError, match="write hf:owner/name"):
        open_source("hf:Small-Model")


# GGUF files of others


def test_a_gguf_brings_its_tokenizer(model: Path, tmp_path: Path) -> None:
    first = ane_train(tmp_path, "export", model, "--format", "gguf", "--out", "out")
    assert first.returncode == 0, first.stderr
    file = tmp_path / "out" / "Small-Model.gguf"
    cache = tmp_path / "cache"
    run = trained(
        tmp_path, "--init", file, *SHORT, "--steps", "1", "--out", "run", "--cache", cache
    )
    ours = tokenizer_of(open_source(run))
    assert ours is not None
    assert ours.decode(ours.encode("Call me Ishmael.")) == "Call me Ishmael."
    tokens = some_tokens(vocabulary=2048)
    assert np.array_equal(
        our_logits(open_source(file), tokens), our_logits(open_source(model), tokens)
    )
    os.unlink(file)
    assert len(parameters(open_source(run).spec)) == 24
