"""Makes the built-in tokenizer from the built-in corpus: the same file on every machine."""

from __future__ import annotations

from ane_train.data.tokenizer import BUILT_IN_TEXT, BUILT_IN_TOKENIZER

VOCABULARY = 2048


def train_tokenizer(text: str, vocabulary: int = VOCABULARY) -> str:
    """Train a byte-level BPE tokenizer on `text`; return its tokenizer.json.

    Token 0 is <|endoftext|>, then come the 256 bytes, then the merges, most frequent first.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content + "\n"


def main() -> None:
    """Write the built-in tokenizer again."""
    text = BUILT_IN_TEXT.read_bytes().decode("utf-8")
    BUILT_IN_TOKENIZER.write_text(train_tokenizer(text), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
