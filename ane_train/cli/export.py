"""`ane-train export`: weights for other programs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

FORMATS = ("hf", "gguf", "llama2c", "peft")
DTYPES = ("f32", "f16", "bf16", "q8_0")


@click.command("export")
@click.argument("model")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default="hf",
    show_default=True,
    help="Hugging Face (transformers, mlx-lm), GGUF (llama.cpp), llama2.c; PEFT: adapters alone",
)
@click.option(
    "--out", "-o", required=True, type=click.Path(path_type=Path), help="folder for the files"
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="f32",
    show_default=True,
    help="of the matrices; q8_0 is for gguf",
)
@click.option("--force", is_flag=True, help="replace files in a folder that is not empty")
@click.option("--merge", is_flag=True, help="of a run with adapters: add them to the weights")
def command(model: str, format_name: str, out: Path, dtype: str, force: bool, merge: bool) -> None:
    """Write the weights of MODEL for other programs.

    MODEL is a run, a checkpoint, a Hugging Face folder, hf:owner/name, a .gguf, or a .bin of
    llama2.c or maderix/ANE. The tokenizer goes with the weights.
    """
    from ane_train.interop.export import export
    from ane_train.interop.source import open_source

    with closing(open_source(model)) as source:
        files = export(source, out, format_name=format_name, dtype=dtype, force=force, merge=merge)
    for file in files:
        click.echo(str(file))
