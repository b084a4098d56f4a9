"""The searches of runs, tunings and sessions as studies of Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import Journal
from alhpo.tuning.optuna_study import OptunaStudy
from alhpo.tuning.record import SearchJournal


def optuna_arguments(storage: str | None, experiments: Path) -> dict[str, Any]:
    """Arguments of the Tuner about the study of a search.

    Args:
        storage: the file of studies, or None for none.
        experiments: the folder of the search's experiment.
    """
    if storage is None:
        return {}
    return {"optuna_storage": storage, "optuna_study": _study_name(experiments)}


def export_studies(folder: Path, storage: Path) -> Iterator[str]:
    """Bring the studies of all searches in a folder, finished or not, up to date.

    Nothing in the folder is changed. Measurements of a single configuration are left out.

    Args:
        folder: the folder of a run, a tuning, a session or a study; the ``experiment_path`` of a
            Tuner; or any folder with such folders in it.
        storage: the file of the studies (see ``OptunaStudy``); made if missing.

    Yields:
        The name of each study once it is up to date.

    Raises:
        ConfigurationError: no search in the folder, optuna is not installed, or a file that cannot
            be used.
        DataError: the journal of a search is damaged.
    """
    searches = [path.parent for path in _journals(folder) if _is_search(path)]
    if not searches:
        raise ConfigurationError(
            f"{folder} has no search. Give the folder of a run that searched, of a tuning or a "
            "session, or the experiment_path of a Tuner."
        )
    for experiment in searches:
        name = _study_name(experiment.parent) or experiment.name
        study = OptunaStudy(storage, name, experiment)
        study.catch_up()
        yield study.name


def _study_name(experiments: Path) -> str | None:
    """``RUN/cycle_003`` for the folder ``RUN/hpo/cycle_003``, ``TUNING`` for ``TUNING/hpo``; None
    for the folder of a Tuner's own experiments."""
    for folder, below in ((experiments, ""), (experiments.parent, f"/{experiments.name}")):
        if folder.name == "hpo":
            return folder.absolute().parent.name + below
    return None


def _journals(folder: Path) -> list[Path]:
    own = folder / "journal.jsonl"
    return [own] if own.exists() else sorted(folder.glob("**/experiment_*/journal.jsonl"))


def _is_search(journal: Path) -> bool:
    """Whether there was something to choose: a measurement's space has only constants."""
    start = SearchJournal(Journal(journal)).read().start
    if start is None:
        return False
    return any("value" not in one for one in start["space"]["hyperparameters"])
