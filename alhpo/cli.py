"""The commands. Flags and YAML files share one schema.

Whatever needs torch is imported by the command that needs it, so that help and refusals are quick.
"""

from __future__ import annotations

import itertools
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pydantic
from pydantic.fields import FieldInfo

from alhpo.base.errors import AlhpoError, ConfigurationError, error_line
from alhpo.hyperparameters import load_space
from alhpo.runs.modes import MODES
from alhpo.runs.settings import RunConfig, TuneConfig, read_config_file

if TYPE_CHECKING:
    from rich.console import Console

    from alhpo.runs.pool_tuning import TuneResult
    from alhpo.studies import StudyConfig, StudyResult

#: Settings of which several values, separated by commas, make several runs.
SEVERAL = ("strategy", "hpo", "seed")

Config = typing.TypeVar("Config", RunConfig, TuneConfig)


def _is_flag(annotation: Any) -> bool:
    return annotation is bool or bool in typing.get_args(annotation)


def _kind(field: FieldInfo) -> click.ParamType:
    """What click accepts as the value of a setting's flag."""
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return click.Choice(typing.get_args(annotation))
    kinds = {annotation, *typing.get_args(annotation)}
    bounds: dict[str, Any] = {}
    for limit in field.metadata:  # of annotated_types, whose classes pydantic does not promise
        for name, bound in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
            if hasattr(limit, name):
                bounds |= {bound: getattr(limit, name), f"{bound}_open": name in ("gt", "lt")}
    if int in kinds:
        return click.IntRange(**bounds)
    return click.FloatRange(**bounds) if float in kinds else click.STRING


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="alhpo")
def main() -> None:
    """Deep active learning with hyperparameter optimisation in the loop."""


def setting_options(
    schema: type[pydantic.BaseModel], several: Collection[str], without: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A file of settings, ``--hp``, and one flag for every setting of a schema.

    Args:
        schema: whose settings.
        several: settings that take several values.
        without: settings that have no flag.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(schema.model_fields.items()):
            if name == "hyperparameters" or name in without:
                continue
            text = field.description or ""
            flag = "--" + name.replace("_", "-")
            if _is_flag(field.annotation):
                flag += "/--no-" + name.replace("_", "-")
                kind: dict[str, Any] = {"default": None}
            elif name in several:
                text += " Several, separated by commas, make several runs."
                kind = {"metavar": "TEXT,..."}
            else:
                kind = {"type": _kind(field)}
            if not (field.default is None or field.is_required()):
                text += f"  [default: {field.default}]"
            command = click.option(flag, name, help=text, **kind)(command)
        command = click.option(
            "--hp",
            "hyperparameters",
            multiple=True,
            metavar="NAME=VALUE",
            help="A fixed hyperparameter, such as --hp lr=0.01 --hp optimizer=adamw.",
        )(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="YAML file of settings; flags go over it.",
        )(command)

    return decorate


@main.command()
@setting_options(RunConfig, SEVERAL)
def run(config_file: Path | None, hyperparameters: tuple[str, ...], **flags: Any) -> None:
    """Run active learning, continue it, or show what was run before.

    The same settings always mean the same run folder: a killed run goes on where it was. A run
    that fails stops none of the others; the exit status is then 1.
    """
    from alhpo.runs.experiment import run_experiment
    from alhpo.runs.progress import RichObserver, make_console

    given = {name: value for name, value in flags.items() if value is not None}
    configs = _expand(read_config_file(config_file) if config_file else {}, given, hyperparameters)
    console = make_console()

    def run_one(config: RunConfig) -> None:
        with RichObserver(console) as observer:
            result = run_experiment(config, observer=observer)
        if result.resumed and not observer.shown:
            console.print(f"finished before: {result.path}", soft_wrap=True)

    failed = _each("run", configs, run_one, console)
    try:
        if len(failed) < len(configs):
            show_report(Path(configs[0].output_dir).expanduser(), console=console)
    finally:
        _end("run", failed, console)


@main.command()
@click.argument("pool")
@click.option(
    "--trials", type=int, metavar="N", help="Budget in full trainings, instead of max_budget."
)
@setting_options(TuneConfig, ("labels",), without=("pool",))
def tune(
    pool: str,
    config_file: Path | None,
    hyperparameters: tuple[str, ...],
    trials: int | None,
    **flags: Any,
) -> None:
    """Tune on the labelled pool that a run left, continue it, or show what was found before.

    POOL is a run's folder, or a queried_indices.json as dal-toolbox writes it. For a run, its own
    settings take the place of the defaults. A tuning that fails stops none of the others; the exit
    status is then 1.
    """
    from alhpo.runs.pool_tuning import tune_config, tune_pool
    from alhpo.runs.progress import RichObserver, make_console

    settings = read_config_file(config_file) if config_file else {}
    settings |= {name: value for name, value in flags.items() if value is not None}
    settings = _with_hyperparameters(settings, hyperparameters)
    numbers = settings.pop("labels", None)
    if numbers is None or numbers == []:
        raise ConfigurationError("Say with --labels how many labels of the pool to use.")
    configs = []
    budget = {} if trials is None else {"max_budget": sys.maxsize}  # until max_epochs is known
    for labels in _listed(numbers):
        config = tune_config(pool, **{**budget, **settings, "labels": labels})
        configs.append(config if trials is None else _of_trials(config, trials, settings))
    console = make_console()

    def tune_one(config: TuneConfig) -> None:
        with RichObserver(console) as observer:
            result = tune_pool(config, observer=observer)
        if result.resumed and not observer.shown:
            console.print(f"finished before: {result.path}", soft_wrap=True)
        _show_tuning(config, result, console)

    _end("tuning", _each("tuning", configs, tune_one, console), console)


def _each(
    what: str, configs: Sequence[Config], work: Callable[[Config], None], console: Console
) -> list[tuple[str, Exception]]:
    """Do the work of each of several settings, whatever becomes of the others.

    Returns:
        The names of those that failed, with the error. The error of a single one is raised.
    """
    failed: list[tuple[str, Exception]] = []
    for number, config in enumerate(configs, start=1):
        console.rule(f"[bold]{what} {number} of {len(configs)}[/]: {config.name}", align="left")
        try:
            work(config)
        except Exception as error:
            if len(configs) == 1:
                raise
            if not isinstance(error, AlhpoError | OSError):  # one of ours, not of the user's
                traceback.print_exc()
            console.print(
                f"failed: {error_line(error)}", markup=False, highlight=False, soft_wrap=True
            )
            failed.append((config.name, error))
    return failed


def _end(what: str, failed: Sequence[tuple[str, Exception]], console: Console) -> None:
    """Name what failed, and end the command with exit status 1, if anything did."""
    for name, error in failed:
        line = f"failed: {what} {name}: {error_line(error)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if failed:
        console.print("The same command goes on with these.", highlight=False)
        click.get_current_context().exit(1)


def _of_trials(config: TuneConfig, trials: int, settings: dict[str, Any]) -> TuneConfig:
    """The settings with the budget of this number of full trainings."""
    if "max_budget" in settings:
        raise ConfigurationError("--trials and max_budget say the same; give one of them.")
    if trials < 2:
        raise ConfigurationError(
            f"--trials is {trials}; at least 2 are needed, the first of which are the pool's own "
            "hyperparameters."
        )
    return TuneConfig.create(config.model_dump(), {"max_budget": trials * config.max_epochs})


def _show_tuning(config: TuneConfig, result: TuneResult, console: Console) -> None:
    """What a tuning found, beside what the pool's run had."""
    from alhpo.runs.pool_tuning import pool_record

    record, before = result.record, pool_record(config.pool, config.labels)
    lines = []
    if before is not None:
        model = read_config_file(Path(config.pool).expanduser() / "config.yaml")["model"]
        lines.append(f"test accuracy of the run  {before.test['accuracy']:.4f}  ({model})")
    lines.append(f"test accuracy, tuned      {record.test['accuracy']:.4f}  ({config.model})")
    found = {name: record.configuration[name] for name in load_space(config.space)}
    values = (f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in found.items())
    lines += [f"configuration found       {' '.join(values)}", str(result.path / "tune.json")]
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


@main.command()
@click.argument("file", metavar="STUDY")
@click.option("--output", metavar="DIR", help="Folder of the study, instead of what it says.")
@click.option(
    "--launcher",
    metavar="in-process|local|ray",
    default="local",
    show_default=True,
    help="Where cells are run.",
)
@click.option(
    "--workers", type=int, metavar="N", help="Cells at once; default: as many as there is room for."
)
@click.option("--threads", type=int, metavar="N", help="local: threads; default: cores / workers.")
@click.option("--per-gpu", type=int, metavar="N", help="local: workers on each GPU; default: 1.")
@click.option("--cpus-per-cell", type=float, metavar="N", help="ray: CPUs of a cell; default: 1.")
@click.option("--gpus-per-cell", type=float, metavar="N", help="ray: GPUs, or a part of one.")
@click.option("--address", help="ray: of the cluster; default: RAY_ADDRESS, or this machine.")
@click.option("--retry", is_flag=True, help="Run failed cells again.")
@click.option("--cell", type=int, metavar="INDEX", help="Run one cell here, and nothing else.")
@click.option("--dry-run", is_flag=True, help="Show the cells and what they cost, and run nothing.")
@click.pass_context
def study(
    context: click.Context,
    file: str,
    output: str | None,
    launcher: str,
    retry: bool,
    cell: int | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run a grid of runs and tunings, or go on with it.

    STUDY is a YAML file, the folder of a study that was begun, or the name of one that comes with
    alhpo. Finished cells are skipped, and failed ones unless --retry; several commands on one
    folder share the work. The exit status is 1 if a cell failed.
    """
    from alhpo.reports import write_study_report
    from alhpo.runs.progress import RichObserver, RichStudyObserver, make_console
    from alhpo.studies import load_study, run_study

    config = load_study(file, output_dir=output)
    console = make_console()
    options = {name: value for name, value in options.items() if value is not None}
    if dry_run:
        _show_cost(config, console)
        context.exit(0)
    if cell is not None:
        context.exit(_run_one_cell(config, cell, console))
    in_process = launcher == "in-process"
    with (
        RichStudyObserver(console, bar=not in_process) as observer,
        RichObserver(console, bar=in_process) as cell_observer,
    ):
        result = run_study(
            config,
            launcher,
            options=options,
            retry=retry,
            observer=observer,
            cell_observer=cell_observer,
        )
    try:
        if result.finished:
            compare = "published" if config.published else None
            write_study_report(result.path, compare=compare).to_console(console)
    finally:
        _show_result(result, console)
    context.exit(0 if result.complete else 1)


def _show_cost(config: StudyConfig, console: Console) -> None:
    """All cells of a study with what they cost, and about how long the rest takes."""
    import torch
    from rich.markup import escape
    from rich.table import Table

    from alhpo.runs.progress import duration
    from alhpo.studies import expand
    from alhpo.studies.cost import Cost, estimate

    estimates = estimate(expand(config))
    table = Table(title=f"{config.name}: {len(estimates)} cells", title_justify="left")
    table.add_column("cell", justify="right")
    table.add_column("what")
    for name in ("epochs", "images trained", "predicted", "time"):
        table.add_column(name, justify="right")
    for one in estimates:
        cell, cost = one.cell, one.cost
        what = f"tune {cell.title}" if cell.kind == "tune" else cell.title
        counts = (f"{n:,}" for n in (cost.epochs, cost.trained, cost.predicted))
        time = "finished" if cell.finished else duration(one.seconds)
        table.add_row(str(cell.index), escape(what), *counts, time)
    left = [one for one in estimates if not one.cell.finished]
    total = sum((one.cost for one in left), Cost())
    table.add_section()
    counts = (f"{n:,}" for n in (total.epochs, total.trained, total.predicted))
    time = duration(sum(one.seconds for one in left))
    table.add_row("", f"{len(left)} cells to run", *counts, time)
    console.print(table)
    lines = [
        "Epochs and images are what cells train at most; an epoch of a search counts once, "
        "whatever the number of its validation splits.",
        "Times are those of one cell after the other on this machine, with "
        f"torch's number of threads ({torch.get_num_threads()}), without what searches and "
        "strategies compute themselves. Measured, in images per second:",
    ]
    speeds = {one.speed: one.cell.config for one in estimates}
    lines += [
        f"  {run.model}, {run.precision} precision, {run.device} device: "
        f"{speed.trained:,.0f} trained, {speed.predicted:,.0f} predicted"
        for speed, run in speeds.items()
    ]
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def _run_one_cell(config: StudyConfig, index: int, console: Console) -> int:
    """Run a cell in this process; the exit status."""
    from alhpo.runs.progress import RichObserver, duration
    from alhpo.studies.cell_runner import run_cell
    from alhpo.studies.scheduler import begin_study

    cells = begin_study(config)
    if not 0 <= index < len(cells):
        raise ConfigurationError(
            f"--cell is {index}; study {config.name!r} has the cells 0 to {len(cells) - 1}."
        )
    cell = cells[index]
    if cell.finished:
        console.print(f"cell {index}, {cell.title}: finished before", soft_wrap=True)
        return 0
    with RichObserver(console) as observer:
        outcome = run_cell(cell, observer)
    line = f"cell {index}, {cell.title}: {outcome.status} after {duration(outcome.seconds)}"
    console.print(line, outcome.message, markup=False, soft_wrap=True)
    return 0 if outcome.status == "finished" else 1


def _show_result(result: StudyResult, console: Console) -> None:
    """How many cells came to which end, the logs of those that failed, and what to do next."""
    from alhpo.studies.cell_runner import FAILURE, LOG

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    counts = {"finished": result.finished, "failed": result.failed, "blocked": result.blocked}
    say(", ".join(f"{len(cells)} {name}" for name, cells in counts.items() if cells))
    for cell, message in result.failed:
        say(f"  failed: cell {cell.index}, {cell.title}: {message}")
        say(f"    {cell.path / FAILURE}, {cell.path / LOG}")
    for cell in result.blocked:
        say(f"  blocked: cell {cell.index}, {cell.title}: its run, cell {cell.run}, failed")
    if not result.complete:
        say(f"Again, after a look at these: alhpo study {result.path} --retry")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Where to write; default: FOLDER.")
@click.option(
    "--compare",
    metavar="published|cifar10|cifar100",
    help="Put published tables beside those of a study; published: what its file names.",
)
def report(folder: Path, output: Path | None, compare: str | None) -> None:
    """Tables and figures of all runs in FOLDER, or of the study in it, from files only."""
    from alhpo.runs.progress import make_console

    if (folder / "study.yaml").exists():
        from alhpo.reports import write_study_report

        write_study_report(folder, output, compare=compare).to_console(make_console())
    elif compare is not None:
        raise ConfigurationError(
            f"--compare is for studies, and {folder} is none: it has no study.yaml."
        )
    else:
        show_report(folder, output)


def show_report(
    folder: Path, output: Path | None = None, *, console: Console | None = None
) -> None:
    """Write the report of all runs in a folder, and print its tables and where it is."""
    from alhpo.reports.runs import write_report
    from alhpo.runs.progress import make_console

    write_report(folder, output).to_console(console or make_console())


def _expand(
    file: dict[str, Any], flags: dict[str, Any], hyperparameters: tuple[str, ...]
) -> list[RunConfig]:
    """All runs that the settings stand for; every one is checked before the first begins."""
    from alhpo.strategies import split_strategy_names

    settings = _with_hyperparameters(file | flags, hyperparameters)
    splits = {"strategy": split_strategy_names, "hpo": MODES.split}
    choices = []
    for name in SEVERAL:
        value = settings.get(name, RunConfig.model_fields[name].default)
        choices.append(_listed(value, splits.get(name, _split)))
        if not choices[-1]:
            raise ConfigurationError(f"Setting {name!r} is an empty list; give at least one value.")
    return [
        RunConfig.create(settings, dict(zip(SEVERAL, combination, strict=True)))
        for combination in itertools.product(*choices)
    ]


def _with_hyperparameters(settings: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """The settings, with hyperparameters given as flags over theirs."""
    if not assignments:
        return settings
    fixed = settings.get("hyperparameters") or {}
    if not isinstance(fixed, dict):
        raise ConfigurationError(
            f"Setting 'hyperparameters' is {fixed!r}; expected names and values, such as lr: 0.01."
        )
    return settings | {"hyperparameters": fixed | dict(map(_assignment, assignments))}


def _split(text: str) -> list[str]:
    return text.split(",")


def _listed(value: Any, split: Callable[[str], list[str]] = _split) -> list[Any]:
    """The values that a flag or a file gives for a setting."""
    values = split(value) if isinstance(value, str) else value
    return values if isinstance(values, list) else [values]


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--hp {text!r}: expected NAME=VALUE, such as lr=0.01.")
    return name.strip(), value.strip()


def run_main() -> None:
    """Entry point: errors of alhpo become one line and exit status 2; SIGTERM ends like Ctrl-C."""
    cause = signal.SIGINT

    def terminate(number: int, frame: types.FrameType | None) -> None:
        """Batch systems ask for an end with SIGTERM, and kill what has none some seconds later."""
        nonlocal cause
        cause = signal.SIGTERM
        signal.signal(number, signal.SIG_IGN)  # whoever asks twice must not disturb the end
        raise KeyboardInterrupt  # Ray, waiting, passes on this one and swallows all others

    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlhpoError as error:
        click.echo(f"alhpo: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that cannot be written
        click.echo(f"alhpo: {error}. What was recorded so far is safe.", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        word = "terminated" if cause == signal.SIGTERM else "interrupted"
        click.echo(f"alhpo: {word}; the same command goes on from here.", err=True)
        sys.exit(128 + cause)


if __name__ == "__main__":
    run_main()
