"""`ane-train plan`: what a training step takes on a chip, by a model of its costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.text import Text

    from ane_train.plan.predict import Prediction
    from ane_train.plan.report import Table

INDENT, GAP = "  ", "  "


@click.command("plan")
@click.option("--model", default="stories110m", show_default=True, help="whose step")
@click.option("--chip", default="m4", show_default=True, help="such as m1-max, m3-ultra, m5")
@click.option(
    "--pipeline",
    type=click.Choice(("dynamic", "static")),
    default="dynamic",
    show_default=True,
    help="weights as inputs of programs, or as constants",
)
@click.option("--engine-extras", is_flag=True, help="with static: head and norms on the engine")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="sequences per micro-batch",
)
@click.option(
    "--accum",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="micro-batches per step",
)
@click.option("--seq", type=click.IntRange(min=1), help="tokens per sequence; default: the model's")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="write the plan to FILE; -: to stdout, and the text to stderr",
)
def command(
    model: str,
    chip: str,
    pipeline: str,
    engine_extras: bool,
    batch_size: int,
    accum: int,
    seq: int | None,
    json_file: str | None,
) -> None:
    """Predict the step of a model on a chip, without the chip.

    Programs, bytes and FLOP are those of the step that would run. Times follow from published
    figures of the chip (--json has each with its source); nothing is measured here.
    """
    from ane_train.cli.model_options import write_json
    from ane_train.doctor.report import require_place
    from ane_train.model.spec import load_model
    from ane_train.plan.machines import get_machine
    from ane_train.plan.ours import PlanOptions, step_plan
    from ane_train.plan.predict import predict
    from ane_train.plan.report import to_json

    if json_file is not None and json_file != "-":
        require_place(Path(json_file))
    machine, spec = get_machine(chip), load_model(model)
    options = PlanOptions(pipeline, engine_extras, batch_size, accum)
    prediction = predict(step_plan(spec, seq or spec.sequence, options, machine.chip), machine)
    _show(prediction, sys.stderr if json_file == "-" else sys.stdout)
    if json_file is not None:
        write_json(json_file, to_json(prediction))


def _show(prediction: Prediction, stream: TextIO) -> None:
    from rich.text import Text

    from ane_train.cli.screen import WIDTH, open_console
    from ane_train.plan.report import summary, tables

    console = open_console(stream)
    width = min(console.width, WIDTH)
    console.print(Text(f"{prediction.plan.title} on {prediction.machine.title}", "bold"))
    console.print()
    for table in tables(prediction):
        for line in table_lines(table, width):
            console.print(line, soft_wrap=True)
        console.print()
    for fact in summary(prediction):
        for line in _wrapped(fact, width):
            console.print(line, soft_wrap=True)


def table_lines(table: Table, width: int) -> Iterator[Text]:
    """Title, numbers in columns and notes, in lines of at most `width` columns.

    Columns are left out as far as the table allows, which a note says.
    """
    from rich.text import Text

    shown, hidden = list(range(len(table.header))), []
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    for spare in table.spare:
        if _line_width([widths[index] for index in shown]) > width:
            shown.remove(spare)
            hidden.append(table.header[spare])
    yield Text(table.title, "bold")
    for row in (table.header, *table.rows):
        cells = [row[index].rjust(widths[index]) for index in shown[1:]]
        line = Text(INDENT).append(row[0].ljust(widths[0]))
        style = "cyan" if row is table.header else "bold" if row is table.rows[-1] else ""
        line.append("".join(GAP + cell for cell in cells))
        line.stylize(style)
        line.rstrip()
        yield line
    left_out = [f"not shown for want of room: {', '.join(hidden)}"] * bool(hidden)
    for note in (*table.notes, *left_out):
        yield from _wrapped(f"- {note}", width)


def _line_width(widths: list[int]) -> int:
    return len(INDENT) + sum(widths) + len(GAP) * (len(widths) - 1)


def _wrapped(line: str, width: int) -> Iterator[Text]:
    import textwrap

    from rich.text import Text

    later = INDENT * 2 if line.startswith("- ") else INDENT
    for part in textwrap.wrap(line, width, initial_indent=INDENT, subsequent_indent=later):
        yield Text(part, "dim" if line.startswith("- ") else "")
