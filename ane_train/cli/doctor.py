"""`ane-train doctor`: what works on this machine, on the screen and as a report."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ane_train.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from ane_train.doctor.report import Report
    from ane_train.doctor.sections import Section

WIDTH = 100  # columns of plain text
_STYLES = {
    "ok": "green",
    "absent": "green",
    "confirmed": "yellow",
    "skipped": "dim",
    "wrong": "bold red",
    "refused": "bold red",
    "failed": "bold red",
}


@click.command("doctor")
@click.option("--model", default="tiny", show_default=True, help="whose programs are tried")
@click.option("--seq", type=click.IntRange(min=1), help="tokens per sequence; default: the model's")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="write the report to FILE; -: to stdout, and the text to stderr",
)
@click.option(
    "--engine",
    type=click.Choice(("auto", "cpu", "ane")),
    default="auto",
    show_default=True,
    help="what to try",
)
@click.option("--quick", is_flag=True, help="only say which engine would be used, and why")
@click.option("--driver", type=click.Path(), help="another library that drives the ANE")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    seq: int | None,
    json_file: str | None,
    engine: str,
    quick: bool,
    driver: str | None,
) -> None:
    """Try everything that training needs on this machine, and say what holds.

    Each program of the model and each op is compiled, evaluated and compared: on the ANE with the
    software engine, elsewhere the software engine with NumPy. The report holds no personal data.
    What is found out about an ANE is kept, and later runs go by it.
    """
    from ane_train.data.files import default_cache
    from ane_train.doctor import Settings, examine
    from ane_train.doctor.report import require_place, write_report

    if json_file is not None and json_file != "-":
        require_place(Path(json_file))
    profiles = default_cache()
    settings = Settings(engine, model, seq or 0, 0, driver, str(profiles), quick)
    with ExitStack() as stack:
        report = examine(settings, _Bar(stack).update)
    saved = _save_profile(report, profiles)
    if json_file == "-":
        click.echo(report.to_text(), nl=False)
    elif json_file is not None:
        write_report(Path(json_file), report)
        saved.append(f"the report is in {json_file}")
    _show(report, saved, sys.stderr if json_file == "-" else sys.stdout)
    if report.problems:
        ctx.exit(ExitCode.ENGINE)


def _save_profile(report: Report, folder: Path) -> list[str]:
    """Keeps what was found out about an ANE; nothing where none was tried."""
    from ane_train.doctor.examine import profile_of
    from ane_train.engine.profile import write_profile

    if not report.dispatch:
        return []
    try:
        return [f"later runs go by {write_profile(folder, profile_of(report))}"]
    except OSError as error:
        return [f"what was found out cannot be kept in {folder}: {error.strerror}"]


class _Bar:
    """A progress bar over the cases on stderr; nothing where that is no terminal."""

    def __init__(self, stack: ExitStack) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        from ane_train.cli.screen import is_terminal

        shown = is_terminal(sys.stderr)
        self._bar = stack.enter_context(tqdm(unit="case", disable=not shown, leave=False))

    def update(self, done: int, whole: int, name: str) -> None:
        """Show that `done` of `whole` cases are tried and `name` is next."""
        self._bar.total = whole
        self._bar.set_description(name, refresh=False)
        self._bar.update(done - self._bar.n)


def _show(report: Report, saved: list[str], stream: TextIO) -> None:
    from ane_train.cli.screen import is_terminal
    from ane_train.doctor.sections import sections

    parts = sections(report, saved)
    if not is_terminal(stream):
        for section in parts:
            for line in plain_lines(section):
                click.echo(line, file=stream)
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    for section in parts:
        print_section(section, console)


def plain_lines(section: Section) -> list[str]:
    """A section as aligned lines of at most 100 columns, without escape codes, and an empty one."""
    rows = [section.header, *section.rows] if section.header else list(section.rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [section.title]
    for row in rows:
        lines += _wrapped("  ", row, widths)
    for note in section.notes:
        lines += _wrapped("  ", ("-", note), [1, len(note)])
    return [*lines, ""]


def _wrapped(indent: str, row: tuple[str, ...], widths: list[int]) -> list[str]:
    """The row; its last cell goes on in the next lines, below its own beginning."""
    import textwrap

    cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
    first = indent + "".join(f"{cell}  " for cell in cells)
    rest = " " * len(first)
    return textwrap.wrap(
        row[-1],
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [first.rstrip()]


def print_section(section: Section, console: Console) -> None:
    """A section as a table that fits the terminal."""
    from rich.table import Table
    from rich.text import Text

    hidden = section.wide if console.width < WIDTH else ()
    shown = [index for index in range(len(section.rows[0])) if index not in hidden]
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 2),
        show_header=bool(section.header),
        header_style="dim",
    )
    for index in shown:
        numeric = section.verdict is not None and index > section.verdict and index < 7
        table.add_column(
            section.header[index] if section.header else "",
            justify="right" if numeric and len(section.header) > 4 else "left",
            no_wrap=index == 0 and len(section.header) != 2,
            overflow="fold",
            style="cyan" if not section.header and index == 0 else "",
        )
    for row in section.rows:
        cells = [
            Text(row[index], _STYLES.get(row[index], "") if index == section.verdict else "")
            for index in shown
        ]
        table.add_row(*cells)
    console.print(Text(section.title, "bold"))
    console.print(table)
    for note in section.notes:
        console.print(Text(f"  - {note}", "dim"))
    console.print()
