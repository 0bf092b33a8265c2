"""`ane-train doctor`: what works on this machine, on the screen and as a report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ane_train.errors import ExitCode

if TYPE_CHECKING:
    from rich.text import Text

    from ane_train.doctor.report import Report
    from ane_train.doctor.sections import Section

WIDTH = 100  # columns where there is no terminal; narrower ones are not shown every column
INDENT, GAP = "  ", "  "
MINIMUM = 20  # columns of a last cell, however narrow the terminal
_STYLES = {
    "ok": "green",
    "no": "green",
    "yes": "yellow",
    "skipped": "dim",
    "wrong": "bold red",
    "refused": "bold red",
    "failed": "bold red",
    "added": "green",
    "removed": "bold red",
    "changed": "yellow",
}


@click.command("doctor")
@click.option("--model", default="tiny", show_default=True, help="whose programs are tried")
@click.option("--seq", type=click.IntRange(min=1), help="tokens per sequence; default: the model's")
@click.option(
    "--batch-size",
    "batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="of a run whose programs are tried",
)
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
    batch: int,
    json_file: str | None,
    engine: str,
    quick: bool,
    driver: str | None,
) -> None:
    """Try everything that training needs on this machine, and say what holds.

    Each program of the model and each op is compiled, evaluated and compared: on the ANE with the
    software engine, elsewhere the software engine with NumPy. So are the programs of `generate`,
    which do not count for the exit code. The report holds no personal data.
    What is found out about an ANE is kept, and later runs go by it.
    """
    from ane_train.data.files import default_cache
    from ane_train.doctor import Settings, examine
    from ane_train.doctor.report import require_place, write_report
    from ane_train.doctor.sections import sections

    if json_file is not None and json_file != "-":
        require_place(Path(json_file))
    profiles = default_cache()
    settings = Settings(engine, model, seq or 0, 0, driver, str(profiles), quick, batch)
    with ExitStack() as stack:
        report = examine(settings, _Bar(stack).update)
    saved = _save_profile(report, profiles)
    if json_file == "-":
        click.echo(report.to_text(), nl=False)
    elif json_file is not None:
        write_report(Path(json_file), report.to_text())
        saved.append(f"the report is in {json_file}")
    show_sections(sections(report, saved), sys.stderr if json_file == "-" else sys.stdout)
    if report.problems:
        ctx.exit(ExitCode.ENGINE)


def _save_profile(report: Report, folder: Path) -> list[str]:
    """Keeps what was found out about an ANE; nothing where none was tried."""
    from ane_train.doctor.examine import profile_of
    from ane_train.engine.profile import write_profile

    if not report.tried_ane:
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


def show_sections(shown: Iterable[Section], stream: TextIO) -> None:
    """The sections on the stream: in colour and to its width on a terminal, else 100 columns."""
    from rich.console import Console
    from rich.text import Text

    from ane_train.cli.screen import is_terminal

    console = Console(file=stream, highlight=False, width=None if is_terminal(stream) else WIDTH)
    for section in shown:
        console.print(Text(section.title, "bold"))
        for line in section_lines(section, min(console.width, WIDTH)):
            console.print(line, soft_wrap=True)
        console.print()


def section_lines(section: Section, width: int) -> Iterator[Text]:
    """Table and notes in lines of at most `width` columns, longer words aside."""
    hidden = section.wide if width < WIDTH else ()
    shown = [index for index in range(len(section.rows[0])) if index not in hidden]
    rows = [[row[index] for index in shown] for row in (section.header, *section.rows) if row]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield from _wrapped(row, widths, section.verdict, width)
    left_out = ", ".join(section.header[index] for index in hidden)
    for note in (*section.notes, *([f"not shown for want of room: {left_out}"] * bool(hidden))):
        yield from _wrapped(["-", note], [1, len(note)], None, width)


def _wrapped(row: list[str], widths: list[int], verdict: int | None, width: int) -> Iterator[Text]:
    """The row; its last cell goes on in the next lines, below its own beginning."""
    import textwrap

    from rich.text import Text

    line = Text(INDENT)
    for index, cell in enumerate(row[:-1]):
        style = _STYLES.get(cell, "") if index == verdict else ""
        line.append(cell, style).append(" " * (widths[index] - len(cell)) + GAP)
    room = max(width - len(line), MINIMUM)
    style = _STYLES.get(row[-1], "") if verdict == len(row) - 1 else ""
    parts = textwrap.wrap(row[-1], room, break_on_hyphens=False, break_long_words=False)
    indent = " " * len(line)
    for part in parts or [""]:
        line.append(part, style).rstrip()
        yield line
        line = Text(indent)
