"""Searches and measurements on a labelled pool, resumable after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ConfigSpace as CS

from alhpo.base.errors import ConfigurationError, TunerError
from alhpo.base.files import Journal
from alhpo.base.metrics import VALIDATED, Metric, metric_of
from alhpo.hyperparameters import TrainingHyperparameters, active_configuration
from alhpo.learner import ActiveLearner
from alhpo.runs.setting_groups import SearchSettings
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.training.objective import Objective
from alhpo.tuning import TrialProcesses, Tuner, recorded_results
from alhpo.tuning.progress import ShowStatus
from alhpo.tuning.record import Record, SearchJournal


def storage_of(config: RunConfig | TuneConfig) -> Path | None:
    """The run's folder for checkpoints in ``storage_dir``, made if missing; None without it."""
    if config.storage_dir is None:
        return None
    folder = Path(config.storage_dir).expanduser() / config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_search(
    objective: Objective,
    settings: SearchSettings,
    folder: Path,
    *,
    budget: int,
    seed: int,
    storage: Path | None,
    show: ShowStatus,
    optuna: Mapping[str, Any] | None = None,
    earlier: EarlierSearches | None = None,
    processes: TrialProcesses | None = None,
    **start: Any,
) -> tuple[Tuner, dict[str, Any] | None]:
    """Search the objective's space, or continue the search in the folder.

    Args:
        objective: the objective.
        settings: the optimizer and its options.
        folder: folder of the tuner's experiments.
        budget: epochs to spend.
        seed: seed of the search.
        storage: folder for checkpoints; None for the experiment's own folder.
        show: called before and after every epoch.
        optuna: arguments of the Tuner about the study of Optuna that shows the search.
        earlier: searches of another run, of which one that is the same is moved into the folder.
        processes: for trials that are trained in processes, where these are kept.
        start: arguments of the Tuner about earlier results, such as ``warm_start``.

    Returns:
        The tuner and the best row. The row is None if training diverged in every trial, or if the
        optimizer could try nothing within the budget.

    Raises:
        TunerError: the objective or the optimizer breaks its contract, or no trial succeeded for
            another reason than divergence.
    """
    return _run_tuner(
        objective,
        show,
        earlier,
        max_budget=budget,
        output_path=folder,
        optimizer=settings.optimizer,
        num_configurations=settings.num_configurations,
        min_gain=settings.min_gain,
        parallel=settings.parallel,
        processes=processes if objective.in_processes else None,
        seed=seed % 2**31,
        storage_path=storage,
        **(optuna or {}),
        **start,
    )


def measure(
    learner: ActiveLearner,
    hp: TrainingHyperparameters,
    folder: Path,
    *,
    seed: int,
    storage: Path | None,
    show: ShowStatus,
    earlier: EarlierSearches | None = None,
    measure_test: bool = False,
    image_scores: bool = False,
) -> tuple[Tuner, dict[str, Any] | None]:
    """Train one configuration to the end with the learner's validation scheme, or continue.

    Args:
        learner: the learner with the labels.
        hp: the configuration.
        folder, seed, storage, show, earlier: see ``run_search``.
        measure_test: also measure it on the evaluation split, for the record.
        image_scores: also keep the scores of all validation images, for ``Objective.gain``.

    Returns:
        The tuner and the best row. The row is None if training diverged.
    """
    objective = learner.objective(space=constant_space(hp), measure_test=measure_test)
    objective.keeps_image_scores = image_scores
    return _run_tuner(
        objective,
        lambda status: show(replace(status, measuring=True)),
        earlier,
        max_budget=objective.max_epochs,
        output_path=folder,
        optimizer="random",
        num_configurations=1,
        seed=seed % 2**31,
        storage_path=storage,
    )


def _run_tuner(
    objective: Objective,
    show: ShowStatus,
    earlier: EarlierSearches | None,
    *,
    max_budget: int,
    **arguments: Any,
) -> tuple[Tuner, dict[str, Any] | None]:
    objective.let_checkpoints_lag()
    tuner = Tuner(
        objective_function=objective,
        configuration_space=objective.configuration_space,
        max_epochs=objective.max_epochs,
        max_budget=max_budget,
        resume="quiet",
        keep_best=False,
        keep_mib=0,
        progress=show,
        **arguments,
    )
    if earlier is not None:
        earlier.give(tuner.experiment_path, max_budget)
    try:
        best = tuner.run()
    except TunerError:
        record = _record_of(tuner.experiment_path)
        if record.ended and all(outcome.status == "diverged" for outcome in record.outcomes):
            return tuner, None
        raise
    return tuner, None if best.get("diverged") else best


@dataclass(frozen=True)
class EarlierSearches:
    """The ended searches of a cycle of another run, or of another tuning.

    Attributes:
        folder: where they lie.
        extend: whether one with a smaller budget may go on with a larger one.
    """

    folder: Path
    extend: bool

    def give(self, experiment: Path, max_budget: int) -> None:
        """Move the search of this name to ``experiment``, if it can be used with this budget."""
        found = self.folder / experiment.name
        if experiment.exists() or not found.exists():
            return
        record = _record_of(found)
        same = record.ended and record.budgets == [max_budget]
        extended = record.ended and self.extend and len(record.outcomes) <= max_budget
        own_storage = record.start is not None and record.start["storage"] is None
        if same or (extended and own_storage):
            experiment.parent.mkdir(parents=True, exist_ok=True)
            found.rename(experiment)


def is_measurement(experiment: Path) -> bool:
    """Whether an experiment is the training of one configuration; see ``measure``."""
    start = _record_of(experiment).start or {}
    return (start.get("optimizer"), start.get("num_configurations")) == ("random", 1)


def epochs_in(folder: Path) -> int:
    """Epochs trained in all experiments of a folder."""
    return sum(len(_record_of(path).outcomes) for path in folder.glob("experiment_*"))


def has_ended(experiment: Path) -> bool:
    """Whether a search has ended; False for one whose journal is missing or cut short."""
    return _record_of(experiment).ended


def _record_of(experiment: Path) -> Record:
    return SearchJournal(Journal(experiment / "journal.jsonl")).read()


def validation_of(row: Mapping[str, Any]) -> dict[str, float] | None:
    """The ``validation`` of a record, from the row of a search; None after divergence."""
    if row["diverged"]:
        return None
    scores = {name: float(row[name]) for name in VALIDATED if name in row}
    return {**scores, "epoch": int(row["epoch"])}


def test_metric(
    rows: Iterable[Mapping[str, Any]], best: Mapping[str, Any], metric: Metric
) -> float | None:
    """The metric of a trial on the evaluation split after full training.

    Args:
        rows: of the search.
        best: any row of the trial.
        metric: the metric of the search.

    Returns:
        None if the test scores were not measured: ``measure_test`` is off, or the trial was not
        trained to the end or diverged.
    """
    for row in rows:
        if row["configuration_id"] == best["configuration_id"] and row.get("test_nll") is not None:
            return metric_of({name: row[f"test_{name}"] for name in VALIDATED}, metric)
    return None


def constant_space(hp: TrainingHyperparameters) -> CS.ConfigurationSpace:
    """The space whose only configuration is ``hp``."""
    values = {n: str(v) if isinstance(v, bool) else v for n, v in hp.model_dump().items()}
    return CS.ConfigurationSpace(values)


def in_space(space: CS.ConfigurationSpace, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configuration of the space with these values, as a list of one or none."""
    try:
        return [active_configuration(space, values)]
    except ConfigurationError:
        return []


def results_in_space(
    space: CS.ConfigurationSpace, experiments: Iterable[Path]
) -> list[dict[str, Any]]:
    """Rows of the experiments whose configurations lie in the space."""
    return [
        row | {"configuration": configuration}
        for experiment in experiments
        for row in recorded_results(experiment)
        for configuration in in_space(space, row["configuration"])
    ]
