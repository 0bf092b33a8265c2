"""The terminal as a listener: a panel, a live line and an efficiency report, or plain lines.

Plain lines (no terminal, NO_COLOR, TERM=dumb) hold no escape codes. A terminal that goes away
silences the screen; it never ends the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from ane_train.metrics.events import (
    Event,
    Listener,
    Notice,
    RunContinued,
    RunEnded,
    RunStarted,
    Sampled,
    Saved,
    StepDone,
    Warned,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from ane_train.metrics.text import Meter

WIDTH = 100  # columns where there is no terminal
SHORTEST_BAR = 10  # columns


def is_terminal(stream: TextIO, environment: Mapping[str, str] | None = None) -> bool:
    """Whether colours and moving text are wanted on `stream`."""
    environment = os.environ if environment is None else environment
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return stream.isatty()


def open_console(stream: TextIO, environment: Mapping[str, str] | None = None) -> Console:
    """rich's console on `stream`: in colour and to its width on a terminal, else WIDTH columns.

    Raises BrokenPipeError when the reader of `stream` went away.
    """
    from rich.console import Console

    class OpenConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # what rich has just caught

    width = None if is_terminal(stream, environment) else WIDTH
    return OpenConsole(file=stream, highlight=False, width=width)


def open_screen(stream: TextIO, environment: Mapping[str, str], log_every: int) -> Listener:
    """The listener that suits `stream`."""
    from ane_train.metrics.text import PlainText

    screen: Listener
    if is_terminal(stream, environment):
        screen = RichScreen(open_console(stream, environment))
    else:

        def write(line: str) -> None:
            print(line, file=stream, flush=True)

        screen = PlainText(write, log_every, _Tolerant.name)
    return _Tolerant(screen)


def show_cursor() -> None:
    """Puts the terminal right without any of the objects above, for an exit at once."""
    if is_terminal(sys.stdout):
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")


class _Tolerant:
    """A screen that falls silent when its terminal or pipe is gone."""

    name = "screen"

    def __init__(self, screen: Listener) -> None:
        self._screen: Listener | None = screen

    def handle(self, event: Event) -> None:
        """Show the event, as long as somebody looks."""
        try:
            if self._screen is not None:
                self._screen.handle(event)
        except OSError:
            self._screen = None

    def hand_over(self) -> dict[str, Any]:
        """That of the screen; nothing where nobody looks."""
        try:
            return {} if self._screen is None else self._screen.hand_over()
        except OSError:
            return {}

    def close(self) -> None:
        """Put the terminal right again."""
        try:
            if self._screen is not None:
                self._screen.close()
        except OSError:
            self._screen = None


class RichScreen:
    """The screen of a terminal."""

    name = "screen"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: RunStarted | None = None
        self._meter: Meter | None = None
        self._last: StepDone | None = None
        self._live: Live | None = None

    def handle(self, event: Event) -> None:
        """Show the event."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, RunContinued):
            self._continue(event)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, RunEnded):
            self._end(event)
        else:
            self._print_between(event)

    def hand_over(self) -> dict[str, Any]:
        """What the live line shows; it goes away, and what stands in for it is drawn over."""
        self.close()
        self._console.print(_styled("restarting ...", "dim"), end="\r")
        return {
            "meter": self._meter.state() if self._meter else {},
            "last": asdict(self._last) if self._last else None,
        }

    def close(self) -> None:
        """Take the live line away and show the cursor again."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start(self, event: RunStarted) -> None:
        from ane_train.metrics.text import Meter, start_rows

        self._started, self._meter = event, Meter(event)
        self._console.print(_panel("ane-train", _facts(start_rows(event))))
        self._go_live()

    def _continue(self, event: RunContinued) -> None:
        from ane_train.metrics.text import Meter

        memory = event.memory.get(self.name, {})
        self._started, self._meter = event.started, Meter(event.started, memory.get("meter"))
        self._meter.pause(event.seconds)
        self._last = StepDone(**memory["last"]) if memory.get("last") else None
        self._go_live()

    def _go_live(self) -> None:
        from rich.live import Live

        self._live = Live(
            console=self._console,
            get_renderable=self._live_line,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _step(self, event: StepDone) -> None:
        self._last = event
        if self._meter is not None:
            self._meter.add(event)

    def _print_between(self, event: Notice) -> None:
        from ane_train.metrics.text import event_line

        if isinstance(event, Warned):
            style = "yellow"
        elif isinstance(event, Saved | Sampled):
            style = "dim"
        else:
            style = "bold green" if event.best else ""
        self._console.print(_styled(event_line(event), style))

    def _end(self, event: RunEnded) -> None:
        self.close()
        if self._started is None:
            return
        from rich.console import Group
        from rich.text import Text

        from ane_train.metrics.text import end_rows, resume_command

        body = Group(_parts(event), Text(), _facts(end_rows(event, self._started)))
        self._console.print(_panel("report", body))
        command = resume_command(event, self._started)
        if command:
            self._console.print(
                f"go on with: {command}", soft_wrap=True, markup=False, highlight=False
            )

    def _live_line(self) -> RenderableType:
        from rich.text import Text

        if self._started is None or self._meter is None:
            return Text()
        if self._last is None:
            return Text("first step ...", style="dim")
        return _live_row(self._started, self._meter, self._last, self._console.width)


def _live_row(started: RunStarted, meter: Meter, last: StepDone, width: int) -> RenderableType:
    """`120/300 [bar] loss 5.1234  1,234 tok/s  ...`, as much of it as the width has room for."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    place = f"{last.step}/{started.steps}" if started.steps else f"step {last.step}"
    total = started.steps or None
    row.add_row(
        Text(place, style="bold"),
        ProgressBar(total=total, completed=last.step, pulse=total is None),
        Text("  ".join(_that_fit(_live_texts(meter, last), width - len(place) - SHORTEST_BAR))),
    )
    return row


def _live_texts(meter: Meter, last: StepDone) -> list[tuple[int, str]]:
    """(rank, text) in the order of the screen; the lowest ranks are shown first."""
    from ane_train.metrics.units import duration, loss

    texts = [
        (0, f"loss {loss(meter.loss)}"),
        (1, f"{meter.tokens_per_second:,.0f} tok/s"),
        (3, f"{meter.micro_batch_ms:.1f} ms/micro-batch"),
        (4, f"lr {last.lr:.1e}"),
        (5, f"grad {last.grad_norm:.2f}"),
    ]
    if meter.seconds_left is not None:
        texts.append((2, f"eta {duration(meter.seconds_left)}"))
    return texts


def _that_fit(texts: list[tuple[int, str]], room: int) -> list[str]:
    shown: set[int] = set()
    for rank, text in sorted(texts):
        room -= len(text) + 2
        if room < 0:
            break
        shown.add(rank)
    return [text for rank, text in texts if rank in shown]


def _facts(rows: list[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return table


def _parts(event: RunEnded) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    from ane_train.metrics.text import part_rows
    from ane_train.metrics.units import duration

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=24)
    for name, seconds, share in part_rows(event):
        bar = ProgressBar(total=1.0, completed=share, width=24)
        table.add_row(name, duration(seconds), f"{share:.1%}", bar)
    return table


def _panel(title: str, body: RenderableType) -> RenderableType:
    from rich.panel import Panel

    return Panel(
        body, title=title, title_align="left", border_style="cyan", padding=(0, 1), expand=False
    )


def _styled(text: str, style: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style=style)
