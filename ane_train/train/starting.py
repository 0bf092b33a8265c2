"""Starting a run from weights that were trained before, here or elsewhere."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ane_train.config import RunConfig
from ane_train.config_rules import DEFAULT_MODEL
from ane_train.data.files import find_inputs, writing
from ane_train.data.tokenizer import BUILT_IN_TEXT
from ane_train.errors import ConfigError, DataError
from ane_train.interop.companions import TOKENIZER
from ane_train.interop.maderix import MaderixSource
from ane_train.interop.source import WeightSource, load_weights
from ane_train.storage import durable
from ane_train.train.session import Session


def require_start(config: RunConfig, origin: WeightSource) -> None:
    """Refuses what `origin` does not go with, before anything is allocated."""
    if config.model not in (DEFAULT_MODEL, origin.spec.name):
        raise ConfigError("the architecture is that of --init: leave out --model")
    if config.residual_scale == "deepnet" and not isinstance(origin, MaderixSource):
        raise ConfigError(
            f"the weights of {config.init} are of a model without a factor on its residual: leave "
            "out --residual-scale"
        )
    if origin.kept is not None:
        raise ConfigError(
            f"{config.init} was trained with --compact-vocab: go on with it by --resume instead"
        )
    if config.tokenizer or TOKENIZER in origin.companions:
        return
    if find_inputs(Path(config.data) if config.data else BUILT_IN_TEXT).kind == "text":
        raise DataError(
            f"{config.init} comes without a tokenizer: give the model's tokenizer.json "
            "(--tokenizer), or data that is tokens already"
        )


def tokenizer_file(origin: WeightSource, cache: Path) -> Path | None:
    """The tokenizer.json that came with the weights, and its companions beside it; None if none.

    Where the source is no folder they are written into one of the cache. DiskError.
    """
    content = origin.companions.get(TOKENIZER)
    beside = origin.path / TOKENIZER
    if content is None or beside.is_file():
        return None if content is None else beside
    folder = cache / f"tokenizer-{sha256(repr(origin.companions).encode()).hexdigest()[:32]}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, companion in origin.companions.items():
            durable.replace_file(folder / name, companion)
    return folder / TOKENIZER


def start_from(session: Session, origin: WeightSource) -> None:
    """Fills the session's weights from `origin`, and moments and progress where it has them."""
    step, parts = session.step, session.parts
    kept = None if parts.compaction is None else parts.compaction.new_to_old.tolist()
    if isinstance(origin, MaderixSource) and parts.config.residual_scale == "deepnet":
        arenas = (step.weights, step.first_moment, step.second_moment)
        for kind, arena in zip(("weights", "first_moment", "second_moment"), arenas, strict=True):
            load_weights(origin.raw(kind), step.table, arena, kept)
        done, config = origin.updates, parts.config
        session.progress = replace(
            session.progress,
            step=done,
            updates=done,
            tokens=done * config.accum * config.batch_size * session.sequence,
        )
    else:
        load_weights(origin, step.table, step.weights, kept)
    if step.adapters:
        session.begin_adapters()
    step.refresh()
