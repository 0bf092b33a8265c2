"""Titled tables on a terminal or a stream, and a bar over the cases that fill them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ane_train.errors import DiskError

if TYPE_CHECKING:
    from rich.text import Text

    from ane_train.doctor.sections import Section

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
    "crashed": "bold red",
    "hung": "bold red",
    "added": "green",
    "removed": "bold red",
    "changed": "yellow",
}


class CaseBar:
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


@contextmanager
def saved(json_file: str | None, text: str, name: str = "report") -> Iterator[list[str]]:
    """Saves what `--json` is to have ("-": on stdout), and lends the lines that say so.

    Where it cannot be written, DiskError comes last, after everything is shown.
    """
    from ane_train.doctor.report import write_report

    lines: list[str] = []
    unsaved: DiskError | None = None
    if json_file == "-":
        click.echo(text, nl=False)
    elif json_file is not None:
        try:
            write_report(Path(json_file), text)
            lines.append(f"the {name} is in {json_file}")
        except DiskError as error:
            unsaved = error
    yield lines
    if unsaved is not None:
        raise unsaved


def show_sections(sections: Iterable[Section], stream: TextIO) -> None:
    """Every section on the stream, in the style of its console."""
    from rich.text import Text

    from ane_train.cli.screen import WIDTH, open_console

    console = open_console(stream)
    for section in sections:
        console.print(Text(section.title, "bold"))
        for line in section_lines(section, min(console.width, WIDTH)):
            console.print(line, soft_wrap=True)
        console.print()


def section_lines(section: Section, width: int) -> Iterator[Text]:
    """Table and notes in lines of at most `width` columns, longer words and tables aside."""
    table = [row for row in (section.header, *section.rows) if row]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    hidden: list[int] = []
    for spare in section.spare:
        shown = [size for index, size in enumerate(widths) if index not in hidden]
        shown[-1] = min(shown[-1], MINIMUM)
        if len(INDENT) + sum(shown) + len(GAP) * (len(shown) - 1) > width:
            hidden.append(spare)
    columns = [index for index in range(len(widths)) if index not in hidden]
    verdict = columns.index(section.verdict) if section.verdict is not None else None
    for row in table:
        cells = [row[index] for index in columns]
        yield from _wrapped(cells, [widths[index] for index in columns], verdict, width)
    left_out = ", ".join(section.header[index].strip() for index in sorted(hidden))
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
