"""`ane-train generate`: text to stdout as it comes, everything else to stderr."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ane_train.cli.model_options import (
    describe_engine,
    model_options,
    open_generator,
    write_json,
)
from ane_train.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ane_train.generate.generator import Generated, Generator, Request
    from ane_train.generate.opening import OpenModel

_LARGEST_SEED = 2**32 - 1


@click.command("generate")
@click.option("--prompt", metavar="TEXT", help="what the text begins with")
@click.option("--prompt-file", metavar="FILE", help="the same from a file; -: from stdin")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--temp", type=float, default=0.8, show_default=True, help="0: greedy")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="1: off")
@click.option("--top-k", type=int, default=0, show_default=True, help="0: off")
@click.option("--min-p", type=float, default=0.0, show_default=True, help="0: off")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True, help="1: off")
@click.option("--seed", type=click.IntRange(0, _LARGEST_SEED), help="default: another each time")
@click.option("--stop", multiple=True, metavar="TEXT", help="end before this text; repeatable")
@click.option("--echo", is_flag=True, help="show the prompt as well")
@model_options
def command(**given: Any) -> None:
    """Continue a text.

    stdout gets the text alone, as it comes; with --json - it gets the report alone, and stderr the
    text.
    """
    text = _prompt(given["prompt"], given["prompt_file"])
    request = _request(given)
    with open_generator(given, lambda model: len(model.vocabulary.encode(text))) as opened:
        model, generator = opened
        to_stderr = given["json_file"] == "-"
        result = _write(model, generator, text, request, echo=given["echo"], err=to_stderr)
        click.echo(_summary(result, generator, request), err=True)
        if given["json_file"] is not None:
            write_json(given["json_file"], _report(model, generator, text, request, result))


def _prompt(text: str | None, file: str | None) -> str:
    if (text is None) == (file is None):
        raise ConfigError("give one of --prompt TEXT and --prompt-file FILE")
    if file is None:
        return text or ""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: byte {error.start}") from None


def _request(given: dict[str, Any]) -> Request:
    import secrets

    from ane_train.generate.generator import Request
    from ane_train.generate.sampling import Sampling

    sampling = Sampling(
        given["temp"], given["top_k"], given["top_p"], given["min_p"], given["repetition_penalty"]
    )
    seed = secrets.randbelow(_LARGEST_SEED + 1) if given["seed"] is None else given["seed"]
    return Request(given["max_tokens"], sampling, seed, stops=given["stop"])


def _write(
    model: OpenModel, generator: Generator, text: str, request: Request, *, echo: bool, err: bool
) -> Generated:
    """Generates, showing each piece at once; a terminal's next prompt begins on a new line."""
    from dataclasses import replace

    from ane_train.generate.generator import write

    stream = sys.stderr if err else sys.stdout

    def show(piece: str) -> None:
        click.echo(piece, nl=False, err=err)
        stream.flush()

    if echo:
        show(text)
    prompt = model.vocabulary.encode(text)
    request = replace(request, ends=model.vocabulary.ends)
    try:
        return write(generator, model.vocabulary, prompt, request, show)
    finally:
        if stream.isatty():
            show("\n")


def _summary(result: Generated, generator: Generator, request: Request) -> str:
    speed = result.tokens_per_second
    rate = f", {speed:.1f} tokens/s" if speed is not None else ""
    engine = generator.decoder.engine
    return (
        f"{len(result.tokens)} tokens after {result.prompt_tokens}{rate}, ended by {result.reason};"
        f" engine {engine.name}, {engine.numerics}, seed {request.seed}"
    )


def _report(
    model: OpenModel, generator: Generator, text: str, request: Request, result: Generated
) -> dict[str, object]:
    return {
        "model": str(model.path),
        "prompt": text,
        **asdict(result),
        "tokens": model.vocabulary.tokens_of(result.tokens),
        "tokens_per_second": result.tokens_per_second,
        "sampling": asdict(request.sampling),
        "seed": request.seed,
        "int8": generator.decoder.options.int8,
        "context": generator.decoder.options.context,
        **describe_engine(generator.decoder.engine),
    }
