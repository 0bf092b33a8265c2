"""How a set of text files becomes tokens: as one stream of text, or as examples for fine-tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ane_train.data.chat import ChatTemplate, load_chat_template
from ane_train.data.examples import encode_examples
from ane_train.data.json_lines import kind_of_file
from ane_train.data.text import PIECE_BYTES, Encoded, encode_files, hash_files
from ane_train.data.tokenizer import Tokenizer
from ane_train.errors import DataError


@dataclass(frozen=True, slots=True)
class Encoding:
    """A way to encode files; `examples` where their records say what is to be learnt."""

    tokenizer: Tokenizer
    examples: bool
    template: ChatTemplate | None

    @classmethod
    def of(cls, files: Sequence[Path], tokenizer: Tokenizer) -> Encoding:
        """Choose by the first record of each file; DataError if text and examples are mixed.

        DataError too if there are messages and the tokenizer comes without a chat template.
        """
        kinds = {file: kind_of_file(file) or "text" for file in files}
        texts = [file for file, kind in kinds.items() if kind == "text"]
        if not texts:
            messages = "messages" in kinds.values()
            template = load_chat_template(tokenizer.path) if messages else None
            return cls(tokenizer, bool(files), template)
        if len(texts) < len(kinds):
            example = next(file for file in files if file not in texts)
            raise DataError(
                f"{texts[0]} is text and {example} has examples ({kinds[example]}): "
                "train on one, then on the other"
            )
        return cls(tokenizer, False, None)

    def key(self, files: Sequence[Path]) -> bytes:
        """Return a SHA-256 of all that the tokens of `files` depend on."""
        template = self.template.sha256 if self.template else b""
        return hashlib.sha256(self.tokenizer.sha256 + hash_files(files) + template).digest()

    def encode(self, files: Sequence[Path], piece_bytes: int = PIECE_BYTES) -> Iterator[Encoded]:
        """Encode `files`, pieces of text of about `piece_bytes` or one example at a time."""
        if self.examples:
            return encode_examples(files, self.tokenizer, self.template)
        return encode_files(files, self.tokenizer, piece_bytes)
