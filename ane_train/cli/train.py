"""`ane-train train`: resolve the configuration, attach the listeners, run the loop."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from ane_train.cli.options import RunCommand, config_of, note_ignored, run_options
from ane_train.errors import ExitCode

if TYPE_CHECKING:
    from ane_train.config import RunConfig
    from ane_train.metrics.events import Broadcast

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
    note_ignored(parameters)
    config = run_config(parameters)
    from ane_train.cli.screen import show_cursor
    from ane_train.train.loop import train

    with closing(_listeners(config)) as on_event:
        ended = train(config, on_event, before_exit=show_cursor)
    ctx.exit(_EXIT_CODES.get(ended.reason, ExitCode.OK))


def run_config(parameters: Mapping[str, Any]) -> RunConfig:
    """The configuration of the parameters, that of the run to be resumed below them."""
    config = config_of(parameters)
    if config.resume is None:
        return config
    from ane_train.config import run_layer
    from ane_train.config_text import read_file
    from ane_train.train.run_folder import find

    found = find(config.resume)
    saved = read_file(found.run.config)
    config = config_of(parameters, run_layer(saved.source, saved.values))
    return dataclasses.replace(config, resume=str(found.checkpoint or found.run.path))


def _listeners(config: RunConfig) -> Broadcast:
    from ane_train.cli.screen import open_screen
    from ane_train.metrics.events import Broadcast
    from ane_train.metrics.jsonl import JsonlFile
    from ane_train.metrics.text import LogFile
    from ane_train.metrics.trackers import open_trackers

    trackers = open_trackers(config.report_to, project=config.project, run=config.run)
    screen = open_screen(sys.stdout, os.environ, config.log_every)
    return Broadcast([JsonlFile(), LogFile(config.log_every), screen], trackers)
