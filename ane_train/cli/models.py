"""`ane-train models`: what can be trained, and the memory that it takes."""

from __future__ import annotations

import sys

import click

COLUMNS = ("name", "parameters", "layers", "dim", "heads", "context", "memory", "description")
WIDE = 100  # columns of a terminal that has room for descriptions
_NUMBERS = frozenset(COLUMNS[1:7])


@click.command("models")
def command() -> None:
    """List the models that can be trained."""
    from ane_train.cli.screen import is_terminal
    from ane_train.metrics.units import size
    from ane_train.model.memory import available

    rows = _rows()
    stream = sys.stdout
    if is_terminal(stream):
        _print_table(rows)
    else:
        for line in _aligned([COLUMNS, *rows]):
            click.echo(line)
    click.echo(f"memory: to train with one sequence per micro-batch; {size(available())} are free")


def _rows() -> list[tuple[str, ...]]:
    from ane_train.metrics.units import count, size
    from ane_train.model.layer import layer_shape
    from ane_train.model.memory import estimate
    from ane_train.model.parameters import count as count_parameters
    from ane_train.model.spec import list_models

    return [
        (
            spec.name,
            count(count_parameters(spec)),
            str(spec.layers),
            str(spec.dim),
            f"{spec.heads}/{spec.kv_heads}",
            str(spec.sequence),
            size(estimate(spec, layer_shape(spec, spec.sequence)).total),
            spec.description,
        )
        for spec in sorted(list_models(), key=count_parameters)
    ]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    from ane_train.cli.screen import open_console

    console = open_console(sys.stdout)
    shown = COLUMNS if console.width >= WIDE else COLUMNS[:-1]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    for index, column in enumerate(shown):
        widest = max(len(row[index]) for row in [COLUMNS, *rows])
        table.add_column(
            column,
            min_width=None if column == "description" else widest,
            justify="right" if column in _NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            style="bold" if column == "name" else "",
        )
    for row in rows:
        table.add_row(*row[: len(shown)])
    console.print(table)
