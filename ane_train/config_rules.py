"""What settings go together: rules over a whole configuration, pure and in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ane_train.config import RunConfig

DEFAULT_MODEL = "tiny"
ALL_LINEAR = "all-linear"  # PEFT's word for every matrix of a layer


def contradiction(config: RunConfig) -> str | None:
    """What does not go together in `config` and what to do, in one line; None if all does."""
    if config.scratch and config.resume is not None:
        return "--scratch starts anew and --resume goes on: give one of them"
    if config.scratch and config.init is not None:
        return "--scratch starts from random weights and --init from given ones: give one of them"
    if config.init is not None and config.model != DEFAULT_MODEL:
        return "the architecture is that of --init: leave out --model"
    if config.out is not None and config.resume is not None:
        return "a resumed run goes on in its own folder: leave out --out"
    if config.min_lr is not None and config.lr is not None and config.min_lr > config.lr:
        return f"min_lr {config.min_lr:g} is more than lr {config.lr:g}: lower --min-lr"
    if config.steps and config.warmup is not None and config.warmup > config.steps:
        return f"warmup {config.warmup} is more than steps {config.steps}: lower --warmup"
    if config.patience and not config.eval_every:
        return "--patience counts evaluations and --eval-every is 0: give it a number of steps"
    if config.engine == "ane" and config.numerics != "fp16":
        return f"the ANE computes in fp16: --numerics {config.numerics} needs --engine cpu"
    for flag, given in (("engine-extras", config.engine_extras), ("delta", config.delta)):
        if given and config.pipeline != "static":
            return f"--{flag} needs weights as constants: add --pipeline static"
    return None
