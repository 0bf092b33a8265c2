"""A configuration as text: files read, TOML written, the schema, the documentation.

All is derived from RunConfig's fields. What `to_toml` writes, `read_file` and `resolve` give back.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ane_train.config import ENVIRONMENT_PREFIX, Layer, RunConfig, spellings
from ane_train.config_values import (
    DYNAMIC,
    Field,
    help_of,
    is_optional,
    kind_of,
    setting_of,
    written,
)
from ane_train.errors import ConfigError

_JSON_TYPES: Mapping[str, Any] = {
    "str": "string",
    "FilePath": "string",
    "FolderPath": "string",
    "TokenDtype": "string",
    "ScheduleKind": "string",
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "Duration": ["number", "string"],
    "ByteSize": "string",
    "Names": "array",
    "LossScale": ["number", "string"],
}


def read_file(path: str | Path) -> Layer:
    """The settings of a TOML, JSON or YAML file, told apart by the ending; ConfigError if bad."""
    path = Path(path)
    parsers: dict[str, Callable[[str], object]] = {
        ".toml": tomllib.loads,
        ".json": json.loads,
        ".yaml": _parse_yaml,
        ".yml": _parse_yaml,
    }
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise ConfigError(f"{path}: a configuration file ends in {', '.join(parsers)}")
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold settings by name")
    return Layer(str(path), {str(key): value for key, value in values.items()})


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML, each setting with its help; what is None stands commented out."""
    lines: list[str] = []
    for group, fields in _grouped():
        lines += ["", f"## {group}"] if lines else [f"## {group}"]
        for field in fields:
            value = written(field, getattr(config, field.name))
            lines.append(f"# {setting_of(field).help}")
            lines.append(f"# {field.name} =" if value is None else f"{field.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ane-train run configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _property(field) for field in dataclasses.fields(RunConfig)},
    }


def markdown() -> str:
    """The documentation of all settings: one Markdown table per group."""
    lines: list[str] = []
    for group, fields in _grouped():
        lines += ["", f"### {group}", "", "| flag | also | default | what |", "|---|---|---|---|"]
        for field in fields:
            flag, *others = (name for name in spellings(field) if "_" not in name)
            also = ", ".join(f"`--{name}`" for name in others)
            lines.append(f"| `--{flag}` | {also} | {_default(field)} | {help_of(field)} |")
    lines += ["", f"Each is also the key of a file and the variable `{ENVIRONMENT_PREFIX}<NAME>`."]
    return "\n".join(lines[1:]) + "\n"


def _grouped() -> Iterator[tuple[str, list[Field]]]:
    groups: dict[str, list[Field]] = {}
    for field in dataclasses.fields(RunConfig):
        groups.setdefault(setting_of(field).group, []).append(field)
    yield from groups.items()


def _default(field: Field) -> str:
    value = written(field, field.default)
    return "" if value in (None, []) else f"`{_toml(value)}`"


def _property(field: Field) -> dict[str, Any]:
    setting, kind = setting_of(field), kind_of(field)
    result: dict[str, Any] = {"description": setting.help, "type": _JSON_TYPES[kind]}
    if kind == "Names":
        result["items"] = {"enum": list(setting.choices)} if setting.choices else {"type": "string"}
    elif setting.choices:
        result["enum"] = list(setting.choices)
    if kind == "LossScale":
        result = {"description": setting.help, "anyOf": [{"const": DYNAMIC}, {"type": "number"}]}
    if kind != "ByteSize":
        (result["anyOf"][1] if "anyOf" in result else result).update(setting.limits())
    if not is_optional(field):
        result["default"] = written(field, field.default)
    return result


def _parse_yaml(text: str) -> object:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise ConfigError("YAML files need PyYAML: pip install pyyaml, or write TOML") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _toml(value: Any) -> str:
    """A TOML literal; JSON's are the same but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
