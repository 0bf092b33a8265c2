"""`ane-train config`: print, check and describe configurations."""

from __future__ import annotations

from typing import Any

import click

from ane_train.cli.options import RunCommand, config_of, run_options


@click.group("config")
def command() -> None:
    """Print, check or describe the configuration of a run."""


@command.command("print", cls=RunCommand, params=run_options())
def print_(**parameters: Any) -> None:
    """Print the configuration that these settings result in, as TOML."""
    from ane_train.config_text import to_toml

    click.echo(to_toml(config_of(parameters)), nl=False)


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
def check(files: tuple[str, ...]) -> None:
    """Check configuration files, each by itself."""
    from ane_train.config import resolve
    from ane_train.config_text import read_file

    for file in files:
        resolve([read_file(file)])
        click.echo(f"{file}: good")


@command.command()
def schema() -> None:
    """Print the JSON schema of configuration files, for editors."""
    import json

    from ane_train.config_text import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@command.command()
def docs() -> None:
    """Print a table of all settings, as Markdown."""
    from ane_train.config_text import markdown

    click.echo(markdown(), nl=False)
