"""Chat templates: conversations as the text that a model reads, and which parts of it are said.

A template is foreign code: it runs in Jinja's sandbox, with the names that Hugging Face gives it.
Conversations are {"role": ..., "content": ...} in order, checked by json_lines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ane_train.data.files import reading
from ane_train.errors import DataError

Message = Mapping[str, Any]
Span = tuple[int, int]

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # around {% generation %}; Unicode keeps them from texts
_UNMARKED = dict.fromkeys(map(ord, (_OPEN, _CLOSE)))
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class Passage:
    """Text of one example; `said` are the spans of characters that the model should say.

    `ends_said`: whether it should say the end-of-text token that follows, too.
    """

    text: str
    said: tuple[Span, ...]
    ends_said: bool


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template from the file `path`, with the special tokens that it may name."""

    path: Path
    source: str
    tokens: Mapping[str, str]
    _compiled: Any

    @property
    def sha256(self) -> bytes:
        """Changes whenever what is rendered may change, but for what a template does with dates."""
        return hashlib.sha256(json.dumps([self.source, self.tokens]).encode()).digest()

    def render(
        self, messages: Sequence[Message], where: str, *, generation_prompt: bool = False
    ) -> str:
        """Return the conversation as text, optionally with the start of the assistant's next turn.

        DataError names `where` if the template refuses the conversation.
        """
        return self._render(messages, where, generation_prompt).translate(_UNMARKED)

    def passages(self, messages: Sequence[Message], where: str) -> list[Passage]:
        """Return the conversation up to the assistant's last turn as examples, with what is said.

        With {% generation %} in the template, that is what it encloses. Otherwise a turn is what
        its rendering has beyond that of the messages before it and the generation prompt. Where
        each is the start of the whole conversation, that is one example. A template may show
        older turns differently (Qwen3 takes thoughts out of them): then each turn is an example
        of its own, the messages before it being what the model will read when it is to say it.
        DataError if the prompt of a turn is not the start of the turn.
        """
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        if _GENERATION.search(self.source):
            return [_unmark(self._render(messages[: last + 1], where, False), where)]
        turns = [
            self._turn(messages[: index + 1], where)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if all(longer.text.startswith(turn.text) for turn, longer in pairwise(turns)):
            said = tuple(turn.said[0] for turn in turns)
            return [Passage(turns[-1].text, said, ends_said=False)]
        return turns

    def _turn(self, messages: Sequence[Message], where: str) -> Passage:
        prompt = self.render(messages[:-1], where, generation_prompt=True)
        text = self.render(messages, where)
        if not text.startswith(prompt):
            raise DataError(
                f"{where}: what message {len(messages)} says cannot be told apart, as {self.path} "
                "renders it otherwise than its prompt begins: use a template with {% generation %}"
            )
        return Passage(text, ((len(prompt), len(text)),), ends_said=False)

    def _render(self, messages: Sequence[Message], where: str, prompt: bool) -> str:
        if not _UNMARKED.keys().isdisjoint(map(ord, json.dumps(messages, ensure_ascii=False))):
            raise DataError(f"{where} has a code point that is no character, U+FDD0 or U+FDD1")
        try:
            text: str = self._compiled.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **self.tokens,
            )
        except Exception as error:  # whatever the template does
            raise DataError(f"{where}: the chat template refuses it: {_reason(error)}") from None
        return text


def load_chat_template(tokenizer: Path) -> ChatTemplate:
    """Find the chat template that comes with a tokenizer.json; DataError without a usable one.

    It is chat_template.jinja beside it, or else in tokenizer_config.json, as the special tokens.
    """
    config_path = tokenizer.with_name("tokenizer_config.json")
    config = _read_config(config_path) if config_path.is_file() else {}
    path = tokenizer.with_name("chat_template.jinja")
    if path.is_file():
        with reading(path) as file:
            source: object = _decode(path, file.read())
    else:
        path, source = config_path, _default(config.get("chat_template"))
    if not isinstance(source, str):
        raise DataError(
            f"{tokenizer} has no chat template for messages: put the model's chat_template.jinja "
            "or tokenizer_config.json beside it (--tokenizer FILE gives another tokenizer.json)"
        )
    return ChatTemplate(path, source, _special_tokens(config), _compile(path, source))


def _compile(path: Path, source: str) -> Any:
    from jinja2 import TemplateError

    from ane_train.data.sandbox import sandbox

    try:
        return sandbox(_OPEN, _CLOSE).from_string(source)
    except (TemplateError, RecursionError) as error:
        raise DataError(f"{path} has no usable chat template: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_config(path: Path) -> dict[str, Any]:
    with reading(path) as file:
        raw = file.read()
    try:
        config = json.loads(_decode(path, raw))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise DataError(f"{path} is no valid JSON object: get the model's own file again")
    return config


def _decode(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8") from None


def _default(template: object) -> object:
    """The template itself, or of a list of named ones the default."""
    if not isinstance(template, list):
        return template
    named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
    return named[0].get("template") if named else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            tokens[key] = content
    return tokens


def _unmark(marked: str, where: str) -> Passage:
    """Take the marks out of a rendered text; what is between them is said."""
    text, said = "", []
    for number, part in enumerate(marked.replace(_CLOSE, _OPEN).split(_OPEN)):
        if number % 2 and part:
            said.append((len(text), len(text) + len(part)))
        text += part
    if not said:
        raise DataError(f"{where}: the chat template encloses nothing in {{% generation %}}")
    return Passage(text, tuple(said), ends_said=False)
