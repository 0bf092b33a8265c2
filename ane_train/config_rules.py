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
    return _lora_contradiction(config)


def _lora_contradiction(config: RunConfig) -> str | None:
    if config.resume is not None and config.init is None:
        return None  # what the run itself says comes later, or it has no adapters
    if not config.lora_rank:
        for flag, given in (
            ("alpha", config.lora_alpha is not None),
            ("targets", config.lora_targets != (ALL_LINEAR,)),
        ):
            if given:
                return f"--lora-{flag} is of adapters: add --lora-rank"
        return None
    if config.init is None:
        return "--lora-rank trains adapters of weights that are there: add --init"
    if config.freeze:
        return "with --lora-rank all but the adapters stays as it is: leave out --freeze"
    if config.compact_vocab:
        return (
            "adapters trained with --compact-vocab would not know the tokens that it drops, which "
            "their model still has: leave it out"
        )
    if config.residual_scale == "deepnet":
        return "adapters are those of a model without a factor: leave out --residual-scale"
    return None
