"""The settings of a run as click options, and the layers of configuration that they stand for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from ane_train.config import Layer, RunConfig, environment_layer, resolve, spellings
from ane_train.config_values import Field, help_of, kind_of, setting_of
from ane_train.errors import ConfigError

_METAVARS = {
    "FilePath": "FILE",
    "FolderPath": "DIR",
    "Duration": "TIME",
    "ByteSize": "SIZE",
    "Names": "A,B",
    "LossScale": "SCALE",
    "int": "N",
    "float": "X",
    "str": "TEXT",
}
# Flags of maderix/ANE that mean nothing here: (name, why it can be ignored).
_IGNORED = {
    "--no-generate": "samples are written with --sample-every alone",
    "--no-powermetrics": "power is not measured",
}


class SettingOption(click.Option):
    """An option that may have many spellings, of which help shows the first."""

    def __init__(self, declarations: Sequence[str], group: str, **traits: Any) -> None:
        super().__init__(list(declarations), **traits)
        self.group = group
        self.may_stand_alone = isinstance(traits.get("flag_value"), str)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The first spelling (and a one-letter one), what follows it, and the help."""
        if self.hidden:
            return None
        shown = [name for name in self.opts if not name.startswith("--")] + self.opts[:1]
        names = ", ".join(dict.fromkeys(shown))
        if self.is_flag:
            return names, self.help or ""
        value = self.make_metavar(ctx)
        value = f"[{value}]" if self.may_stand_alone else value
        return f"{names} {value}", self.help or ""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """What an error message calls it."""
        return self.opts[0]


class RunCommand(click.Command):
    """A command that takes all settings of a run; its help has them in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group of settings."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records, col_max=28)


def run_options() -> list[click.Parameter]:
    """An option for each field of RunConfig, those for files, and the flags of other tools."""
    options: list[click.Parameter] = [_setting_option(f) for f in dataclasses.fields(RunConfig)]
    options += [
        SettingOption(
            ["--config", "-c", "config_files"],
            "Configuration",
            multiple=True,
            type=click.Path(),
            metavar="FILE",
            help="read settings from TOML, JSON or YAML; flags win over them",
        ),
        SettingOption(
            ["--set", "assignments"],
            "Configuration",
            multiple=True,
            metavar="KEY=VALUE",
            help="give a setting by its key",
        ),
        _foreign("--infinite", is_flag=True),
        _foreign("--dynamic", is_flag=True),
        _foreign("--init-from", "--init_from"),
        _foreign("--wandb", is_flag=False, flag_value=""),
    ]
    return options + [_foreign(name, is_flag=True) for name in _IGNORED]


def config_of(parameters: Mapping[str, Any], below: Layer | None = None) -> RunConfig:
    """The configuration of a command's parameters: `below` < files < environment < flags."""
    from ane_train.config_text import read_file

    layers = [below] if below else []
    layers += [read_file(path) for path in parameters["config_files"]]
    layers.append(environment_layer(os.environ))
    layers.append(_assigned(parameters["assignments"]))
    layers.append(Layer("command line", _given(parameters)))
    return resolve(layers)


def note_ignored(parameters: Mapping[str, Any]) -> None:
    """Say which of the flags given have no effect."""
    for flag, reason in _IGNORED.items():
        if parameters.get(_parameter_name(flag)):
            click.echo(f"note: {flag} is ignored: {reason}", err=True)


def _setting_option(field: Field) -> SettingOption:
    setting, kind = setting_of(field), kind_of(field)
    names = [f"--{spelling}" for spelling in spellings(field)]
    traits: dict[str, Any] = {"help": setting.help, "default": None}
    if kind == "bool":
        names = [f"{name}/{_negated(name)}" for name in names]
        traits |= {"is_flag": True}
    elif setting.choices and kind != "Names":
        traits |= {"type": click.Choice(setting.choices)}
    elif kind in ("FilePath", "FolderPath"):
        traits |= {"type": click.Path(), "metavar": _METAVARS[kind]}
    else:
        traits |= {"type": str, "metavar": _METAVARS[kind]}
    if field.name == "model":
        traits |= {"shell_complete": _complete_model, "metavar": "MODEL"}
    if kind == "Names":
        traits |= {"multiple": True, "help": help_of(field)}
    if setting.bare is not None:
        traits |= {"is_flag": False, "flag_value": setting.bare}
    return SettingOption([*names, field.name], setting.group, **traits)


def _negated(flag: str) -> str:
    return flag.replace("--", "--no_" if "_" in flag else "--no-", 1)


def _foreign(*names: str, **traits: Any) -> SettingOption:
    traits = {"hidden": True, "default": None} | traits
    return SettingOption([*names, _parameter_name(names[0])], "Other", **traits)


def _parameter_name(flag: str) -> str:
    return "foreign_" + flag.removeprefix("--").replace("-", "_")


def _given(parameters: Mapping[str, Any]) -> dict[str, object]:
    """The settings that flags gave, those of others' flags among them."""
    values: dict[str, object] = {}
    for field in dataclasses.fields(RunConfig):
        value = parameters[field.name]
        if value is not None and value != ():
            values[field.name] = ",".join(value) if isinstance(value, tuple) else value
    for flag, translate in _TRANSLATIONS.items():
        value = parameters[_parameter_name(flag)]
        for name, meant in translate(value).items() if value is not None else ():
            if values.setdefault(name, meant) != meant:
                raise ConfigError(f"{flag} means {name} = {meant}: leave out one of the two")
    return values


def _init_from(value: str) -> dict[str, object]:
    if value == "scratch":
        return {"scratch": True}
    if value == "resume":
        return {"resume": "last"}
    raise ConfigError(f"--init-from {value}: choose from scratch, resume")


_TRANSLATIONS: Mapping[str, Callable[[Any], dict[str, object]]] = {
    "--infinite": lambda given: {"steps": "0"} if given else {},
    "--dynamic": lambda given: {"pipeline": "dynamic"} if given else {},
    "--init-from": _init_from,
    "--wandb": lambda project: {"report_to": "wandb"} | ({"project": project} if project else {}),
}


def _assigned(assignments: Sequence[str]) -> Layer:
    values: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment}: write --set key=value")
        values[key.strip()] = value.strip()
    return Layer("--set", values)


def _complete_model(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from ane_train.model.spec import list_models

    return [
        CompletionItem(spec.name, help=spec.description)
        for spec in list_models()
        if spec.name.startswith(incomplete)
    ]
