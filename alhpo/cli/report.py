"""``alhpo report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for the report; default: FOLDER."
)
@click.option(
    "--compare",
    metavar="published|cifar10|cifar100",
    help="Compare with published tables; published: those named in the study's file.",
)
def report(folder: Path, output: Path | None, compare: str | None) -> None:
    """Write tables and figures of the study in FOLDER, or of all runs in it, from its records."""
    show_report(folder, output, compare=compare)


def show_report(
    folder: Path,
    output: Path | None = None,
    *,
    compare: str | None = None,
    console: Console | None = None,
) -> None:
    """Write the report of a folder, and print its accuracies and its files."""
    from alhpo.reports import write_report
    from alhpo.runs.progress import make_console

    write_report(folder, output, compare=compare).to_console(console or make_console())
