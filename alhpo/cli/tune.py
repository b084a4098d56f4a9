"""``alhpo tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alhpo.base.errors import ConfigurationError
from alhpo.cli.options import given_settings, listed, setting_options, with_hyperparameters
from alhpo.cli.several import end_command, for_each
from alhpo.hyperparameters import load_space
from alhpo.runs.config_files import read_config_file
from alhpo.runs.settings import TuneConfig

if TYPE_CHECKING:
    from rich.console import Console

    from alhpo.base.types import CycleRecord
    from alhpo.runs.pool_tuning import TuneResult


@click.command()
@click.argument("pool")
@click.option(
    "--trials", type=int, metavar="N", help="Budget in full trainings; replaces max_budget."
)
@setting_options(TuneConfig, ("labels",), without=("pool",))
def tune(
    pool: str,
    config_file: Path | None,
    hyperparameters: tuple[str, ...],
    trials: int | None,
    **flags: Any,
) -> None:
    """Tune hyperparameters on a labelled pool, or continue a tuning that was interrupted.

    POOL is the folder of a run, or a queried_indices.json of dal-toolbox. The settings of a run
    replace the defaults. If a tuning fails, the others still run, and the exit status is 1.
    """
    from alhpo.runs.pool_tuning import tune_config, tune_pool
    from alhpo.runs.progress import RichObserver, make_console

    settings = read_config_file(config_file) if config_file else {}
    settings |= given_settings(flags)
    settings = with_hyperparameters(settings, hyperparameters)
    numbers = settings.pop("labels", None)
    if numbers is None or numbers == []:
        raise ConfigurationError(
            "Setting 'labels' is missing. Give the number of labels to use, such as --labels 100."
        )
    configs = []
    budget = {} if trials is None else {"max_budget": sys.maxsize}  # until max_epochs is known
    for labels in listed(numbers):
        config = tune_config(pool, **{**budget, **settings, "labels": labels})
        configs.append(config if trials is None else _of_trials(config, trials, settings))
    console = make_console()

    def tune_one(config: TuneConfig) -> None:
        with RichObserver(console) as observer:
            result = tune_pool(config, observer=observer)
        if result.resumed and not observer.shown:
            console.print(f"finished before: {result.path}", soft_wrap=True)
        _show_tuning(config, result, console)

    end_command("tuning", for_each("tuning", configs, tune_one, console), console)


def _of_trials(config: TuneConfig, trials: int, settings: dict[str, Any]) -> TuneConfig:
    """The settings with a budget of ``trials`` full trainings."""
    if "max_budget" in settings:
        raise ConfigurationError("--trials and max_budget both set the budget. Give one of them.")
    if trials < 2:
        raise ConfigurationError(
            f"--trials is {trials}; expected at least 2. The first is the pool's own "
            "hyperparameters. Raise it."
        )
    return TuneConfig.create(config.model_dump(), {"max_budget": trials * config.max_epochs})


def _show_tuning(config: TuneConfig, result: TuneResult, console: Console) -> None:
    """Print what a tuning found, beside the accuracy of the pool's run."""
    from alhpo.runs.pool_tuning import pool_record

    record, before = result.record, pool_record(config.pool, config.labels)
    lines = []
    if before is not None:
        model = read_config_file(Path(config.pool).expanduser() / "config.yaml")["model"]
        lines.append(f"test accuracy of the run  {_accuracy(before)}  ({model})")
    lines.append(f"test accuracy, tuned      {_accuracy(record)}  ({config.model})")
    found = {name: record.configuration[name] for name in load_space(config.space)}
    values = (f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in found.items())
    lines += [f"configuration found       {' '.join(values)}", str(result.path / "tune.json")]
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def _accuracy(record: CycleRecord) -> str:
    return f"{record.test['accuracy']:.4f}" if record.test else "not measured"
