"""`ane-train train`: resolve the configuration, attach the listeners, run the loop."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ane_train.cli.options import RunCommand, config_of, note_ignored, run_options
from ane_train.errors import ConfigError, EngineError, ExitCode
from ane_train.threads import without_signals

if TYPE_CHECKING:
    from ane_train.config import RunConfig
    from ane_train.metrics.events import Broadcast
    from ane_train.train.restart import Restart

_EXIT_CODES = {
    "interrupted": ExitCode.INTERRUPTED,
    "terminated": ExitCode.TERMINATED,
    "diverged": ExitCode.DIVERGED,
}


@click.command("train", cls=RunCommand, params=run_options())
@click.pass_context
def command(ctx: click.Context, /, **parameters: Any) -> None:
    """Train a model.

    Settings come from files (-c), from variables ANE_TRAIN_<NAME> and from flags; later ones win.
    Others' spellings (--iters, --learning-rate, ...) are understood: `ane-train config docs`.
    """
    with without_signals():
        importlib.import_module("numpy")  # its BLAS has threads
    former = _former(parameters["resume"])
    if former is None:
        note_ignored(parameters)
        config = run_config(parameters)
    else:
        config = _own_config(former.folder)
    from ane_train.cli.screen import show_cursor
    from ane_train.train.loop import train
    from ane_train.train.restart import Restart

    with closing(_listeners(config)) as on_event:
        ended = train(config, on_event, before_exit=show_cursor, former=former)
        if isinstance(ended, Restart):
            ended = dataclasses.replace(ended, memory=on_event.hand_over())
    if isinstance(ended, Restart):
        _replace_process(ended)
    ctx.exit(_EXIT_CODES.get(ended.reason, ExitCode.OK))


def _former(resume: str | None) -> Restart | None:
    """What this very process was doing before it replaced itself, if it did."""
    if resume is None:
        return None
    from ane_train.train.restart import inherited

    return inherited(Path(resume))


def _own_config(folder: Path) -> RunConfig:
    """The run's configuration as it is; arguments and environment made it, and count no more."""
    from ane_train.config import Layer, resolve
    from ane_train.config_text import read_file
    from ane_train.storage.run_folder import RunFolder

    saved = read_file(RunFolder(folder).config)
    values = {k: v for k, v in saved.values.items() if k not in ("scratch", "out", "resume")}
    return dataclasses.replace(resolve([Layer(saved.source, values)]), resume=str(folder))


def _replace_process(restart: Restart) -> NoReturn:
    """Runs the same command in this process anew, told to go on with the run.

    A reader of stdout that went away is no reason not to. EngineError if Python cannot be run.
    """
    restart.leave()
    resume = ["--resume", str(restart.folder)]
    arguments = sys.orig_argv[1:]
    if arguments[-2:] != resume:
        arguments += resume
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    try:
        os.execv(sys.executable, [sys.executable, *arguments])
    except OSError as error:
        raise EngineError(
            f"cannot run {sys.executable or 'Python'} again: {error.strerror}; "
            f"go on with: ane-train --resume {restart.folder}"
        ) from error


def run_config(parameters: Mapping[str, Any]) -> RunConfig:
    """The configuration of the parameters, that of the run to be resumed below them."""
    config = config_of(parameters)
    if config.resume is None:
        if config.init is None or config.lora_rank:  # adapters are a training of their own
            return config
        return _started(parameters, config.init)
    if config.init is not None:
        raise ConfigError("--init starts a run and --resume goes on with one: give one of them")
    from ane_train.config import run_layer
    from ane_train.config_text import read_file
    from ane_train.storage.run_folder import find

    found = find(config.resume)
    saved = read_file(found.run.config)
    config = config_of(parameters, run_layer(saved.source, saved.values))
    if config.init is not None and config.model != saved.values.get("model"):
        raise ConfigError("a run from --init keeps its architecture: leave out --model")
    return dataclasses.replace(config, resume=str(found.checkpoint or found.run.path))


def _started(parameters: Mapping[str, Any], init: str) -> RunConfig:
    """The configuration of a new run, with what the weights say of their training below it."""
    from ane_train.config import Layer
    from ane_train.interop.maderix import settings_of

    return config_of(parameters, Layer(init, settings_of(init)))


def _listeners(config: RunConfig) -> Broadcast:
    from ane_train.cli.screen import open_screen
    from ane_train.metrics.events import Broadcast
    from ane_train.metrics.jsonl import JsonlFile
    from ane_train.metrics.samples import SampleFile
    from ane_train.metrics.text import LogFile
    from ane_train.metrics.trackers import open_trackers

    trackers = open_trackers(config.report_to, project=config.project, run=config.run)
    screen = open_screen(sys.stdout, os.environ, config.log_every)
    return Broadcast([JsonlFile(), SampleFile(), LogFile(config.log_every), screen], trackers)
