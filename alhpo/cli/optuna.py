"""``alhpo optuna``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("storage", type=click.Path(dir_okay=False, path_type=Path))
def optuna(folder: Path, storage: Path) -> None:
    """Show searches as studies of Optuna.

    FOLDER is that of a run, a tuning, a session, a study or a Tuner's experiment, finished or not.
    Its searches are written to STORAGE, an Optuna journal, for `optuna-dashboard STORAGE`. Given
    again, the command adds what is new. To see a search as it goes, give `alhpo run` the flag
    --optuna-storage.
    """
    from alhpo.runs.optuna_studies import export_studies

    for name in export_studies(folder, storage):
        click.echo(name)
