"""`ane-train prepare`: text into token shards."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ane_train.errors import ConfigError

if TYPE_CHECKING:
    from ane_train.data.prepare import Prepared

_TINYSTORIES = "tinystories"


@click.command("prepare")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    help="folder for the shards, for `ane-train --data`; default of tinystories: ./tinystories",
)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json; default: the built-in one"
)
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    help="hold out this share in a shard of its own; default: training holds out what it needs",
)
@click.option("--force", is_flag=True, help="replace shards that are there already")
@click.option(
    "--from",
    "archive",
    type=click.Path(path_type=Path),
    help="tinystories: take this archive (.tar.gz), fetched by hand",
)
def command(
    inputs: tuple[str, ...],
    out: Path | None,
    tokenizer: Path | None,
    valid_fraction: float | None,
    force: bool,
    archive: Path | None,
) -> None:
    """Turn text into token shards: .txt, .jsonl, or folders of them.

    A .jsonl has records with text, with prompt and completion, or with messages. `tinystories` as
    the only input stands for that data set, which is fetched (1.6 GB, once; ./tinystories is a
    folder of yours).
    """
    from ane_train.data import prepare as shards
    from ane_train.data.files import default_cache

    is_tinystories = inputs == (_TINYSTORIES,)
    _check_usage(is_tinystories, out, valid_fraction, archive)
    out = out or Path(_TINYSTORIES)
    with ExitStack() as stack:
        bars = {work: _Bar(stack, work).update for work in ("fetching", "encoding")}
        if is_tinystories:
            downloads = default_cache() / "downloads"
            prepared = shards.prepare_tinystories(
                archive, tokenizer, out, downloads=downloads, force=force, progress=bars
            )
        else:
            prepared = shards.prepare(
                [Path(name) for name in inputs],
                tokenizer,
                out,
                valid_fraction=valid_fraction or 0.0,
                force=force,
                progress=bars["encoding"],
            )
    for line in _summary(prepared):
        click.echo(line)


def _check_usage(
    is_tinystories: bool, out: Path | None, valid_fraction: float | None, archive: Path | None
) -> None:
    if not is_tinystories and out is None:
        raise ConfigError("--out is missing: give a folder for the shards")
    if not is_tinystories and archive is not None:
        raise ConfigError("--from is the archive of tinystories: give that as the only input")
    if is_tinystories and valid_fraction is not None:
        raise ConfigError("tinystories has validation data of its own: leave out --valid-fraction")


class _Bar:
    """A progress bar over bytes on stderr, from the first report on; none if it is no terminal."""

    def __init__(self, stack: ExitStack, work: str) -> None:
        from ane_train.cli.screen import is_terminal

        self._stack, self._work = stack, work
        self._shown = is_terminal(sys.stderr)
        self._bar: Any = None

    def update(self, done: int, whole: int) -> None:
        """Show that `done` of `whole` bytes are done."""
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            traits = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "desc": self._work}
            bar = tqdm(total=whole, initial=done, disable=not self._shown, **traits)
            self._bar = self._stack.enter_context(bar)
        self._bar.update(done - self._bar.n)


def _summary(prepared: Prepared) -> list[str]:
    lines = []
    for name, header in (("train", prepared.train), ("valid", prepared.valid)):
        if header is not None:
            ratio = f", {header.text_bytes / header.count:.2f} bytes each" if header.count else ""
            lines.append(f"{name}  {header.count:,} tokens{ratio}")
    vocabulary = prepared.tokenizer.vocabulary
    return [
        *lines,
        f"vocabulary {vocabulary:,}, tokenizer {prepared.tokenizer.path}",
        f"train with: ane-train --data {prepared.folder}",
    ]
