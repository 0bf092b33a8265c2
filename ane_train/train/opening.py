"""Opening a run, new or resumed: every check comes before anything big is allocated."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ane_train.config import RunConfig, complete
from ane_train.config_text import to_toml
from ane_train.data.batches import Compaction
from ane_train.data.files import default_cache
from ane_train.data.source import DataSource, open_data
from ane_train.engine import Engine, EngineOptions, check_delta, likely_chip, open_engine
from ane_train.errors import CheckpointError, ConfigError, EngineError, MemoryLimitError
from ane_train.interop.companions import TOKENIZER, companions_of
from ane_train.interop.hub import PREFIX
from ane_train.interop.run_source import lora_of_run, model_of_run, residual_scale
from ane_train.interop.source import WeightSource, open_source
from ane_train.mil import verify
from ane_train.model.adapters import Lora
from ane_train.model.layer import layer_shape
from ane_train.model.memory import available, estimate
from ane_train.model.parameters import matching, parameters
from ane_train.model.spec import ModelSpec, load_model
from ane_train.model.spec import to_toml as to_model_file
from ane_train.programs import LayerShape, sequences_per_evaluation
from ane_train.storage.checkpoint import read_state, require_model
from ane_train.storage.checkpoint_store import CheckpointStore
from ane_train.storage.run_folder import Resumed, RunFolder, create, find
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.restart import MARKER
from ane_train.train.samples import check_prompts
from ane_train.train.schedule import Schedule
from ane_train.train.session import Parts, Session
from ane_train.train.starting import require_start, start_from, tokenizer_file
from ane_train.train.step import TrainingStep


@dataclass(frozen=True, slots=True)
class _Run:
    """What is asked for, read and checked; nothing big is allocated yet."""

    config: RunConfig  # complete, with absolute paths
    resumed: Resumed | None
    origin: WeightSource | None
    whole: ModelSpec
    spec: ModelSpec  # with the vocabulary of --compact-vocab
    data: DataSource
    compaction: Compaction | None
    frozen: frozenset[str]
    lora: Lora | None


def open_session(config: RunConfig, going_on: Path | None = None) -> tuple[Session, list[str]]:
    """The session that `config` describes, and warnings for the user.

    `going_on` is the folder of the run that this process was training before it restarted. Raises
    the error of whatever does not fit: model, data, memory, engine, folder, checkpoint. A new run's
    folder is made last, so that none is left of a run that never began.
    """
    asked = _read(config, going_on)
    with ExitStack() as stack:
        place, checkpoint = None, None
        if asked.resumed is not None:
            place = _claim(stack, asked.resumed.run, asked.config)
            checkpoint = _checkpoint(asked.resumed, place[1], asked.spec)
        memory_available = check_memory(asked.config, asked.spec)
        engine = _engine(asked.config)
        stack.callback(engine.close)
        step = _step(stack, asked, engine)
        run, store = place or _claim(stack, _new_folder(asked), asked.config)
        parts = Parts(asked.config, asked.spec, asked.data, asked.compaction, engine, run, store)
        session = Session(parts, step, _schedule(asked.config))
        stack.callback(session.saver.close)
        session.memory_available = memory_available
        warnings = [] if going_on else [*asked.data.warnings, *_refusals(step, engine)]
        warnings += _begin(session, checkpoint, asked.origin)
        if going_on is None:
            run.write_config(to_toml(asked.config))
        session.resources = stack.pop_all()
    return session, warnings


def _read(config: RunConfig, going_on: Path | None) -> _Run:
    resumed = _resumed(config, going_on)
    origin = open_source(config.init) if config.init and resumed is None else None
    whole = spec = _model(config, resumed, origin)
    config = _located(complete(config, dim=spec.dim, sequence=spec.sequence))
    if origin is not None:
        require_start(config, origin)
        config = replace(config, model=spec.name)
    data, compaction = _data(config, spec, _tokenizer(config, resumed, origin))
    if compaction is not None:
        spec = replace(spec, vocabulary=compaction.size)
    frozen, lora = _frozen(config, spec), lora_of_run(config, spec)
    check_prompts(config, data.tokenizer, compaction, _sequence(config))
    return _Run(config, resumed, origin, whole, spec, data, compaction, frozen, lora)


def _step(stack: ExitStack, asked: _Run, engine: Engine) -> TrainingStep:
    config, spec = asked.config, asked.spec
    if config.delta:
        _require_delta(engine)
    step = TrainingStep(
        spec,
        engine,
        _sequence(config),
        residual_scale=residual_scale(config, spec),
        pipeline=_pipeline(config, spec),
        lora=asked.lora,
    )
    stack.callback(step.close)
    step.frozen = asked.frozen
    return step


def _resumed(config: RunConfig, going_on: Path | None) -> Resumed | None:
    if going_on is not None:
        return Resumed(RunFolder(going_on), None)
    return None if config.resume is None else find(config.resume)


def _model(config: RunConfig, resumed: Resumed | None, origin: WeightSource | None) -> ModelSpec:
    if origin is not None:
        return origin.spec
    if resumed is not None and config.init is not None:
        return model_of_run(resumed.run, config)
    return load_model(config.model)


def _new_folder(asked: _Run) -> RunFolder:
    """A folder with its own copies of what the run needs besides the data: model and tokenizer."""
    out, origin = asked.config.out, asked.origin
    run = create(asked.spec.name, out=Path(out) if out else None)
    run.write_model(to_model_file(asked.whole))
    if asked.data.tokenizer is not None:
        given = {} if origin is None else origin.companions
        run.write_tokenizer({**given, **companions_of(asked.data.tokenizer.path)})
    return run


def _tokenizer(
    config: RunConfig, resumed: Resumed | None, origin: WeightSource | None
) -> Path | None:
    """The one that is asked for, or that came with the weights, or a resumed run's own copy."""
    given = Path(config.tokenizer) if config.tokenizer else None
    if origin is not None and given is None:
        return tokenizer_file(origin, Path(config.cache) if config.cache else default_cache())
    if resumed is None or (given is not None and given.exists()):
        return given
    own = resumed.run.tokenizer / TOKENIZER
    return own if own.is_file() else given


def _claim(
    stack: ExitStack, run: RunFolder, config: RunConfig
) -> tuple[RunFolder, CheckpointStore]:
    """Locks the folder until `stack` is closed and repairs what a crash left in it."""
    stack.enter_context(run.locked())
    (run.path / MARKER).unlink(missing_ok=True)
    return run, CheckpointStore.open(run.checkpoints, config.keep)


def _located(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths, so that a run can be resumed from any folder."""
    names = [
        "data",
        "tokenizer",
        "cache",
        "driver",
        *(["model"] if config.init is None and config.model.endswith(".toml") else []),
        *(["init"] if config.init and not config.init.startswith(PREFIX) else []),
    ]
    paths = {name: getattr(config, name) for name in names}
    return replace(config, **{name: os.path.abspath(path) for name, path in paths.items() if path})


def _frozen(config: RunConfig, spec: ModelSpec) -> frozenset[str]:
    """Names of the parameters that --freeze means; ConfigError if none is left to train."""
    table = parameters(spec)
    frozen = matching(table, config.freeze)
    if len(frozen) == len(table):
        raise ConfigError("--freeze leaves nothing to train: give fewer patterns")
    return frozen


def _sequence(config: RunConfig) -> int:
    assert config.seq is not None, "the configuration is complete"
    return config.seq


def _evaluation(config: RunConfig, spec: ModelSpec) -> LayerShape:
    """A layer with as many sequences of a micro-batch side by side as the chip takes."""
    shape, static = layer_shape(spec, _sequence(config)), config.pipeline == "static"
    sequences = sequences_per_evaluation(shape, config.batch_size, config.chip, static=static)
    return replace(shape, batch=sequences)


def _pipeline(config: RunConfig, spec: ModelSpec) -> PipelineOptions:
    sequences = _evaluation(config, spec).batch
    return PipelineOptions(config.pipeline, config.engine_extras, config.delta, sequences)


def _refusals(step: TrainingStep, engine: Engine) -> list[str]:
    """What an ANE would refuse as far as is known, unless a --chip held."""
    if engine.name == "ane" or engine.chip is not None:
        return []
    chip = likely_chip(default_cache())
    findings = (find for layout in step.pipeline.programs for find in verify(layout.program, chip))
    reasons = {find.reason: find for find in findings if find.severity == "refuse"}
    first = [f"{find.subject} {find.reason}" for find in list(reasons.values())[:1]]
    return [f"an ANE ({chip.name}) would refuse these programs: {text}" for text in first]


def _checkpoint(resumed: Resumed, store: CheckpointStore, spec: ModelSpec) -> Path:
    """The checkpoint to load, of which the model is known to be the right one."""
    checkpoint = resumed.checkpoint or store.last()
    if checkpoint is None:
        raise CheckpointError(f"{resumed.run.path} has no checkpoint; start again with --scratch")
    require_model(read_state(checkpoint), checkpoint, spec.fingerprint)
    return checkpoint


def _begin(session: Session, checkpoint: Path | None, origin: WeightSource | None) -> list[str]:
    if checkpoint is None:
        if origin is None:
            session.step.initialize(session.parts.config.seed)
        else:
            start_from(session, origin)
        session.parts.store.require_space(session.tensors(), "the first checkpoint")
        warnings = []
    else:
        warning = session.load(checkpoint)
        warnings = [warning] if warning else []
    return warnings


def _data(
    config: RunConfig, spec: ModelSpec, tokenizer: Path | None
) -> tuple[DataSource, Compaction | None]:
    data = open_data(
        Path(config.data) if config.data else None,
        tokenizer=tokenizer,
        vocabulary=spec.vocabulary,
        sequence=_sequence(config),
        valid_fraction=config.valid_fraction,
        token_dtype=config.token_dtype,
        cache_dir=Path(config.cache) if config.cache else default_cache(),
    )
    if not config.compact_vocab:
        return data, None
    return data, Compaction.from_tokens([data.train, data.valid], spec.vocabulary)


def memory_needed(config: RunConfig, spec: ModelSpec) -> int:
    """Bytes that a run of `config` takes."""
    return estimate(
        spec,
        _evaluation(config, spec),
        config.numerics,
        config.pipeline,
        extras=config.engine_extras,
        lora=lora_of_run(config, spec),
        threads=config.threads,
    ).total


def check_memory(config: RunConfig, spec: ModelSpec) -> int:
    """Bytes that are free, or --max-memory; MemoryLimitError if the run needs more."""
    needed = memory_needed(config, spec)
    there = available() if config.max_memory is None else config.max_memory
    if needed > there:
        limit = "is free" if config.max_memory is None else "is allowed (--max-memory)"
        raise MemoryLimitError(
            f"training {spec.name} with --seq {config.seq} needs {needed / 2**30:.1f} GiB of "
            f"memory, {there / 2**30:.1f} GiB {limit}; use a smaller model, a smaller --seq, a "
            "smaller --batch-size with more --accum, or --compact-vocab"
        )
    return there


def _engine(config: RunConfig) -> Engine:
    return open_engine(
        EngineOptions(
            kind=config.engine,
            numerics=config.numerics,
            chip=config.chip,
            threads=config.threads,
            compile_limit=config.compile_limit or 0,
            driver=config.driver,
            dispatch=None if config.dispatch == "auto" else config.dispatch,
            profiles=default_cache(),
        )
    )


def _require_delta(engine: Engine) -> None:
    problem = check_delta(engine.context)
    if problem:
        raise EngineError(f"--delta cannot be used here: {problem}; leave it out")


def _schedule(config: RunConfig) -> Schedule:
    assert config.lr is not None, "the configuration is complete"
    return Schedule(
        kind=config.schedule,
        peak=config.lr,
        minimum=config.min_lr or 0.0,
        warmup=config.warmup or 0,
        steps=config.steps,
        decay_fraction=config.decay_fraction,
    )
