"""``alhpo run``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from alhpo.base.errors import ConfigurationError
from alhpo.cli.options import (
    given_settings,
    listed,
    setting_options,
    split_commas,
    with_hyperparameters,
)
from alhpo.cli.report import show_report
from alhpo.cli.several import end_command, for_each
from alhpo.runs.config_files import read_config_file
from alhpo.runs.modes import MODES
from alhpo.runs.settings import RunConfig

#: Settings that take several values, separated by commas; every combination is a run.
SEVERAL = ("strategy", "hpo", "seed")


@click.command()
@setting_options(RunConfig, SEVERAL)
def run(config_file: Path | None, hyperparameters: tuple[str, ...], **flags: Any) -> None:
    """Run active learning, or continue a run that was interrupted.

    The same settings always mean the same run folder, so the same command continues a killed run.
    If a run fails, the others still run, and the exit status is 1.
    """
    from alhpo.runs.experiment import run_experiment
    from alhpo.runs.progress import RichObserver, make_console

    given = given_settings(flags)
    configs = _expand(read_config_file(config_file) if config_file else {}, given, hyperparameters)
    console = make_console()

    def run_one(config: RunConfig) -> None:
        with RichObserver(console) as observer:
            result = run_experiment(config, observer=observer)
        if result.resumed and not observer.shown:
            console.print(f"finished before: {result.path}", soft_wrap=True)

    failed = for_each("run", configs, run_one, console)
    try:
        if len(failed) < len(configs):
            show_report(Path(configs[0].output_dir).expanduser(), console=console)
    finally:
        end_command("run", failed, console)


def _expand(
    file: dict[str, Any], flags: dict[str, Any], hyperparameters: tuple[str, ...]
) -> list[RunConfig]:
    """Settings of all runs. All are checked before the first run begins."""
    from alhpo.strategies import split_strategy_names

    settings = with_hyperparameters(file | flags, hyperparameters)
    splits = {"strategy": split_strategy_names, "hpo": MODES.split}
    choices = []
    for name in SEVERAL:
        value = settings.get(name, RunConfig.model_fields[name].default)
        choices.append(listed(value, splits.get(name, split_commas)))
        if not choices[-1]:
            raise ConfigurationError(f"Setting {name!r} is an empty list. Give at least one value.")
    return [
        RunConfig.create(settings, dict(zip(SEVERAL, combination, strict=True)))
        for combination in itertools.product(*choices)
    ]
