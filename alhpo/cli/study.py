"""``alhpo study``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from alhpo.base.errors import ConfigurationError
from alhpo.base.plain import counted

if TYPE_CHECKING:
    from rich.console import Console

    from alhpo.studies import StudyConfig, StudyResult


@click.command()
@click.argument("file", metavar="STUDY")
@click.option("--output", metavar="DIR", help="Folder of the study; replaces its output_dir.")
@click.option(
    "--launcher",
    metavar="in-process|local|ray|threads",
    default="local",
    show_default=True,
    help="Where cells run: one after the other, in processes, on Ray, or in threads that share a "
    "GPU.",
)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Cells that run at the same time; default: as many as fit.",
)
@click.option(
    "--threads", type=int, metavar="N", help="local: threads of a cell; default: cores / workers."
)
@click.option("--per-gpu", type=int, metavar="N", help="local: cells on each GPU; default: 1.")
@click.option("--cpus-per-cell", type=float, metavar="N", help="ray: CPUs of a cell; default: 1.")
@click.option("--gpus-per-cell", type=float, metavar="N", help="ray: GPUs of a cell, such as 0.5.")
@click.option(
    "--address", help="ray: address of the cluster; default: RAY_ADDRESS, or this machine."
)
@click.option("--retry", is_flag=True, help="Run failed cells again.")
@click.option("--cell", type=int, metavar="INDEX", help="Run only this cell, in this process.")
@click.option("--dry-run", is_flag=True, help="Show the cells and their cost; run nothing.")
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
    """Run a study, a grid of runs and tunings, or continue it.

    STUDY is a YAML file, the folder of a study, or the name of a study shipped with alhpo. Finished
    cells are skipped; failed ones too, unless --retry is given. Several commands on one folder
    share the cells. The exit status is 1 if a cell failed.
    """
    from alhpo.reports import write_report
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
            write_report(result.path, compare=compare).to_console(console)
    finally:
        _show_result(result, console)
    context.exit(0 if result.complete else 1)


def _show_cost(config: StudyConfig, console: Console) -> None:
    """Print the cells of a study with their cost, and an estimate of the time left."""
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
    table.add_row("", f"{counted(len(left), 'cell')} to run", *counts, time)
    console.print(table)
    lines = [
        "Epochs and images are upper limits. An epoch of a search counts once, whatever the number "
        "of its validation splits.",
        f"Times are for one cell after the other on this machine with {torch.get_num_threads()} "
        "threads, without optimizers, strategies and the features of frozen networks. Measured "
        "images per second:",
    ]
    speeds = {one.speed: one.cell.config for one in estimates}
    lines += [
        f"  {run.model}, {run.precision} precision, {run.device} device: "
        f"{speed.trained:,.0f} trained, {speed.predicted:,.0f} predicted"
        for speed, run in speeds.items()
    ]
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def _run_one_cell(config: StudyConfig, index: int, console: Console) -> int:
    """Run a cell in this process, and return the exit status."""
    from alhpo.runs.progress import RichObserver, duration
    from alhpo.studies.cell_runner import run_cell
    from alhpo.studies.scheduler import begin_study

    cells = begin_study(config)
    if not 0 <= index < len(cells):
        raise ConfigurationError(
            f"--cell is {index}; study {config.name!r} has the cells 0 to {len(cells) - 1}. "
            "Give one of them."
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
    """Print how many cells ended how, the logs of failed ones, and what to do next."""
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
        say(f"Fix the causes, then run: alhpo study {result.path} --retry")
