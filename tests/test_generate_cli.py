"""The commands generate and evaluate: text on stdout, the rest on stderr, clean ends, clear errors.

Texts and losses are compared with transformers' on a checkpoint that transformers saved.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import new_model
from runs import ane_train, command, environment, trained

from ane_train.cli import run
from ane_train.data.tokenizer import BUILT_IN_TOKENIZER, built_in_tokenizer

PROMPT = "Call me Ishmael, naïve? 🙂"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as transformers saves it with the built-in tokenizer, and the model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = new_model("qwen3 untied", vocabulary=2048)
    model.save_pretrained(folder)
    shutil.copy(BUILT_IN_TOKENIZER, folder / "tokenizer.json")
    return folder, model


def greedy_text(model: Any, prompt: str, count: int) -> str:
    tokenizer = built_in_tokenizer()
    ids = torch.from_numpy(tokenizer.encode(prompt).astype(np.int64))[None]
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=tokenizer.end_of_text,
            pad_token_id=0,
        )
    text = tokenizer.decode(out[0].tolist())
    assert text.startswith(prompt)
    return text[len(prompt) :]


def test_stdout_carries_the_text_alone_and_it_is_transformers_text(
    checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = checkpoint
    options = ("--temp", 0, "--max-tokens", 40, "--numerics", "fp32", "--engine", "cpu")
    result = ane_train(
        tmp_path, "generate", "--model", folder, "--prompt", PROMPT, *options, "--json", "r.json"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == greedy_text(model, PROMPT, 40)
    assert "40 tokens after" in result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["text"] == result.stdout
    assert report["reason"] == "max_tokens"
    assert report["prompt"] == PROMPT
    assert len(report["tokens"]) == 40


def test_a_seed_gives_the_same_text_again_and_the_report_may_go_to_stdout(
    checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = checkpoint
    (tmp_path / "prompt.txt").write_text(PROMPT)
    options = ("--max-tokens", 20, "--temp", 1.5, "--top-k", 40, "--int8", "--json", "-")
    first = ane_train(
        tmp_path, "generate", "--model", folder, "--prompt-file", "prompt.txt", *options
    )
    report = json.loads(first.stdout)
    assert report["text"] in first.stderr
    assert report["int8"]
    again = ane_train(
        tmp_path, "generate", "--model", folder, "--prompt", PROMPT, *options,
        "--seed", report["seed"],
    )  # fmt: skip
    assert json.loads(again.stdout)["text"] == report["text"]


def test_a_stop_string_ends_the_text_before_it(
    checkpoint: tuple[Path, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, model = checkpoint
    whole = greedy_text(model, PROMPT, 40)
    stop = whole[10:14]
    options = ["--temp", "0", "--max-tokens", "40", "--numerics", "fp32", "--stop", stop]
    assert run(["generate", "--model", str(folder), "--prompt", PROMPT, *options, "--echo"]) == 0
    assert capfd.readouterr().out == PROMPT + whole[: whole.index(stop)]


def test_ctrl_c_ends_a_generation_with_130_and_a_closed_pipe_with_141(
    checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = checkpoint
    model = tmp_path / "long"
    shutil.copytree(folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    arguments = command("generate", "--model", model, "--prompt", "a", "--max-tokens", 8000)
    for close in (False, True):
        process = subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        if close:
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == (141 if close else 130), errors
        assert errors.strip() == ("" if close else "interrupted")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "x", "--model", "nowhere"], 5, "cannot read nowhere: No such file"),
        ([], 2, "give one of --prompt TEXT and --prompt-file FILE"),
        (["--prompt", "x", "--top-p", "2"], 2, "--top-p is above 0 and at most 1"),
        (["--prompt", "x", "--context", "999"], 2, "--context 999 is more than the 128 tokens"),
        (["--prompt", "x " * 200], 4, "the prompt has 400 tokens, and the context holds 128"),
        (["--prompt-file", "missing.txt"], 4, "cannot read missing.txt: No such file"),
        (["--prompt", "x", "--tokenizer", "none.json"], 4, "none.json"),
        (["--prompt", "x", "--compile-limit", "1"], 8, "two programs, for its prompt and for each"),
        (["--prompt", "x", "--json", "no/where.json", "--max-tokens", "1"], 7, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    checkpoint: tuple[Path, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = [] if "--model" in arguments else ["--model", str(checkpoint[0])]
    assert run(["generate", *model, *arguments]) == code
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_trained_run_generates_and_is_evaluated(tmp_path: Path) -> None:
    trained(tmp_path, "--model", "tiny", "--seq", 32, "--steps", 3, "--compact-vocab",
            "--eval-every", 0, "--out", "run")  # fmt: skip
    result = ane_train(tmp_path, "generate", "--model", "run", "--prompt", "The whale ",
                       "--max-tokens", 8, "--temp", 0)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout
    (tmp_path / "text.txt").write_text("The whale, the white whale.\n" * 20)
    result = ane_train(tmp_path, "evaluate", "--model", "run/checkpoints/last", "--data",
                       "text.txt", "--json", "-")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout)["bits_per_byte"] < 20


def transformers_loss(model: Any, tokens: np.ndarray, context: int, stride: int) -> float:
    """The mean over all tokens but the first, window by window with masked labels."""
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        labels = ids[:, begin:end].clone()
        labels[:, : before - begin] = -100
        labels[:, 0] = -100
        scored = int((labels != -100).sum())
        if scored:
            with torch.no_grad():
                loss = model(input_ids=ids[:, begin:end], labels=labels).loss
            total, count = total + float(loss) * scored, count + scored
        before = end
        if end == len(tokens):
            break
    assert count == len(tokens) - 1
    return total / count


@pytest.mark.parametrize(("context", "stride"), [(128, 128), (64, 16), (65, 64), (16, 5)])
def test_evaluation_with_a_stride_is_the_one_by_transformers(
    context: int, stride: int, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    """Our windows hold one token more, since the last one is only predicted."""
    folder, model = checkpoint
    text = Path(__file__).read_text()[:700]
    (tmp_path / "text.txt").write_text(text)
    report = tmp_path / "report.json"
    options = ["--context", str(context - 1), "--stride", str(min(stride, context - 1))]
    options += ["--numerics", "fp32", "--json", str(report)]
    assert run(["evaluate", "--model", str(folder), "--data", str(tmp_path / "text.txt"),
                *options]) == 0  # fmt: skip
    found = json.loads(report.read_text())
    tokens = built_in_tokenizer().encode(text)
    expected = transformers_loss(model, tokens, context, min(stride, context - 1))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(expected), rel=1e-4)
    first = len(built_in_tokenizer().decode(tokens[:1]).encode())
    size = len(text.encode()) - first
    assert found["bytes"] == size
    bits = expected * (len(tokens) - 1) / np.log(2) / size
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_each_document_of_json_lines_is_predicted_from_its_own_beginning(
    checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = checkpoint
    texts = ["One document of some length.", "x", "Another, which knows nothing of the first."]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines)
    report = tmp_path / "report.json"
    assert run(["evaluate", "--model", str(folder), "--data", str(tmp_path / "texts.jsonl"),
                "--numerics", "fp32", "--json", str(report)]) == 0  # fmt: skip
    counted = [built_in_tokenizer().encode(text) for text in (texts[0], texts[2])]
    losses = [transformers_loss(model, tokens, 128, 128) for tokens in counted]
    weights = [len(tokens) - 1 for tokens in counted]
    found = json.loads(report.read_text())
    assert found["tokens"] == sum(weights)
    assert found["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_help_of_the_new_commands_is_instant_since_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, ane_train.cli;"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'ane_train.generate')))"
    )
    assert (
        subprocess.run([command()[0], "-c", code], env=environment(), check=False).returncode == 0
    )
