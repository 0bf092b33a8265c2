"""`ane-train explore`: the private classes of this system, listed, as a header, or compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ane_train.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from ane_train.doctor.sections import Section
    from ane_train.engine.device import Device
    from ane_train.explore import Explored, Listing

KNOWN = "known"
_PARTIAL = (
    "only names of methods are compared, and the types that the driver relies on",
    "what is published is of that one system: on another, a difference need not be a fault",
)


@click.command("explore")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="write the listing to FILE; -: to stdout, and the text to stderr",
)
@click.option("--header", "as_header", is_flag=True, help="print an Objective-C header")
@click.option(
    "--diff",
    "other",
    metavar="FILE|known",
    help="compare with a listing that --json wrote, or with what is published",
)
@click.option("--driver", type=click.Path(), help="another library that drives the ANE")
@click.pass_context
def command(
    ctx: click.Context,
    json_file: str | None,
    as_header: bool,
    other: str | None,
    driver: str | None,
) -> None:
    """List the private classes through which the ANE is driven.

    Classes, methods, properties, instance variables and protocols with their type encodings, as
    the Objective-C runtime of this system tells them; no private class is called. With --diff,
    removed is what the other listing has and this system lacks. Where what training needs is not
    as the driver knows it, all is written the same, and the exit code is 8. The listing holds no
    personal data.
    """
    from ane_train.cli.sections import saved, show_sections
    from ane_train.doctor.report import require_place
    from ane_train.explore import explore, known_listing, read_listing

    if as_header and (json_file is not None or other is not None):
        raise ConfigError("--header is for a header alone: leave out --json and --diff")
    if json_file is not None and json_file != "-":
        require_place(Path(json_file))
    # Before the system is looked at: with a wrong file nothing is written.
    before = read_listing(Path(other)) if other not in (None, KNOWN) else None
    found = explore(driver)
    if as_header:
        _print_header(found)
    else:
        shown = _sections(found, known_listing(found.device) if other == KNOWN else before)
        with saved(json_file, found.listing.to_text(), "listing") as lines:
            shown.append(_conclusion(found.device, lines))
            show_sections(shown, sys.stderr if json_file == "-" else sys.stdout)
    if not found.device.usable.get("core", False):
        ctx.exit(ExitCode.ENGINE)


def _print_header(found: Explored) -> None:
    from ane_train.explore.header import header

    click.echo(header(found.listing), nl=False)
    if not found.device.usable.get("core", False):
        said = "what training needs is not as the driver knows it: see `ane-train explore`"
        click.echo(f"note: {said}", err=True)


def _sections(found: Explored, before: Listing | None) -> list[Section]:
    from ane_train.doctor.sections import framework_section

    framework = framework_section(found.device)
    if before is None:
        return [framework, classes_section(found.listing)]
    return [framework, differences_section(before, found.listing)]


def classes_section(listing: Listing) -> Section:
    """A row for each class."""
    from ane_train.doctor.sections import Section

    rows = [
        (
            each.name,
            each.superclass or "-",
            str(sum(method.kind == "+" for method in each.methods)),
            str(sum(method.kind == "-" for method in each.methods)),
            str(len(each.properties)),
            str(len(each.variables)),
            ", ".join(each.protocols) or "-",
        )
        for each in listing.classes
    ]
    header = ("class", "superclass", "+", "-", "properties", "variables", "protocols")
    notes = ["+ methods of the class, - of its objects; --header and --json show all of them"]
    names = ", ".join(each.name for each in listing.protocols)
    notes += [f"protocols: {names}"] * bool(names)
    return Section(f"{len(rows)} classes", tuple(rows), header, spare=(1, 5), notes=tuple(notes))


def differences_section(before: Listing, after: Listing) -> Section:
    """A row for each difference."""
    from ane_train.doctor.sections import Section
    from ane_train.explore.difference import ADDED, CHANGED, REMOVED, compare

    found = compare(before, after)
    rows = tuple((each.verdict, str(each)) for each in found)
    counts = [
        f"{sum(each.verdict == verdict for each in found)} {verdict}"
        for verdict in (ADDED, REMOVED, CHANGED)
    ]
    title = f"against {before.system}, by {before.source}"
    notes = (", ".join(counts), *(_PARTIAL if before.partial else ()))
    return Section(title, rows or (("same", "in everything"),), verdict=0, notes=notes)


def _conclusion(device: Device, saved: list[str]) -> Section:
    from ane_train.doctor.sections import Section

    parts = {"core": "training", "attributes": "reading layouts", "direct": "--dispatch direct",
             "realtime": "--dispatch realtime", "device": "telling the chip"}  # fmt: skip
    rows = [
        (use, "there" if device.usable.get(part, False) else "not as the driver knows it")
        for part, use in parts.items()
    ]
    return Section("what the driver needs", tuple(rows), notes=tuple(saved))
