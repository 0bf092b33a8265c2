"""Model files: one TOML file per model, read strictly. The fields of ModelSpec are the keys."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from ane_train.errors import ModelError

_LARGEST = 1 << 24
_MOST_LAYERS = 1 << 12


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One Llama-family architecture.

    D dim, H heads, K kv_heads, E head_size, F ffn, V vocabulary, S sequence, L layers.
    """

    name: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocabulary: int
    sequence: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    qk_norm: bool = False
    tied_embeddings: bool = True
    description: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of all that shapes the weights and their meaning; the context length does not."""
        skipped = {"name", "description", "sequence"}
        kept = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in skipped]
        return sha256(repr(kept).encode()).hexdigest()[:16]


def list_models() -> tuple[ModelSpec, ...]:
    """Every model that ships with the package, by name."""
    files = (f for f in resources.files("ane_train.models").iterdir() if f.name.endswith(".toml"))
    return tuple(
        parse_model(f.name.removesuffix(".toml"), f.read_text("utf-8"), f.name)
        for f in sorted(files, key=lambda f: f.name)
    )


def load_model(name: str) -> ModelSpec:
    """The shipped model of that name, or the file at that path. ModelError if there is none."""
    if name.endswith(".toml"):
        path = Path(name)
        try:
            return parse_model(path.stem, path.read_text("utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read model file {name}: {error}") from None
    known = {spec.name: spec for spec in list_models()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise ModelError(f"unknown model '{name}'; {hint} (or give the path of a .toml file)")


def parse_model(name: str, text: str, file: str) -> ModelSpec:
    """The model that `text` describes. ModelError names file, key and line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{file}: {error}") from None
    for key, problem in _problems(table):
        raise ModelError(f"{file}{_line_of(key, text)}: {key}: {problem}")
    return ModelSpec(name=name, **table)


def build_model(
    name: str, table: dict[str, Any], file: str, names: Mapping[str, str] | None = None
) -> ModelSpec:
    """The model of values that come from another format.

    ModelError names `file` and the key; `names` are that format's names of our keys.
    """
    for key, problem in _problems(table):
        raise ModelError(f"{file}: {(names or {}).get(key, key)}: {problem}")
    return ModelSpec(name=name, **table)


def to_toml(spec: ModelSpec) -> str:
    """The text of a model file; parse_model gives back `spec`."""
    values = ((f.name, getattr(spec, f.name)) for f in fields(spec) if f.name != "name")
    return "".join(f"{key} = {_literal(value)}\n" for key, value in values)


def _literal(value: object) -> str:
    """A TOML literal; JSON's are the same but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _line_of(key: str, text: str) -> str:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[*[\"']?{re.escape(key)}[\"']?\s*[\].=]", line):
            return f":{number}"
    return ""


def _problems(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each (key, what is wrong); relations come last, when all types are known to be right."""
    known = {f.name: f for f in fields(ModelSpec) if f.name != "name"}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            yield key, "unknown key" + (f"; did you mean {near[0]}?" if near else "")
    for key, field in known.items():
        if key in table:
            yield from _value_problems(key, str(field.type), table[key])
        elif field.default is MISSING:
            yield key, "missing key"
    if table["heads"] % table["kv_heads"]:
        yield "kv_heads", f"must divide heads ({table['heads']})"
    if table["head_size"] % 2:
        yield "head_size", "must be even, for the rotary embedding"


def _value_problems(key: str, kind: str, value: Any) -> Iterator[tuple[str, str]]:
    largest = _MOST_LAYERS if key == "layers" else _LARGEST
    if kind == "int" and (type(value) is not int or not 0 < value <= largest):
        yield key, f"must be a whole number from 1 to {largest}, not {value!r}"
    if kind == "float" and (type(value) not in (int, float) or not 0 < value < float("inf")):
        yield key, f"must be a number above 0, not {value!r}"
    if kind == "bool" and type(value) is not bool:
        yield key, f"must be true or false, not {value!r}"
    if kind == "str" and type(value) is not str:
        yield key, f"must be text, not {value!r}"
