"""What runs and the tuning of their pools have in common: the data, a search, a fit, the watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ConfigSpace as CS

from alhpo.base.errors import ConfigurationError, DataError, DivergedError, TunerError
from alhpo.base.files import Journal
from alhpo.base.types import CycleRecord, Evaluation
from alhpo.data.dataset import ImageDataset
from alhpo.data.loading import load_dataset
from alhpo.hyperparameters import TrainingHyperparameters, active_configuration
from alhpo.learner import ActiveLearner
from alhpo.runs.settings import DataSettings, RunConfig, SearchSettings, TuneConfig
from alhpo.training.objective import Objective
from alhpo.tuning import Tuner, recorded_results
from alhpo.tuning.record import Record, SearchJournal


class Observer(Protocol):
    """Is told what a run or a tuning does, for progress displays."""

    def started(
        self, config: RunConfig | TuneConfig, path: Path, records: int, cycles: int
    ) -> None:
        """It begins or goes on; ``records`` of its ``cycles`` are done. A tuning is one cycle."""

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        """``done`` of ``total`` epochs of a part ("search" or "fit") are trained."""

    def recorded(self, record: CycleRecord) -> None:
        """A cycle is complete."""


class Silent(Observer):
    """The observer that shows nothing."""


class Stopwatch:
    """Seconds per part of a cycle."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to the part's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> dict[str, float]:
        """Per part, to the millisecond."""
        return {part: round(value, 3) for part, value in self._seconds.items()}


def load_data(settings: DataSettings) -> ImageDataset:
    """The data set that the settings name.

    Raises:
        DataError: it cannot be loaded.
    """
    return load_dataset(
        settings.dataset,
        root=settings.data_dir,
        train_split=settings.train_split,
        eval_split=settings.val_split,
        download=settings.download,
        image_size=settings.image_size,
        pool_size=settings.pool_size,
        eval_size=settings.eval_size,
    )


def need_evaluation_split(dataset: ImageDataset) -> None:
    """Refuse data on which no model can be evaluated.

    Raises:
        DataError: there are no evaluation images.
    """
    if not len(dataset.eval_images):
        raise DataError(
            f"Data set {dataset.name!r} has no evaluation split, which a record needs. "
            "Give eval_images, or use ActiveLearner."
        )


def storage_of(config: RunConfig | TuneConfig) -> Path | None:
    """Where the checkpoints of its searches are meanwhile, made where it is missing; None for the
    folder of each search."""
    if config.storage_dir is None:
        return None
    folder = Path(config.storage_dir).expanduser() / config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def searched(
    objective: Objective,
    settings: SearchSettings,
    folder: Path,
    *,
    budget: int,
    seed: int,
    storage: Path | None,
    callback: Callable[[int, dict[str, Any]], None],
    alone: bool = False,
    **start: Any,
) -> tuple[Tuner, dict[str, Any] | None]:
    """Search the objective's space, or go on with the search begun in the same folder.

    Args:
        objective: what is searched.
        settings: the optimizer and what it chooses from.
        folder: of the tuner's experiments.
        budget: epochs to spend.
        seed: of the search.
        storage: where its checkpoints live meanwhile; None for its experiment's folder.
        callback: called with the number of epochs spent so far and the row of the latest, after
            every epoch trained now.
        alone: the space is of one configuration, which is trained as far as the budget goes.
        start: what the search starts from, as the Tuner takes it.

    Returns:
        The tuner, and the best row; None where training diverged in every trial, or the optimizer
        had nothing to try within the budget.

    Raises:
        TunerError: the objective or the optimizer breaks its contract, or no trial succeeded for
            another reason than divergence.
    """
    spent = 0

    def trained(row: dict[str, Any]) -> None:
        nonlocal spent
        spent += 1
        callback(spent, row)

    tuner = Tuner(
        objective_function=objective,
        configuration_space=objective.configuration_space,
        max_epochs=objective.max_epochs,
        max_budget=budget,
        output_path=folder,
        optimizer="random" if alone else settings.optimizer,
        num_configurations=1 if alone else settings.num_configurations,
        min_gain=None if alone else settings.min_gain,
        **start,
        seed=seed % 2**31,
        storage_path=storage,
        resume="quiet",
        progress=False,
        callback=trained,
    )
    spent = tuner.epochs_spent
    try:
        best = tuner.run()
    except TunerError:
        record = _record_of(tuner.experiment_path)
        if record.ended and all(outcome.status == "diverged" for outcome in record.outcomes):
            return tuner, None
        raise
    return tuner, None if best.get("diverged") else best


def epochs_in(folder: Path) -> int:
    """Epochs that were trained in all experiments of a folder."""
    return sum(len(_record_of(path).outcomes) for path in folder.glob("experiment_*"))


def has_ended(experiment: Path) -> bool:
    """Whether a search came to its end; what is gone or cut short did not."""
    return _record_of(experiment).ended


def _record_of(experiment: Path) -> Record:
    return SearchJournal(Journal(experiment / "journal.jsonl")).read()


def validation_of(row: Mapping[str, Any]) -> dict[str, float] | None:
    """What a record says of the row of a search; None where training had diverged."""
    if row["diverged"]:
        return None
    return {
        "accuracy": float(row["accuracy"]),
        "nll": float(row["nll"]),
        "epoch": int(row["epoch"]),
    }


@dataclass(frozen=True)
class Fit:
    """A fit on all labels.

    Attributes:
        test: on the evaluation split; a model that diverged counts as the uniform prediction.
        epochs: that were trained, by this process or before.
        diverged: training diverged; there is no model.
    """

    test: Evaluation
    epochs: int
    diverged: bool = False


def fitted(
    learner: ActiveLearner,
    configuration: Mapping[str, Any],
    folder: Path,
    callback: Callable[[int], None],
) -> Fit:
    """Fit on all labels and evaluate, or go on with the fit that was begun in the folder."""
    try:
        test = learner.fit(configuration, checkpoint_path=folder, callback=callback)
    except DivergedError as error:
        return Fit(Evaluation.uniform(learner.dataset.num_classes), error.epochs, diverged=True)
    return Fit(test, learner.max_epochs)


def constants(hp: TrainingHyperparameters) -> CS.ConfigurationSpace:
    """The space whose only configuration is ``hp``."""
    values = {n: str(v) if isinstance(v, bool) else v for n, v in hp.model_dump().items()}
    return CS.ConfigurationSpace(values)


def within(space: CS.ConfigurationSpace, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configuration of the space with these values, if it has one."""
    try:
        return [active_configuration(space, values)]
    except ConfigurationError:
        return []


def results_within(
    space: CS.ConfigurationSpace, experiments: Iterable[Path]
) -> list[dict[str, Any]]:
    """What experiments observed of configurations of the space."""
    return [
        row | {"configuration": configuration}
        for experiment in experiments
        for row in recorded_results(experiment)
        for configuration in within(space, row["configuration"])
    ]
