"""The configuration of a run: one frozen class in which every setting exists exactly once.

Flags, environment, configuration files, their schema and the documentation derive from its fields.
"""
# ruff: noqa: RUF009 (the defaults are made by dataclasses.field, one function further down)

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from ane_train.config_rules import ALL_LINEAR, DEFAULT_MODEL, contradiction
from ane_train.config_values import (
    DYNAMIC,
    NUMERICS,
    ByteSize,
    Duration,
    FilePath,
    FolderPath,
    LossScale,
    Names,
    ScheduleKind,
    Setting,
    TokenDtype,
    coerce,
    setting_of,
)
from ane_train.errors import ConfigError

ENVIRONMENT_PREFIX = "ANE_TRAIN_"
NOT_SETTINGS = frozenset({"ANE_TRAIN_DEBUG"})  # variables of the program that no run depends on
NEW_RUN_ONLY = ("scratch", "resume", "out", "stop_after")  # of one process: never taken from a run
TRACKER_NAMES = ("tensorboard", "wandb", "trackio", "mlflow")
WIDEST_LEARNING_RATE = 2e-3
LONGEST_BY_DEFAULT = 256  # tokens of a sequence where weights with a long context are trained on


def _setting(group: str, default: object, help_text: str, **traits: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(group, help_text, **traits)})


_what = partial(_setting, "What is trained")
_length = partial(_setting, "Length")
_batch = partial(_setting, "Batches")
_rate = partial(_setting, "Learning rate")
_optimizer = partial(_setting, "Optimizer")
_precision = partial(_setting, "Precision")
_evaluation = partial(_setting, "Evaluation")
_output = partial(_setting, "Output and checkpoints")
_machine = partial(_setting, "Machine")
_tracking = partial(_setting, "Tracking")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that a run depends on. None means: by the rule that the help text states."""

    model: str = _what(
        DEFAULT_MODEL,
        "name of a model (`ane-train models` lists them) or path of a model file; "
        "in a run from --init what that was called",
        aliases=("weights", "hf-path", "base-model"),
    )
    init: str | None = _what(
        None,
        "weights to start from, and their architecture: a run, a Hugging Face folder, "
        "hf:owner/name, a .gguf, a .bin of llama2.c or maderix/ANE",
    )
    data: FilePath | None = _what(
        None,
        "text, .jsonl (text, prompt and completion, or messages), token shard or .bin of uint16; "
        "default: the built-in corpus",
        aliases=("dataset", "data-dir"),
    )
    tokenizer: FilePath | None = _what(
        None, "tokenizer.json; default: that of --init, or the built-in one"
    )
    token_dtype: TokenDtype | None = _what(
        None, "type of the tokens in a .bin file without a header", choices=get_args(TokenDtype)
    )
    valid_fraction: float = _what(
        0.05, "share of the data kept for validation", above=0, maximum=0.5
    )
    scratch: bool = _what(False, "start from random weights; refuses --resume")
    resume: FolderPath | None = _what(
        None, "go on with this run or checkpoint; alone: the latest run", bare="last"
    )
    cache: FolderPath | None = _what(
        None, "folder for text that was turned into tokens; default: the user's cache folder"
    )
    compact_vocab: bool = _what(
        False, "drop the rows of tokens that the data never uses (faster; other tokens are lost)"
    )

    freeze: Names = _what(
        (), "parameters that stay as they are: names or patterns, such as embedding,layers.[0-3].*"
    )
    lora_rank: int = _what(
        0,
        "train adapters of this rank beside the weights of --init; 0: train these",
        minimum=0,
        aliases=("lora-r",),
    )
    lora_alpha: float | None = _what(
        None, "adapters count alpha / rank; default: the rank", above=0
    )
    lora_targets: Names = _what(
        (ALL_LINEAR,),
        "matrices with adapters, such as q_proj,v_proj (PEFT's own default) or query,value; "
        "all-linear: all seven of a layer",
        aliases=("lora-target-modules",),
    )

    steps: int = _length(
        500,
        "optimizer steps, the horizon of the schedule; 0: no end",
        minimum=0,
        aliases=("iters", "num-iterations", "max-iters", "max-steps"),
    )
    stop_after: int | None = _length(
        None, "end this process after N steps, the schedule unchanged", above=0
    )
    max_time: Duration | None = _length(None, "stop after this time, such as 90s or 1h30m", above=0)
    max_tokens: int | None = _length(None, "stop after this many training tokens", above=0)
    patience: int = _length(
        0,
        "stop after N evaluations without a better loss; 0: never",
        minimum=0,
        aliases=("early-stopping-patience",),
    )
    min_delta: float = _length(0.0, "what counts as a better loss: lower by more than", minimum=0)

    batch_size: int = _batch(
        1,
        "sequences per micro-batch, side by side in an evaluation as far as the chip allows",
        above=0,
        aliases=("device-batch-size", "micro-batch-size"),
    )
    accum: int = _batch(
        1,
        "micro-batches per optimizer step",
        above=0,
        aliases=("grad-accumulation-steps", "gradient-accumulation-steps"),
    )
    seq: int | None = _batch(
        None,
        "tokens per sequence; default: the model's, of --init at most 256",
        above=0,
        aliases=("max-seq-length", "seq-len"),
    )
    seed: int = _batch(1337, "seed of weights and data order", minimum=0, below=2**63)

    lr: float | None = _rate(
        None,
        "peak; default: 3e-4 * sqrt(768 / dim), at most 2e-3",
        above=0,
        aliases=("learning-rate",),
    )
    min_lr: float | None = _rate(None, "where the schedule ends; default: lr / 10", minimum=0)
    warmup: int | None = _rate(
        None,
        "steps of linear warm-up; default: a tenth of the steps, at most 100",
        minimum=0,
        aliases=("warmup-steps", "warmup-iters"),
    )
    schedule: ScheduleKind = _rate(
        "cosine",
        "shape after the warm-up (constant if there is no end)",
        choices=get_args(ScheduleKind),
        aliases=("lr-schedule",),
    )
    decay_fraction: float = _rate(0.2, "share of the steps in which wsd decays", above=0, maximum=1)

    beta1: float = _optimizer(0.9, "AdamW: decay of the first moment", minimum=0, below=1)
    beta2: float = _optimizer(0.95, "AdamW: decay of the second moment", minimum=0, below=1)
    epsilon: float = _optimizer(1e-8, "AdamW: added to the denominator", above=0)
    weight_decay: float = _optimizer(0.1, "AdamW: decay of matrices", minimum=0)
    clip: float = _optimizer(
        1.0,
        "greatest global norm of the gradient; 0: unclipped",
        minimum=0,
        aliases=("grad-clip", "max-grad-norm"),
    )

    numerics: str = _precision(
        "fp16",
        "of the software engine; bf16: fp16 with products of bf16; hazard: with a chip's defects",
        choices=NUMERICS,
    )
    loss_scale: LossScale = _precision(DYNAMIC, '"dynamic" or a fixed number', above=0)
    residual_scale: str = _precision(
        "auto",
        "deepnet: branches times 1/sqrt(2 * layers); auto: deepnet for new weights",
        choices=("auto", "deepnet", "none"),
    )

    eval_every: int = _evaluation(
        100,
        "steps between evaluations; 0: never",
        minimum=0,
        aliases=("steps-per-eval", "eval-interval"),
    )
    eval_batches: int = _evaluation(
        8, "batches per evaluation", above=0, aliases=("val-batches", "eval-iters")
    )
    sample_every: int = _evaluation(
        0, "steps between samples, which go to samples.jsonl; 0: never", minimum=0
    )
    sample_prompts: Names = _evaluation(
        ("Once upon a time",), "what samples begin with: a list, or separated by commas"
    )
    sample_tokens: int = _evaluation(64, "tokens of a sample, at most", above=0)
    sample_temp: float = _evaluation(0.8, "temperature of samples; 0: greedy", minimum=0)
    log_every: int = _evaluation(
        10,
        "steps per printed line (metrics.jsonl has every step)",
        above=0,
        aliases=("steps-per-report", "log-interval"),
    )

    out: FolderPath | None = _output(
        None, "folder of the run; default: runs/<date>-<time>-<model>", aliases=("output-dir",)
    )
    save_every: int = _output(200, "steps between checkpoints; 0: only at the end", minimum=0)
    keep: int = _output(
        3,
        "checkpoints kept besides the best and the last",
        above=0,
        aliases=("keep-last-n-checkpoints",),
    )

    engine: str = _machine("auto", "where the programs run", choices=("auto", "ane", "cpu"))
    chip: str | None = _machine(
        None,
        "refuse programs that this chip refuses; its defects are those of --numerics hazard",
        choices=("m1", "m2", "m3", "m4", "m5"),
    )
    driver: FilePath | None = _machine(
        None, "library that drives the ANE; default: the one built with this package"
    )
    dispatch: str = _machine(
        "auto",
        "way of the ANE's evaluations; auto: what `doctor` found fastest, or else queue",
        choices=("auto", "queue", "direct", "realtime"),
    )
    pipeline: str = _machine(
        "dynamic",
        "weights as inputs of programs, or as constants, compiled anew after each step",
        choices=("dynamic", "static"),
    )
    delta: bool = _machine(
        False, "static: put new weights into compiled programs; refused where a test of it fails"
    )
    engine_extras: bool = _machine(
        False,
        "final norm, classifier, softmax and the backward of norms on the engine too (static only)",
    )
    compile_limit: int | None = _machine(
        None,
        "programs that a process may compile; default: none, or the chip's",
        above=0,
    )
    threads: int = _machine(0, "worker threads; 0: one per core", minimum=0)
    max_memory: ByteSize | None = _machine(
        None, "refuse to use more than this, such as 20GiB; default: what is free", above=0
    )

    report_to: Names = _tracking((), "trackers, such as wandb,tensorboard", choices=TRACKER_NAMES)
    project: str = _tracking("ane-train", "project in the trackers", aliases=("project-name",))
    run: str | None = _tracking(
        None, "name in the trackers; default: the folder's", aliases=("run-name",)
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one place, by field name or alias; `source` names the place in messages."""

    source: str
    values: Mapping[str, object]


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """The layer of the variables ANE_TRAIN_<FIELD>."""
    found = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS
    }
    return Layer(f"environment {ENVIRONMENT_PREFIX}*", found)


def run_layer(source: str, values: Mapping[str, object]) -> Layer:
    """The lowest layer of a resumed run: its own configuration without what was of one process."""
    return Layer(source, {key: values[key] for key in values if key not in NEW_RUN_ONLY})


def resolve(layers: Iterable[Layer] = ()) -> RunConfig:
    """The configuration that results from the layers, lowest first; pure.

    Raises ConfigError for an unknown key, a wrong value or settings that contradict each other.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(_coerced(layer))
    return _checked(RunConfig(**values))


def complete(config: RunConfig, *, dim: int, sequence: int) -> RunConfig:
    """`config` with the rules of lr, min_lr, warmup, schedule, seq, ... applied.

    dim, sequence: D and S of the model's file, or D and the context of --init. What `config` states
    is kept. The peak follows the width as 1/sqrt(D), anchored at 3e-4 for D = 768. Raises
    ConfigError where the result contradicts what is stated.
    """
    lr = config.lr
    if lr is None:
        lr = float(f"{min(3e-4 * math.sqrt(768 / dim), WIDEST_LEARNING_RATE):.3g}")
    if config.init is not None:
        sequence = min(sequence, LONGEST_BY_DEFAULT)
    scale = "deepnet" if config.init is None else "none"
    warmup = config.warmup
    if warmup is None:
        warmup = min(100, config.steps // 10) if config.steps else 100
    return _checked(
        dataclasses.replace(
            config,
            lr=lr,
            min_lr=lr / 10 if config.min_lr is None else config.min_lr,
            warmup=warmup,
            seq=config.seq or sequence,
            schedule=config.schedule if config.steps else "constant",
            residual_scale=scale if config.residual_scale == "auto" else config.residual_scale,
            lora_alpha=_lora_alpha(config),
        )
    )


def _lora_alpha(config: RunConfig) -> float | None:
    if config.lora_rank and config.lora_alpha is None:
        return float(config.lora_rank)
    return config.lora_alpha


def spellings(field_: dataclasses.Field[Any]) -> tuple[str, ...]:
    """All names by which a flag (or a key of a file) is known, the canonical one first."""
    dashed = (field_.name.replace("_", "-"), *setting_of(field_).aliases)
    return tuple(dict.fromkeys([*dashed, *(name.replace("-", "_") for name in dashed)]))


def _checked(config: RunConfig) -> RunConfig:
    problem = contradiction(config)
    if problem:
        raise ConfigError(problem)
    return config


def _coerced(layer: Layer) -> dict[str, Any]:
    fields = {field_.name: field_ for field_ in dataclasses.fields(RunConfig)}
    values: dict[str, Any] = {}
    for key, value in layer.values.items():
        name = _field_name(key, layer.source)
        if name in values:
            raise ConfigError(f"{layer.source}: {name} is given twice, once as {key}: keep one")
        values[name] = coerce(fields[name], value, layer.source)
    return values


def _field_name(key: str, source: str) -> str:
    names = {
        spelling: field_.name
        for field_ in dataclasses.fields(RunConfig)
        for spelling in spellings(field_)
    }
    if key in names:
        return names[key]
    from difflib import get_close_matches

    near = get_close_matches(key.replace("-", "_"), [n for n in names if "-" not in n], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `ane-train config docs` lists all"
    raise ConfigError(f"{source}: unknown setting {key}{hint}")
