"""Jinja's sandbox with the names that chat templates are written for, those of Hugging Face.

A template is foreign code: it reaches what it is given and nothing behind it. Importing this
imports Jinja.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


def sandbox(opening: str, closing: str) -> ImmutableSandboxedEnvironment:
    """Make an environment; what {% generation %} encloses comes between `opening` and `closing`."""

    class Generation(_Generation):
        marks = (opening, closing)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _PublicNamespace,
    }
    return environment


class _Generation(Extension):
    """The block {% generation %} ... {% endgeneration %}."""

    tags = {"generation"}  # noqa: RUF012 (as its base declares it)
    marks = ("", "")

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        opening, closing = self.marks
        return f"{opening}{caller()}{closing}"


class _PublicNamespace(Namespace):
    """A namespace without private names, by which Python's own attributes could be imitated."""

    def __init__(self, /, *values: Any, **names: Any) -> None:
        for name in dict(*values, **names):
            _require_public(name)
        Namespace.__init__(self, *values, **names)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        Namespace.__setitem__(self, name, value)


def _require_public(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace has no private names such as {name}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter without HTML's escapes, which Jinja's own has."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
