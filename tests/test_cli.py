"""Rules of the command line: commands, flags of other tools, errors and exit codes."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from sample_events import ended, started, step

from ane_train import __version__, errors
from ane_train.cli import run
from ane_train.config import RunConfig, spellings
from ane_train.config_text import read_file, to_toml
from ane_train.errors import AneTrainError, ConfigError, DivergedError, ExitCode

HEAVY = ("numpy", "rich", "tokenizers", "safetensors", "cffi", "tqdm", "torch", "ane_train._native")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("ANE_TRAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class FakeLoop(ModuleType):
    """Stands for the training loop: keeps the configuration, sends events, ends as it is told."""

    def __init__(self):
        super().__init__("ane_train.train.loop")
        self.config = None
        self.reason = "finished"
        self.error = None

    def train(self, config, on_event, before_exit=None, former=None):
        self.config = config
        folder = Path("run")
        folder.mkdir(exist_ok=True)
        on_event(started(folder))
        on_event(step(1))
        if self.error is not None:
            raise self.error
        last = ended(folder, reason=self.reason)
        on_event(last)
        return last


@pytest.fixture
def loop(monkeypatch):
    fake = FakeLoop()
    monkeypatch.setitem(sys.modules, "ane_train.train.loop", fake)
    return fake


@pytest.fixture
def saved_run(monkeypatch, tmp_path):
    """A run's folder that `--resume` finds, with its own configuration."""
    config = RunConfig(model="stories15m", steps=77, lr=1e-3, scratch=True)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    fake = ModuleType("ane_train.storage.run_folder")
    folder = SimpleNamespace(config=path, path=tmp_path)
    fake.find = lambda resume: SimpleNamespace(run=folder, checkpoint=None)
    monkeypatch.setitem(sys.modules, "ane_train.storage.run_folder", fake)
    return tmp_path


def python(*arguments, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["config", "docs"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from ane_train.cli import run
assert run({arguments!r}) == 0
print(*set({HEAVY!r}) & set(sys.modules), file=sys.stderr)
"""
    assert python("-c", code).stderr.strip() == ""


def test_help_lists_the_commands_and_says_which_is_the_default(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("train", "models", "plan", "prepare", "doctor", "config"):
        assert f"\n  {command} " in text
    assert "Without a command this is `ane-train train`" in text
    assert "_ANE_TRAIN_COMPLETE=bash_source ane-train" in text


def test_help_shows_each_setting_once_by_its_first_name(capsys):
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for field in fields(RunConfig):
        assert text.count(f"\n  --{spellings(field)[0]} ") == 1, field.name
    assert "--learning-rate " not in text.split("What is trained")[1]
    assert "--infinite" not in text


def test_the_version_is_the_package_s(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "7"], ["train", "--steps", "7"], ["--steps=7"], ["--set", "steps=7"]],
)
def test_the_command_train_may_be_left_out(loop, arguments):
    assert run(arguments) == 0
    assert loop.config == RunConfig(steps=7)


def test_no_arguments_train_with_the_defaults(loop):
    assert run([]) == 0
    assert loop.config == RunConfig()


# What users of mlx-lm, nanoGPT, nanochat, litgpt, torchtune, axolotl and maderix/ANE type.
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--weights m", {"model": "m"}),
        ("--hf-path m", {"model": "m"}),
        ("--base_model m", {"model": "m"}),
        ("--dataset d", {"data": "d"}),
        ("--data-dir d", {"data": "d"}),
        ("--iters 9", {"steps": 9}),
        ("--num-iterations 9", {"steps": 9}),
        ("--max_iters 9", {"steps": 9}),
        ("--infinite", {"steps": 0}),
        ("--learning-rate 1e-4", {"lr": 1e-4}),
        ("--learning_rate 1e-4", {"lr": 1e-4}),
        ("--batch_size 2", {"batch_size": 2}),
        ("--device-batch-size 2", {"batch_size": 2}),
        ("--grad-accumulation-steps 2", {"accum": 2}),
        ("--max-seq-length 32", {"seq": 32}),
        ("--warmup-steps 5", {"warmup": 5}),
        ("--warmup_iters 5", {"warmup": 5}),
        ("--grad_clip 2", {"clip": 2.0}),
        ("--weight_decay 0", {"weight_decay": 0.0}),
        ("--min_lr 1e-5 --schedule wsd", {"min_lr": 1e-5, "schedule": "wsd"}),
        ("--steps-per-eval 5", {"eval_every": 5}),
        ("--val-batches 5", {"eval_batches": 5}),
        ("--steps-per-report 5", {"log_every": 5}),
        ("--keep-last-n-checkpoints 5", {"keep": 5}),
        ("--keep_last_n_checkpoints 5", {"keep": 5}),
        ("--early_stopping_patience 5 --min-delta 0.1", {"patience": 5, "min_delta": 0.1}),
        ("--project-name p --run r", {"project": "p", "run": "r"}),
        ("--output_dir o", {"out": "o"}),
        ("--init_from scratch", {"scratch": True}),
        ("--scratch --max-time 90s", {"scratch": True, "max_time": 90.0}),
        ("--max-tokens 1e6 --max-memory 2G", {"max_tokens": 10**6, "max_memory": 2 << 30}),
        ("--no-scratch --compact_vocab", {"compact_vocab": True}),
        ("--set batch-size=3 --set lr=1e-4", {"batch_size": 3, "lr": 1e-4}),
        ("--steps 5 --set steps=6", {"steps": 5}),
    ],
)
def test_the_flags_of_other_tools_are_understood(capsys, arguments, expected):
    assert run(["config", "print", *arguments.split()]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed == tomllib.loads(to_toml(RunConfig(**expected)))


@pytest.mark.parametrize(
    ("arguments", "names", "project"),
    [
        ("--wandb", ("wandb",), "ane-train"),
        ("--wandb whale", ("wandb",), "whale"),
        ("--report-to wandb,mlflow", ("wandb", "mlflow"), "ane-train"),
        ("--report-to wandb --report_to mlflow", ("wandb", "mlflow"), "ane-train"),
    ],
)
def test_trackers_are_named_in_several_ways(capsys, arguments, names, project):
    assert run(["config", "print", *arguments.split()]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (tuple(printed["report_to"]), printed["project"]) == (names, project)


@pytest.mark.parametrize("flag", ["--no-generate", "--no-powermetrics"])
def test_a_flag_without_effect_is_accepted_with_a_note(loop, capsys, flag):
    assert run([flag]) == 0
    assert capsys.readouterr().err.count("\n") == 1
    assert loop.config == RunConfig()


def test_dynamic_is_another_name_of_a_pipeline(loop):
    assert run(["--dynamic"]) == 0
    assert loop.config.pipeline == "dynamic"
    assert run(["--dynamic", "--pipeline", "static"]) == ExitCode.USAGE


def test_flags_win_over_the_environment_and_that_over_files(loop, monkeypatch, tmp_path):
    first, second = tmp_path / "a.toml", tmp_path / "b.json"
    first.write_text("steps = 1\naccum = 1\nseed = 1\nkeep = 1")
    second.write_text('{"accum": 2, "seed": 2, "keep": 2}')
    monkeypatch.setenv("ANE_TRAIN_SEED", "3")
    monkeypatch.setenv("ANE_TRAIN_KEEP", "3")
    assert run(["-c", str(first), "--config", str(second), "--keep", "4"]) == 0
    assert loop.config == RunConfig(steps=1, accum=2, seed=3, keep=4)


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "last"], ["--init-from=resume"]])
def test_a_resumed_run_has_its_own_settings(loop, saved_run, arguments):
    assert run([*arguments, "--stop-after", "5"]) == 0
    assert loop.config == RunConfig(
        model="stories15m", steps=77, lr=1e-3, resume=str(saved_run), stop_after=5
    )


def test_flags_win_over_the_settings_of_a_resumed_run(loop, saved_run):
    assert run(["--resume", str(saved_run), "--steps", "500"]) == 0
    assert (loop.config.steps, loop.config.lr) == (500, 1e-3)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("finished", 0),
        ("stopped", 0),
        ("max_time", 0),
        ("max_tokens", 0),
        ("patience", 0),
        ("interrupted", 130),
        ("terminated", 143),
    ],
)
def test_the_exit_code_says_why_a_run_ended(loop, reason, code):
    loop.reason = reason
    assert run([]) == code


def test_a_run_fills_its_folder_and_the_screen(loop, capsys, tmp_path):
    assert run([]) == 0
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [line["type"] for line in metrics] == ["start", "step", "end"]
    assert "loss 5.0000" in (tmp_path / "run/log.txt").read_text()
    printed = capsys.readouterr().out
    assert "loss 5.0000" in printed
    assert "\x1b" not in printed


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AneTrainError) and kind is not AneTrainError
]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_one_line_and_its_own_exit_code(loop, capsys, kind):
    loop.error = kind("this is wrong;\ndo that")
    assert run([]) == kind.exit_code
    assert capsys.readouterr().err == "error: this is wrong; do that\n"
    assert kind.exit_code not in (ExitCode.OK, ExitCode.BUG)


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_an_error_has_a_trace_when_asked_for(loop, capsys, monkeypatch, way):
    loop.error = DivergedError("too steep")
    if way == "variable":
        monkeypatch.setenv("ANE_TRAIN_DEBUG", "1")
    assert run(["--debug"] if way == "flag" else []) == ExitCode.DIVERGED
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_has_a_trace_and_asks_for_a_report(loop, capsys):
    loop.error = ZeroDivisionError()
    assert run([]) == ExitCode.BUG
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "please report it" in text.splitlines()[-1]


def test_running_out_of_memory_is_no_bug(loop, capsys):
    loop.error = MemoryError()
    assert run([]) == ExitCode.MEMORY
    assert capsys.readouterr().err.startswith("error: out of memory")


def test_an_interrupt_exits_with_130(loop, capsys):
    loop.error = KeyboardInterrupt()
    assert run([]) == ExitCode.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--stepz 5", "--steps"),
        ("trian", "train"),
        ("--schedule cosin", "--schedule: 'cosin' is not one of"),
        ("--lr", "requires an argument"),
        ("--lr fast", "lr = fast: must be a number"),
        ("--set lr", "write --set key=value"),
        ("--set lerning_rate=1", "did you mean learning_rate?"),
        ("--init-from gpt2", "choose from scratch, resume"),
        ("--infinite --steps 5", "--infinite means steps = 0"),
        ("--scratch --resume", "give one of them"),
        ("--report-to wandb,foo", "choose from tensorboard, wandb"),
        ("-c none.toml", "none.toml: cannot be read"),
    ],
)
def test_a_misuse_is_one_line_and_exit_code_2(loop, capsys, arguments, said):
    assert run(arguments.split()) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert said in text
    assert text.count("\n") == 1


def test_a_missing_tracker_is_said_before_anything_is_done(loop, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(["--report-to", "wandb"]) == ExitCode.USAGE
    assert "pip install wandb" in capsys.readouterr().err
    assert loop.config is None


def test_config_check_reads_files(capsys, tmp_path):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("steps = 5")
    bad.write_text("stepps = 5")
    assert run(["config", "check", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: good\n"
    assert run(["config", "check", str(good), str(bad)]) == ExitCode.USAGE
    assert "did you mean steps?" in capsys.readouterr().err


def test_config_print_can_be_read_again(capsys, tmp_path):
    assert run(["config", "print", "--steps", "9"]) == 0
    file = tmp_path / "run.toml"
    file.write_text(capsys.readouterr().out)
    assert run(["config", "print", "-c", str(file)]) == 0
    file.write_text(capsys.readouterr().out)
    assert read_file(file).values["steps"] == 9


def test_config_schema_is_json(capsys):
    assert run(["config", "schema"]) == 0
    assert "steps" in json.loads(capsys.readouterr().out)["properties"]


def test_models_lists_what_can_be_trained(capsys):
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["name"][:3] == ["name", "parameters", "layers"]
    assert rows["stories110m"][1:6] == ["109.5M", "12", "768", "12/12", "256"]
    assert rows["qwen3_06b"][1:6] == ["596.0M", "28", "1024", "16/8", "256"]
    assert {"tiny", "stories15m"} <= rows.keys()
    assert text.isascii()


def test_prepare_writes_shards_and_says_how_to_use_them(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Call me Ishmael. Some years ago, never mind how long precisely.\n" * 2000)
    assert run(["prepare", str(text), "--out", str(tmp_path / "shards")]) == 0
    printed = capsys.readouterr()
    assert (tmp_path / "shards" / "train.tokens").exists()
    assert f"ane-train --data {tmp_path / 'shards'}" in printed.out
    assert printed.err == ""
    assert run(["prepare", str(text), "--out", str(tmp_path / "shards")]) == ExitCode.DATA
    assert run(["prepare", str(text), "--out", str(tmp_path / "shards"), "--force"]) == 0


def complete(words, incomplete):
    environment = os.environ | {
        "_ANE_TRAIN_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join([*words, incomplete]),
        "COMP_CWORD": str(len(words)),
    }
    output = python("-m", "ane_train", env=environment).stdout
    return {line.partition(",")[2] for line in output.splitlines()}


def test_the_shell_completes_commands_flags_and_names():
    assert complete(["ane-train"], "") == {
        "train", "generate", "evaluate", "models", "plan", "prepare", "export", "doctor", "explore",
        "bench", "config",
    }  # fmt: skip
    assert "--model" in complete(["ane-train"], "--mod")
    assert "--help" in complete(["ane-train"], "--he")
    assert complete(["ane-train", "--engine"], "c") == {"cpu"}
    assert "stories110m" in complete(["ane-train", "--model"], "stories")


def test_the_shell_s_completion_script_is_there():
    environment = os.environ | {"_ANE_TRAIN_COMPLETE": "bash_source"}
    assert "_ANE_TRAIN_COMPLETE=bash_complete" in python("-m", "ane_train", env=environment).stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["config", "docs"], ["models"], ["plan"], ["doctor"]]
)
def test_a_closed_pipe_ends_a_command_quietly(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ane_train", *arguments]
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.stderr == ""
    assert done.returncode == 141


def test_text_that_the_terminal_cannot_encode_is_no_error():
    code = "from ane_train.cli import run; run(['--version']); print('\\u0436')"
    done = python("-c", code, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "?")


def test_config_errors_are_usage_errors():
    assert ConfigError.exit_code == ExitCode.USAGE == 2
