"""`ane-train bench`: what the chip can do, as tables and as a report; reports compared, drawn."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ane_train.chip import HELP, NAMES, PRECISIONS
from ane_train.cli.sections import CaseBar, saved, show_sections
from ane_train.errors import ConfigError

if TYPE_CHECKING:
    from ane_train.chip.settings import Settings

RUN, REPORT = "run", "bench.json"
LONGEST = 24 * 60 * 60  # seconds
_SIZE, _RANGE = r"[1-9][0-9]{0,4}", ", each from 1 to 99999"
_SPATIAL = f"{_SIZE}x{_SIZE}"
# Parameters that are of one benchmark, with their flag.
_OF_ONE = {
    "precisions": ("--precision", "peak"),
    "depths": ("--depth", "peak"),
    "channels": ("--channels", "peak"),
    "spatial": ("--spatial", "peak"),
    "model": ("--model", "train"),
    "chip": ("--chip", "train"),
}

_EPILOG = "\n".join(
    [
        "\b",
        "NAMES are any of:",
        *(f"  {name.ljust(max(map(len, NAMES)))}  {text}" for name, text in HELP.items()),
        "",
        "\b",
        "Afterwards:",
        "  ane-train bench compare A.json [B.json]     side by side; alone: with published results",
        "  ane-train bench plot A.json --png OUT.png   roofline, and the sweep of sram",
    ]
)


class BenchGroup(click.Group):
    """A group whose command `run` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` before anything that is no other command."""
        if not args or args[0] not in self.commands:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


class _Run(click.Command):
    """The command that goes without a name, in its usage too."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage without `run`."""
        assert ctx.parent is not None
        formatter.write_usage(ctx.parent.command_path, " ".join(self.collect_usage_pieces(ctx)))


@click.group("bench", cls=BenchGroup, add_help_option=False)
def command() -> None:
    """Measure what the chip can do, each program proved right first."""


Callback = Callable[[click.Context, click.Parameter, str | None], Any]


def _listed(pattern: str, of: str = "") -> Callback:
    """Turns words between commas into a tuple; an error names the one that does not fit."""

    def convert(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
        words = [] if value is None else value.split(",")
        for word in words:
            if not re.fullmatch(pattern, word):
                raise click.BadParameter(f"{word!r} does not fit {parameter.metavar}{of}")
        return tuple(dict.fromkeys(words))

    return convert


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    return tuple(int(word) for word in _listed(_SIZE, _RANGE)(ctx, parameter, value))


@command.command(RUN, cls=_Run, epilog=_EPILOG)
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAMES]...")
@click.option("--quick", is_flag=True, help="small sizes and few samples: whether all of it runs")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    default=REPORT,
    show_default=True,
    help="write the report to FILE; -: to stdout, and the tables to stderr",
)
@click.option("--markdown", is_flag=True, help="tables to paste into an issue")
@click.option(
    "--precision",
    "precisions",
    metavar="fp16,int8",
    callback=_listed("|".join(PRECISIONS)),
    help="of peak",
)
@click.option("--depth", "depths", metavar="N,N", callback=_numbers, help="of peak: convolutions")
@click.option("--channels", metavar="N,N", callback=_numbers, help="of peak")
@click.option(
    "--spatial", metavar="HxW,HxW", callback=_listed(_SPATIAL, _RANGE), help="of peak: places"
)
@click.option("--model", default="", metavar="MODEL", help="of train; default: stories110m")
@click.option(
    "--chip",
    default="",
    metavar="NAME",
    help="whose plan stands beside train, such as m4-max; default: the one at hand",
)
@click.option(
    "--engine",
    type=click.Choice(("auto", "cpu", "ane")),
    default="auto",
    show_default=True,
    help="what to measure",
)
@click.option("--driver", type=click.Path(), help="another library that drives the ANE")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0: one for each core")
@click.option(
    "--timeout",
    type=click.IntRange(1, LONGEST),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="after which a case that says nothing is ended",
)
def run(names: tuple[str, ...], json_file: str, markdown: bool, **given: Any) -> None:
    """Measure what the chip can do, or the software engine where there is none.

    Every program is compared with NumPy first, and what is not right is not timed. Cases run in
    processes of their own: one that crashes or hangs is a result. The report holds no personal
    data. Without NAMES everything is measured, in about 5 minutes.
    """
    from ane_train.chip.run import measure
    from ane_train.chip.sections import sections, to_markdown
    from ane_train.doctor.report import require_place

    _require_use(names, given)
    to_stdout = json_file == "-"
    if not to_stdout:
        require_place(Path(json_file))
    with ExitStack() as stack:
        report = measure(
            _settings(given), tuple(dict.fromkeys(names)) or NAMES, CaseBar(stack).update
        )
    with saved(json_file, report.to_text()) as lines:
        found = sections(report, lines)
        if markdown:
            click.echo(to_markdown(found), nl=False, err=to_stdout)
        else:
            show_sections(found, sys.stderr if to_stdout else sys.stdout)


def _require_use(names: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """ConfigError for a flag of a benchmark that is not to be run."""
    for parameter, (flag, benchmark) in _OF_ONE.items():
        if given[parameter] and names and benchmark not in names:
            raise ConfigError(f"{flag} is of {benchmark}: name that too, or leave out {flag}")


def _settings(given: dict[str, Any]) -> Settings:
    from ane_train.chip.settings import Settings, Sweep
    from ane_train.data.files import default_cache
    from ane_train.model.spec import load_model
    from ane_train.plan.machines import get_machine

    sweep = Sweep(*(given.pop(name) for name in ("precisions", "depths", "channels", "spatial")))
    if given["model"]:
        load_model(given["model"])
    if given["chip"]:
        given["chip"] = get_machine(given["chip"]).name
    return Settings(**given, profiles=str(default_cache()), sweep=sweep)


@command.command("compare")
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="[B.json]", required=False)
@click.option("--markdown", is_flag=True, help="tables to paste into an issue")
def compare(first: str, second: str | None, markdown: bool) -> None:
    """Put two reports side by side, or one beside the published results."""
    from ane_train.chip.compare import beside_published, side_by_side
    from ane_train.chip.results import read_report
    from ane_train.chip.sections import to_markdown

    report = read_report(Path(first))
    if second is None:
        found = beside_published(report)
    else:
        found = side_by_side(report, read_report(Path(second)))
    if markdown:
        click.echo(to_markdown(found), nl=False)
    else:
        show_sections(found, sys.stdout)


@command.command("plot")
@click.argument("file", metavar="A.json")
@click.option("--png", "png", required=True, metavar="OUT.png", help="the picture to write")
def plot(file: str, png: str) -> None:
    """Draw the roofline and the sweep of sram. Needs matplotlib."""
    from ane_train.chip.plot import draw
    from ane_train.chip.results import read_report
    from ane_train.doctor.report import require_place

    report = read_report(Path(file))
    if Path(png).suffix.lower() != ".png":
        raise ConfigError(f"--png {png}: give a name that ends in .png")
    require_place(Path(png), "--png")
    draw(report, Path(png))
    click.echo(f"the picture is in {png}")
