"""`ane-train prepare`: text into token shards."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ane_train.data.prepare import Prepared


@click.command("prepare")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="folder for the shards; `ane-train --data` takes it",
)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json; default: the built-in one"
)
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="hold out this share in a shard of its own; default: training holds out what it needs",
)
@click.option("--force", is_flag=True, help="replace shards that are there already")
def command(
    inputs: tuple[Path, ...],
    out: Path,
    tokenizer: Path | None,
    valid_fraction: float,
    force: bool,
) -> None:
    """Turn text (.txt, .jsonl with a "text" key, or folders of them) into token shards."""
    from ane_train.data.prepare import prepare as prepare_shards

    with ExitStack() as stack:
        bar = _Bar(stack)
        prepared = prepare_shards(
            inputs,
            tokenizer,
            out,
            valid_fraction=valid_fraction,
            force=force,
            progress=bar.update,
        )
    for line in _summary(prepared):
        click.echo(line)


class _Bar:
    """A progress bar over bytes on stderr; nothing where that is no terminal."""

    def __init__(self, stack: ExitStack) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        from ane_train.cli.screen import is_terminal

        shown = is_terminal(sys.stderr)
        self._bar = stack.enter_context(
            tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=not shown, desc="encoding")
        )

    def update(self, done: int, whole: int) -> None:
        """Show that `done` of `whole` bytes are encoded."""
        self._bar.total = whole
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
