"""Tokens to text as they come: whole characters only, and nothing of a stop string.

The pieces together are what the tokenizer makes of all tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_WINDOW = 8  # tokens before the new ones that are decoded with them


class Decodes(Protocol):
    """What turns tokens into text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...

    def is_byte(self, token: int) -> bool:
        """Whether the token stands for one byte of a character that has no token of its own."""
        ...


class TextStream:
    """The text after a prompt.

    A tokenizer may begin the first token of a text in another way than it goes on, so new tokens
    are decoded behind some that are known. Tokens that stand for single bytes are decoded as a run,
    whose earlier characters may still break: it is held back to its end.
    """

    def __init__(self, tokenizer: Decodes, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_WINDOW:])
        self._printed = len(self._tokens)

    def push(self, token: int) -> str:
        """The characters that the token completes; often none."""
        self._tokens.append(token)
        return "" if self._tokenizer.is_byte(token) else self._take(final=False)

    def finish(self) -> str:
        """What was held back, broken characters included."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        known = self._tokenizer.decode(self._tokens[: self._printed])
        text = self._tokenizer.decode(self._tokens)
        if not final and (text.endswith(_BROKEN) or len(text) <= len(known)):
            return ""
        self._tokens = self._tokens[-_WINDOW:]
        self._printed = len(self._tokens)
        return text[len(known) :]


class StopStrings:
    """Lets text pass up to the first stop string, and holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that may be shown now; sets `stopped` where a stop string is complete."""
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
