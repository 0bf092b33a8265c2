"""JSON lines as data: one object to a line, all of one kind within a file, known by its keys.

Invariant: what leaves is checked; whatever is wrong is a DataError with file and line.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ane_train.data.files import reading
from ane_train.errors import DataError

Kind = Literal["messages", "completion", "text"]

# How each kind is written; its keys tell it. The first that fits the first record is the file's.
_FORMS: Mapping[Kind, dict[str, object]] = {
    "messages": {"messages": [{"role": "user", "content": "…"}]},
    "completion": {"prompt": "…", "completion": "…"},
    "text": {"text": "…"},
}
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Record:
    """One line: its content, where it is, and its size with those blank lines before it."""

    kind: Kind
    content: Mapping[str, Any]
    where: str
    line_bytes: int


def kind_of_file(path: Path) -> Kind | None:
    """Return the kind of a `.jsonl` by its first record; None for other files and empty ones."""
    if path.suffix != ".jsonl":
        return None
    with reading(path) as file:
        return next((record.kind for record in parse_records(path, file)), None)


def parse_records(path: Path, file: io.BufferedReader) -> Iterator[Record]:
    """Yield the records of an open file; blank lines are skipped."""
    kind: Kind | None = None
    line_bytes = 0
    for number, line in enumerate(file, 1):
        line_bytes += len(line)
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        content = _parse(line, where)
        kind = kind or _first_kind(content, where)
        _require_kind(content, kind, where)
        _CHECKS[kind](content, where)
        yield Record(kind, content, where, line_bytes)
        line_bytes = 0


def _parse(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} of the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no valid JSON: {error}") from None
    return record if isinstance(record, dict) else {}


def _kind_of(content: Mapping[str, Any]) -> Kind | None:
    return next((kind for kind, form in _FORMS.items() if form.keys() <= content.keys()), None)


def _first_kind(content: Mapping[str, Any], where: str) -> Kind:
    kind = _kind_of(content)
    if kind is None:
        raise DataError(
            f"{where} has no text: each line must be like {_form('text')}, or have messages, or "
            "prompt and completion"
        )
    return kind


def _require_kind(content: Mapping[str, Any], kind: Kind, where: str) -> None:
    missing = next((key for key in _FORMS[kind] if key not in content), None)
    if missing is None:
        return
    other = _kind_of(content)
    if other is not None:
        raise DataError(
            f"{where} is a record of {_keys(other)}, the file's first one of {_keys(kind)}: "
            "put each kind in a file of its own"
        )
    raise DataError(f"{where} has no {missing}: each line must be like {_form(kind)}")


def _form(kind: Kind) -> str:
    return json.dumps(_FORMS[kind], ensure_ascii=False)


def _keys(kind: Kind) -> str:
    return " and ".join(_FORMS[kind])


def _check_text(content: Mapping[str, Any], where: str) -> None:
    _require_text(content, "text", where)


def _check_completion(content: Mapping[str, Any], where: str) -> None:
    _require_text(content, "prompt", where)
    _require_text(content, "completion", where)
    if not content["completion"]:
        raise DataError(f"{where}: its completion is empty, so there is nothing to learn")
    _refuse_tools(content, where)


def _check_messages(content: Mapping[str, Any], where: str) -> None:
    messages = content["messages"]
    if not isinstance(messages, list):
        raise DataError(f"{where}: its messages are no list")
    _refuse_tools(content, where)
    for number, message in enumerate(messages, 1):
        _check_message(message, f"{where}, message {number}")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(
            f"{where}: no message is the assistant's: there is nothing to learn from it"
        )


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict) or "role" not in message:
        raise DataError(f'{where} has no role: write {{"role": "user", "content": "…"}}')
    role = message["role"]
    if role == "tool" or message.get("tool_calls"):
        raise DataError(f"{where} is about calls of tools, which are not supported: leave it out")
    if role not in ROLES:
        raise DataError(f"{where} has the unknown role {role!r}: choose from {', '.join(ROLES)}")
    if "content" not in message:
        raise DataError(f"{where} has no content")
    _require_text(message, "content", where)


def _refuse_tools(content: Mapping[str, Any], where: str) -> None:
    if content.get("tools"):
        raise DataError(f"{where} lists tools, which are not supported: leave out the record")


def _require_text(content: Mapping[str, Any], key: str, where: str) -> None:
    value = content[key]
    if not isinstance(value, str):
        raise DataError(f"{where} has no text as its {key}, but {json.dumps(value)[:40]}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: its {key} has half a surrogate pair, which is no text") from None


_CHECKS = {"messages": _check_messages, "completion": _check_completion, "text": _check_text}
