"""The commands: ``alhpo run`` and ``alhpo report``. Flags and YAML files share one schema."""

from __future__ import annotations

import itertools
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from alhpo.config import RunConfig, read_config_file
from alhpo.experiment import run_experiment
from alhpo.progress import RichObserver, make_console
from alhpo.report import write_report
from alhpo.strategies import split_strategy_names
from alhpo.types import AlhpoError, ConfigurationError

#: Settings of which several values, separated by commas, make several runs.
SEVERAL = ("strategy", "hpo", "seed")


def _is_flag(annotation: Any) -> bool:
    return annotation is bool or bool in typing.get_args(annotation)


def _metavar(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
    return next(kind.__name__.upper() for kind in kinds if kind is not type(None))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="alhpo")
def main() -> None:
    """Deep active learning with hyperparameter optimisation in the loop."""


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One flag for every setting of a run."""
    for name, field in reversed(RunConfig.model_fields.items()):
        if name == "hyperparameters":
            continue
        text = field.description or ""
        if name in SEVERAL:
            text += " Several, separated by commas, make several runs."
        flag = "--" + name.replace("_", "-")
        if _is_flag(field.annotation):
            flag += "/--no-" + name.replace("_", "-")
            kind: dict[str, Any] = {"default": None}
        else:
            kind = {"metavar": _metavar(field.annotation)}
        default = "" if field.default is None else f"  [default: {field.default}]"
        command = click.option(flag, name, help=text + default, **kind)(command)
    return command


@main.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of settings; flags go over it.",
)
@click.option(
    "--hp",
    "hyperparameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A fixed hyperparameter, such as --hp lr=0.01 --hp optimizer=adamw.",
)
@run_options
def run(config_file: Path | None, hyperparameters: tuple[str, ...], **flags: Any) -> None:
    """Run active learning, continue it, or show what was run before.

    The same settings always mean the same run folder: a killed run goes on where it was.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    configs = _expand(read_config_file(config_file) if config_file else {}, given, hyperparameters)
    console = make_console()
    for number, config in enumerate(configs, start=1):
        console.rule(f"[bold]run {number} of {len(configs)}[/]: {config.name}", align="left")
        with RichObserver(console) as observer:
            result = run_experiment(config, observer=observer)
        if result.resumed and not observer.shown:
            console.print(f"finished before: {result.path}", soft_wrap=True)
    show_report(Path(configs[0].output_dir).expanduser(), console=console)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; default: FOLDER.")
def report(folder: Path, output: Path | None) -> None:
    """Learning curves and tables of all runs in FOLDER, from files only."""
    show_report(folder, output)


def show_report(
    folder: Path, output: Path | None = None, *, console: Console | None = None
) -> None:
    """Write the report of all runs in a folder, and print its tables and where it is."""
    write_report(folder, output).to_console(console or make_console())


def _expand(
    file: dict[str, Any], flags: dict[str, Any], hyperparameters: tuple[str, ...]
) -> list[RunConfig]:
    """All runs that the settings stand for; every one is checked before the first begins."""
    settings = file | flags
    if hyperparameters:
        fixed = settings.get("hyperparameters") or {}
        settings["hyperparameters"] = dict(fixed) | dict(map(_assignment, hyperparameters))
    choices = []
    for name in SEVERAL:
        value = settings.get(name, RunConfig.model_fields[name].default)
        split = split_strategy_names if name == "strategy" else _split
        values = split(value) if isinstance(value, str) else value
        choices.append(values if isinstance(values, list) else [values])
    return [
        RunConfig.create(settings, dict(zip(SEVERAL, combination, strict=True)))
        for combination in itertools.product(*choices)
    ]


def _split(text: str) -> list[str]:
    return text.split(",")


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--hp {text!r}: expected NAME=VALUE, such as lr=0.01.")
    return name.strip(), yaml.safe_load(value) if value[:1] in "[{" else value.strip()


def run_main() -> None:
    """Entry point: errors of alhpo become one line and exit status 2."""
    try:
        main(standalone_mode=True)
    except AlhpoError as error:
        click.echo(f"alhpo: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that cannot be written
        click.echo(f"alhpo: {error}. What was recorded so far is safe.", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("alhpo: interrupted; the same command goes on from here.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    run_main()
