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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alhpo.config import RunConfig, read_config_file
from alhpo.experiment import run_experiment
from alhpo.report import write_report
from alhpo.strategies import split_strategy_names
from alhpo.types import AlhpoError, ConfigurationError, CycleRecord

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
    console = _console()
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
    write_report(folder, output).to_console(console or _console())


class RichObserver:
    """Shows a run: one line per finished cycle and, on a terminal, a bar for the work at hand."""

    def __init__(self, console: Console | None = None) -> None:
        self.shown = False
        self._console = console = console or _console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: tuple[Any, Any] | None = None
        self._cycles = 0

    def __enter__(self) -> RichObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, config: RunConfig, path: Path, records: int, cycles: int) -> None:
        self.shown, self._cycles = True, cycles
        verb = f"continued after {records} of {cycles} cycles" if records else f"{cycles} cycles"
        self._console.print(f"{path}: {verb}", soft_wrap=True)

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        key = (cycle, part)
        if self._task is None or self._task[0] != key:
            self._drop_task()
            title = f"cycle {cycle} {part}"
            self._task = (key, self._progress.add_task(title, total=total, note=note))
        self._progress.update(self._task[1], completed=done, note=note)

    def recorded(self, record: CycleRecord) -> None:
        self._drop_task()
        validation = record.validation
        judged = f"validation {validation['accuracy']:.3f}  " if validation else ""
        hp = record.configuration
        chosen = f"lr {hp['lr']:.2g}  wd {hp['weight_decay']:.2g}"
        spent = f"{record.epochs['hpo']} + {record.epochs['fit']} epochs"
        seconds = sum(record.seconds.values())
        warning = "  [red]DIVERGED[/]" if record.diverged else ""
        name = "final  " if record.kind == "final" else f"cycle {record.cycle:<2d}"
        self._console.print(
            f"{name} {record.n_labeled:5d} labels  test {record.test['accuracy']:.3f}  {judged}"
            f"{chosen}{' (tuned)' if record.tuned else ''}  {spent}  {seconds:.0f} s{warning}",
            highlight=False,
            soft_wrap=True,
        )

    def _drop_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task[1])
            self._task = None


def _console() -> Console:
    """The terminal, or lines of 110 characters where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


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
