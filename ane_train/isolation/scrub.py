"""Takes out of texts what tells whose machine it is: folders, user and host."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
from pathlib import Path
from typing import Any

from ane_train.records import from_json, to_json

# A path of two or more parts, of which all but the last may have spaces inside; those of the
# system itself tell nothing.
_END = r"\s/'\":,;()"
_FOLDER = rf"[^{_END}](?:[^/'\":,;()\n]*[^{_END}])?/"
_PATH = re.compile(rf"(?<![\w./~-])/(?!System/|usr/lib/)(?:{_FOLDER})+([^{_END}]*)")
_AT_HOME = re.compile(rf"~/(?:{_FOLDER})*")
_SHORT = 3  # a shorter name occurs in too many words to be told from them


def scrub(text: str) -> str:
    """The text with paths cut to their last part, and without the names of user and host."""
    for folder in (str(Path.home()), os.getcwd()):
        if len(folder) > 1:
            text = text.replace(folder, "~")
    text = _AT_HOME.sub(".../", text)
    text = _PATH.sub(r".../\1", text)
    for name in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def scrub_record(record: Any) -> Any:
    """The record with every text in it scrubbed."""
    return from_json(type(record), _scrubbed(to_json(record)))


def _scrubbed(data: Any) -> Any:
    if isinstance(data, str):
        return scrub(data)
    if isinstance(data, list):
        return [_scrubbed(item) for item in data]
    if isinstance(data, dict):
        return {key: _scrubbed(value) for key, value in data.items()}
    return data


def _names() -> list[str]:
    host = socket.gethostname()
    names = {host, host.split(".")[0]}
    with contextlib.suppress(KeyError, OSError):
        names.add(getpass.getuser())
    return sorted((name for name in names if len(name) > _SHORT), key=len, reverse=True)
