"""The runs or tunings of one command, one after the other; a failure stops no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from alhpo.base.errors import AlhpoError, error_line
from alhpo.runs.settings import RunConfig, TuneConfig

if TYPE_CHECKING:
    from rich.console import Console

Config = TypeVar("Config", RunConfig, TuneConfig)


def for_each(
    what: str, configs: Sequence[Config], work: Callable[[Config], None], console: Console
) -> list[tuple[str, Exception]]:
    """Run or tune each of several settings; a failure stops no other.

    Returns:
        The names of those that failed, with the error. With one setting, its error is raised.
    """
    failed: list[tuple[str, Exception]] = []
    for number, config in enumerate(configs, start=1):
        console.rule(f"[bold]{what} {number} of {len(configs)}[/]: {config.name}", align="left")
        try:
            work(config)
        except Exception as error:
            if len(configs) == 1:
                raise
            if not isinstance(
                error, AlhpoError | OSError
            ):  # a defect of alhpo, not a user's mistake
                traceback.print_exc()
            console.print(
                f"failed: {error_line(error)}", markup=False, highlight=False, soft_wrap=True
            )
            failed.append((config.name, error))
    return failed


def end_command(what: str, failed: Sequence[tuple[str, Exception]], console: Console) -> None:
    """Print what failed, and exit with status 1 if anything did."""
    for name, error in failed:
        line = f"failed: {what} {name}: {error_line(error)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if failed:
        console.print("The same command continues these.", highlight=False)
        click.get_current_context().exit(1)
