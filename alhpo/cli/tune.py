"""``alhpo tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alhpo.base.errors import ConfigurationError
from alhpo.cli.options import listed, setting_options, with_hyperparameters
from alhpo.cli.several import end_command, for_each
from alhpo.hyperparameters import load_space
from alhpo.runs.config_files import read_config_file
from alhpo.runs.settings import TuneConfig

if TYPE_CHECKING:
    from rich.console import Console

    from alhpo.runs.pool_tuning import TuneResult


@click.command()
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
    settings = with_hyperparameters(settings, hyperparameters)
    numbers = settings.pop("labels", None)
    if numbers is None or numbers == []:
        raise ConfigurationError("Say with --labels how many labels of the pool to use.")
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
