"""`ane-train evaluate`: loss, perplexity and bits per byte of a text."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ane_train.cli.model_options import (
    describe_engine,
    model_options,
    open_generator,
    write_json,
)

if TYPE_CHECKING:
    from ane_train.generate.evaluate import Score
    from ane_train.generate.generator import Generator
    from ane_train.generate.opening import OpenModel

_WINDOW = 256  # tokens that one evaluation of a program takes in


@click.command("evaluate")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='text, or .jsonl with a "text" key',
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="tokens from one window to the next; default: half the context",
)
@model_options
def command(**given: Any) -> None:
    """Measure how well a model predicts a text.

    Long texts are read in windows of the context's length. With a smaller stride windows overlap,
    and each token is predicted from more of what is before it.
    """
    with open_generator(given, lambda model: _WINDOW) as (model, generator):
        score, stride = _score(given, model, generator)
        report = {
            "model": str(model.path),
            "data": str(given["data"]),
            "loss": score.loss,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte,
            "tokens": score.tokens,
            "bytes": score.text_bytes,
            "context": generator.decoder.options.context,
            "stride": stride,
            "int8": generator.decoder.options.int8,
            **describe_engine(generator.decoder.engine),
        }
    to_stdout = given["json_file"] == "-"
    click.echo(_line(score), err=to_stdout)
    if given["json_file"] is not None:
        write_json(given["json_file"], report)


def _line(score: Score) -> str:
    return (
        f"loss {score.loss:.4f}  perplexity {score.perplexity:.3f}  "
        f"bits per byte {score.bits_per_byte:.4f}  ({score.tokens:,} tokens)"
    )


def _score(given: dict[str, Any], model: OpenModel, generator: Generator) -> tuple[Score, int]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from ane_train.cli.screen import is_terminal
    from ane_train.generate.evaluate import Evaluator
    from ane_train.generate.texts import score_file

    evaluator = Evaluator(generator.decoder, generator.head, given["stride"])
    with ExitStack() as stack:
        hidden = not is_terminal(sys.stderr)
        bar = stack.enter_context(tqdm(unit=" tokens", disable=hidden, leave=False))
        score = score_file(evaluator, model.vocabulary, given["data"], bar.update)
    return score, evaluator.stride
