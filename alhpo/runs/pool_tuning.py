"""Tuning: hyperparameter optimisation on the labelled pool of a run.

It follows Huseljic et al., Role of Hyperparameters in Deep Active Learning (IAL@ECML-PKDD 2023).
The pool's own hyperparameters are the first trial, and a search spends the rest of the budget. The
configuration that is best after full training is trained once more on the whole labelled pool, and
evaluated once. The model may differ from the one that chose the pool.

All state is on disk, so the same call continues a killed tuning:

    config.yaml         the settings
    dataset.json        sizes, classes and hash of the data
    sessions.jsonl      versions, device and threads of every start
    earlier_hpo/        searches of an earlier tuning that may be used, until the end
    hpo/experiment_*/   the tuner's: the pool's own hyperparameters, and the search
    fit/                the model trained on the whole labelled pool, until it is recorded
    tune.json           written at the end: the record
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alhpo.base.errors import DataError
from alhpo.base.files import exclusive, write_json, write_text
from alhpo.base.formats import claim_format
from alhpo.base.seeding import derive_seed
from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.learner import ActiveLearner
from alhpo.runs.config_files import read_run_config
from alhpo.runs.data import (
    check_data_of_finished,
    check_dataset,
    load_data,
    need_evaluation_split,
)
from alhpo.runs.earlier_tuning import SEARCHES, take_searches
from alhpo.runs.fit import fit_or_continue
from alhpo.runs.labeled_pool import LabeledPool, check_pool, read_pool, records_by_labels
from alhpo.runs.observer import Observer, Observers
from alhpo.runs.optuna_studies import optuna_arguments
from alhpo.runs.provenance import Sessions
from alhpo.runs.search import (
    EarlierSearches,
    epochs_in,
    measure,
    results_in_space,
    run_search,
    storage_of,
    test_metric,
    validation_of,
)
from alhpo.runs.settings import TuneConfig
from alhpo.runs.stopwatch import Stopwatch
from alhpo.tuning.progress import SearchStatus


@dataclass(frozen=True)
class TuneResult:
    """A finished tuning.

    Attributes:
        path: the tuning's folder.
        record: its record, of kind "tuned".
        resumed: whether the tuning, or a part of it, was there before.
    """

    path: Path
    record: CycleRecord
    resumed: bool


def tune_config(pool: str | Path, **settings: Any) -> TuneConfig:
    """Settings of a tuning; those of the pool's run replace the defaults.

    Args:
        pool: folder of a run, or a ``queried_indices.json``, which holds no settings.
        settings: fields of ``TuneConfig``. ``hyperparameters`` are merged with those of the run.

    Raises:
        ConfigurationError: settings that cannot be used, or no pool at this path.
    """
    check_pool(Path(pool).expanduser())
    file = Path(pool).expanduser() / "config.yaml"
    if not file.exists():
        return TuneConfig.create(settings, {"pool": str(pool)})
    run = read_run_config(file)
    given = settings.get("hyperparameters") or {}
    if not isinstance(given, Mapping):
        return TuneConfig.of_run(run, pool, **settings)  # says what is wrong
    hyperparameters = {**run.hyperparameters, **given}
    return TuneConfig.of_run(run, pool, **{**settings, "hyperparameters": hyperparameters})


def tune_pool(
    config: TuneConfig | Mapping[str, Any],
    *,
    dataset: ImageDataset | None = None,
    observer: Observer | None = None,
) -> TuneResult:
    """Tune hyperparameters on a labelled pool, or continue or return an earlier tuning.

    The first trial is the pool's own hyperparameters, trained to the end. They are those of the
    run's record at this number of labels; values of ``config.hyperparameters`` that differ from the
    run's replace them. For a ``queried_indices.json`` they are ``config.hyperparameters``. They may
    lie outside the space. Hyperparameters that the space does not hold keep these values in all
    trials.

    The chosen trial is the one with the best validation metric after its last epoch, among those
    trained to the end (among all, if none was). Of equal ones it is the earliest.

    Args:
        config: the settings; or a mapping with ``pool``, ``labels`` and settings that replace those
            of the pool's run.
        dataset: use this data set instead of loading ``config.dataset``.
        observer: receives the progress.

    Returns:
        The folder of the tuning and its record.

    Raises:
        ConfigurationError: settings that cannot be used, such as a number of labels that the pool
            does not have, or another type of device than before; raised before any training.
        DataError: a data set that cannot be loaded or is not the pool's, or a damaged file.
        LabelError: the pool's labels do not fit the data set.
        RunLockedError: another process works in the folder.
        TunerError: no trial succeeded, for another reason than divergence.
        FormatError: the folder has the format of another version of alhpo.
    """
    if not isinstance(config, TuneConfig):
        settings = dict(config)
        if "pool" not in settings:
            TuneConfig.create(settings)  # says what is missing
        config = tune_config(settings.pop("pool"), **settings)
    path, pool = config.path, None
    if not (path / "tune.json").exists():  # check everything before making a folder
        dataset = dataset or load_data(config)
        need_evaluation_split(dataset)
        pool = read_pool(config, dataset)
    with exclusive(path):
        if pool is None or dataset is None or (path / "tune.json").exists():
            _clean_up(path)
            check_data_of_finished(path / "dataset.json", config, dataset)
            return TuneResult(path, _read_record(path / "tune.json"), resumed=True)
        return _Tuning(config, path, pool, dataset, Observers(observer)).complete()


class _Tuning:
    def __init__(
        self,
        config: TuneConfig,
        path: Path,
        pool: LabeledPool,
        dataset: ImageDataset,
        observer: Observer,
    ) -> None:
        self.config = config
        self.path = path
        self._pool = pool
        self._dataset = dataset
        self._observer = observer
        self._watch = Stopwatch()
        self._cycle = len(pool.cycles) - 1

    def complete(self) -> TuneResult:
        config = self.config
        resumed = (self.path / "sessions.jsonl").exists()
        learner = self._begin()
        self._observer.started(config, self.path, 0, 1)
        self._observer.loaded(self._dataset)
        learner.prepare(self._observer.encoded)
        with self._watch.timed("hpo"):
            tried, rows, budgets = self._search(learner)
        before, chosen = tried[-1], _best([*tried, *rows], config.max_epochs)
        own = self._pool.own
        hp = type(own).create(own.model_dump(), chosen["configuration"])
        with self._watch.timed("fit"):
            folder = self.path / "fit"
            fit = fit_or_continue(learner, hp.model_dump(), folder, self._fit_progress)
        record = CycleRecord(
            kind="tuned",
            cycle=self._cycle,
            n_labeled=learner.n_labeled,
            configuration=hp.model_dump(),
            tuned=True,
            validation=validation_of(chosen),
            test=fit.test.scores,
            epochs={"hpo": epochs_in(self.path / "hpo"), "fit": fit.epochs},
            diverged=fit.diverged,
            search=self._gained(before, chosen, budgets),
            seconds=self._watch.seconds,
        )
        _clean_up(self.path)  # before the file that says that nothing is left to do
        write_json(self.path / "tune.json", record.to_dict())
        self._observer.recorded(record)
        return TuneResult(self.path, record, resumed)

    def _begin(self) -> ActiveLearner:
        claim_format(self.path)
        config = self.config
        sessions = Sessions(self.path / "sessions.jsonl", config.search_packages)
        precision = sessions.precision(config.precision)
        check_dataset(self.path / "dataset.json", self._dataset)
        learner = ActiveLearner.of(
            config,
            self._dataset,
            strategy="random",
            hyperparameters=self._pool.own.model_dump(),
            precision=precision,
        )
        for number, cycle in enumerate(self._pool.cycles):
            cycle.label(learner.pool, number)
        if not (self.path / "sessions.jsonl").exists():
            take_searches(config, self._dataset, learner.compute)
        sessions.begin(learner.compute)
        write_text(self.path / "config.yaml", yaml.safe_dump(config.model_dump(), sort_keys=False))
        return learner

    def _gained(
        self, before: Mapping[str, Any], chosen: Mapping[str, Any], budgets: Sequence[int | None]
    ) -> dict[str, float | None] | None:
        """``search`` of the record, from the last row of the pool's own hyperparameters, that of
        the chosen trial, and the budgets of the search."""
        extended: dict[str, float | None] = {}
        if len(budgets) > 1:
            extended["extended_from"] = budgets[-2]
        if before["diverged"] or chosen["diverged"]:
            return extended or None
        metric = self.config.metric
        return {
            "current": float(before["metric"]),
            "adopted": float(chosen["metric"]),
            "current_test": test_metric([before], before, metric),
            "adopted_test": test_metric([chosen], chosen, metric),
            **extended,
        }

    def _search(
        self, learner: ActiveLearner
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[int | None]]:
        """Rows of the pool's own hyperparameters and of the search, and the search's budgets."""
        config = self.config
        before = 0

        def show(status: SearchStatus) -> None:
            done, total = before + status.epochs, config.max_budget
            self._observer.progressed(self._cycle, "search", done, total, str(status))

        place: dict[str, Any] = {
            "folder": self.path / "hpo",
            "seed": derive_seed(config.seed, "tune", config.labels),
            "storage": storage_of(config),
            "earlier": EarlierSearches(self.path / SEARCHES, config.extend),
            "show": show,
        }
        own, _ = measure(learner, self._pool.own, measure_test=config.measure_test, **place)
        before = own.epochs_spent
        objective = learner.objective(measure_test=config.measure_test)
        observed = results_in_space(objective.configuration_space, [own.experiment_path])
        budget = config.max_budget - before
        optuna = optuna_arguments(config.optuna_storage, self.path / "hpo")
        search, _ = run_search(
            objective, config, budget=budget, optuna=optuna, observed=observed, **place
        )
        return own.results, search.results, search.budgets

    def _fit_progress(self, epoch: int) -> None:
        total, note = self.config.max_epochs, f"on {self.config.labels} labels"
        self._observer.progressed(self._cycle, "fit", epoch, total, note)


def _read_record(file: Path) -> CycleRecord:
    try:
        return CycleRecord.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file} is not a record of a tuning ({error!r}). Remove it; the same tuning then "
            "writes it again from the recorded search."
        ) from error


def _best(rows: Sequence[dict[str, Any]], max_epochs: int) -> dict[str, Any]:
    """The row of the chosen trial; see ``tune_pool``."""
    trained = [row for row in rows if row.get("diverged") is False]
    ended = [row for row in trained if row["epoch"] == max_epochs]
    measured = [row for row in rows if "diverged" in row]  # the others failed
    return max(ended or trained or measured, key=lambda row: row["metric"])


def _clean_up(path: Path) -> None:
    """Delete what a finished tuning does not need."""
    for folder in (path / "fit", path / SEARCHES):
        shutil.rmtree(folder, ignore_errors=True)


def pool_record(pool: str | Path, labels: int) -> CycleRecord | None:
    """The record of the pool's run at this number of labels; None if there is none."""
    return (records_by_labels(Path(pool).expanduser()) or {}).get(labels)
