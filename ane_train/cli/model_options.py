"""What commands that use a trained model share: options, the engine, and the report as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ane_train.config_values import NUMERICS
from ane_train.errors import ConfigError, DiskError

if TYPE_CHECKING:
    from ane_train.engine import Engine
    from ane_train.generate.decoder import DecoderOptions
    from ane_train.generate.generator import Generator
    from ane_train.generate.opening import OpenModel

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--model",
        required=True,
        metavar="MODEL",
        help="a run, a checkpoint, or a folder or file of weights",
    ),
    click.option(
        "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json; default: the model's"
    ),
    click.option("--context", type=click.IntRange(min=2), help="tokens; default: the model's"),
    click.option("--int8", is_flag=True, help="weights in 8 bits, a scale for each row"),
    click.option(
        "--engine",
        type=click.Choice(("auto", "ane", "cpu")),
        default="auto",
        show_default=True,
        help="where programs run",
    ),
    click.option(
        "--numerics",
        type=click.Choice(NUMERICS),
        default="fp16",
        show_default=True,
        help="of the software engine",
    ),
    click.option("--driver", type=click.Path(), help="another library that drives the ANE"),
    click.option(
        "--compile-limit",
        type=click.IntRange(min=1),
        help="programs that may be compiled; default: none, or the chip's",
    ),
    click.option("--threads", type=click.IntRange(min=0), default=0, help="0: one for each core"),
    click.option(
        "--json", "json_file", metavar="FILE", help="write a report to FILE; -: to stdout"
    ),
)


def model_options(command: Command) -> Command:
    """Adds the options that `open_generator` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def open_generator(
    given: Mapping[str, Any], prompt: Callable[[OpenModel], int]
) -> Iterator[tuple[OpenModel, Generator]]:
    """The model and a generator for it; `prompt` says how many tokens an evaluation takes in."""
    from ane_train.generate.generator import Generator
    from ane_train.generate.opening import open_model

    model = open_model(given["model"], given["tokenizer"])
    options = _options(given, model, prompt(model))
    engine = _engine(given)
    try:
        generator = Generator(model.spec, model.weights, engine, options)
        yield model, generator
        generator.close()
    finally:
        engine.close()


def _options(given: Mapping[str, Any], model: OpenModel, prompt: int) -> DecoderOptions:
    from ane_train.generate.decoder import DecoderOptions

    own = model.spec.sequence
    context = given["context"] or own
    if context > own:
        raise ConfigError(f"--context {context} is more than the {own} tokens of {model.spec.name}")
    return DecoderOptions(context, prompt, int8=given["int8"])


def _engine(given: Mapping[str, Any]) -> Engine:
    from ane_train.data.files import default_cache
    from ane_train.engine import EngineOptions, open_engine

    return open_engine(
        EngineOptions(
            given["engine"],
            given["numerics"],
            threads=given["threads"],
            compile_limit=given["compile_limit"] or 0,
            driver=given["driver"],
            profiles=default_cache(),
        )
    )


def describe_engine(engine: Engine) -> dict[str, object]:
    """What a report says of the engine."""
    return {"engine": engine.name, "engine_reason": engine.reason, "numerics": engine.numerics}


def write_json(file: str, report: Mapping[str, object]) -> None:
    """Writes a report to stdout ("-"), or to a file in one step. DiskError."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if file == "-":
        click.echo(text, nl=False)
        return
    path = Path(file)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(
            f"{path} cannot be written ({error.strerror}): choose another --json"
        ) from None
