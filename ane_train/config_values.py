"""What a configuration field is: its help and limits, how a value is read, checked and written.

A value arrives as text (flags, environment, YAML's `1e-5`) or as what TOML and JSON hold; it leaves
as exactly the type that its field declares, or as a one-line ConfigError.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ane_train.errors import ConfigError

Duration: TypeAlias = float  # seconds; written "1h30m"
ByteSize: TypeAlias = int  # bytes; written "20GiB"
FilePath: TypeAlias = str
FolderPath: TypeAlias = str
Names: TypeAlias = tuple[str, ...]  # written "a,b" or as a list
TokenDtype: TypeAlias = Literal["u16", "u32"]
ScheduleKind: TypeAlias = Literal["cosine", "linear", "constant", "wsd"]
LossScale: TypeAlias = float | str  # a positive number or "dynamic"

DYNAMIC = "dynamic"
NUMERICS = ("fp16", "fp32", "bf16", "hazard")
_TIME_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Setting:
    """All there is to say about a field besides its name, type and default."""

    group: str
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    bare: str | None = None  # the value of the flag when it is given without one
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None

    def limits(self) -> dict[str, float]:
        """The limits that are set, by their names in a JSON schema."""
        named = {
            "minimum": self.minimum,
            "exclusiveMinimum": self.above,
            "maximum": self.maximum,
            "exclusiveMaximum": self.below,
        }
        return {name: limit for name, limit in named.items() if limit is not None}


Field: TypeAlias = "dataclasses.Field[Any]"


def setting_of(field: Field) -> Setting:
    """The Setting of a field of a configuration class."""
    setting: Setting = field.metadata["setting"]
    return setting


def help_of(field: Field) -> str:
    """The help of a field with its choices."""
    setting = setting_of(field)
    return f"{setting.help} [{', '.join(setting.choices)}]" if setting.choices else setting.help


def kind_of(field: Field) -> str:
    """The declared type without `| None`: the key of how a value is read and written."""
    return str(field.type).removesuffix(" | None")


def is_optional(field: Field) -> bool:
    """Whether the field may be left out, its value then being a rule or "no limit"."""
    return str(field.type).endswith(" | None")


def coerce(field: Field, value: object, source: str) -> Any:
    """`value` as the type of `field` and within its limits; else a ConfigError naming `source`."""
    if value is None and is_optional(field):
        return None
    try:
        result = _READERS[kind_of(field)](value)
    except ValueError as error:
        detail = str(error)
        raise ConfigError(f"{source}: {field.name} = {_shown(value)}: {detail}") from None
    problem = _problem(setting_of(field), result)
    if problem:
        raise ConfigError(f"{source}: {field.name} = {_shown(value)}: {problem}")
    return result


def written(field: Field, value: Any) -> Any:
    """`value` as a file holds it: text, number, bool or list of text; `coerce` reads it back."""
    if value is None:
        return None
    writer = _WRITERS.get(kind_of(field))
    return writer(value) if writer else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _problem(setting: Setting, value: Any) -> str | None:
    names = value if isinstance(value, tuple) else (value,)
    for name in names if setting.choices else ():
        if name not in setting.choices:
            return f"choose from {', '.join(setting.choices)}"
    if isinstance(value, str | tuple | bool):
        return None
    if setting.minimum is not None and value < setting.minimum:
        return f"must be {setting.minimum:g} or more"
    if setting.above is not None and value <= setting.above:
        return f"must be more than {setting.above:g}"
    if setting.maximum is not None and value > setting.maximum:
        return f"must be {setting.maximum:g} or less"
    if setting.below is not None and value >= setting.below:
        return f"must be less than {setting.below:g}"
    return None


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    if not value:
        raise ValueError("must not be empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return value


def _read_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("must be true or false")


def _read_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    try:
        number = _read_float(value)
    except ValueError:
        raise ValueError("must be a whole number") from None
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return int(number)


def _read_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


def _read_loss_scale(value: object) -> LossScale:
    if value == DYNAMIC:
        return DYNAMIC
    try:
        return _read_float(value)
    except ValueError:
        raise ValueError(f'must be a number or "{DYNAMIC}"') from None


def _read_duration(value: object) -> Duration:
    if isinstance(value, str):
        text = value.lower().replace(" ", "")
        parts = re.findall(r"([0-9.]+(?:e[+-]?[0-9]+)?)([smhd])", text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum(_read_float(number) * _TIME_UNITS[unit] for number, unit in parts)
    try:
        return _read_float(value)
    except ValueError:
        raise ValueError("must be a time such as 90s, 30m or 1h30m") from None


def _read_size(value: object) -> ByteSize:
    text = str(value).lower().replace(" ", "") if isinstance(value, str) else ""
    match = re.fullmatch(r"([0-9.]+)([kmgt]?)i?b|([0-9.]+)([kmgt])", text)
    if not match:
        raise ValueError("must be a size with its unit, such as 20GiB")
    number, unit = match[1] or match[3], match[2] or match[4] or ""
    factor: int = 1024 ** _SIZE_UNITS[unit]
    return int(number) * factor if number.isdigit() else round(_read_float(number) * factor)


def _read_names(value: object) -> Names:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of names")
    stripped = (_read_text(name).strip() for name in value if name != "")
    return tuple(dict.fromkeys(name for name in stripped if name))


def _write_duration(seconds: float) -> str:
    return f"{seconds!r}s"


def _write_size(size: int) -> str:
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2)):
        if size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return f"{size}B"


_READERS: Mapping[str, Callable[[object], Any]] = {
    "str": _read_text,
    "FilePath": _read_text,
    "FolderPath": _read_text,
    "TokenDtype": _read_text,
    "ScheduleKind": _read_text,
    "bool": _read_bool,
    "int": _read_int,
    "float": _read_float,
    "Duration": _read_duration,
    "ByteSize": _read_size,
    "Names": _read_names,
    "LossScale": _read_loss_scale,
}
_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "Duration": _write_duration,
    "ByteSize": _write_size,
    "Names": list,
}
