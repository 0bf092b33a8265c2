"""What a user types: the only part that prints, reads arguments or the environment.

Modules here import click and the standard library alone at the top, so that help is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from ane_train import __version__
from ane_train.cli import (
    bench,
    config,
    doctor,
    evaluate,
    explore,
    export,
    generate,
    models,
    plan,
    prepare,
    train,
)
from ane_train.errors import AneTrainError, ExitCode

DEBUG_FLAG, DEBUG_VARIABLE = "--debug", "ANE_TRAIN_DEBUG"
DEFAULT_COMMAND = "train"
PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended

_EPILOG = """\b
Examples:
  ane-train                                   the tiny model on the built-in corpus
  ane-train --model stories110m --scratch     same as `ane-train train --model ...`
  ane-train --resume                          the latest run, exactly where it stopped
  ane-train train --help                      all settings of a run

\b
Completion: put the line of your shell into its start-up file.
  bash   eval "$(_ANE_TRAIN_COMPLETE=bash_source ane-train)"
  zsh    eval "$(_ANE_TRAIN_COMPLETE=zsh_source ane-train)"
  fish   _ANE_TRAIN_COMPLETE=fish_source ane-train | source

With --debug (or ANE_TRAIN_DEBUG=1) an error shows its trace.
"""


class DefaultGroup(click.Group):
    """A group whose command `train` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `train` before a leading option that is not the group's own, and where nothing is."""
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not args and not ctx.resilient_parsing:
            args = [DEFAULT_COMMAND]
        elif args and args[0].startswith("-") and args[0] not in own:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands, and the options of `train` as well."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            items += train.command.shell_complete(
                click.Context(train.command, parent=ctx), incomplete
            )
        return items

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; where they ask for help this prints it."""
        with _pipe_may_close():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _pipe_may_close():
            return super().invoke(ctx)


@click.group(
    cls=DefaultGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="[COMMAND] [OPTIONS]...",
    options_metavar="",
)
@click.version_option(__version__, prog_name="ane-train")
def group() -> None:
    """Train Llama-family language models on the Apple Neural Engine, and anywhere else.

    Without a command this is `ane-train train`.
    """


_MODULES = (
    *(train, generate, evaluate, models, plan, prepare, export),
    *(doctor, explore, bench, config),
)
for _module in _MODULES:
    group.add_command(_module.command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; every error becomes a message on stderr and an exit code."""
    wanted = [argument for argument in arguments if argument != DEBUG_FLAG]
    debug = len(wanted) < len(arguments) or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    _tolerate_any_text()
    try:
        code = group.main(wanted, prog_name="ane-train", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.OK
    except click.ClickException as error:
        click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except AneTrainError as error:
        return _failed(error, str(error), error.exit_code, debug)
    except MemoryError as error:
        text = "out of memory: a smaller --batch-size, --seq or --model needs less"
        return _failed(error, text, ExitCode.MEMORY, debug)
    except Exception:
        traceback.print_exc()
        click.echo("error: this is a bug of ane-train; please report it with this trace", err=True)
        return ExitCode.BUG


def _failed(error: BaseException, text: str, code: ExitCode, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return code


def _tolerate_any_text() -> None:
    """Print a replacement for what the terminal's encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@contextmanager
def _pipe_may_close() -> Iterator[None]:
    """Leave quietly when the reader of stdout went away, as in `ane-train --help | head -1`.

    What is still buffered goes to nowhere, lest the interpreter complain at its exit.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise click.exceptions.Exit(PIPE_CLOSED) from None
