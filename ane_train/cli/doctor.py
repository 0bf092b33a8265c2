"""`ane-train doctor`: what works on this machine, on the screen and as a report."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ane_train.cli.sections import CaseBar, saved, show_sections
from ane_train.errors import ExitCode

if TYPE_CHECKING:
    from ane_train.doctor.report import Report


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
    from ane_train.doctor.report import require_place
    from ane_train.doctor.sections import sections

    if json_file is not None and json_file != "-":
        require_place(Path(json_file))
    profiles = default_cache()
    settings = Settings(engine, model, seq or 0, 0, driver, str(profiles), quick, batch)
    with ExitStack() as stack:
        report = examine(settings, CaseBar(stack).update)
    kept = _save_profile(report, profiles)
    with saved(json_file, report.to_text()) as lines:
        found = sections(report, [*kept, *lines])
        show_sections(found, sys.stderr if json_file == "-" else sys.stdout)
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
